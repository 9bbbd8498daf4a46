//! Packets of any content do no harm on either way: no panic, no range outside the buffer.

use std::io::IoSlice;

use esp::inner::Flow;
use proptest::prelude::*;

use super::{
    coalesce::Coalescer,
    gather::{Fragment, Gatherer},
    header::{Gso, VnetHeader, shape},
    icmp, mss,
    segment::{Cut, Fragments, complete_checksum},
};
use crate::io::{cmsg::Control, tun::VNET_HEADER};

/// Octets that look like a packet more often than noise does.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..300);
    let first = prop_oneof![Just(0x45_u8), Just(0x46), Just(0x4f), Just(0x60), any::<u8>()];
    let protocol =
        prop_oneof![Just(6_u8), Just(17), Just(1), Just(58), Just(44), Just(0), any::<u8>()];
    (noise, first, protocol).prop_map(|(mut bytes, first, protocol)| {
        if let Some(slot) = bytes.first_mut() {
            *slot = first;
        }
        let at = if first >> 4 == 4 { 9 } else { 6 };
        if let Some(slot) = bytes.get_mut(at) {
            *slot = protocol;
        }
        if first >> 4 == 4 && bytes.len() > 8 && protocol != 44 {
            let len = u16::try_from(bytes.len()).unwrap();
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[6..8].copy_from_slice(&[0, 0]);
        }
        bytes
    })
}

fn vnet() -> impl Strategy<Value = VnetHeader> {
    (any::<bool>(), 0..3_u8, any::<[u16; 2]>(), 0..80_u16, 0..40_u16).prop_map(
        |(needs_checksum, kind, [header_len, segment], checksum_start, checksum_offset)| {
            VnetHeader {
                needs_checksum,
                checksum_valid: false,
                gso: [Gso::None, Gso::Tcp, Gso::Udp][usize::from(kind)],
                header_len,
                segment: segment % 300,
                checksum_start,
                checksum_offset,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn outward(bytes in packet(), vnet in vnet(), max in 0..400_usize) {
        let mut bytes = bytes;
        let Some(shape) = shape(&bytes) else { return Ok(()) };
        mss::clamp(&mut bytes, &shape, max, vnet.needs_checksum);
        complete_checksum(&mut bytes, &vnet);
        let mut total = 0;
        if let Some(cut) = Cut::plan(&bytes, &shape, &vnet, max) {
            for index in 0..cut.count {
                let mut head = vec![0; cut.header_len];
                if let Some(body) = cut.write(&bytes, index, &mut head) {
                    prop_assert!(body.end <= bytes.len());
                    total += body.len();
                }
            }
            prop_assert!(total <= bytes.len());
        }
        if let Some(plan) = Fragments::plan(&bytes, &shape, max) {
            for index in 0..plan.count {
                let mut head = vec![0; plan.header_len];
                if let Some(part) = plan.write(&bytes, index, &mut head) {
                    prop_assert!(part.end <= bytes.len() && head.len() + part.len() <= max);
                }
            }
        }
        if let Some(flow) = Flow::read(&bytes) {
            let mut error = [0; icmp::MAX_ERROR];
            if let Some(len) = icmp::too_big(&bytes, &flow, max, &mut error) {
                prop_assert!(Flow::read(&error[..len]).is_some());
            }
        }
    }

    #[test]
    fn inward(packets in proptest::collection::vec(packet(), 1..20), tcp: bool, udp: bool) {
        let mut coalescer = Coalescer::new(tcp, udp);
        let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
        for packet in &packets {
            ranges.push((buffer.len(), packet.len()));
            buffer.extend_from_slice(packet);
        }
        let mut written = 0;
        let mut emit = |parts: &[IoSlice<'_>]| {
            written += parts.iter().map(|part| part.len()).sum::<usize>();
        };
        for (start, len) in ranges {
            coalescer.add(&buffer, start, len, &mut emit);
        }
        coalescer.flush(&buffer, &mut emit);
        prop_assert!(written <= buffer.len() + packets.len() * VNET_HEADER);
    }

    #[test]
    fn virtio_and_control_messages(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some((vnet, packet)) = VnetHeader::split(&bytes) {
            prop_assert!(packet.len() + VNET_HEADER == bytes.len());
            prop_assert!(vnet.to_bytes(true).len() == VNET_HEADER);
        }
        Control::parse(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn fragments(packets in proptest::collection::vec((packet(), 0..4_u16, any::<bool>()), 0..40)) {
        let mut gatherer = Gatherer::new();
        for (mut bytes, position, more) in packets {
            let position = position | if more { 0x2000 } else { 0 };
            if let Some(slot) = bytes.get_mut(6..8) {
                slot.copy_from_slice(&position.to_be_bytes());
            }
            let Some(fragment) = Fragment::read(&bytes) else { continue };
            if fragment.is_first() {
                gatherer.first(&fragment, 0);
            } else {
                gatherer.later(&fragment, 0);
            }
        }
    }
}
