//! Seal, then open: every suite, every length, bursts of many SAs, all sources.

use std::collections::BTreeSet;

use esp::{
    OpenOutcome, OpenPacket, SealPacket, SealSource, inner::IpHeader, open_burst, seal_burst,
};
use proptest::prelude::*;
use sa_store::{Esn, live::DropReason};

use super::{
    Direction, OutboundOptions, cbc, gcm, hex, inbound, inbound_of, ipv4, ipv6, open, outbound,
    outbound_of, record, seal, seal_inner, suites,
};

#[test]
fn every_length_survives_on_every_suite() {
    for suite in suites() {
        for esn in [Esn::No, Esn::Yes] {
            let (out, inb) = (outbound(suite, esn), inbound(suite, esn));
            for len in (28..120).chain([511, 512, 1280, 1420, 1500, 9000]) {
                let inner = ipv4(len, 0);
                let sealed = seal_inner(&out, &inner);
                assert_eq!(sealed.len(), out.sealed_len(len));
                assert_eq!(open(&inb, &sealed, None), Ok(inner), "{suite} {len}");
                if len >= 48 {
                    let inner = ipv6(len, 0);
                    let sealed = seal_inner(&out, &inner);
                    assert_eq!(open(&inb, &sealed, None), Ok(inner), "{suite} {len}");
                }
            }
        }
    }
}

#[test]
fn the_largest_packets_are_sealed_and_larger_ones_refused() {
    let (out, inb) = (outbound(gcm(), Esn::No), inbound(gcm(), Esn::No));
    let longest = out.max_inner_len(65_535);
    let inner = ipv4(longest, 0);
    assert_eq!(open(&inb, &seal_inner(&out, &inner), None), Ok(inner));
    assert!(out.outer_len(longest) <= 65_535);
    assert!(out.outer_len(longest + 1) > 65_535);
    let inner = ipv4(longest + 1, 0);
    let refused = seal(&out, SealSource::Parts { head: &[], body: &inner });
    assert_eq!(refused.map(|_| ()), Err(DropReason::Malformed));
}

#[test]
fn max_inner_len_is_the_largest_that_fits() {
    for suite in suites() {
        let out = outbound(suite, Esn::No);
        for mtu in 120..=400 {
            let len = out.max_inner_len(mtu);
            assert!(out.outer_len(len) <= mtu, "{suite} {mtu}");
            assert!(out.outer_len(len + 1) > mtu, "{suite} {mtu}");
        }
        assert_eq!(out.max_inner_len(40), 0);
    }
}

#[test]
fn parts_in_place_and_one_piece_give_the_same_packet() {
    for suite in suites() {
        let inner = ipv6(777, 0x2e << 2);
        let mut packets = BTreeSet::new();
        packets.insert(seal_inner(&outbound(suite, Esn::Yes), &inner));
        for cut in [40, 60, 777] {
            let (head, body) = inner.split_at(cut);
            let out = outbound(suite, Esn::Yes);
            packets.insert(seal(&out, SealSource::Parts { head, body }).unwrap().0);
        }
        let out = outbound(suite, Esn::Yes);
        let mut slot = vec![0xdd; out.sealed_len(inner.len()) + 9];
        slot[out.headroom()..out.headroom() + inner.len()].copy_from_slice(&inner);
        let source = SealSource::InPlace { len: inner.len() };
        let mut burst = [SealPacket::new(&out, source, &mut slot)];
        seal_burst(&mut burst);
        packets.insert(burst[0].sealed().unwrap().to_vec());
        assert_eq!(packets.len(), 1, "{suite}");
    }
}

#[test]
fn what_lies_behind_an_inner_packet_is_not_sent() {
    let (out, inb) = (outbound(gcm(), Esn::No), inbound(gcm(), Esn::No));
    let inner = ipv4(60, 0);
    let padded = [&inner[..], &[0xaa; 11]].concat();
    let (sealed, info) = seal(&out, SealSource::Parts { head: &padded, body: &[] }).unwrap();
    assert_eq!(info.len, out.sealed_len(60));
    assert_eq!(open(&inb, &sealed, None), Ok(inner));
}

#[test]
fn a_burst_mixes_sas_and_bad_packets_without_harm() {
    let senders: Vec<_> = suites().into_iter().map(|suite| outbound(suite, Esn::Yes)).collect();
    let receivers: Vec<_> = suites().into_iter().map(|suite| inbound(suite, Esn::Yes)).collect();
    // 100 packets: runs, single ones, and every seventh is no IP packet.
    let order: Vec<usize> = (0..100).map(|i| (i / 3 * 5 + i / 50) % senders.len()).collect();
    let inners: Vec<Vec<u8>> =
        (0..100).map(|i| if i % 7 == 6 { vec![0x11; 40] } else { ipv4(50 + i, 0) }).collect();
    let mut slots: Vec<Vec<u8>> = vec![vec![0; 400]; 100];
    let mut burst: Vec<SealPacket<'_>> = order
        .iter()
        .zip(&inners)
        .zip(&mut slots)
        .map(|((sa, inner), slot)| {
            SealPacket::new(&senders[*sa], SealSource::Parts { head: &[], body: inner }, slot)
        })
        .collect();
    seal_burst(&mut burst);
    let outcomes: Vec<_> = burst.iter().map(SealPacket::outcome).collect();
    drop(burst);
    for (i, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.is_ok(), i % 7 != 6, "{i}");
    }
    for (sa, sender) in senders.iter().enumerate() {
        // Bad packets take no sequence number, so there is no gap.
        let numbers: Vec<u64> = outcomes
            .iter()
            .zip(&order)
            .filter(|(_, of)| **of == sa)
            .filter_map(|(outcome, _)| outcome.ok().map(|sealed| sealed.sequence))
            .collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        assert_eq!(sender.live().counters().packets, numbers.len() as u64);
    }

    let mut burst: Vec<OpenPacket<'_>> = order
        .iter()
        .zip(&mut slots)
        .zip(&outcomes)
        .filter_map(|((sa, slot), outcome)| {
            let sealed = outcome.ok()?;
            Some(OpenPacket::new(&receivers[*sa], &mut slot[..sealed.len], Some(0)))
        })
        .collect();
    open_burst(&mut burst);
    let good: Vec<&Vec<u8>> = inners.iter().filter(|inner| inner[0] == 0x45).collect();
    assert_eq!(burst.len(), good.len());
    for (packet, inner) in burst.iter_mut().zip(good) {
        assert_eq!(packet.inner().map(|inner| inner.to_vec()).as_ref(), Some(inner));
        assert!(packet.authenticated().unwrap().newest);
    }
}

#[test]
fn rfc7634_appendix_a_opens() {
    let suite = suites()[2];
    let mut record = record(suite, Esn::No, Direction::Inbound);
    record.spi = sa_store::EspSpi::new(0x0102_0304).unwrap();
    record.keys.encryption = sa_store::SecretBytes::new((0x80..=0xa3).collect());
    record.remote_selectors = vec!["198.51.100.5/32".parse().unwrap()];
    record.local_selectors = vec!["192.0.2.5/32[icmp/8]".parse().unwrap()];
    let sa = inbound_of(&record);
    let packet = hex("01020304 00000005 1011121314151617
        24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
        14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
        cbec163fac469b502773f6fb94e664da9165b82829f641e0
        76aaa8266b7fb0f7b11b369907e1ad43");
    let inner = open(&sa, &packet, None).unwrap();
    assert_eq!(inner.len(), 84);
    assert!(IpHeader::read(&inner).is_some());
    assert_eq!(inner[..20], hex("45000054a6f200004001e778c6336405c0000205")[..]);
    assert_eq!(sa.live().replay.highest(), 5);
}

#[test]
fn dummies_are_discarded_and_counted_apart() {
    for suite in [gcm(), cbc()] {
        let (out, inb) = (outbound(suite, Esn::Yes), inbound(suite, Esn::Yes));
        for len in [0, 1, 100, 1400] {
            let (sealed, info) = seal(&out, SealSource::Dummy { len }).unwrap();
            assert_eq!(info.len, out.sealed_len(len));
            assert_eq!(open(&inb, &sealed, None), Ok(Vec::new()), "{suite} {len}");
        }
        let counters = inb.live().counters();
        assert_eq!((counters.dummies, counters.packets, counters.bytes), (4, 0, 0));
        assert_eq!(counters.dropped, [0; 5]);
    }
}

#[test]
fn cbc_ivs_differ_from_packet_to_packet_and_from_sa_to_sa() {
    let mut ivs = BTreeSet::new();
    let inner = ipv4(64, 0);
    for seed in 0..4 {
        let sa = outbound_of(
            &record(cbc(), Esn::No, Direction::Outbound),
            &OutboundOptions::new([seed; 16]),
        );
        for _ in 0..500 {
            ivs.insert(seal_inner(&sa, &inner)[8..24].to_vec());
        }
    }
    assert_eq!(ivs.len(), 2000);
}

#[test]
fn the_iv_of_an_aead_is_the_sequence_number() {
    for (esn, next) in [(Esn::No, 0xffff_fffe_u64), (Esn::Yes, 0x1_0000_0005)] {
        let mut record = record(gcm(), esn, Direction::Outbound);
        record.next_sequence = next;
        let sa = outbound_of(&record, &OutboundOptions::new([0; 16]));
        let sealed = seal_inner(&sa, &ipv4(64, 0));
        assert_eq!(sealed[8..16], next.to_be_bytes());
        assert_eq!(sealed[4..8], next.to_be_bytes()[4..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_burst_survives(
        which in any::<prop::sample::Index>(),
        esn in prop_oneof![Just(Esn::No), Just(Esn::Yes)],
        lengths in prop::collection::vec(48_usize..1500, 1..80),
        v6: bool,
        shuffle in any::<u64>(),
    ) {
        let suite = *which.get(&suites());
        let mut receiving = record(suite, esn, Direction::Inbound);
        receiving.replay_window = 128;
        let (out, inb) = (outbound(suite, esn), inbound_of(&receiving));
        let inners: Vec<Vec<u8>> =
            lengths.iter().map(|len| if v6 { ipv6(*len, 0) } else { ipv4(*len, 0) }).collect();
        let mut slots: Vec<Vec<u8>> =
            lengths.iter().map(|len| vec![0; out.sealed_len(*len)]).collect();
        let mut burst: Vec<_> = inners
            .iter()
            .zip(&mut slots)
            .map(|(inner, slot)| {
                SealPacket::new(&out, SealSource::Parts { head: inner, body: &[] }, slot)
            })
            .collect();
        seal_burst(&mut burst);
        prop_assert!(burst.iter().all(|packet| packet.outcome().is_ok()));
        drop(burst);

        // Opened in another order, each exactly once.
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(shuffle | 1));
        let mut received: Vec<(usize, Vec<u8>)> =
            order.iter().map(|i| (*i, slots[*i].clone())).collect();
        received.extend(received.clone());
        let indices: Vec<usize> = received.iter().map(|(i, _)| *i).collect();
        let mut burst: Vec<_> = received
            .iter_mut()
            .map(|(_, packet)| OpenPacket::new(&inb, packet, None))
            .collect();
        open_burst(&mut burst);
        let half = indices.len() / 2;
        for (position, (packet, i)) in burst.iter_mut().zip(&indices).enumerate() {
            if position < half {
                prop_assert_eq!(packet.inner().map(|p| p.to_vec()), Some(inners[*i].clone()));
            } else {
                prop_assert_eq!(packet.outcome(), OpenOutcome::Dropped(DropReason::Replay));
            }
        }
        let counters = inb.live().counters();
        prop_assert_eq!(counters.packets as usize, half);
        prop_assert_eq!(counters.bytes as usize, lengths.iter().sum::<usize>());
        prop_assert_eq!(counters.dropped(DropReason::Replay) as usize, half);
    }
}
