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
        match header.version {
            Version::V4 => Self::read_v4(packet),
            Version::V6 => Self::read_v6(packet),
        }
    }

    fn read_v4(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let header_len = usize::from(fixed[0] & 0xf) * 4;
        let later_fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0;
        let protocol = fixed[9];
        let address = |at: usize| -> Option<IpAddr> {
            let octets: &[u8; 4] = packet.get(at..)?.first_chunk()?;
            Some(Ipv4Addr::from(*octets).into())
        };
        let upper = if later_fragment { None } else { Some(packet.get(header_len..)?) };
        Some(Self::new(address(12)?, address(16)?, protocol, upper))
    }

    fn read_v6(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 40] = packet.first_chunk()?;
        let address = |at: usize| -> Option<IpAddr> {
            let octets: &[u8; 16] = packet.get(at..)?.first_chunk()?;
            Some(Ipv6Addr::from(*octets).into())
        };
        let (source, destination) = (address(8)?, address(24)?);
        let mut next = fixed[6];
        let mut rest = packet.get(40..)?;
        for _ in 0..MAX_EXTENSION_HEADERS {
            match next {
                // Hop-by-hop options, routing, destination options.
                0 | 43 | 60 => {
                    let [following, units] = *rest.first_chunk::<2>()?;
                    rest = rest.get((usize::from(units) + 1) * 8..)?;
                    next = following;
                }
                // Fragment.
                44 => {
                    let fragment: &[u8; 8] = rest.first_chunk()?;
                    next = fragment[0];
                    if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0 {
                        return Some(Self::new(source, destination, next, None));
                    }
                    rest = rest.get(8..)?;
                }
                // Authentication header: length in 4-octet units minus 2.
                51 => {
                    let [following, units] = *rest.first_chunk::<2>()?;
                    rest = rest.get((usize::from(units) + 2) * 4..)?;
                    next = following;
                }
                _ => return Some(Self::new(source, destination, next, Some(rest))),
            }
        }
        None
    }

    fn new(source: IpAddr, destination: IpAddr, protocol: u8, upper: Option<&[u8]>) -> Self {
        let word = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes(*upper?.get(at..)?.first_chunk()?))
        };
        let (source_port, destination_port) = match protocol {
            // TCP, UDP, DCCP, SCTP, UDP-Lite.
            protocol::TCP | protocol::UDP | 33 | 132 | 136 => (word(0), word(2)),
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
