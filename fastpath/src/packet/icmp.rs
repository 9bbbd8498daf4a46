//! ICMP errors for clients whose packets do not fit a tunnel (RFC 1191 §4, RFC 8201).

use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, icmpv4};
use std::net::IpAddr;

use esp::inner::Flow;

/// Octets of the longest error built here: the least MTU of IPv6.
pub(crate) const MAX_ERROR: usize = 1280;

/// Writes "fragmentation needed" or "packet too big" about `packet` into `out` and says how
/// long it is. `None` where no error may be sent (RFC 1122 §3.2.2, RFC 4443 §2.4).
///
/// The source is the destination the packet could not reach: it is the address the tunnel
/// answers for, and reverse path checks on the way back expect it there.
pub(crate) fn too_big(
    packet: &[u8],
    flow: &Flow,
    mtu: usize,
    out: &mut [u8; MAX_ERROR],
) -> Option<usize> {
    let mtu = u16::try_from(mtu).ok()?;
    let later_fragment = packet.first()? >> 4 == 4
        && u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff != 0;
    if later_fragment || is_icmp_error(flow) || flow.source.is_unspecified() {
        return None;
    }
    let mut space = &mut out[..];
    match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // As much as fits 576 octets (RFC 1812 §4.3.2.3).
            let quote = packet.get(..packet.len().min(548))?;
            let kind = Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
            );
            let icmp = etherparse::Icmpv4Header::with_checksum(kind, quote);
            let len = u16::try_from(icmp.header_len() + quote.len()).ok()?;
            let mut ip =
                Ipv4Header::new(len, 64, IpNumber::ICMP, destination.octets(), source.octets())
                    .ok()?;
            ip.header_checksum = ip.calc_header_checksum();
            ip.write(&mut space).ok()?;
            icmp.write(&mut space).ok()?;
            put(&mut space, quote)?;
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let quote = packet.get(..packet.len().min(MAX_ERROR - 48))?;
            let kind = Icmpv6Type::PacketTooBig { mtu: u32::from(mtu) };
            let (from, to) = (destination.octets(), source.octets());
            let icmp = etherparse::Icmpv6Header::with_checksum(kind, from, to, quote).ok()?;
            let ip = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: u16::try_from(icmp.header_len() + quote.len()).ok()?,
                next_header: IpNumber::IPV6_ICMP,
                hop_limit: 64,
                source: from,
                destination: to,
            };
            ip.write(&mut space).ok()?;
            icmp.write(&mut space).ok()?;
            put(&mut space, quote)?;
        }
        _ => return None,
    }
    let left = space.len();
    Some(MAX_ERROR - left)
}

fn put(space: &mut &mut [u8], bytes: &[u8]) -> Option<()> {
    let (slot, rest) = std::mem::take(space).split_at_mut_checked(bytes.len())?;
    slot.copy_from_slice(bytes);
    *space = rest;
    Some(())
}

fn is_icmp_error(flow: &Flow) -> bool {
    let kind = flow.source_port.map(|port| port >> 8);
    match flow.protocol {
        1 => matches!(kind, Some(3 | 4 | 5 | 11 | 12)),
        58 => kind.is_some_and(|kind| kind < 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    #[test]
    fn errors_name_the_mtu_and_quote_the_packet() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64)
            .udp(1, 2)
            .write(&mut packet, &[7; 1400])
            .unwrap();
        let flow = Flow::read(&packet).unwrap();
        let mut out = [0; MAX_ERROR];
        let len = too_big(&packet, &flow, 1300, &mut out).unwrap();
        assert_eq!(len, 576);
        let sliced = SlicedPacket::from_ip(&out[..len]).unwrap();
        let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("no ICMP") };
        assert_eq!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1300 }
            )
        );
        assert_eq!(icmp.payload(), &packet[..548]);
        let about_error = Flow::read(&out[..len]).unwrap();
        assert_eq!(too_big(&out[..len], &about_error, 1300, &mut [0; MAX_ERROR]), None);
    }

    #[test]
    fn ipv6_errors_fit_the_least_mtu() {
        let mut packet = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(1, 2).write(&mut packet, &[7; 1400]).unwrap();
        let flow = Flow::read(&packet).unwrap();
        let mut out = [0; MAX_ERROR];
        let len = too_big(&packet, &flow, 1290, &mut out).unwrap();
        assert_eq!(len, 1280);
        let sliced = SlicedPacket::from_ip(&out[..len]).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1290 });
        assert!(icmp.is_checksum_valid([2; 16], [1; 16]));
    }
}
