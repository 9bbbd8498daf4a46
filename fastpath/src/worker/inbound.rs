//! From the wire to TUN: split, look up, open, join, deliver.

use std::{net::SocketAddr, ops::Range, os::fd::BorrowedFd, sync::atomic::Ordering};

use arrayvec::ArrayVec;
use esp::{OpenOutcome, OpenPacket, open_burst_where, peek_spi, udp};
use sa_store::Encapsulation;

use super::Shared;
use crate::{
    io::{
        IkeDatagram, Offloads, TunQueue,
        sys::{RECEIVE_BATCH, Received, Receiver, Wanted},
        wire::Arrival,
    },
    packet::{coalesce::Coalescer, header::shape, mss},
    tables::{Event, Inbound, Stats, Tables},
};

/// Packets opened at a time.
const BURST: usize = 64;
/// One message: a joined datagram of up to 64 KiB. A little more than a power of two, so that
/// messages do not fall on the same cache lines.
const STRIDE: usize = 65_536 + 192;
/// Joined datagrams are long: few of them fill the caches.
const JOINED_BATCH: usize = 4;

/// An ESP packet to open.
struct Entry<'t> {
    inbound: &'t Inbound,
    packet: Range<usize>,
    from: Option<SocketAddr>,
    tos: u8,
}

/// The buffers of one worker, made once.
pub(super) struct InboundPath {
    receiver: Box<Receiver>,
    data: Vec<u8>,
    coalescer: Coalescer,
}

impl InboundPath {
    pub(super) fn new(offloads: Offloads) -> Self {
        Self {
            receiver: Receiver::new(),
            data: vec![0; RECEIVE_BATCH * STRIDE],
            coalescer: Coalescer::new(offloads.tso, offloads.uso),
        }
    }

    /// Receives one batch and deals with it; raw ESP, of which a message is one packet, until
    /// there is none or the buffer is full. What is left wakes the worker again. Returns the
    /// messages.
    pub(super) fn turn(
        &mut self,
        source: (BorrowedFd<'_>, Arrival, bool),
        queue: &TunQueue,
        tables: &Tables,
        shared: &Shared,
    ) -> usize {
        let (fd, arrival, v4) = source;
        let raw = arrival == Arrival::Raw;
        // The IP header that a raw IPv4 packet comes with tells all there is to know.
        let wanted = Wanted { from: !raw, control: !(raw && v4) };
        let batch = if raw { RECEIVE_BATCH } else { JOINED_BATCH };
        let mut entries: ArrayVec<Entry<'_>, BURST> = ArrayVec::new();
        let mut slot = 0;
        while slot < batch {
            let mut messages: ArrayVec<Received, RECEIVE_BATCH> = ArrayVec::new();
            let space = self.data.get_mut(slot * STRIDE..batch * STRIDE).unwrap_or(&mut []);
            let got = self.receiver.receive(fd, space, STRIDE, wanted, |_, message| {
                messages.push(message);
            });
            if got.is_err() {
                break;
            }
            for message in &messages {
                let at = slot * STRIDE;
                self.message(source, at, message, &mut entries, queue, tables, shared);
                slot += 1;
            }
            self.open(&mut entries, queue, tables, shared);
            if !raw || messages.is_empty() {
                break;
            }
        }
        self.coalescer.flush(&self.data, &mut |parts| shared.deliver(queue, parts));
        slot
    }

    /// Takes the ESP packets out of a message that was received at `start`.
    #[expect(clippy::too_many_arguments, reason = "the state of one turn")]
    fn message<'t>(
        &mut self,
        (_, arrival, v4): (BorrowedFd<'_>, Arrival, bool),
        start: usize,
        message: &Received,
        entries: &mut ArrayVec<Entry<'t>, BURST>,
        queue: &TunQueue,
        tables: &'t Tables,
        shared: &Shared,
    ) {
        if message.truncated || message.len == 0 {
            return Stats::count(&shared.stats.malformed);
        }
        let segment = match usize::from(message.control.segment) {
            0 => message.len.max(1),
            size => size,
        };
        let mut at = 0;
        while at < message.len {
            let end = (at + segment).min(message.len);
            let range = start + at..start + end;
            at = end;
            let esp = match arrival {
                Arrival::Raw => {
                    let esp = self.raw(range, v4);
                    if esp.is_none() {
                        Stats::count(&shared.stats.malformed);
                    }
                    esp
                }
                Arrival::Nat | Arrival::Ike => self.datagram(range, message, arrival, shared),
            };
            let Some((packet, tos)) = esp else { continue };
            let spi = self.data.get(packet.clone()).and_then(peek_spi);
            let Some(inbound) = spi.and_then(|spi| tables.inbound.get(&spi.get())) else {
                Stats::count(&shared.stats.no_sa);
                continue;
            };
            if entries.is_full() {
                self.open(entries, queue, tables, shared);
            }
            let tos = tos.unwrap_or(message.control.tos);
            let from = message.from.to_std();
            entries.push(Entry { inbound, packet, from, tos });
        }
    }

    /// Forgets the packets of a turn that did not come to its end.
    pub(super) fn forget(&mut self) {
        self.coalescer.forget();
    }

    /// Raw ESP: behind its IP header when IPv4, which also tells DSCP and ECN.
    fn raw(&self, range: Range<usize>, v4: bool) -> Option<(Range<usize>, Option<u8>)> {
        if !v4 {
            return Some((range, None));
        }
        let packet = self.data.get(range.clone())?;
        let header_len = usize::from(packet.first()? & 0xf) * 4;
        let tos = *packet.get(1)?;
        (header_len < packet.len()).then_some((range.start + header_len..range.end, Some(tos)))
    }

    /// A UDP datagram: IKE goes to whoever speaks it, ESP comes back.
    fn datagram(
        &self,
        range: Range<usize>,
        message: &Received,
        arrival: Arrival,
        shared: &Shared,
    ) -> Option<(Range<usize>, Option<u8>)> {
        let data = self.data.get(range.clone())?;
        let ike = match arrival {
            Arrival::Ike => data,
            Arrival::Nat | Arrival::Raw => match udp::classify(data) {
                udp::UdpPayload::Esp(_) => return Some((range, None)),
                udp::UdpPayload::Ike(message) => message,
                udp::UdpPayload::Keepalive => return None,
                udp::UdpPayload::Malformed => {
                    Stats::count(&shared.stats.malformed);
                    return None;
                }
            },
        };
        let port = match arrival {
            Arrival::Ike => shared.wire.ike_port(),
            Arrival::Nat | Arrival::Raw => shared.wire.nat_port(),
        };
        let (Some(remote), Some(local)) = (message.from.to_std(), message.control.local) else {
            Stats::count(&shared.stats.malformed);
            return None;
        };
        (shared.ike)(IkeDatagram { local: (local, port).into(), remote, message: ike.to_vec() });
        None
    }

    /// Opens what waits and hands it on.
    fn open(
        &mut self,
        entries: &mut ArrayVec<Entry<'_>, BURST>,
        queue: &TunQueue,
        tables: &Tables,
        shared: &Shared,
    ) {
        if entries.is_empty() {
            return;
        }
        let now = shared.now();
        let mut inner: ArrayVec<Option<Range<usize>>, BURST> = ArrayVec::new();
        {
            let mut burst: ArrayVec<OpenPacket<'_>, BURST> = ArrayVec::new();
            let mut rest = &mut self.data[..];
            let mut at = 0;
            for entry in entries.iter() {
                // Packets stand in the buffer in the order they came.
                let skip = entry.packet.start - at;
                let Some((_, behind)) = std::mem::take(&mut rest).split_at_mut_checked(skip) else {
                    break;
                };
                let Some((packet, behind)) = behind.split_at_mut_checked(entry.packet.len()) else {
                    break;
                };
                rest = behind;
                at = entry.packet.end;
                burst.push(OpenPacket::new(&entry.inbound.sa, packet, Some(entry.tos)));
            }
            let mut admission = tables.policies.admission();
            open_burst_where(&mut burst, |sa, flow| admission.permits(sa.child(), flow));
            for (entry, packet) in entries.iter().zip(&burst) {
                if let Some(authenticated) = packet.authenticated() {
                    heard(entry, authenticated.newest, now, shared);
                }
                inner.push(match packet.outcome() {
                    OpenOutcome::Inner(opened) => {
                        let start = entry.packet.start + opened.start;
                        Some(start..start + opened.len)
                    }
                    OpenOutcome::Dummy | OpenOutcome::Dropped(_) => None,
                });
            }
        }
        for (entry, range) in entries.iter().zip(&inner) {
            shared.look_at(entry.inbound.sa.live());
            let Some(range) = range else { continue };
            if let Some(outbound) = tables.active.get(&entry.inbound.child)
                && let Some(packet) = self.data.get_mut(range.clone())
                && let Some(shape) = shape(packet)
            {
                let max = outbound.path.max_inner.load(Ordering::Relaxed);
                mss::clamp(packet, &shape, max, false);
            }
            self.coalescer.add(&self.data, range.start, range.len(), &mut |parts| {
                shared.deliver(queue, parts);
            });
        }
        entries.clear();
    }
}

/// An authenticated packet came: tells the first one, and a peer that moved.
fn heard(entry: &Entry<'_>, newest: bool, now: u64, shared: &Shared) {
    let inbound = entry.inbound;
    if inbound.seen.note(now) {
        shared.tell(Event::First(inbound.id));
    }
    if let Some(from) = entry.from
        && newest
        && inbound.encapsulation == Encapsulation::Udp
        && from != inbound.remote
        && inbound.seen.may_report_move(now)
    {
        shared.tell(Event::Moved(inbound.id, from));
    }
}
