//! Inner packets: IPv4 with UDP and a number.

use std::net::{IpAddr, Ipv4Addr};

const HEADERS: usize = 28;

/// A packet that carries `number`.
#[must_use]
pub fn numbered(source: Ipv4Addr, destination: Ipv4Addr, number: u64) -> Vec<u8> {
    let total = u8::try_from(HEADERS + 8).unwrap_or(u8::MAX);
    let mut packet = vec![0x45, 0, 0, total, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet);
    if let Some(field) = packet.get_mut(10..12) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend([0x12, 0x34, 0x12, 0x35, 0, 16, 0, 0]);
    packet.extend(number.to_be_bytes());
    packet
}

/// The number a packet carries, if it is one of ours and whole.
#[must_use]
pub fn number(packet: &[u8]) -> Option<u64> {
    let number = packet.get(HEADERS..)?.try_into().ok()?;
    Some(u64::from_be_bytes(number))
}

/// Source and destination of an IPv4 packet.
#[must_use]
pub fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let at = |from: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = packet.get(from..from + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    Some((at(12)?, at(16)?))
}

fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}
