//! Inner packets: lengths, selectors, and the header fields ESP may change.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sa_store::TrafficSelector;

use crate::checksum;

/// `ICMP`, `IPv4`, `IPv6` ... : the protocol numbers ESP cares for.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP: next header of ESP for an inner IPv4 packet.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP: next header of ESP for an inner IPv6 packet.
    pub const IPV6: u8 = 41;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// No next header: a dummy packet (RFC 4303 §2.6).
    pub const NONE: u8 = 59;
}

/// Extension headers walked before giving up: more make a packet malformed.
const MAX_EXTENSION_HEADERS: usize = 8;

/// The version of an inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// The next header value of ESP (4 or 41).
    #[must_use]
    pub const fn next_header(self) -> u8 {
        match self {
            Self::V4 => protocol::IPV4,
            Self::V6 => protocol::IPV6,
        }
    }
}

/// What an IP header says, as far as tunnels need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpHeader {
    /// IPv4 or IPv6.
    pub version: Version,
    /// Octets of the whole packet as the header claims.
    pub total_len: usize,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Don't fragment; always so for IPv6.
    pub dont_fragment: bool,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

impl IpHeader {
    /// Reads the fixed header. `None` if the octets are no IP packet, or fewer than it claims.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let header = match packet.first()? >> 4 {
            4 => {
                let fixed: &[u8; 20] = packet.first_chunk()?;
                let header_len = usize::from(fixed[0] & 0xf) * 4;
                let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
                if header_len < 20 || total_len < header_len {
                    return None;
                }
                Self {
                    version: Version::V4,
                    total_len,
                    traffic_class: fixed[1],
                    dont_fragment: fixed[6] & 0x40 != 0,
                    hop_limit: fixed[8],
                }
            }
            6 => {
                let fixed: &[u8; 40] = packet.first_chunk()?;
                Self {
                    version: Version::V6,
                    total_len: 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]])),
                    traffic_class: fixed[0] << 4 | fixed[1] >> 4,
                    dont_fragment: true,
                    hop_limit: fixed[7],
                }
            }
            _ => return None,
        };
        (header.total_len <= packet.len()).then_some(header)
    }
}

/// Where the next layer of a packet starts, as traffic selectors and everybody else see it.
///
/// In IPv6 these headers are walked over: hop-by-hop options, routing, destination options and
/// fragment. AH is not: it is the next layer protocol itself (RFC 4301 §4.4.1.1), and so are
/// ESP, mobility, HIP and whatever else is no extension header of IPv6 alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextLayer {
    /// Its protocol. A later fragment says the one of its datagram in IPv4; in IPv6 what follows
    /// the fragment header of the first fragment, which may be another extension header.
    pub protocol: u8,
    /// Octets before it.
    pub offset: usize,
    /// A fragment, first or later.
    pub fragment: bool,
    /// A fragment that is not the first: what stands at `offset` is no header.
    pub later: bool,
}

impl NextLayer {
    /// Walks the headers of an IP packet. `None` if it is none, or ends within them.
    #[must_use]
    pub fn find(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::find_v4(packet),
            6 => Self::find_v6(packet),
            _ => None,
        }
    }

    fn find_v4(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let offset = usize::from(fixed[0] & 0xf) * 4;
        let position = u16::from_be_bytes([fixed[6], fixed[7]]);
        (offset >= 20 && offset <= packet.len()).then_some(Self {
            protocol: fixed[9],
            offset,
            fragment: position & 0x3fff != 0,
            later: position & 0x1fff != 0,
        })
    }

    fn find_v6(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 40] = packet.first_chunk()?;
        let mut found = Self { protocol: fixed[6], offset: 40, fragment: false, later: false };
        for _ in 0..=MAX_EXTENSION_HEADERS {
            let header = packet.get(found.offset..)?;
            match found.protocol {
                // Hop-by-hop options, routing, destination options.
                0 | 43 | 60 => {
                    let [following, units] = *header.first_chunk()?;
                    found.protocol = following;
                    found.offset += (usize::from(units) + 1) * 8;
                }
                // Fragment.
                44 => {
                    let fragment: &[u8; 8] = header.first_chunk()?;
                    found.protocol = fragment[0];
                    found.offset += 8;
                    found.fragment = true;
                    found.later = u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0;
                    if found.later {
                        return Some(found);
                    }
                }
                _ => return Some(found),
            }
        }
        None
    }
}

/// The fields traffic selectors are about (RFC 4301 §4.4.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The upper-layer protocol.
    pub protocol: u8,
    /// Source port; for ICMP type and code in one number; `None` when the packet has none to
    /// see (a later fragment, a protocol without ports).
    pub source_port: Option<u16>,
    /// Destination port; for ICMP the same as `source_port`.
    pub destination_port: Option<u16>,
}

impl Flow {
    /// Reads the flow of a packet, IPv6 extension headers walked. `None` if it is malformed.
    #[must_use]
    pub fn read(packet: &[u8]) -> Option<Self> {
        let header = IpHeader::read(packet)?;
        let packet = packet.get(..header.total_len)?;
        let (source, destination) = match header.version {
            Version::V4 => {
                let octets: [[u8; 4]; 2] =
                    [*packet.get(12..)?.first_chunk()?, *packet.get(16..)?.first_chunk()?];
                (Ipv4Addr::from(octets[0]).into(), Ipv4Addr::from(octets[1]).into())
            }
            Version::V6 => {
                let octets: [[u8; 16]; 2] =
                    [*packet.get(8..)?.first_chunk()?, *packet.get(24..)?.first_chunk()?];
                (Ipv6Addr::from(octets[0]).into(), Ipv6Addr::from(octets[1]).into())
            }
        };
        let next = NextLayer::find(packet)?;
        let upper = if next.later { None } else { Some(packet.get(next.offset..)?) };
        Some(Self::new(source, destination, next.protocol, upper))
    }

    fn new(source: IpAddr, destination: IpAddr, protocol: u8, upper: Option<&[u8]>) -> Self {
        let word = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes(*upper?.get(at..)?.first_chunk()?))
        };
        let (source_port, destination_port) = match protocol {
            // TCP, UDP, DCCP, SCTP, UDP-Lite.
            protocol::TCP | protocol::UDP | 33 | 132 | 136 => match word(2) {
                Some(destination) => (word(0), Some(destination)),
                // One without the other is no pair of ports.
                None => (None, None),
            },
            protocol::ICMP | protocol::ICMPV6 => (word(0), word(0)),
            // Mobility header: the type in the high octet (RFC 4301 §4.4.1.1).
            135 => {
                let kind = word(2).map(|word| word & 0xff00);
                (kind, kind)
            }
            _ => (None, None),
        };
        Self { source, destination, protocol, source_port, destination_port }
    }

    /// Whether an inbound packet is what an SA protects: it comes from the peer's side and goes
    /// to ours (RFC 4301 §5.2 step 4).
    #[must_use]
    pub fn matches_inbound(&self, local: &[TrafficSelector], remote: &[TrafficSelector]) -> bool {
        self.matches(remote, local)
    }

    /// Whether an outbound packet is what an SA protects.
    #[must_use]
    pub fn matches_outbound(&self, local: &[TrafficSelector], remote: &[TrafficSelector]) -> bool {
        self.matches(local, remote)
    }

    fn matches(&self, sources: &[TrafficSelector], destinations: &[TrafficSelector]) -> bool {
        sources.iter().any(|ts| ts.matches(self.source, self.protocol, self.source_port))
            && destinations
                .iter()
                .any(|ts| ts.matches(self.destination, self.protocol, self.destination_port))
    }
}

/// Replaces the traffic class octet and mends the IPv4 checksum.
pub(crate) fn set_traffic_class(packet: &mut [u8], traffic_class: u8) {
    let Some(header) = packet.first_chunk_mut::<20>() else { return };
    if header[0] >> 4 == 4 {
        let old = u16::from_be_bytes([header[0], header[1]]);
        header[1] = traffic_class;
        mend(header, old, u16::from_be_bytes([header[0], traffic_class]));
    } else {
        header[0] = header[0] & 0xf0 | traffic_class >> 4;
        header[1] = header[1] & 0x0f | traffic_class << 4;
    }
}

/// Takes one hop off (RFC 4301 §5.1.2.1) and mends the IPv4 checksum; `false` if none is left,
/// and then the packet is unchanged.
pub(crate) fn decrement_hop_limit(packet: &mut [u8]) -> bool {
    let Some(header) = packet.first_chunk_mut::<20>() else { return false };
    let v4 = header[0] >> 4 == 4;
    let at = if v4 { 8 } else { 7 };
    if header[at] <= 1 {
        return false;
    }
    if v4 {
        let old = u16::from_be_bytes([header[8], header[9]]);
        header[8] -= 1;
        mend(header, old, u16::from_be_bytes([header[8], header[9]]));
    } else {
        header[7] -= 1;
    }
    true
}

fn mend(header: &mut [u8; 20], old: u16, new: u16) {
    let checksum = checksum::update(u16::from_be_bytes([header[10], header[11]]), old, new);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv6 packet with headers of eight octets and what stands behind them.
    fn v6(headers: &[u8], protocol: u8, upper: &[u8]) -> ([u8; 160], usize) {
        let (mut packet, mut at) = ([0; 160], 40);
        packet[0] = 0x60;
        packet[6] = headers.first().copied().unwrap_or(protocol);
        for (number, _) in headers.iter().enumerate() {
            packet[at] = headers.get(number + 1).copied().unwrap_or(protocol);
            at += 8;
        }
        packet[at..at + upper.len()].copy_from_slice(upper);
        packet[5] = u8::try_from(at + upper.len() - 40).unwrap();
        (packet, at + upper.len())
    }

    fn flow(headers: &[u8], protocol: u8, upper: &[u8]) -> Option<(u8, Option<u16>, Option<u16>)> {
        let (packet, len) = v6(headers, protocol, upper);
        let flow = Flow::read(&packet[..len])?;
        Some((flow.protocol, flow.source_port, flow.destination_port))
    }

    #[test]
    fn ah_is_the_next_layer_protocol_in_ipv6_as_in_ipv4() {
        // AH of 24 octets with a TCP header behind it.
        let mut ah = [0; 32];
        ah[..2].copy_from_slice(&[6, 4]);
        ah[24..28].copy_from_slice(&[0, 80, 1, 187]);
        assert_eq!(flow(&[], 51, &ah), Some((51, None, None)));
        assert_eq!(flow(&[0, 60], 51, &ah), Some((51, None, None)));
        let mut v4 = [0; 52];
        v4[..4].copy_from_slice(&[0x45, 0, 0, 52]);
        v4[9] = 51;
        v4[20..].copy_from_slice(&ah);
        let flow = Flow::read(&v4).unwrap();
        assert_eq!((flow.protocol, flow.source_port), (51, None));
    }

    #[test]
    fn extension_headers_alone_are_walked_over() {
        let ports = [0, 80, 1, 187];
        let seen = |protocol| Some((protocol, Some(80), Some(443)));
        assert_eq!(flow(&[0, 43, 60, 44, 60], 17, &ports), seen(17));
        // Mobility, HIP, shim6, ESP, none, GRE: next layers.
        for protocol in [139, 140, 50, 59, 47, 253] {
            assert_eq!(flow(&[60], protocol, &ports), Some((protocol, None, None)));
        }
        assert_eq!(flow(&[60], 135, &[59, 0, 5, 7]), Some((135, Some(0x500), Some(0x500))));
        assert_eq!(flow(&[60; 8], 17, &ports), seen(17));
        assert_eq!(flow(&[60; 9], 17, &ports), None, "more than anybody sends");
        let (packet, _) = v6(&[60, 60], 17, &ports);
        assert_eq!(Flow::read(&packet[..47]), None);
    }

    #[test]
    fn a_later_fragment_and_a_short_packet_show_no_ports() {
        let (mut packet, len) = v6(&[44], 17, &[0, 80, 1, 187]);
        packet[43] = 8;
        let next = NextLayer::find(&packet[..len]).unwrap();
        assert_eq!((next.protocol, next.offset, next.fragment, next.later), (17, 48, true, true));
        assert_eq!(Flow::read(&packet[..len]).unwrap().source_port, None);
        packet[43] = 1;
        let next = NextLayer::find(&packet[..len]).unwrap();
        assert_eq!((next.fragment, next.later), (true, false));
        for len in 0..4 {
            assert_eq!(flow(&[], 6, &[0, 80, 1, 187][..len]), Some((6, None, None)));
        }
        assert_eq!(flow(&[], 58, &[128, 3]), Some((58, Some(0x8003), Some(0x8003))));
    }
}
