//! Lowering the MSS that TCP endpoints agree on (RFC 9293 §3.7.1), so that segments fit a tunnel.

use esp::checksum;

use super::header::{Shape, TCP, set_word, word};

const SYN: u8 = 0x02;

/// Lowers the MSS option of a SYN to what fits inner packets of `max` octets. The checksum is
/// mended unless the kernel left it to be computed (`partial`), which then covers the option.
pub(crate) fn clamp(packet: &mut [u8], shape: &Shape, max: usize, partial: bool) {
    if shape.protocol != TCP || shape.fragment {
        return;
    }
    let Some(upper) = packet.get_mut(shape.network_len..) else { return };
    if upper.get(13).is_none_or(|flags| flags & SYN == 0) {
        return;
    }
    let fixed = shape.network_len + 20;
    let Ok(limit) = u16::try_from(max.saturating_sub(fixed).clamp(536, 65_495)) else { return };
    let header_len = upper.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let mut at = 20;
    while at + 1 < header_len {
        let (Some(kind), Some(len)) = (upper.get(at).copied(), upper.get(at + 1).copied()) else {
            return;
        };
        match kind {
            0 => return,
            1 => at += 1,
            2 if len == 4 => {
                let Some(old) = word(upper, at + 2) else { return };
                if old <= limit {
                    return;
                }
                set_word(upper, at + 2, limit);
                if !partial && let Some(sum) = word(upper, 16) {
                    // An option at an odd place has its octets in two words.
                    let sum = if at % 2 == 0 {
                        checksum::update(sum, old, limit)
                    } else {
                        checksum::update(sum, old.swap_bytes(), limit.swap_bytes())
                    };
                    set_word(upper, 16, sum);
                }
                return;
            }
            _ if len < 2 => return,
            _ => at += usize::from(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::header::shape, *};
    use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

    #[test]
    fn syn_gets_a_smaller_mss_and_a_right_checksum() {
        for pad in [0, 1, 2] {
            let mut options = vec![TcpOptionElement::Noop; pad];
            options.push(TcpOptionElement::MaximumSegmentSize(1460));
            let mut packet = Vec::new();
            PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64)
                .tcp(1, 2, 3, 4)
                .syn()
                .options(&options)
                .unwrap()
                .write(&mut packet, &[])
                .unwrap();
            let shape = shape(&packet).unwrap();
            clamp(&mut packet, &shape, 1380, false);
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
            let mss = tcp.options_iterator().find_map(|option| match option {
                Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
                _ => None,
            });
            assert_eq!(mss, Some(1340));
            let ip = etherparse::Ipv4HeaderSlice::from_slice(&packet).unwrap();
            assert_eq!(
                tcp.checksum(),
                tcp.calc_checksum_ipv4(ip.source(), ip.destination()).unwrap()
            );
            let mut again = packet.clone();
            clamp(&mut again, &shape, 1500, false);
            assert_eq!(again, packet, "never raised");
        }
    }
}
