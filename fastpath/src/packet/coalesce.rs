//! Joining what came out of a tunnel into super-packets for TUN: the reverse of cutting.
//!
//! One write of 64 KiB costs little more than one of 1400 octets, so packets of a flow that
//! follow each other are handed over as one, as a network card with receive offload would. Only
//! what the kernel can cut again into exactly the same packets is joined, and every checksum is
//! verified before, because the kernel will compute them anew.

use std::io::IoSlice;

use arrayvec::ArrayVec;
use esp::checksum;

use super::header::{
    Gso, Shape, TCP, UDP, VnetHeader, finish_ipv4, pseudo_sum, set_word, shape, word,
};
use crate::io::tun::VNET_HEADER;

/// Flows that are open at a time.
const FLOWS: usize = 8;
/// Packets in one super-packet.
const PARTS: usize = 64;
const MAX_TOTAL: usize = 65_535;
const MAX_HEADERS: usize = 120;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// What may be joined.
#[derive(Clone, Copy)]
struct Candidate {
    shape: Shape,
    gso: Gso,
    /// Where the packet starts.
    start: usize,
    header_len: usize,
    payload_len: usize,
    sequence: u32,
    pushed: bool,
}

/// A super-packet under construction.
struct Joined {
    first: Candidate,
    parts: ArrayVec<(usize, usize), PARTS>,
    next_sequence: u32,
    total: usize,
    /// Nothing may follow: the last packet was short or pushed.
    closed: bool,
    pushed: bool,
}

/// Joins packets; works on ranges of a buffer that every call gets anew.
pub(crate) struct Coalescer {
    open: ArrayVec<Joined, FLOWS>,
    tcp: bool,
    udp: bool,
}

impl Coalescer {
    /// Joins TCP and UDP where the interface takes it.
    pub(crate) const fn new(tcp: bool, udp: bool) -> Self {
        Self { open: ArrayVec::new_const(), tcp, udp }
    }

    /// Drops what is under construction.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
    }

    /// Takes the packet `buffer[start..start + len]`. What is finished goes to `emit`.
    pub(crate) fn add(
        &mut self,
        buffer: &[u8],
        start: usize,
        len: usize,
        emit: &mut impl FnMut(&[IoSlice<'_>]),
    ) {
        let Some(packet) = buffer.get(start..start + len) else { return };
        let Some(shape) = shape(packet) else { return };
        let has_ports = matches!(shape.protocol, TCP | UDP) && !shape.fragment;
        let at = if has_ports {
            self.open.iter().position(|joined| same_flow(buffer, joined, packet, &shape))
        } else {
            None
        };
        let candidate = self.candidate(packet, &shape, start);
        if let (Some(at), Some(candidate)) = (at, candidate)
            && let Some(joined) = self.open.get_mut(at)
            && joined.take(buffer, &candidate)
        {
            if joined.closed {
                self.open.remove(at).emit(buffer, emit);
            }
            return;
        }
        // Packets of a flow stay in order.
        if let Some(at) = at {
            self.open.remove(at).emit(buffer, emit);
        }
        match candidate {
            Some(candidate) if !candidate.pushed => {
                if self.open.is_full() {
                    self.open.remove(0).emit(buffer, emit);
                }
                self.open.push(Joined::new(&candidate));
            }
            Some(_) => plain(packet, shape.v4, true, emit),
            None => plain(packet, shape.v4, false, emit),
        }
    }

    /// Emits everything, because the buffer is about to be used again.
    pub(crate) fn flush(&mut self, buffer: &[u8], emit: &mut impl FnMut(&[IoSlice<'_>])) {
        for joined in self.open.drain(..) {
            joined.emit(buffer, emit);
        }
    }

    /// A packet that may be joined, its checksum verified.
    fn candidate(&self, packet: &[u8], shape: &Shape, start: usize) -> Option<Candidate> {
        if shape.fragment || shape.extended {
            return None;
        }
        let upper = packet.get(shape.network_len..)?;
        let (gso, upper_len, sequence, pushed) = match shape.protocol {
            TCP if self.tcp => {
                let flags = *upper.get(13)?;
                if flags & !PSH != ACK {
                    return None;
                }
                let sequence = u32::from_be_bytes(*upper.get(4..)?.first_chunk()?);
                (Gso::Tcp, usize::from(upper.get(12)? >> 4) * 4, sequence, flags & PSH != 0)
            }
            UDP if self.udp => {
                // Without checksum there is nothing the kernel could compute anew.
                let whole = usize::from(word(upper, 4)?) == upper.len();
                if !whole || word(upper, 6)? == 0 {
                    return None;
                }
                (Gso::Udp, 8, 0, false)
            }
            _ => return None,
        };
        let header_len = shape.network_len + upper_len;
        let payload_len = packet.len().checked_sub(header_len)?;
        let least = if gso == Gso::Tcp { 20 } else { 8 };
        if upper_len < least || payload_len == 0 || header_len > MAX_HEADERS {
            return None;
        }
        // A joined packet gets a new header as well, which must not mend a broken one.
        let header = if shape.v4 { packet.get(..shape.network_len)? } else { &[] };
        let whole = !shape.v4 || checksum::finish(checksum::sum(0, header)) == 0;
        let sum = checksum::sum(pseudo_sum(packet, shape, upper.len()), upper);
        (whole && checksum::finish(sum) == 0).then_some(Candidate {
            shape: *shape,
            gso,
            start,
            header_len,
            payload_len,
            sequence,
            pushed,
        })
    }
}

fn same_flow(buffer: &[u8], joined: &Joined, packet: &[u8], shape: &Shape) -> bool {
    let first = &joined.first;
    let Some(head) = buffer.get(first.start..first.start + first.header_len) else { return false };
    let addresses = if shape.v4 { 12..20 } else { 8..40 };
    let ports = |of: &Shape| of.network_len..of.network_len + 4;
    first.shape.v4 == shape.v4
        && first.shape.protocol == shape.protocol
        && head.get(addresses.clone()) == packet.get(addresses)
        && head.get(ports(&first.shape)) == packet.get(ports(shape))
}

/// Whether two packets of a flow differ only in what cutting a super-packet makes different.
fn same_headers(a: &[u8], b: &[u8], shape: &Shape, gso: Gso) -> bool {
    let equal = |range: core::ops::Range<usize>| a.get(range.clone()) == b.get(range);
    let network = if shape.v4 {
        // All but length, identification and checksum.
        equal(0..2) && equal(6..10)
    } else {
        equal(0..4) && equal(6..8)
    };
    let at = shape.network_len;
    let upper = match gso {
        // Acknowledgement, offset; window and urgent pointer; options.
        Gso::Tcp => {
            equal(at + 8..at + 13)
                && equal(at + 14..at + 16)
                && equal(at + 18..at + 20)
                && equal(at + 20..a.len())
        }
        Gso::Udp | Gso::None => true,
    };
    network && upper && a.len() == b.len()
}

impl Joined {
    fn new(first: &Candidate) -> Self {
        let mut parts = ArrayVec::new();
        parts.push((first.start + first.header_len, first.payload_len));
        let payload = u32::try_from(first.payload_len).unwrap_or(0);
        Self {
            first: *first,
            parts,
            next_sequence: first.sequence.wrapping_add(payload),
            total: first.header_len + first.payload_len,
            closed: false,
            pushed: first.pushed,
        }
    }

    /// Joins a packet of the same flow, if it follows.
    fn take(&mut self, buffer: &[u8], next: &Candidate) -> bool {
        let first = &self.first;
        let header = |of: &Candidate| buffer.get(of.start..of.start + of.header_len);
        let (Some(a), Some(b)) = (header(first), header(next)) else { return false };
        let dont_fragment = !first.shape.v4 || a.get(6).is_some_and(|flags| flags & 0x40 != 0);
        let counts_on = || {
            let count = u16::try_from(self.parts.len()).unwrap_or(u16::MAX);
            word(a, 4).map(|id| id.wrapping_add(count)) == word(b, 4)
        };
        let fits = self.total + next.payload_len <= MAX_TOTAL
            && next.payload_len <= first.payload_len
            && (first.gso == Gso::Udp || next.sequence == self.next_sequence)
            && same_headers(a, b, &first.shape, first.gso)
            && (dont_fragment || counts_on());
        if self.closed || !fits || self.parts.is_full() {
            return false;
        }
        self.parts.push((next.start + next.header_len, next.payload_len));
        let payload = u32::try_from(next.payload_len).unwrap_or(0);
        self.next_sequence = self.next_sequence.wrapping_add(payload);
        self.total += next.payload_len;
        self.pushed |= next.pushed;
        self.closed = next.pushed
            || next.payload_len < first.payload_len
            || self.parts.is_full()
            || self.total + first.payload_len > MAX_TOTAL;
        true
    }

    fn emit(self, buffer: &[u8], emit: &mut impl FnMut(&[IoSlice<'_>])) {
        let first = &self.first;
        let shape = &first.shape;
        if self.parts.len() == 1 {
            let len = first.header_len + first.payload_len;
            if let Some(packet) = buffer.get(first.start..first.start + len) {
                plain(packet, shape.v4, true, emit);
            }
            return;
        }
        let mut head = [0; VNET_HEADER + MAX_HEADERS];
        let Some(header) = buffer.get(first.start..first.start + first.header_len) else { return };
        let offset = if first.gso == Gso::Tcp { 16 } else { 6 };
        // All below 65,536: the total is.
        let short = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX);
        let vnet = VnetHeader {
            needs_checksum: true,
            checksum_valid: false,
            gso: first.gso,
            header_len: short(first.header_len),
            segment: short(first.payload_len),
            checksum_start: short(shape.network_len),
            checksum_offset: offset,
        };
        let (front, rest) = head.split_at_mut(VNET_HEADER);
        front.copy_from_slice(&vnet.to_bytes(shape.v4));
        let Some(headers) = rest.get_mut(..first.header_len) else { return };
        headers.copy_from_slice(header);
        let upper_len = self.total - shape.network_len;
        if shape.v4 {
            set_word(headers, 2, short(self.total));
            finish_ipv4(headers);
        } else {
            set_word(headers, 4, short(upper_len));
        }
        // The kernel wants the sum of the pseudo header, not inverted, and adds the rest.
        let pseudo = checksum::fold(pseudo_sum(headers, shape, upper_len));
        let at = shape.network_len;
        set_word(headers, at + usize::from(offset), pseudo);
        if first.gso == Gso::Udp {
            set_word(headers, at + 4, short(upper_len));
        } else if self.pushed
            && let Some(flags) = headers.get_mut(at + 13)
        {
            *flags |= PSH;
        }
        let mut slices: ArrayVec<IoSlice<'_>, { PARTS + 1 }> = ArrayVec::new();
        let head = head.get(..VNET_HEADER + first.header_len).unwrap_or(&[]);
        slices.push(IoSlice::new(head));
        for (start, len) in &self.parts {
            slices.push(IoSlice::new(buffer.get(*start..start + len).unwrap_or(&[])));
        }
        emit(&slices);
    }
}

/// Emits one packet as it is.
pub(crate) fn plain(
    packet: &[u8],
    v4: bool,
    verified: bool,
    emit: &mut impl FnMut(&[IoSlice<'_>]),
) {
    let vnet = VnetHeader { checksum_valid: verified, ..VnetHeader::PLAIN }.to_bytes(v4);
    emit(&[IoSlice::new(&vnet), IoSlice::new(packet)]);
}

#[cfg(test)]
mod tests {
    use super::{super::segment::Cut, *};
    use etherparse::PacketBuilder;

    fn collect(buffer: &[u8], packets: &[(usize, usize)]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut emit = |slices: &[IoSlice<'_>]| {
            out.push(slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>());
        };
        let mut coalescer = Coalescer::new(true, true);
        for (start, len) in packets {
            coalescer.add(buffer, *start, *len, &mut emit);
        }
        coalescer.flush(buffer, &mut emit);
        out
    }

    /// A super-packet of TCP, cut into a buffer with gaps as ESP leaves them.
    fn cut(v4: bool, payload: usize, port: u16) -> (Vec<u8>, Vec<u8>, Vec<(usize, usize)>) {
        let builder = if v4 {
            PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64)
        } else {
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
        };
        let body: Vec<u8> = (0..payload).map(|i| (i * 7) as u8).collect();
        let mut packet = Vec::new();
        builder.tcp(1000, port, 7, 5000).ack(9).psh().write(&mut packet, &body).unwrap();
        let shape = shape(&packet).unwrap();
        let vnet = VnetHeader { gso: Gso::Tcp, segment: 1000, ..VnetHeader::PLAIN };
        let plan = Cut::plan(&packet, &shape, &vnet, 1400).unwrap();
        let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
        for index in 0..plan.count {
            buffer.extend_from_slice(&[0xee; 24]);
            let start = buffer.len();
            let mut head = vec![0; plan.header_len];
            let part = plan.write(&packet, index, &mut head).unwrap();
            buffer.extend_from_slice(&head);
            buffer.extend_from_slice(&packet[part]);
            ranges.push((start, buffer.len() - start));
        }
        (packet, buffer, ranges)
    }

    #[test]
    fn a_cut_super_packet_comes_out_whole() {
        for v4 in [true, false] {
            let (packet, buffer, ranges) = cut(v4, 20_500, 80);
            let out = collect(&buffer, &ranges);
            assert_eq!(out.len(), 1);
            let (vnet, joined) = VnetHeader::split(&out[0]).unwrap();
            assert_eq!((vnet.gso, vnet.segment), (Gso::Tcp, 1000));
            let mut joined = joined.to_vec();
            super::super::segment::complete_checksum(&mut joined, &vnet).unwrap();
            assert_eq!(joined, packet);
        }
    }

    #[test]
    fn a_gap_or_a_wrong_checksum_is_not_joined_over() {
        let (_, buffer, mut ranges) = cut(true, 5000, 80);
        ranges.remove(2);
        assert_eq!(collect(&buffer, &ranges).len(), 2);
        let (_, mut buffer, ranges) = cut(true, 5000, 80);
        buffer[ranges[2].0 + 60] ^= 1;
        let out = collect(&buffer, &ranges);
        assert_eq!(out.len(), 3);
        let (vnet, broken) = VnetHeader::split(&out[1]).unwrap();
        assert_eq!(vnet, VnetHeader::PLAIN, "left to the receiver to notice");
        assert_eq!(broken, &buffer[ranges[2].0..ranges[2].0 + ranges[2].1]);
    }

    #[test]
    fn a_wrong_header_checksum_is_not_mended() {
        let (_, mut buffer, ranges) = cut(true, 5000, 80);
        for part in [0, 2] {
            buffer[ranges[part].0 + 10] ^= 1;
        }
        let out = collect(&buffer, &ranges);
        assert_eq!(out.len(), 4, "two broken ones, and what stands between and behind them");
        for (number, part) in [(0, 0), (2, 2)] {
            let (vnet, broken) = VnetHeader::split(&out[number]).unwrap();
            assert_eq!(vnet, VnetHeader::PLAIN, "left to the receiver to notice");
            assert_eq!(broken, &buffer[ranges[part].0..ranges[part].0 + ranges[part].1]);
        }
    }

    #[test]
    fn interleaved_flows_are_kept_apart() {
        let (first, mut buffer, mut ranges) = cut(true, 3000, 80);
        let (second, other, others) = cut(true, 3000, 81);
        let base = buffer.len();
        buffer.extend_from_slice(&other);
        let mixed: Vec<(usize, usize)> = ranges
            .drain(..)
            .zip(others)
            .flat_map(|(a, (start, len))| [a, (start + base, len)])
            .collect();
        let out = collect(&buffer, &mixed);
        assert_eq!(out.len(), 2);
        for (joined, whole) in out.iter().zip([first, second]) {
            assert_eq!(joined[VNET_HEADER + 40..], whole[40..]);
        }
    }

    #[test]
    fn datagrams_of_one_size_are_joined() {
        let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
        for (number, size) in [700, 700, 300].into_iter().enumerate() {
            let start = buffer.len();
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
                .udp(9, 443)
                .write(&mut buffer, &vec![number as u8; size])
                .unwrap();
            ranges.push((start, buffer.len() - start));
        }
        let out = collect(&buffer, &ranges);
        assert_eq!(out.len(), 1);
        let (vnet, joined) = VnetHeader::split(&out[0]).unwrap();
        assert_eq!((vnet.gso, vnet.segment, joined.len()), (Gso::Udp, 700, 48 + 1700));
    }
}
