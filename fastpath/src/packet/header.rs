//! Where the upper layer of a packet starts, and the virtio header in front of it.

use esp::{checksum, inner::NextLayer};

use crate::io::tun::VNET_HEADER;

/// TCP.
pub(crate) const TCP: u8 = 6;
/// UDP.
pub(crate) const UDP: u8 = 17;

/// What `gso_type` of the virtio header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gso {
    /// One packet.
    None,
    /// Many TCP segments.
    Tcp,
    /// Many UDP datagrams.
    Udp,
}

/// `struct virtio_net_hdr`, in the byte order of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VnetHeader {
    /// Whether the checksum field holds only the pseudo header.
    pub needs_checksum: bool,
    /// Whether somebody has verified the checksum.
    pub checksum_valid: bool,
    /// What kind of super-packet.
    pub gso: Gso,
    /// Octets of all headers of a super-packet.
    pub header_len: u16,
    /// Octets of payload in each packet of a super-packet.
    pub segment: u16,
    /// Where the checksum starts to count: the upper layer's header.
    pub checksum_start: u16,
    /// Where the checksum is, from there.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// One finished packet.
    pub(crate) const PLAIN: Self = Self {
        needs_checksum: false,
        checksum_valid: false,
        gso: Gso::None,
        header_len: 0,
        segment: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Splits what TUN gave; `None` for super-packets of a kind that was never asked for.
    pub(crate) fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, packet) = bytes.split_first_chunk::<VNET_HEADER>()?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let gso = match header[1] & 0x7f {
            0 => Gso::None,
            1 | 4 => Gso::Tcp,
            5 => Gso::Udp,
            _ => return None,
        };
        let vnet = Self {
            needs_checksum: header[0] & 1 != 0,
            checksum_valid: header[0] & 2 != 0,
            gso,
            header_len: word(2),
            segment: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        };
        Some((vnet, packet))
    }

    /// As TUN takes it.
    pub(crate) fn to_bytes(self, v4: bool) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        bytes[0] = u8::from(self.needs_checksum) | u8::from(self.checksum_valid) << 1;
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::Tcp if v4 => 1,
            Gso::Tcp => 4,
            Gso::Udp => 5,
        };
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }
}

/// The shape of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// IPv4.
    pub v4: bool,
    /// Octets of the IP header and extension headers.
    pub network_len: usize,
    /// The upper layer's protocol.
    pub protocol: u8,
    /// A fragment, first or later.
    pub fragment: bool,
    /// Whether IPv4 options or IPv6 extension headers stand before the upper layer.
    pub extended: bool,
}

/// Reads the shape of an IP packet.
pub(crate) fn shape(packet: &[u8]) -> Option<Shape> {
    let v4 = packet.first()? >> 4 == 4;
    let next = NextLayer::find(packet)?;
    Some(Shape {
        v4,
        network_len: next.offset,
        protocol: next.protocol,
        fragment: next.fragment,
        extended: next.offset != if v4 { 20 } else { 40 },
    })
}

/// Sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1) for `length` octets of upper layer.
pub(crate) fn pseudo_sum(packet: &[u8], shape: &Shape, length: usize) -> u64 {
    let addresses = if shape.v4 { packet.get(12..20) } else { packet.get(8..40) };
    checksum::sum(0, addresses.unwrap_or(&[])) + u64::from(shape.protocol) + length as u64
}

/// Reads two octets in network order.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Writes two octets in network order.
pub(crate) fn set_word(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(slot) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        *slot = value.to_be_bytes();
    }
}

/// Recomputes the checksum of an IPv4 header.
pub(crate) fn finish_ipv4(header: &mut [u8]) {
    set_word(header, 10, 0);
    let len = header.first().map_or(0, |first| usize::from(first & 0xf) * 4);
    let sum = checksum::sum(0, header.get(..len).unwrap_or(&[]));
    set_word(header, 10, checksum::finish(sum));
}
