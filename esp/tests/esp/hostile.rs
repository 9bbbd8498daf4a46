//! Packets that make no sense, from strangers and from a peer that holds the key.

use esp::{InboundSa, OpenPacket, inner::Flow, open_burst};
use proptest::prelude::*;
use sa_store::{Esn, live::DropReason};

use super::{cbc, forge, gcm, inbound, ipv4, ipv6, open, outbound, seal_inner, suites};

/// Payload, padding 1, 2, 3, ..., pad length and next header.
fn text(payload: &[u8], pad: u8, next: u8) -> Vec<u8> {
    let mut text = payload.to_vec();
    text.extend(1..=pad);
    text.extend([pad, next]);
    text
}

#[test]
fn padding_is_checked() {
    for suite in [gcm(), cbc()] {
        let inb = inbound(suite, Esn::No);
        let inner = ipv4(30, 0);
        let mut sequence = 0;
        let mut judge = |text: &[u8]| {
            sequence += 1;
            open(&inb, &forge(suite, sequence, text), None)
        };
        assert_eq!(judge(&text(&inner, 0, 4)), Ok(inner.clone()));
        for pad in [16, 32, 128, 240] {
            assert_eq!(judge(&text(&inner, pad, 4)), Ok(inner.clone()), "{suite} {pad}");
        }
        // Wrong octets, anywhere.
        for wrong in 0..16 {
            let mut padded = text(&inner, 16, 4);
            padded[30 + wrong] ^= 0x80;
            assert_eq!(judge(&padded), Err(DropReason::Malformed), "{suite} {wrong}");
        }
        let zeros = [&inner[..], &[0; 16], &[16, 4]].concat();
        assert_eq!(judge(&zeros), Err(DropReason::Malformed));
        // More padding than there is.
        assert_eq!(judge(&[&inner[..], &[31, 4]].concat()), Err(DropReason::Malformed));
        assert_eq!(judge(&[&inner[..], &[255, 4]].concat()), Err(DropReason::Malformed));
        // All padding, no payload.
        assert_eq!(judge(&text(&[], 30, 4)), Err(DropReason::Malformed));
        assert_eq!(inb.live().counters().dropped(DropReason::Auth), 0);
    }
}

#[test]
fn traffic_flow_confidentiality_padding_is_left_out() {
    for suite in [gcm(), cbc()] {
        let inb = inbound(suite, Esn::No);
        for (sequence, (inner, next)) in (1..).zip([(ipv4(60, 0), 4), (ipv6(60, 0), 41)]) {
            let padded = [&inner[..], &[0xa5; 34]].concat();
            let packet = forge(suite, sequence, &text(&padded, 0, next));
            assert_eq!(open(&inb, &packet, None), Ok(inner), "{suite}");
        }
    }
}

#[test]
fn next_header_and_inner_version_must_agree() {
    let inb = inbound(gcm(), Esn::No);
    let (four, six) = (ipv4(62, 0), ipv6(62, 0));
    let cases: [(&[u8], u8); 8] = [
        (&four, 41),
        (&six, 4),
        (&four, 0),
        (&four, 6),
        (&four, 50),
        (&six, 44),
        (&[0x55; 62], 4),
        (&four[..18], 4),
    ];
    for (sequence, (inner, next)) in (1..).zip(cases) {
        let packet = forge(gcm(), sequence, &text(inner, 0, next));
        assert_eq!(open(&inb, &packet, None), Err(DropReason::Malformed), "{next}");
    }
    // An inner length beyond the payload.
    let mut long = four;
    long[3] += 1;
    let packet = forge(gcm(), 100, &text(&long, 0, 4));
    assert_eq!(open(&inb, &packet, None), Err(DropReason::Malformed));
    // Authentic all of them: the window has moved.
    assert_eq!(inb.live().replay.highest(), 100);
}

#[test]
fn other_spis_and_stubs_are_malformed() {
    for suite in suites() {
        let (out, inb) = (outbound(suite, Esn::No), inbound(suite, Esn::No));
        let sealed = seal_inner(&out, &ipv4(60, 0));
        let mut other = sealed.clone();
        other[3] ^= 1;
        assert_eq!(open(&inb, &other, None), Err(DropReason::Malformed));
        for len in 0..sealed.len() {
            let outcome = open(&inb, &sealed[..len], None);
            assert!(
                matches!(outcome, Err(DropReason::Malformed | DropReason::Auth)),
                "{suite} {len} {outcome:?}"
            );
        }
        assert!(open(&inb, &sealed, None).is_ok());
    }
}

/// Every octet of a packet matters, and every failure looks alike.
#[test]
fn every_flipped_bit_is_refused() {
    for suite in suites() {
        for esn in [Esn::No, Esn::Yes] {
            let (out, inb) = (outbound(suite, esn), inbound(suite, esn));
            let sealed = seal_inner(&out, &ipv4(61, 0));
            for at in 4..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[at] ^= 1 << (at % 8);
                let outcome = open(&inb, &damaged, None);
                let expected = if at >= 8 {
                    outcome == Err(DropReason::Auth)
                } else {
                    // A changed sequence number may also look like a replay.
                    matches!(outcome, Err(DropReason::Auth | DropReason::Replay))
                };
                assert!(expected, "{suite} octet {at}: {outcome:?}");
            }
            assert!(open(&inb, &sealed, None).is_ok(), "{suite}");
        }
    }
}

fn open_all(sa: &InboundSa, packets: &mut [Vec<u8>]) {
    let mut burst: Vec<_> =
        packets.iter_mut().map(|packet| OpenPacket::new(sa, packet, Some(3))).collect();
    open_burst(&mut burst);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// From strangers: nothing gets in, nothing breaks.
    #[test]
    fn random_octets_never_open(
        which in any::<prop::sample::Index>(),
        mut packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..40),
    ) {
        let sa = inbound(*which.get(&suites()), Esn::Yes);
        for packet in packets.iter_mut().filter(|packet| packet.len() > 8) {
            packet[..4].copy_from_slice(&super::SPI.to_be_bytes());
        }
        let sent = packets.len() as u64;
        open_all(&sa, &mut packets);
        let counters = sa.live().counters();
        prop_assert_eq!(counters.dropped.iter().sum::<u64>(), sent);
        prop_assert_eq!(counters.packets, 0);
        prop_assert_eq!(sa.live().replay.highest(), 0);
    }

    /// From a peer with the key: any text inside is answered with an inner packet that lies in
    /// the text, or a drop.
    #[test]
    fn any_text_inside_is_handled(
        mut body in prop::collection::vec(any::<u8>(), 0..20),
        version in prop_oneof![Just(0x45_u8), Just(0x4f), Just(0x60), any::<u8>()],
        rest in prop::collection::vec(any::<u8>(), 2..160),
        next in prop_oneof![Just(4_u8), Just(41), Just(59), any::<u8>()],
        pad in 0_u8..40,
    ) {
        body.insert(0, version);
        body.extend(rest);
        let mut body = text(&body, pad, next);
        while !body.len().is_multiple_of(4) {
            body.insert(1, 0);
        }
        let sa = inbound(gcm(), Esn::No);
        let mut packet = forge(gcm(), 9, &body);
        let mut burst = [OpenPacket::new(&sa, &mut packet, Some(2))];
        open_burst(&mut burst);
        prop_assert!(burst[0].authenticated().is_some());
        if let Some(inner) = burst[0].inner() {
            let flow = Flow::read(inner);
            prop_assert!(flow.is_some());
            prop_assert!(inner.len() <= body.len());
        }
    }

    #[test]
    fn reading_a_flow_never_panics(packet in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = Flow::read(&packet);
        let mut v6 = ipv6(100, 0);
        for (to, from) in v6[40..].iter_mut().zip(&packet) {
            *to = *from;
        }
        v6[6] = packet.first().copied().unwrap_or(0) % 64;
        let _ = Flow::read(&v6);
    }
}
