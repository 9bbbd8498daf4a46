//! Cutting super-packets (TSO, USO) and oversized IPv4 packets into what goes on the wire.

use esp::checksum;

use super::header::{Gso, Shape, TCP, UDP, VnetHeader, finish_ipv4, pseudo_sum, set_word, word};

/// Octets of headers a packet to be cut may have.
pub(crate) const MAX_HEADERS: usize = 256;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Completes a checksum that the kernel left to us.
pub(crate) fn complete_checksum(packet: &mut [u8], vnet: &VnetHeader) -> Option<()> {
    let start = usize::from(vnet.checksum_start);
    let at = start.checked_add(usize::from(vnet.checksum_offset))?;
    // The field holds the sum of the pseudo header and counts as part of the data.
    let sum = checksum::finish(checksum::sum(0, packet.get(start..)?));
    packet.get(at..at + 2)?;
    // Zero means "no checksum" in UDP (RFC 768).
    let udp = vnet.checksum_offset == 6;
    set_word(packet, at, if udp && sum == 0 { u16::MAX } else { sum });
    Some(())
}

/// A super-packet and how it is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    shape: Shape,
    gso: Gso,
    /// Octets of all headers.
    pub header_len: usize,
    /// Octets of payload of each packet; the last one may have less.
    segment: usize,
    payload_len: usize,
    /// Packets.
    pub count: usize,
}

impl Cut {
    /// Plans the cut of a super-packet into packets of at most `max` octets. `None` if its
    /// headers make no sense.
    pub(crate) fn plan(
        packet: &[u8],
        shape: &Shape,
        vnet: &VnetHeader,
        max: usize,
    ) -> Option<Self> {
        let upper = packet.get(shape.network_len..)?;
        let (protocol, upper_len) = match vnet.gso {
            Gso::Tcp => (TCP, usize::from(upper.get(12)? >> 4) * 4),
            Gso::Udp => (UDP, 8),
            Gso::None => return None,
        };
        let header_len = shape.network_len + upper_len;
        let payload_len = packet.len().checked_sub(header_len)?;
        // TCP may be cut smaller than the sender asked for, where the tunnel has less room;
        // datagrams have boundaries and may not.
        let room = max.checked_sub(header_len)?;
        let wanted = usize::from(vnet.segment);
        let segment = if vnet.gso == Gso::Tcp { wanted.min(room) } else { wanted };
        if shape.protocol != protocol
            || shape.fragment
            || upper_len < 8
            || header_len > MAX_HEADERS
            || segment == 0
        {
            return None;
        }
        let count = payload_len.div_ceil(segment).max(1);
        Some(Self { shape: *shape, gso: vnet.gso, header_len, segment, payload_len, count })
    }

    /// Octets of the longest packet.
    pub(crate) fn longest(&self) -> usize {
        self.header_len + self.segment.min(self.payload_len)
    }

    /// Writes the headers of packet `index` to `head` (which has `header_len` octets) and says
    /// where in the super-packet its payload is.
    pub(crate) fn write(
        &self,
        packet: &[u8],
        index: usize,
        head: &mut [u8],
    ) -> Option<core::ops::Range<usize>> {
        head.copy_from_slice(packet.get(..self.header_len)?);
        let offset = index * self.segment;
        let len = self.segment.min(self.payload_len.checked_sub(offset)?);
        let last = index + 1 == self.count;
        let start = self.header_len + offset;
        let payload = packet.get(start..start + len)?;
        let total = self.header_len + len;
        let length = |octets: usize| u16::try_from(octets).ok();
        if self.shape.v4 {
            set_word(head, 2, length(total)?);
            // Identifications count on, as the kernel's own segments do.
            let id = word(head, 4)?.wrapping_add(length(index)?);
            set_word(head, 4, id);
            finish_ipv4(head);
        } else {
            set_word(head, 4, length(total - 40)?);
        }
        let network_len = self.shape.network_len;
        let upper_len = total - network_len;
        let pseudo = pseudo_sum(packet, &self.shape, upper_len);
        let upper = head.get_mut(network_len..)?;
        let at = if self.gso == Gso::Tcp {
            let sequence = upper.get_mut(4..8)?.first_chunk_mut::<4>()?;
            let offset = u32::try_from(offset).ok()?;
            *sequence = u32::from_be_bytes(*sequence).wrapping_add(offset).to_be_bytes();
            let flags = upper.get_mut(13)?;
            if !last {
                *flags &= !(FIN | PSH);
            }
            if index > 0 {
                *flags &= !CWR;
            }
            16
        } else {
            set_word(upper, 4, length(upper_len)?);
            6
        };
        set_word(upper, at, 0);
        // Headers of TCP and UDP have an even number of octets, so the parts may be added.
        let sum = checksum::finish(checksum::sum(checksum::sum(pseudo, upper), payload));
        let sum = if self.gso == Gso::Udp && sum == 0 { u16::MAX } else { sum };
        set_word(upper, at, sum);
        Some(start..start + len)
    }
}

/// An IPv4 packet without DF that is too long for its tunnel, cut into fragments (RFC 791 §3.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragments {
    /// Octets of the IP header.
    pub header_len: usize,
    chunk: usize,
    payload_len: usize,
    /// Fragments.
    pub count: usize,
}

impl Fragments {
    /// Plans fragments of at most `max` octets.
    pub(crate) fn plan(packet: &[u8], shape: &Shape, max: usize) -> Option<Self> {
        let room = max.checked_sub(shape.network_len)? & !7;
        if !shape.v4 || room == 0 {
            return None;
        }
        let payload_len = packet.len().checked_sub(shape.network_len)?;
        let count = payload_len.div_ceil(room);
        Some(Self { header_len: shape.network_len, chunk: room, payload_len, count })
    }

    /// Writes the header of fragment `index` and says where its payload is.
    pub(crate) fn write(
        &self,
        packet: &[u8],
        index: usize,
        head: &mut [u8],
    ) -> Option<core::ops::Range<usize>> {
        head.copy_from_slice(packet.get(..self.header_len)?);
        if index > 0 {
            forget_first_only_options(head.get_mut(20..)?);
        }
        let offset = index * self.chunk;
        let len = self.chunk.min(self.payload_len.checked_sub(offset)?);
        let old = word(head, 6)?;
        let more = if index + 1 < self.count { 0x2000 } else { old & 0x2000 };
        let position = (old & 0x1fff) + u16::try_from(offset / 8).ok()?;
        if position > 0x1fff {
            return None;
        }
        set_word(head, 6, (old & 0xc000) | more | position);
        set_word(head, 2, u16::try_from(self.header_len + len).ok()?);
        finish_ipv4(head);
        let start = self.header_len + offset;
        Some(start..start + len)
    }
}

/// Options without the copied flag stand in the first fragment only (RFC 791 §3.1); they become
/// no-operations so that the header keeps its length.
fn forget_first_only_options(mut options: &mut [u8]) {
    while let Some(kind) = options.first().copied() {
        let len = match kind {
            0 => return,
            1 => 1,
            _ => usize::from(options.get(1).copied().unwrap_or(0)),
        };
        if len == 0 || len > options.len() || (kind > 1 && len < 2) {
            return;
        }
        let (option, rest) = options.split_at_mut(len);
        if kind & 0x80 == 0 {
            option.fill(1);
        }
        options = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::header::shape, *};
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    fn tcp_super(payload: usize, v4: bool) -> Vec<u8> {
        let builder = if v4 {
            PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64)
        } else {
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
        };
        let body: Vec<u8> = (0..payload).map(|i| i as u8).collect();
        let mut out = Vec::new();
        builder.tcp(1000, 2000, 7, 5000).ack(9).psh().fin().write(&mut out, &body).unwrap();
        out
    }

    #[test]
    fn segments_are_packets_that_another_parser_accepts() {
        for v4 in [true, false] {
            let packet = tcp_super(3001, v4);
            let shape = shape(&packet).unwrap();
            let vnet = VnetHeader { gso: Gso::Tcp, segment: 1400, ..VnetHeader::PLAIN };
            let cut = Cut::plan(&packet, &shape, &vnet, 1380).unwrap();
            let mut stream = Vec::new();
            for index in 0..cut.count {
                let mut segment = vec![0; cut.header_len];
                let body = cut.write(&packet, index, &mut segment).unwrap();
                segment.extend_from_slice(&packet[body]);
                assert!(segment.len() <= 1380);
                let sliced = SlicedPacket::from_ip(&segment).unwrap();
                let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
                assert_eq!(tcp.sequence_number(), 7 + u32::try_from(stream.len()).unwrap());
                let last = index + 1 == cut.count;
                assert_eq!((tcp.fin(), tcp.psh()), (last, last));
                let expected = if v4 {
                    let header = etherparse::Ipv4HeaderSlice::from_slice(&segment).unwrap();
                    let to = header.to_header();
                    assert_eq!(to.header_checksum, to.calc_header_checksum());
                    assert_eq!(usize::from(to.total_len), segment.len());
                    tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap()
                } else {
                    let header = etherparse::Ipv6HeaderSlice::from_slice(&segment).unwrap();
                    tcp.calc_checksum_ipv6(header.source(), header.destination()).unwrap()
                };
                assert_eq!(tcp.checksum(), expected);
                stream.extend_from_slice(tcp.payload());
            }
            assert_eq!(stream, packet[cut.header_len..]);
        }
    }

    #[test]
    fn fragments_put_together_are_the_packet() {
        let mut packet = Vec::new();
        let body: Vec<u8> = (0..2777_u32).map(|i| i as u8).collect();
        PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64)
            .udp(53, 54)
            .write(&mut packet, &body)
            .unwrap();
        packet[6] = 0;
        let shape = shape(&packet).unwrap();
        let plan = Fragments::plan(&packet, &shape, 1003).unwrap();
        let mut pool = etherparse::defrag::IpDefragPool::<(), ()>::new();
        let mut whole = None;
        for index in 0..plan.count {
            let mut fragment = vec![0; plan.header_len];
            let part = plan.write(&packet, index, &mut fragment).unwrap();
            fragment.extend_from_slice(&packet[part]);
            assert!(fragment.len() <= 1003);
            let sliced = SlicedPacket::from_ip(&fragment).unwrap();
            whole = pool.process_sliced_packet(&sliced, (), ()).unwrap();
        }
        assert_eq!(whole.unwrap().payload, packet[20..]);
    }

    #[test]
    fn senseless_super_packets_are_refused() {
        let packet = tcp_super(3000, true);
        let shape = shape(&packet).unwrap();
        let vnet = VnetHeader { gso: Gso::Tcp, segment: 0, ..VnetHeader::PLAIN };
        assert!(Cut::plan(&packet, &shape, &vnet, 1380).is_none());
        let vnet = VnetHeader { gso: Gso::Udp, segment: 1000, ..VnetHeader::PLAIN };
        assert!(Cut::plan(&packet, &shape, &vnet, 1380).is_none());
        let vnet = VnetHeader { gso: Gso::Tcp, segment: 1000, ..VnetHeader::PLAIN };
        assert!(Cut::plan(&packet, &shape, &vnet, 40).is_none());
        assert!(Cut::plan(&packet[..30], &shape, &vnet, 1380).is_none());
    }
}
