//! From TUN to the wire: look up, cut, seal, send.

use std::{
    io::{self, IoSlice},
    ops::{Deref, DerefMut, Range},
    sync::atomic::Ordering,
};

use arrayvec::ArrayVec;
use esp::{SealPacket, SealSource, Sealed, inner::Flow, inner::IpHeader, seal_burst};
use sa_store::{
    Encapsulation,
    live::{DropReason, LiveSa},
};

use super::{Shared, turn};
use crate::{
    io::{
        Outgoing, TunQueue,
        wire::{MAX_DATAGRAM, MAX_SEGMENTS},
    },
    packet::{
        coalesce::plain,
        gather::{Fragment, Gatherer, Later},
        header::{Gso, VnetHeader, shape},
        icmp, mss,
        segment::{Cut, Fragments, MAX_HEADERS, complete_checksum},
    },
    policy::Verdict,
    tables::{Event, Outbound, Stats, Tables},
};

/// Packets sealed at a time.
const BURST: usize = 64;
/// The longest read: virtio header and a super-packet.
const READ: usize = 65_535 + 64;
/// Reads stop filling the buffer here, so that a burst stays in the caches.
const BUFFER: usize = 2 * READ;
/// The least MTU of IPv6: smaller paths get outer fragments instead (RFC 8200 §5).
const IPV6_LEAST: usize = 1280;
/// Reads of one turn; then arrivals have theirs.
const READS: usize = 64;

/// A packet to seal.
struct Entry<'t> {
    outbound: &'t Outbound,
    head: Range<usize>,
    body: Range<usize>,
    /// May be longer than the path: DF must not be set.
    oversize: bool,
}

/// The buffers of one worker, made once.
pub(super) struct OutboundPath {
    /// What was read.
    input: Vec<u8>,
    /// Headers of cut packets.
    heads: Vec<u8>,
    /// What is sent.
    output: Vec<u8>,
    /// Datagrams that must leave whole.
    gatherer: Gatherer,
}

/// Packets that wait to be sealed and sent.
struct Entries<'t>(ArrayVec<Entry<'t>, BURST>);

impl Entries<'_> {
    const fn new() -> Self {
        Self(ArrayVec::new_const())
    }
}

impl<'t> Deref for Entries<'t> {
    type Target = ArrayVec<Entry<'t>, BURST>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Entries<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Entries<'_> {
    /// Packets are left only when a panic ended the turn. Nobody is to wait for their numbers.
    fn drop(&mut self) {
        for entry in self.iter() {
            entry.outbound.sa.live().sequence.pass_all_turns();
        }
    }
}

impl OutboundPath {
    pub(super) fn new() -> Self {
        Self {
            input: vec![0; BUFFER + READ],
            heads: vec![0; BURST * MAX_HEADERS],
            // A sealed packet adds at most 100 octets: IV, padding, trailer, ICV.
            output: vec![0; BUFFER + READ + BURST * 128],
            gatherer: Gatherer::new(),
        }
    }

    /// Reads, seals and sends until the queue is empty or the turn is over. An error means that
    /// the interface is gone.
    pub(super) fn turn(
        &mut self,
        queue: &TunQueue,
        tables: &Tables,
        shared: &Shared,
    ) -> io::Result<()> {
        let mut entries = Entries::new();
        let (mut at, mut heads) = (0, 0);
        for _ in 0..READS {
            let Some(space) = self.input.get_mut(at..at + READ) else { break };
            let len = match queue.read(space) {
                Ok(len) => len,
                Err(error) => match TunError::of(&error) {
                    TunError::Empty => break,
                    TunError::Packet => {
                        Stats::count(&shared.stats.malformed);
                        continue;
                    }
                    TunError::Gone => {
                        self.send(&mut entries, shared);
                        return Err(error);
                    }
                },
            };
            let from = at..at + len;
            at = self.packet(from, &mut entries, &mut heads, queue, tables, shared);
            if at >= BUFFER / 2 || entries.len() >= BURST / 2 {
                self.send(&mut entries, shared);
                (at, heads) = (0, 0);
            } else if entries.is_empty() {
                (at, heads) = (0, 0);
            }
        }
        self.send(&mut entries, shared);
        Ok(())
    }

    /// One read: a packet, a super-packet, or a fragment, which may make a packet whole. Returns
    /// where in the input buffer there is room again.
    fn packet<'t>(
        &mut self,
        read: Range<usize>,
        entries: &mut Entries<'t>,
        heads: &mut usize,
        queue: &TunQueue,
        tables: &'t Tables,
        shared: &Shared,
    ) -> usize {
        let bytes = self.input.get(read.clone()).unwrap_or(&[]);
        let Some((mut vnet, packet)) = VnetHeader::split(bytes) else {
            Stats::count(&shared.stats.malformed);
            return read.end;
        };
        let mut range = read.end - packet.len()..read.end;
        if let Some(fragment) = Fragment::read(packet)
            && !fragment.is_first()
        {
            match self.gatherer.later(&fragment, shared.now()) {
                Later::Unknown => {}
                Later::Kept => return read.start,
                Later::Whole(whole) => {
                    // In the place of its last fragment, where a read has room for as much.
                    range = read.start..read.start + whole.len();
                    vnet = VnetHeader::PLAIN;
                    let Some(place) = self.input.get_mut(range.clone()) else { return read.start };
                    place.copy_from_slice(whole);
                }
            }
        }
        self.inner(range.clone(), vnet, entries, heads, queue, tables, shared);
        range.end
    }

    /// A packet or super-packet that stands in the input buffer.
    #[expect(clippy::too_many_arguments, reason = "the state of one turn")]
    fn inner<'t>(
        &mut self,
        whole: Range<usize>,
        vnet: VnetHeader,
        entries: &mut Entries<'t>,
        heads: &mut usize,
        queue: &TunQueue,
        tables: &'t Tables,
        shared: &Shared,
    ) {
        let stats = &shared.stats;
        let packet = self.input.get(whole.clone()).unwrap_or(&[]);
        let len = packet.len();
        let Some((flow, shape)) = Flow::read(packet).zip(shape(packet)) else {
            return Stats::count(&stats.malformed);
        };
        let Some(outbound) = find(&flow, tables, shared) else { return };
        if let Some(fragment) = Fragment::read(packet)
            && fragment.is_first()
            && !carries_later_fragments(&flow, outbound, tables)
        {
            if self.gatherer.first(&fragment, shared.now()) {
                Stats::count(&stats.policy);
            }
            return;
        }
        let Some(packet) = self.input.get_mut(whole.clone()) else { return };
        let max = outbound.path.max_inner.load(Ordering::Relaxed);
        mss::clamp(packet, &shape, max, vnet.needs_checksum);
        if vnet.gso == Gso::None {
            if vnet.needs_checksum && complete_checksum(packet, &vnet).is_none() {
                return Stats::count(&stats.malformed);
            }
            if len <= max {
                self.push(entries, outbound, 0..0, whole, false, shared);
                return;
            }
            return self.too_long(whole, &flow, outbound, entries, heads, queue, tables, shared);
        }
        let Some(cut) = Cut::plan(packet, &shape, &vnet, max) else {
            return Stats::count(&stats.malformed);
        };
        let dont_fragment = IpHeader::read(packet).is_none_or(|header| header.dont_fragment);
        let oversize = cut.longest() > max;
        if oversize && dont_fragment && tell_too_big(packet, &flow, max, queue, shared) {
            return;
        }
        for index in 0..cut.count {
            let head = self.head(cut.header_len, entries, heads, shared);
            let Some((packet, slot)) = self.parts(&whole, &head) else { return };
            let Some(body) = cut.write(packet, index, slot) else { return };
            let body = whole.start + body.start..whole.start + body.end;
            self.push(entries, outbound, head, body, oversize, shared);
        }
    }

    /// A packet that does not fit the tunnel: an ICMP error, inner or outer fragments.
    #[expect(clippy::too_many_arguments, reason = "the state of one turn")]
    fn too_long<'t>(
        &mut self,
        whole: Range<usize>,
        flow: &Flow,
        outbound: &'t Outbound,
        entries: &mut Entries<'t>,
        heads: &mut usize,
        queue: &TunQueue,
        tables: &Tables,
        shared: &Shared,
    ) {
        let max = outbound.path.max_inner.load(Ordering::Relaxed);
        let packet = self.input.get(whole.clone()).unwrap_or(&[]);
        let Some(header) = IpHeader::read(packet) else { return };
        if header.dont_fragment && tell_too_big(packet, flow, max, queue, shared) {
            return;
        }
        let plan = shape(packet)
            .filter(|_| !header.dont_fragment && carries_later_fragments(flow, outbound, tables))
            .and_then(|shape| Fragments::plan(packet, &shape, max));
        let Some(plan) = plan else {
            self.push(entries, outbound, 0..0, whole, true, shared);
            return;
        };
        for index in 0..plan.count {
            let head = self.head(plan.header_len, entries, heads, shared);
            let Some((packet, slot)) = self.parts(&whole, &head) else { return };
            let Some(body) = plan.write(packet, index, slot) else { return };
            let body = whole.start + body.start..whole.start + body.end;
            self.push(entries, outbound, head, body, false, shared);
        }
    }

    fn parts(&mut self, whole: &Range<usize>, head: &Range<usize>) -> Option<(&[u8], &mut [u8])> {
        Some((self.input.get(whole.clone())?, self.heads.get_mut(head.clone())?))
    }

    /// Room for headers; sends what waits when there is none.
    fn head(
        &mut self,
        len: usize,
        entries: &mut Entries<'_>,
        heads: &mut usize,
        shared: &Shared,
    ) -> Range<usize> {
        if entries.is_full() || *heads + len > self.heads.len() {
            self.send(entries, shared);
            *heads = 0;
        }
        let head = *heads..*heads + len;
        *heads = head.end;
        head
    }

    fn push<'t>(
        &mut self,
        entries: &mut Entries<'t>,
        outbound: &'t Outbound,
        head: Range<usize>,
        body: Range<usize>,
        oversize: bool,
        shared: &Shared,
    ) {
        if entries.is_full() {
            self.send(entries, shared);
        }
        entries.push(Entry { outbound, head, body, oversize });
    }

    /// Seals what waits, each packet right behind the one before, and sends it in runs.
    fn send(&mut self, entries: &mut Entries<'_>, shared: &Shared) {
        if entries.is_empty() {
            return;
        }
        let mut sealed: ArrayVec<Slot, BURST> = ArrayVec::new();
        {
            let mut burst: ArrayVec<SealPacket<'_>, BURST> = ArrayVec::new();
            let mut rest = &mut self.output[..];
            let mut at = 0;
            for entry in entries.iter() {
                let part = |buffer: &'_ [u8], range: &Range<usize>| -> Range<usize> {
                    // Ranges come from this worker's own buffers.
                    if range.end <= buffer.len() { range.clone() } else { 0..0 }
                };
                let head = &self.heads[part(&self.heads, &entry.head)];
                let body = &self.input[part(&self.input, &entry.body)];
                let len = entry.outbound.sa.sealed_len(head.len() + body.len());
                let Some((slot, behind)) = std::mem::take(&mut rest).split_at_mut_checked(len)
                else {
                    break;
                };
                rest = behind;
                let source = if head.is_empty() {
                    // The header must be in one piece.
                    SealSource::Parts { head: body, body: &[] }
                } else {
                    SealSource::Parts { head, body }
                };
                burst.push(SealPacket::new(&entry.outbound.sa, source, slot));
                let outcome = Err(DropReason::Malformed);
                sealed.push(Slot { range: at..at + len, outcome, number: None });
                at += len;
            }
            seal_burst(&mut burst);
            for (slot, packet) in sealed.iter_mut().zip(&burst) {
                slot.take(packet);
            }
        }
        let mut at = 0;
        while let Some((entry, slot)) = entries.get(at).zip(sealed.get(at)) {
            let live = entry.outbound.sa.live();
            if let Some(number) = slot.number {
                // Out of turn is better than never.
                turn::wait(&live.sequence, number);
            }
            let Ok(first) = slot.outcome else {
                slot.pass_turn(live);
                shared.look_at(live);
                at += 1;
                continue;
            };
            let range = &slot.range;
            let cut = entry.oversize || entry.outbound.path.cut.load(Ordering::Relaxed);
            let df = first.dont_fragment && !cut;
            let run = run_length(entries, &sealed, at);
            let mut to = Outgoing {
                local: entry.outbound.local,
                remote: entry.outbound.remote,
                tos: first.traffic_class,
                df,
                segment: None,
            };
            let of_run = sealed.get(at..at + run).unwrap_or(&[]);
            match entry.outbound.encapsulation() {
                Encapsulation::Udp => {
                    let end = of_run.last().map_or(range.end, |slot| slot.range.end);
                    to.segment = (run > 1).then(|| u16::try_from(range.len()).unwrap_or(u16::MAX));
                    let data = self.output.get(range.start..end).unwrap_or(&[]);
                    shared.transmit_udp(entry.outbound, &to, data);
                }
                Encapsulation::None => {
                    let packets: ArrayVec<IoSlice<'_>, BURST> = of_run
                        .iter()
                        .map(|slot| self.output.get(slot.range.clone()).unwrap_or(&[]))
                        .map(IoSlice::new)
                        .collect();
                    shared.transmit_raw(entry.outbound, &to, &packets);
                }
            }
            if let Some(last) = of_run.last() {
                last.pass_turn(live);
            }
            shared.look_at(live);
            at += run;
        }
        entries.clear();
    }
}

/// What a failed read says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TunError {
    /// There is no packet.
    Empty,
    /// A packet could not be handed over and is lost: the kernel had no memory, or no words for
    /// what it is. The next one may do.
    Packet,
    /// The interface was deleted.
    Gone,
}

impl TunError {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Self::Empty,
            Some(libc::EBADFD | libc::EBADF | libc::ENODEV) => Self::Gone,
            _ => Self::Packet,
        }
    }
}

/// A packet in the output buffer.
struct Slot {
    range: Range<usize>,
    outcome: Result<Sealed, DropReason>,
    /// The sequence number it took, whatever the outcome.
    number: Option<u64>,
}

impl Slot {
    /// What became of the packet. It ends where it was sealed to: what lies behind an inner packet
    /// (padding of a link layer) took room but is not sent.
    fn take(&mut self, packet: &SealPacket<'_>) {
        self.outcome = packet.outcome();
        self.number = packet.number_taken();
        if let Ok(sealed) = self.outcome {
            self.range.end = self.range.start + sealed.len;
        }
    }

    /// The packet has been handed to the kernel or is lost.
    fn pass_turn(&self, live: &LiveSa) {
        if let Some(number) = self.number {
            live.sequence.pass_turn(number.saturating_add(1));
        }
    }
}

/// How many packets from `at` on may go in one system call: one SA, one outer header, numbers
/// without a gap, which another worker's packets would have to fill. In one `UDP_SEGMENT` send
/// they stand one behind the other and have one size as well; only the last may be shorter.
fn run_length(entries: &Entries<'_>, sealed: &[Slot], at: usize) -> usize {
    let (Some(first), Some(Slot { range, outcome: Ok(outer), .. })) =
        (entries.get(at), sealed.get(at))
    else {
        return 1;
    };
    if first.oversize {
        return 1;
    }
    let udp = first.outbound.encapsulation() == Encapsulation::Udp;
    let size = range.len();
    let mut end = range.end;
    let mut total = size;
    let mut count = 1;
    let mut number = outer.sequence;
    for (entry, Slot { range, outcome, .. }) in entries.iter().zip(sealed).skip(at + 1) {
        let Ok(next) = outcome else { break };
        number = number.wrapping_add(1);
        let same = core::ptr::eq(entry.outbound, first.outbound)
            && next.sequence == number
            && next.traffic_class == outer.traffic_class
            && next.dont_fragment == outer.dont_fragment
            && !entry.oversize;
        total += range.len();
        let fits = !udp
            || range.start == end
                && range.len() <= size
                && total <= MAX_DATAGRAM - 64
                && count < MAX_SEGMENTS;
        if !same || !fits {
            break;
        }
        end = range.end;
        count += 1;
        if udp && range.len() < size {
            break;
        }
    }
    count
}

/// The outbound SA for a packet; asks for one that is missing, and counts a packet without.
fn find<'t>(flow: &Flow, tables: &'t Tables, shared: &Shared) -> Option<&'t Outbound> {
    let ports = flow.source_port.zip(flow.destination_port);
    let rule = tables.policies.find(flow.source, flow.destination, flow.protocol, ports);
    let count = || Stats::count(&shared.stats.policy);
    let Some(rule) = rule else {
        // On every interface the system itself sends reports to multicast groups; nobody's
        // packet is lost with them.
        if !flow.destination.is_multicast() {
            count();
        }
        return None;
    };
    let Verdict::Protect(_, child) = rule.verdict else {
        count();
        return None;
    };
    match tables.active.get(&child) {
        Some(outbound) if outbound.sa.accepts(flow) => Some(outbound),
        _ => {
            count();
            if tables.policies.may_acquire(child, shared.now()) {
                // ICMP's type and code are no ports.
                let port = |port: Option<u16>| match flow.protocol {
                    1 | 58 => 0,
                    _ => port.unwrap_or(0),
                };
                shared.tell(Event::Acquire {
                    child,
                    source: (flow.source, port(flow.source_port)),
                    destination: (flow.destination, port(flow.destination_port)),
                    protocol: flow.protocol,
                });
            }
            None
        }
    }
}

/// Whether later fragments of a flow, which show no ports, go where its whole packets go. An SA
/// whose selectors have ports may not carry them (RFC 4301 §7.3).
fn carries_later_fragments(flow: &Flow, outbound: &Outbound, tables: &Tables) -> bool {
    let later = Flow { source_port: None, destination_port: None, ..*flow };
    let rule = tables.policies.find(later.source, later.destination, later.protocol, None);
    rule.is_some_and(|rule| match rule.verdict {
        Verdict::Protect(_, child) => {
            tables.active.get(&child).is_some_and(|active| core::ptr::eq(&**active, outbound))
                && outbound.sa.accepts(&later)
        }
        Verdict::Bypass | Verdict::Connected(_) | Verdict::Discard => false,
    })
}

/// Sends the ICMP error for a packet that must not be cut; false when the path is too small to
/// be told (the outer packet is fragmented then).
fn tell_too_big(packet: &[u8], flow: &Flow, max: usize, queue: &TunQueue, shared: &Shared) -> bool {
    if flow.source.is_ipv6() && max < IPV6_LEAST && packet.len() <= IPV6_LEAST {
        return false;
    }
    let mtu = if flow.source.is_ipv6() { max.max(IPV6_LEAST) } else { max };
    Stats::count(&shared.stats.too_big);
    if shared.may_complain() {
        let mut error = [0; icmp::MAX_ERROR];
        if let Some(len) = icmp::too_big(packet, flow, mtu, &mut error)
            && let Some(error) = error.get(..len)
        {
            plain(error, flow.source.is_ipv4(), false, &mut |parts| {
                // An error that gets lost is sent again for the next packet.
                let _ = queue.write(parts);
            });
        }
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "planted, and a test that cannot go on ends")]
mod tests {
    use super::*;
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Arc,
    };

    use esp::{OutboundOptions, OutboundSa};
    use sa_store::{
        ChildId, Direction, DomainId, Esn, EspCipher, EspSpi, EspSuite, EspTransform, KeyMaterial,
        Lifetime, Mode, OffloadIntent, PairId, SaId, SaRecord, SecretBytes, TunnelId,
    };

    fn outbound() -> Outbound {
        let (local, remote) = ("192.0.2.1:4500".parse(), "192.0.2.2:4500".parse());
        let record = SaRecord {
            id: SaId(1),
            pair: PairId(1),
            tunnel: TunnelId(1),
            child: ChildId(1),
            direction: Direction::Outbound,
            spi: EspSpi::new(0x1001).unwrap(),
            local: local.unwrap(),
            remote: remote.unwrap(),
            encapsulation: Encapsulation::Udp,
            mode: Mode::Tunnel,
            transform: EspTransform {
                suite: EspSuite::new(EspCipher::AesGcm16(256), None).unwrap(),
                esn: Esn::Yes,
            },
            keys: KeyMaterial {
                encryption: SecretBytes::new(vec![7; 36]),
                integrity: SecretBytes::new(Vec::new()),
            },
            replay_window: 32,
            replay_floor: 0,
            next_sequence: 1,
            local_selectors: vec!["10.1.0.0/16".parse().unwrap()],
            remote_selectors: vec!["10.2.0.0/16".parse().unwrap()],
            lifetime: Lifetime::default(),
            dscp: Default::default(),
            ecn: Default::default(),
            df: Default::default(),
            domain: DomainId(0),
            mark: 0,
            interface_id: 0,
            offload: OffloadIntent::Auto,
        };
        let live = Arc::new(LiveSa::new(&record));
        let engines = crypto::aead::Engines::portable();
        let options = OutboundOptions::new([0; 16]);
        let sa = OutboundSa::new(&record, live, &engines, &options).unwrap();
        let (id, local, remote) = (record.id, record.local, record.remote);
        Outbound { id, sa, local, remote, path: Arc::default() }
    }

    #[test]
    fn one_packet_that_cannot_be_read_does_not_end_a_worker() {
        for (errno, expected) in [
            (libc::EAGAIN, TunError::Empty),
            (libc::EINTR, TunError::Packet),
            (libc::EINVAL, TunError::Packet),
            (libc::ENOMEM, TunError::Packet),
            (libc::EFAULT, TunError::Packet),
            (libc::EBADFD, TunError::Gone),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(TunError::of(&error), expected, "{error}");
        }
    }

    #[test]
    fn nobody_waits_for_the_numbers_of_a_turn_that_panicked() {
        let outbound = outbound();
        let sequence = &outbound.sa.live().sequence;
        let turn = AssertUnwindSafe(|| {
            let mut entries = Entries::new();
            entries.push(Entry { outbound: &outbound, head: 0..0, body: 0..0, oversize: false });
            assert!(sequence.reserve(3).eq(1..4));
            panic!("planted");
        });
        assert!(catch_unwind(turn).is_err());
        assert!(sequence.reserve(1).eq(4..5));
        assert!(sequence.is_turn(4) && !sequence.is_turn(5));
    }

    #[test]
    fn a_run_ends_where_the_numbers_of_another_worker_come_between() {
        let outbound = outbound();
        let mut entries = Entries::new();
        let mut at = 0;
        let sealed = [1, 2, 3, 7, 8].map(|sequence| {
            entries.push(Entry { outbound: &outbound, head: 0..0, body: 0..0, oversize: false });
            let outcome = Ok(Sealed { len: 100, sequence, traffic_class: 0, dont_fragment: true });
            at += 100;
            Slot { range: at - 100..at, outcome, number: Some(sequence) }
        });
        let lengths = [0, 1, 3, 4].map(|at| run_length(&entries, &sealed, at));
        assert_eq!(lengths, [3, 2, 2, 1]);
    }

    #[test]
    fn what_lies_behind_an_inner_packet_is_not_sent() {
        let outbound = outbound();
        let mut packet = [0_u8; 60];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
        let len = outbound.sa.sealed_len(packet.len());
        let mut output = [0; 512];
        let mut entries = Entries::new();
        let mut sealed: Vec<Slot> = Vec::new();
        for (number, room) in output.chunks_mut(len).take(2).enumerate() {
            entries.push(Entry { outbound: &outbound, head: 0..0, body: 0..0, oversize: false });
            let source = SealSource::Parts { head: &packet, body: &[] };
            let mut burst = [SealPacket::new(&outbound.sa, source, room)];
            seal_burst(&mut burst);
            let outcome = Err(DropReason::Malformed);
            let range = number * len..(number + 1) * len;
            let mut slot = Slot { range, outcome, number: None };
            slot.take(&burst[0]);
            sealed.push(slot);
        }
        let short = outbound.sa.sealed_len(40);
        let ranges: Vec<_> = sealed.iter().map(|slot| slot.range.clone()).collect();
        assert_eq!(ranges, [0..short, len..len + short]);
        assert_eq!(run_length(&entries, &sealed, 0), 1, "there is a gap between the two");
    }
}
