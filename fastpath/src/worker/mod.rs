//! Workers: plain threads that carry packets between TUN and the wire.
//!
//! Each has a queue of the TUN interface and its own sockets, and shares nothing writable with
//! the others but the state of SAs. On the way of an ESP packet nothing locks or allocates, and
//! no packet is waited for; between bursts of raw ESP there is a pause ([`moderation`]).

pub(crate) mod guard;
mod inbound;
mod moderation;
mod outbound;
mod turn;

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::Instant,
};

use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use rustix::event::{EventfdFlags, epoll};
use sa_store::live::LiveSa;

use self::{
    guard::{Failure, Guard, give_up},
    inbound::InboundPath,
    outbound::OutboundPath,
};
use crate::{
    error::Error,
    io::{
        IkeDatagram, Offloads, Outgoing, TunQueue, WireSockets,
        wire::{Arrival, MAX_SEGMENTS},
    },
    tables::{Event, Outbound, Stats, Tables},
};

/// Where IKE messages go; called on a worker's thread, so it must not wait.
pub type IkeSink = Arc<dyn Fn(IkeDatagram) + Send + Sync>;

/// Epoll data of the descriptor that ends a worker.
const STOP: u64 = u64::MAX;
/// Epoll data of the TUN queue.
const TUN: u64 = u64::MAX - 1;
/// ICMP errors a second at most, for each process.
const COMPLAINTS: u64 = 1000;

/// What workers and the control thread share.
pub(crate) struct Shared {
    /// The tables now.
    pub tables: ArcSwap<Tables>,
    /// Sockets.
    pub wire: Arc<WireSockets>,
    /// Where IKE goes.
    pub ike: IkeSink,
    /// Node-wide counters.
    pub stats: Stats,
    /// Wakes the control thread.
    pub control: Wakeup,
    events: SyncSender<Event>,
    start: Instant,
    stop: AtomicBool,
    complaints: AtomicU64,
}

/// An `eventfd`.
#[derive(Debug)]
pub(crate) struct Wakeup(OwnedFd);

impl Wakeup {
    pub(crate) fn new() -> Result<Self, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = rustix::event::eventfd(0, flags).map_err(|e| Error::Worker(e.into()))?;
        Ok(Self(fd))
    }

    pub(crate) fn wake(&self) {
        // A full counter is awake already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(crate) const fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

thread_local! {
    /// Which worker this thread is: selects its sockets.
    static WORKER: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

impl Shared {
    pub(crate) fn new(
        wire: Arc<WireSockets>,
        ike: IkeSink,
        events: SyncSender<Event>,
    ) -> Result<Self, Error> {
        Ok(Self {
            tables: ArcSwap::default(),
            wire,
            ike,
            stats: Stats::default(),
            control: Wakeup::new()?,
            events,
            start: Instant::now(),
            stop: AtomicBool::new(false),
            complaints: AtomicU64::new(0),
        })
    }

    /// Nanoseconds of the data plane's own clock.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Tells the control thread something; loses it when there is too much to tell.
    fn tell(&self, event: Event) {
        match self.events.try_send(event) {
            Ok(()) => self.control.wake(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                Stats::count(&self.stats.events_lost);
            }
        }
    }

    /// Asks for attention when an SA has reached a limit that nobody was told of.
    fn look_at(&self, live: &LiveSa) {
        if live.has_event() && !self.stats.attention.swap(true, Ordering::AcqRel) {
            self.control.wake();
        }
    }

    /// Sends one ESP packet in UDP, or several of one size with [`Outgoing::segment`].
    fn transmit_udp(&self, outbound: &Outbound, to: &Outgoing, data: &[u8]) {
        let worker = WORKER.get();
        let Err(error) = self.wire.send_udp(worker, to, data) else { return };
        if to.segment.is_none() || !cannot_segment(&error, to.df) {
            return self.not_sent(outbound, &error, datagrams(to, data).count());
        }
        // One system call for each, where the kernel cannot cut.
        let datagrams: ArrayVec<&[u8], MAX_SEGMENTS> =
            datagrams(to, data).take(MAX_SEGMENTS).collect();
        let to = Outgoing { segment: None, ..*to };
        each_taken(
            &datagrams,
            |rest| match rest.first() {
                Some(datagram) => self.wire.send_udp(worker, &to, datagram).map(|()| 1),
                None => Ok(0),
            },
            |error, packets| self.not_sent(outbound, error, packets),
        );
    }

    /// Sends raw ESP packets. What the kernel refuses is lost and counted, packet by packet.
    fn transmit_raw(&self, outbound: &Outbound, to: &Outgoing, packets: &[IoSlice<'_>]) {
        let worker = WORKER.get();
        each_taken(
            packets,
            |rest| self.wire.send_raw(worker, to, rest),
            |error, packets| self.not_sent(outbound, error, packets),
        );
    }

    /// Counts `packets` that the kernel did not take.
    fn not_sent(&self, outbound: &Outbound, error: &io::Error, packets: usize) {
        self.stats.send_failed.fetch_add(packets as u64, Ordering::Relaxed);
        if error.raw_os_error() == Some(libc::EMSGSIZE) && outbound.path.may_ask(self.now()) {
            self.tell(Event::TooLong(outbound.id));
        }
    }

    /// Writes a packet, or several joined ones: a part for the headers and one for each.
    fn deliver(&self, queue: &TunQueue, parts: &[IoSlice<'_>]) {
        if queue.write(parts).is_err() {
            let packets = parts.len().saturating_sub(1).max(1);
            self.stats.send_failed.fetch_add(packets as u64, Ordering::Relaxed);
        }
    }

    /// Whether an ICMP error may be sent now.
    fn may_complain(&self) -> bool {
        // The second in the high half, the errors in it in the low half.
        let second = self.now() / 1_000_000_000;
        let update = self.complaints.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            match (state >> 32 == second, state & 0xffff_ffff) {
                (true, COMPLAINTS..) => None,
                (true, _) => Some(state + 1),
                (false, _) => Some(second << 32 | 1),
            }
        });
        update.is_ok()
    }
}

/// The datagrams of one send.
fn datagrams<'d>(to: &Outgoing, data: &'d [u8]) -> impl Iterator<Item = &'d [u8]> {
    data.chunks(to.segment.map_or(data.len(), usize::from).max(1))
}

/// Whether a segmented send failed because of the segmentation: interfaces without checksum
/// offload before kernel 6.11, or datagrams that do not fit the path (told apart by sending one),
/// which the kernel does not both segment and fragment.
fn cannot_segment(error: &io::Error, df: bool) -> bool {
    match error.raw_os_error() {
        Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP) => true,
        Some(libc::EMSGSIZE) => !df,
        _ => false,
    }
}

/// Gives `packets` to `send`, which takes some of them or fails with the first, until each has
/// been taken or is `lost`.
fn each_taken<P>(
    packets: &[P],
    mut send: impl FnMut(&[P]) -> io::Result<usize>,
    mut lost: impl FnMut(&io::Error, usize),
) {
    let mut rest = packets;
    while !rest.is_empty() {
        let done = match send(rest) {
            // None without an error does not happen; it must not go on for ever.
            Ok(sent) => sent.max(1),
            Err(error) => {
                // A full buffer has no room for the others either.
                let full = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS));
                let packets = if full { rest.len() } else { 1 };
                lost(&error, packets);
                packets
            }
        };
        rest = rest.get(done..).unwrap_or(&[]);
    }
}

/// The running workers.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    wakeups: Vec<Arc<Wakeup>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts one thread for each queue.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        queues: Vec<TunQueue>,
        offloads: Offloads,
    ) -> Result<Self, Error> {
        let mut workers =
            Self { shared: Arc::clone(shared), wakeups: Vec::new(), threads: Vec::new() };
        for (number, queue) in queues.into_iter().enumerate() {
            let wakeup = Arc::new(Wakeup::new()?);
            let worker =
                Worker::new(number, queue, Arc::clone(shared), &wakeup).map_err(Error::Worker)?;
            let thread = std::thread::Builder::new()
                .name(format!("postern-esp-{number}"))
                .spawn(move || worker.run(offloads))
                .map_err(Error::Worker)?;
            workers.wakeups.push(wakeup);
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for wakeup in &self.wakeups {
            wakeup.wake();
        }
        for thread in self.threads.drain(..) {
            // A worker catches its panics; there is nothing to learn from its end.
            let _ = thread.join();
        }
    }
}

/// One thread's descriptors.
struct Worker {
    number: usize,
    queue: TunQueue,
    shared: Arc<Shared>,
    epoll: OwnedFd,
}

impl Worker {
    fn new(
        number: usize,
        queue: TunQueue,
        shared: Arc<Shared>,
        wakeup: &Wakeup,
    ) -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&set, wakeup.fd(), epoll::EventData::new_u64(STOP), readable)?;
        epoll::add(&set, queue.as_fd(), epoll::EventData::new_u64(TUN), readable)?;
        for (index, (fd, _, _)) in shared.wire.sources(number).into_iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&set, fd, data, readable)?;
        }
        Ok(Self { number, queue, shared, epoll: set })
    }

    fn run(self, offloads: Offloads) {
        WORKER.set(self.number);
        let shared = &*self.shared;
        let sources = shared.wire.sources(self.number);
        let mut outbound = OutboundPath::new();
        let mut inbound = InboundPath::new(offloads);
        let (mut outbound_guard, mut inbound_guard) = (Guard::default(), Guard::default());
        let now = || shared.now();
        let mut events = Vec::with_capacity(16);
        moderation::allow_short_pauses();
        while !shared.stop.load(Ordering::Acquire) {
            events.clear();
            let waited =
                epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None);
            if let Err(error) = waited
                && error != rustix::io::Errno::INTR
            {
                give_up(&format!("worker {} cannot wait for packets ({error})", self.number));
            }
            let tables = shared.tables.load();
            let mut raw = 0;
            for event in &events {
                let data = event.data;
                match data.u64() {
                    STOP => {}
                    TUN => {
                        let turn = || outbound.turn(&self.queue, &tables, shared);
                        match outbound_guard.turn(now, turn) {
                            Ok(Ok(())) => {}
                            Ok(Err(_)) => {
                                // What is protected stays blocked: its routes went with it.
                                if !shared.stats.interface_gone.swap(true, Ordering::Relaxed) {
                                    tracing::error!(
                                        "the TUN interface is gone; restart to bring it back"
                                    );
                                }
                                let _ = epoll::delete(&self.epoll, self.queue.as_fd());
                            }
                            // Its buffers are filled anew by every turn.
                            Err(failure) => self.failed(failure, "outbound"),
                        }
                    }
                    index => {
                        let source = usize::try_from(index).ok().and_then(|i| sources.get(i));
                        let Some(source) = source else { continue };
                        let turn = || inbound.turn(*source, &self.queue, &tables, shared);
                        match inbound_guard.turn(now, turn) {
                            Ok(got) if source.1 == Arrival::Raw => raw = raw.max(got),
                            Ok(_) => {}
                            Err(failure) => {
                                inbound.forget();
                                self.failed(failure, "inbound");
                            }
                        }
                    }
                }
            }
            if let Some(pause) = moderation::after(raw) {
                // One that a signal ends early does no harm.
                let _ = rustix::thread::nanosleep(&pause);
            }
        }
    }

    /// Counts a turn that panicked.
    fn failed(&self, failure: Failure, path: &str) {
        let stats = &self.shared.stats;
        Stats::count(&stats.panics);
        if failure.hopeless {
            give_up(&format!("worker {} completes no {path} turn any more", self.number));
        }
        if failure.tell {
            tracing::error!(
                worker = self.number,
                panics = stats.panics.load(Ordering::Relaxed),
                "an internal error ended an {path} burst; its packets are lost, the worker goes on"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What arrives of ten packets, and what is lost with which error, when packet 3 fails with
    /// `errno` and the kernel takes at most two at a time.
    fn run(errno: i32) -> (Vec<u32>, Vec<(Option<i32>, usize)>) {
        let packets: Vec<u32> = (0..10).collect();
        let (mut arrived, mut lost) = (Vec::new(), Vec::new());
        each_taken(
            &packets,
            |rest| match rest {
                [3, ..] => Err(io::Error::from_raw_os_error(errno)),
                // The kernel stops before the one that fails, and tells why the next time.
                [first, 3, ..] => {
                    arrived.push(*first);
                    Ok(1)
                }
                _ => {
                    let taken = rest.len().min(2);
                    arrived.extend_from_slice(&rest[..taken]);
                    Ok(taken)
                }
            },
            |error, packets| lost.push((error.raw_os_error(), packets)),
        );
        (arrived, lost)
    }

    #[test]
    fn a_refused_packet_costs_no_other_of_its_batch() {
        let (arrived, lost) = run(libc::EMSGSIZE);
        assert_eq!(arrived, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(lost, [(Some(libc::EMSGSIZE), 1)]);
    }

    #[test]
    fn a_full_buffer_ends_the_batch_and_every_packet_is_counted() {
        for errno in [libc::EAGAIN, libc::ENOBUFS] {
            let (arrived, lost) = run(errno);
            assert_eq!(arrived, [0, 1, 2]);
            assert_eq!(lost, [(Some(errno), 7)]);
        }
    }

    #[test]
    fn a_segmented_send_is_as_many_packets_as_datagrams() {
        let any = "192.0.2.1:4500".parse().expect("an address");
        let to = |segment| Outgoing { local: any, remote: any, tos: 0, df: true, segment };
        for (segment, octets, count) in
            [(None, 1400, 1), (Some(100), 1000, 10), (Some(100), 1001, 11), (Some(0), 2, 2)]
        {
            assert_eq!(datagrams(&to(segment), &vec![0; octets]).count(), count, "{octets}");
        }
    }

    #[test]
    fn a_kernel_that_takes_nothing_ends_nothing() {
        let mut calls = 0;
        each_taken(
            &[0; 5],
            |_| {
                calls += 1;
                Ok(0)
            },
            |_, _| {},
        );
        assert_eq!(calls, 5);
    }
}
