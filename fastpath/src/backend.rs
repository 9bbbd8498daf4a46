//! The data plane as a place where SAs run.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use hw_offload::{Backend, Busy, Capabilities, Notice, Operation, Ticket, Waker};
use sa_store::{
    EspCipher, EspSuite, Instant, IntegrityAlgorithm, Path, Prefix, SaId, live::LiveTable,
};

use crate::{
    config::InlineConfig,
    control::Control,
    error::Error,
    io::{Tun, WireConfig, WireSockets},
    policy::Connected,
    steer::{Obstacles, Steering, counter},
    worker::{IkeSink, Shared, Workers, guard::give_up},
};

/// Batches that wait for the control thread.
const QUEUE: usize = 1024;
/// Events of workers that wait for the control thread.
const EVENTS: usize = 1024;

/// A notice, or one whose time is still in the data plane's clock.
#[derive(Debug)]
pub(crate) enum Told {
    /// As it is.
    Notice(Notice),
    /// [`Notice::LastInbound`] with nanoseconds of the data plane's clock.
    LastInbound(SaId, u64),
}

/// What the backend and its control thread share.
#[derive(Default)]
pub(crate) struct Outbox {
    notices: Mutex<VecDeque<Told>>,
    waker: Mutex<Option<Waker>>,
    /// SAs held.
    pub used: AtomicU64,
    /// The control thread should end.
    pub stop: AtomicBool,
    /// See [`InlineHandle::warnings`].
    pub obstacles: Mutex<Obstacles>,
    /// See [`InlineHandle::left_clear`].
    pub clear: Mutex<Vec<Connected>>,
}

/// A lock that a panicked thread left behind still guards valid data here: every change is one
/// push or pop.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// Adds notices and calls the waker.
    pub(crate) fn tell(&self, told: impl IntoIterator<Item = Told>) {
        let mut notices = locked(&self.notices);
        let before = notices.len();
        notices.extend(told);
        let grown = notices.len() > before;
        drop(notices);
        if grown {
            let waker = locked(&self.waker).clone();
            if let Some(waker) = waker {
                waker();
            }
        }
    }
}

/// A batch on its way to the control thread.
pub(crate) type Batch = (Ticket, Vec<Operation>);

/// A network that a policy for everything leaves clear, since it is connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftClear {
    /// The network.
    pub network: Prefix,
    /// The interface it is connected to; through others it does not stay clear.
    pub interface: String,
}

/// Node-wide counters of what belongs to no SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeCounters {
    /// ESP packets for an SPI that nobody has.
    pub no_sa: u64,
    /// Clear packets in the TUN interface without an SA, or without a policy; not the multicast
    /// that the system itself sends on every interface.
    pub policy: u64,
    /// What was no IP packet, or neither ESP nor IKE.
    pub malformed: u64,
    /// Packets the kernel did not take, for the wire or from a tunnel.
    pub send_failed: u64,
    /// Packets too long for their tunnel, answered with ICMP.
    pub too_big: u64,
    /// What workers had to tell (a peer that moved, a child that traffic asks for) and found no
    /// room for.
    pub notices: u64,
    /// Internal errors: bursts of packets that were lost because a worker panicked on them.
    pub panics: u64,
}

/// The inline ESP data plane: a TUN interface, sockets, workers and a control thread.
///
/// Dropping it stops the threads and closes the interface; protected destinations stay blocked
/// until [`crate::release`].
pub struct InlineBackend {
    outbox: Arc<Outbox>,
    commands: SyncSender<Batch>,
    shared: Arc<Shared>,
    capabilities: Capabilities,
    nft_table: Arc<str>,
    interface: Arc<str>,
    control: Option<JoinHandle<()>>,
}

/// A handle on a data plane that a gateway owns: sockets, counters, warnings.
#[derive(Clone)]
pub struct InlineHandle {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    nft_table: Arc<str>,
    interface: Arc<str>,
}

impl InlineHandle {
    /// The sockets, to send IKE messages.
    #[must_use]
    pub fn wire(&self) -> Arc<WireSockets> {
        Arc::clone(&self.shared.wire)
    }

    /// Counters of what belongs to no SA.
    #[must_use]
    pub fn counters(&self) -> NodeCounters {
        let stats = &self.shared.stats;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NodeCounters {
            no_sa: read(&stats.no_sa),
            policy: read(&stats.policy),
            malformed: read(&stats.malformed),
            send_failed: read(&stats.send_failed),
            too_big: read(&stats.too_big),
            notices: read(&stats.events_lost),
            panics: read(&stats.panics),
        }
    }

    /// Clear packets that claimed to come from a protected network and were dropped, since the
    /// block was put up; asks the kernel, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear_dropped(&self) -> io::Result<u64> {
        counter::clear_dropped(&self.nft_table).map(|count| count.packets)
    }

    /// The connected networks that stay clear although a policy covers them. Asks the kernel for the
    /// names of interfaces, in the network namespace of the caller.
    #[must_use]
    pub fn left_clear(&self) -> Vec<LeftClear> {
        let clear = locked(&self.outbox.clear).clone();
        if clear.is_empty() {
            return Vec::new();
        }
        let interfaces = pnet_datalink::interfaces();
        let name = |index: u32| {
            let found = interfaces.iter().find(|interface| interface.index == index);
            found.map_or_else(|| index.to_string(), |found| found.name.clone())
        };
        clear
            .into_iter()
            .map(|found| LeftClear { network: found.network, interface: name(found.interface) })
            .collect()
    }

    /// What an operator should change for traffic to pass, as the system is now. Reads kernel
    /// settings in the network namespace of the caller.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let obstacles = locked(&self.outbox.obstacles).clone();
        let mut warnings = obstacles.warnings();
        if self.shared.stats.interface_gone.load(Ordering::Relaxed) {
            let gone = format!(
                "the interface {} was deleted, so nothing passes any tunnel and what they protect \
                 is blocked: systemctl restart posternd",
                self.interface
            );
            warnings.insert(0, gone);
        }
        warnings
    }
}

impl InlineBackend {
    /// Starts the data plane in the network namespace of the calling thread. What a process
    /// before left in the system is taken over without a moment in which it is unprotected.
    /// IKE messages that arrive go to `ike`, on a worker's thread.
    ///
    /// # Errors
    /// [`Error`] says what could not be opened and what to do.
    pub fn start(config: InlineConfig, live: Arc<LiveTable>, ike: IkeSink) -> Result<Self, Error> {
        let workers = config.worker_count();
        // Sockets first: where another daemon owns the ports, nothing has been touched.
        let wire = Arc::new(WireSockets::open(&WireConfig {
            ike_port: config.steering.ike_port,
            nat_port: config.steering.nat_port,
            mark: config.steering.marks().bypass,
            workers,
        })?);
        // The block stands before the way through it.
        let mut steering = Steering::prepare(config.steering.clone())?;
        let tun = Tun::open(&config.steering.interface, workers)?;
        steering.attach(tun.index, config.mtu)?;
        let (events, event_queue) = sync_channel(EVENTS);
        let shared = Arc::new(Shared::new(wire, ike, events)?);
        let threads = Workers::start(&shared, tun.queues, tun.offloads)?;
        let outbox = Arc::new(Outbox::default());
        let nft_table = Arc::from(config.steering.nft_table.as_str());
        let interface = Arc::from(config.steering.interface.as_str());
        let capabilities = capabilities(config.max_sas);
        let (commands, command_queue) = sync_channel(QUEUE);
        let control = Control::new(
            Arc::clone(&shared),
            Arc::clone(&outbox),
            live,
            steering,
            config,
            capabilities.clone(),
        );
        let control = std::thread::Builder::new()
            .name("postern-esp-ctl".to_owned())
            .spawn(move || {
                let run = AssertUnwindSafe(|| control.run(&command_queue, &event_queue));
                if catch_unwind(run).is_err() {
                    // The workers would end with it and IKE go on without a data plane.
                    give_up("the control thread of the data plane failed");
                }
                drop(threads);
            })
            .map_err(Error::Worker)?;
        let control = Some(control);
        Ok(Self { outbox, commands, shared, capabilities, nft_table, interface, control })
    }

    /// A handle that stays valid when the backend is given away.
    #[must_use]
    pub fn handle(&self) -> InlineHandle {
        InlineHandle {
            shared: Arc::clone(&self.shared),
            outbox: Arc::clone(&self.outbox),
            nft_table: Arc::clone(&self.nft_table),
            interface: Arc::clone(&self.interface),
        }
    }
}

impl Drop for InlineBackend {
    fn drop(&mut self) {
        self.outbox.stop.store(true, Ordering::Release);
        self.shared.control.wake();
        if let Some(control) = self.control.take() {
            // A control thread that panicked has said so; nothing is left to wait for.
            let _ = control.join();
        }
    }
}

fn capabilities(max_sas: u64) -> Capabilities {
    let macs = [
        IntegrityAlgorithm::HmacSha256_128,
        IntegrityAlgorithm::HmacSha384_192,
        IntegrityAlgorithm::HmacSha512_256,
    ];
    let aead = [EspCipher::AesGcm16(256), EspCipher::AesGcm16(128), EspCipher::ChaCha20Poly1305];
    let cbc = [256, 192, 128].map(EspCipher::AesCbc);
    let suites = aead
        .into_iter()
        .filter_map(|cipher| EspSuite::new(cipher, None))
        .chain(cbc.into_iter().flat_map(|cipher| {
            macs.into_iter().filter_map(move |mac| EspSuite::new(cipher, Some(mac)))
        }))
        .collect();
    Capabilities {
        path: Path::Inline,
        max_sas,
        used_sas: 0,
        suites,
        esn: true,
        udp_encapsulation: true,
        raw_esp: true,
        transport_mode: false,
        max_replay_window: 4096,
    }
}

impl Backend for InlineBackend {
    fn capabilities(&self) -> Capabilities {
        let used_sas = self.outbox.used.load(Ordering::Acquire);
        Capabilities { used_sas, ..self.capabilities.clone() }
    }

    fn submit(&mut self, ticket: Ticket, batch: Vec<Operation>) -> Result<(), Busy> {
        match self.commands.try_send((ticket, batch)) {
            Ok(()) => {
                self.shared.control.wake();
                Ok(())
            }
            Err(TrySendError::Full((_, batch)) | TrySendError::Disconnected((_, batch))) => {
                Err(Busy(batch))
            }
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Notice> {
        let told = locked(&self.outbox.notices).pop_front()?;
        Some(match told {
            Told::Notice(notice) => notice,
            Told::LastInbound(sa, nanos) => {
                let ago = Duration::from_nanos(self.shared.now().saturating_sub(nanos));
                Notice::LastInbound { sa, at: now - ago }
            }
        })
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // The control thread has timers of its own and calls the waker.
        None
    }

    fn set_waker(&mut self, waker: Waker) {
        *locked(&self.outbox.waker) = Some(waker);
    }
}
