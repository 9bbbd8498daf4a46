//! Just enough of pcap files, Ethernet and IP to say what a captured packet is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::failure::{Failure, Outcome};

/// The UDP port of the packets by which `pt-mark` marks a capture.
pub const MARK_PORT: u16 = 9;

/// What kind of packet crossed an outer interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// IKE on port 500, or on 4500 behind the non-ESP marker (RFC 3948 §2.2).
    Ike,
    /// ESP as IP protocol 50 (RFC 4303).
    Esp,
    /// ESP in UDP (RFC 3948 §2.1).
    EspInUdp,
    /// A NAT keepalive: one octet 0xFF (RFC 3948 §2.3).
    Keepalive,
    /// A fragment after the first one, whose ports nobody can see.
    Fragment,
    /// ARP, neighbour discovery and other neighbours' talk of the link itself.
    Link,
    /// Anything else: clear traffic.
    Clear,
}

/// One captured packet.
#[derive(Debug, Clone)]
pub struct Packet {
    /// When, in microseconds since the epoch.
    pub at_us: u64,
    /// The Ethernet address of who sent it on this link.
    pub sender: [u8; 6],
    /// What it is.
    pub kind: Kind,
    /// IP source and destination, when it is IP.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// IP protocol, when it is IP.
    pub protocol: u8,
    /// How many octets it had after the Ethernet header.
    pub length: usize,
    /// As many of them as were captured.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at_us as f64 / 1e6;
        write!(f, "{seconds:.6} {:?}", self.kind)?;
        if let Some((from, to)) = self.ends {
            write!(f, " {from} > {to} protocol {}", self.protocol)?;
        }
        write!(f, ", {} octets:", self.length)?;
        for byte in self.bytes.iter().take(64) {
            write!(f, " {byte:02x}")?;
        }
        Ok(())
    }
}

/// Reads a pcap file of Ethernet frames. A last record cut short is left out.
pub fn read_pcap(file: &[u8]) -> Outcome<Vec<Packet>> {
    if word(file, 0) != Some(0xa1b2_c3d4) || word(file, 20) != Some(1) {
        return Err(Failure::new("not a pcap file of Ethernet frames in this machine's order"));
    }
    let mut packets = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(micros), Some(length), Some(whole)) =
        (word(file, at), word(file, at + 4), word(file, at + 8), word(file, at + 12))
    {
        let start = at + 16;
        at = start + length as usize;
        let Some(frame) = file.get(start..at) else { break };
        let mut packet = classify(u64::from(seconds) * 1_000_000 + u64::from(micros), frame);
        packet.length = (whole as usize).saturating_sub(14);
        packets.push(packet);
    }
    Ok(packets)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn short(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_be_bytes)
}

fn classify(at_us: u64, frame: &[u8]) -> Packet {
    let bytes = frame.get(14..).unwrap_or_default();
    let (ends, protocol, kind) = match short(frame, 12) {
        0x0800 => ipv4(bytes),
        0x86dd => ipv6(bytes),
        _ => (None, 0, Kind::Link),
    };
    let sender = frame.get(6..12).and_then(|six| six.try_into().ok()).unwrap_or_default();
    Packet { at_us, sender, kind, ends, protocol, length: bytes.len(), bytes: bytes.to_vec() }
}

type Seen = (Option<(IpAddr, IpAddr)>, u8, Kind);

fn ipv4(packet: &[u8]) -> Seen {
    let address = |at: usize| {
        packet
            .get(at..at + 4)
            .and_then(|four| <[u8; 4]>::try_from(four).ok())
            .map(|four| IpAddr::V4(Ipv4Addr::from(four)))
    };
    let ends = address(12).zip(address(16));
    let protocol = packet.get(9).copied().unwrap_or(0);
    let header = usize::from(packet.first().copied().unwrap_or(0) & 0x0f) * 4;
    if short(packet, 6) & 0x1fff != 0 {
        return (ends, protocol, Kind::Fragment);
    }
    (ends, protocol, transport(protocol, packet.get(header..).unwrap_or_default()))
}

fn ipv6(packet: &[u8]) -> Seen {
    let address = |at: usize| {
        packet
            .get(at..at + 16)
            .and_then(|sixteen| <[u8; 16]>::try_from(sixteen).ok())
            .map(|sixteen| IpAddr::V6(Ipv6Addr::from(sixteen)))
    };
    let ends = address(8).zip(address(24));
    let mut protocol = packet.get(6).copied().unwrap_or(0);
    let mut rest = packet.get(40..).unwrap_or_default();
    if protocol == 44 {
        // RFC 8200 §4.5: the fragment header.
        protocol = rest.first().copied().unwrap_or(0);
        if short(rest, 2) & 0xfff8 != 0 {
            return (ends, protocol, Kind::Fragment);
        }
        rest = rest.get(8..).unwrap_or_default();
    }
    let to_group = ends.is_some_and(|(_, to)| to.is_multicast());
    let kind = match (protocol, rest.first()) {
        // Neighbour and router discovery, and multicast listener reports behind hop-by-hop options.
        (58, Some(130..=137 | 143)) => Kind::Link,
        (0, _) if to_group => Kind::Link,
        (17, _) if to_group && short(rest, 2) == MARK_PORT => Kind::Link,
        _ => transport(protocol, rest),
    };
    (ends, protocol, kind)
}

fn transport(protocol: u8, segment: &[u8]) -> Kind {
    if protocol == 50 {
        return Kind::Esp;
    }
    if protocol != 17 {
        return Kind::Clear;
    }
    let ports = [short(segment, 0), short(segment, 2)];
    let payload = segment.get(8..).unwrap_or_default();
    if ports.contains(&4500) {
        match payload {
            [0xff] => Kind::Keepalive,
            [0, 0, 0, 0, ..] => Kind::Ike,
            _ => Kind::EspInUdp,
        }
    } else if ports.contains(&500) {
        Kind::Ike
    } else {
        Kind::Clear
    }
}

/// Where `needle` stands in `bytes`.
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(step) = bytes.get(from..)?.iter().position(|byte| *byte == first) {
        let at = from + step;
        if bytes.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(packet);
        frame
    }

    fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        packet.extend_from_slice(&from.to_be_bytes());
        packet.extend_from_slice(&to.to_be_bytes());
        packet.extend_from_slice(&[0; 4]);
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn kinds_are_told_apart() {
        let kind = |packet: &[u8]| classify(0, &frame(0x0800, packet)).kind;
        assert_eq!(kind(&udp(500, 500, b"anything")), Kind::Ike);
        assert_eq!(kind(&udp(40000, 4500, &[0, 0, 0, 0, 1])), Kind::Ike);
        assert_eq!(kind(&udp(4500, 4500, &[1, 0, 0, 0, 1])), Kind::EspInUdp);
        assert_eq!(kind(&udp(4500, 4500, &[0xff])), Kind::Keepalive);
        assert_eq!(kind(&udp(7001, 7001, b"x")), Kind::Clear);
        let mut esp = udp(0, 0, b"");
        esp[9] = 50;
        assert_eq!(kind(&esp), Kind::Esp);
        esp[7] = 1;
        assert_eq!(kind(&esp), Kind::Fragment);
        assert_eq!(classify(0, &frame(0x0806, b"arp")).kind, Kind::Link);
    }

    #[test]
    fn an_ipv6_fragment_header_is_looked_behind() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 44, 64];
        packet.extend_from_slice(&[0x20; 32]);
        packet.extend_from_slice(&[50, 0, 0, 1, 0, 0, 0, 1]);
        packet.extend_from_slice(b"esp");
        assert_eq!(classify(0, &frame(0x86dd, &packet)).kind, Kind::Esp);
        packet[43] = 8;
        assert_eq!(classify(0, &frame(0x86dd, &packet)).kind, Kind::Fragment);
    }

    #[test]
    fn a_needle_is_found_behind_a_false_start() {
        assert_eq!(find(b"aab", b"ab"), Some(1));
        assert_eq!(find(b"xxabcx", b"abc"), Some(2));
        assert_eq!(find(b"abab", b"abc"), None);
    }

    #[test]
    fn a_pcap_record_cut_short_is_left_out() {
        let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        file.extend_from_slice(&[0; 16]);
        file.extend_from_slice(&1_u32.to_le_bytes());
        for (length, present) in [(20_u32, 20), (20, 7)] {
            file.extend_from_slice(&3_u32.to_le_bytes());
            file.extend_from_slice(&5_u32.to_le_bytes());
            file.extend_from_slice(&length.to_le_bytes());
            file.extend_from_slice(&length.to_le_bytes());
            file.extend_from_slice(&vec![0; present]);
        }
        let packets = read_pcap(&file).unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].at_us, 3_000_005);
    }
}
