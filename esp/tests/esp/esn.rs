//! Extended sequence numbers and replay, across the 32-bit boundary.

use esp::{InboundSa, OpenPacket, OutboundOptions, OutboundSa, open_burst};
use sa_store::{Direction, Esn, EspSuite, live::DropReason};

use super::{gcm, inbound, inbound_of, ipv4, open, outbound_of, record, seal_inner, suites};

const EDGE: u64 = 1 << 32;

/// A pair of SAs that has come as far as `next`.
fn at(suite: EspSuite, esn: Esn, next: u64) -> (OutboundSa, InboundSa) {
    let mut out = record(suite, esn, Direction::Outbound);
    out.next_sequence = next;
    let mut inb = record(suite, esn, Direction::Inbound);
    inb.replay_floor = next - 1;
    (outbound_of(&out, &OutboundOptions::new([1; 16])), inbound_of(&inb))
}

#[test]
fn numbers_go_on_over_the_boundary_on_every_suite() {
    for suite in suites() {
        let (out, inb) = at(suite, Esn::Yes, EDGE - 40);
        let inner = ipv4(70, 0);
        let packets: Vec<_> = (0..80).map(|_| seal_inner(&out, &inner)).collect();
        // In groups of 20, backwards: the window spans both cycles.
        for group in packets.chunks(20) {
            for packet in group.iter().rev() {
                assert_eq!(open(&inb, packet, None).as_ref(), Ok(&inner), "{suite}");
            }
        }
        assert_eq!(inb.live().replay.highest(), EDGE + 39);
        // Left of the window a low half means the next cycle (RFC 4303 Appendix A2), for which
        // the ICV is wrong.
        for (i, packet) in packets.iter().enumerate() {
            let expected = if i < 80 - 64 { DropReason::Auth } else { DropReason::Replay };
            assert_eq!(open(&inb, packet, None), Err(expected), "{suite} {i}");
        }
    }
}

#[test]
fn a_gap_over_the_boundary_is_bridged() {
    let (out, inb) = at(gcm(), Esn::Yes, EDGE - 10);
    let inner = ipv4(70, 0);
    assert_eq!(open(&inb, &seal_inner(&out, &inner), None).as_ref(), Ok(&inner));
    out.live().sequence.advance_to(EDGE + 1_000_000);
    assert_eq!(open(&inb, &seal_inner(&out, &inner), None).as_ref(), Ok(&inner));
    assert_eq!(inb.live().replay.highest(), EDGE + 1_000_000);
}

/// The low half alone would accept a packet of another cycle; the ICV covers the high half.
#[test]
fn a_packet_of_another_cycle_is_not_authentic() {
    for suite in suites() {
        let inner = ipv4(70, 0);
        let (first, _) = at(suite, Esn::Yes, 77);
        let old = seal_inner(&first, &inner);
        let (second, inb) = at(suite, Esn::Yes, EDGE + 50);
        assert_eq!(open(&inb, &seal_inner(&second, &inner), None).as_ref(), Ok(&inner));
        assert_eq!(open(&inb, &old, None), Err(DropReason::Auth), "{suite}");
        assert_eq!(inb.live().counters().dropped(DropReason::Auth), 1);
    }
}

#[test]
fn a_number_before_the_first_cycle_is_a_replay() {
    let inb = inbound(gcm(), Esn::Yes);
    let (out, _) = at(gcm(), Esn::No, EDGE - 3);
    assert_eq!(open(&inb, &seal_inner(&out, &ipv4(70, 0)), None), Err(DropReason::Replay));
}

#[test]
fn without_esn_the_numbers_end_at_32_bits() {
    let (out, inb) = at(gcm(), Esn::No, EDGE - 2);
    let inner = ipv4(70, 0);
    for _ in 0..2 {
        assert_eq!(open(&inb, &seal_inner(&out, &inner), None).as_ref(), Ok(&inner));
    }
    let source = esp::SealSource::Parts { head: &inner, body: &[] };
    assert_eq!(super::seal(&out, source).map(|_| ()), Err(DropReason::Expired));
    assert!(out.live().is_stopped());
    assert_eq!(out.live().counters().dropped(DropReason::Expired), 1);
}

/// RFC 4303 §3.4.3: a forged packet must not move the window.
#[test]
fn forgeries_do_not_move_the_window() {
    for suite in suites() {
        let (out, inb) = at(suite, Esn::Yes, 1);
        let inner = ipv4(70, 0);
        let good = seal_inner(&out, &inner);
        let mut forged = good.clone();
        forged[4..8].copy_from_slice(&5_000_000_u32.to_be_bytes());
        assert_eq!(open(&inb, &forged, None), Err(DropReason::Auth));
        let mut damaged = good.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(open(&inb, &damaged, None), Err(DropReason::Auth));
        assert_eq!(inb.live().replay.highest(), 0);
        assert_eq!(open(&inb, &good, None), Ok(inner), "{suite}");
    }
}

#[test]
fn two_copies_in_one_burst_are_accepted_once() {
    let (out, inb) = at(gcm(), Esn::Yes, 1);
    let sealed = seal_inner(&out, &ipv4(70, 0));
    let (mut one, mut two) = (sealed.clone(), sealed);
    let mut burst = [OpenPacket::new(&inb, &mut one, None), OpenPacket::new(&inb, &mut two, None)];
    open_burst(&mut burst);
    assert!(burst[0].inner().is_some());
    assert!(burst[1].inner().is_none() && burst[1].authenticated().is_none());
    let counters = inb.live().counters();
    assert_eq!((counters.packets, counters.dropped(DropReason::Replay)), (1, 1));
}

#[test]
fn replay_protection_can_be_off() {
    let mut off = record(gcm(), Esn::No, Direction::Inbound);
    off.replay_window = 0;
    let inb = inbound_of(&off);
    let (out, _) = at(gcm(), Esn::No, 1);
    let inner = ipv4(70, 0);
    let sealed = seal_inner(&out, &inner);
    for _ in 0..3 {
        assert_eq!(open(&inb, &sealed, None).as_ref(), Ok(&inner));
    }
}
