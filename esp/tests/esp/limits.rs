//! Lifetimes and the end of the sequence numbers, in bursts.

use esp::{
    OpenOutcome, OpenPacket, OutboundOptions, SealPacket, SealSource, open_burst, seal_burst,
};
use sa_store::{
    Direction, Esn, Lifetime, Limits,
    live::{DropReason, LimitReached},
};

use super::{gcm, inbound_of, ipv4, outbound, outbound_of, record};

fn packets(packets: u64) -> Limits {
    Limits { packets: Some(packets), ..Limits::default() }
}

fn bytes(bytes: u64) -> Limits {
    Limits { bytes: Some(bytes), ..Limits::default() }
}

fn seal_many(sa: &esp::OutboundSa, count: usize, len: usize) -> Vec<Result<Vec<u8>, DropReason>> {
    let inner = ipv4(len, 0);
    let mut slots = vec![vec![0; sa.sealed_len(len)]; count];
    let mut burst: Vec<_> = slots
        .iter_mut()
        .map(|slot| SealPacket::new(sa, SealSource::Parts { head: &inner, body: &[] }, slot))
        .collect();
    seal_burst(&mut burst);
    burst.iter().map(|packet| packet.outcome().map(|_| packet.sealed().unwrap().to_vec())).collect()
}

#[test]
fn a_hard_packet_limit_cuts_a_burst_exactly() {
    for limit in [1, 31, 32, 33, 50, 100] {
        let mut record = record(gcm(), Esn::Yes, Direction::Outbound);
        record.lifetime = Lifetime { soft: packets(limit / 2), hard: packets(limit) };
        let sa = outbound_of(&record, &OutboundOptions::new([0; 16]));
        let outcomes = seal_many(&sa, 100, 60);
        let passed = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
        assert_eq!(passed as u64, limit);
        assert!(outcomes[passed..].iter().all(|o| *o == Err(DropReason::Expired)));
        assert_eq!(sa.live().take_soft_event(), Some(LimitReached::Packets));
        let hard = sa.live().take_hard_event();
        assert_eq!(hard, (limit < 100).then_some(LimitReached::Packets));
        let counters = sa.live().counters();
        assert_eq!((counters.packets, counters.bytes), (limit, limit * 60));
        assert_eq!(counters.dropped(DropReason::Expired), 100 - limit);
    }
}

#[test]
fn a_hard_byte_limit_is_never_exceeded() {
    let mut record = record(gcm(), Esn::No, Direction::Outbound);
    record.lifetime = Lifetime { soft: Limits::default(), hard: bytes(1000) };
    let sa = outbound_of(&record, &OutboundOptions::new([0; 16]));
    let passed = seal_many(&sa, 40, 60).iter().filter(|outcome| outcome.is_ok()).count();
    assert_eq!(passed, 16, "16 times 60 is 960");
    assert_eq!(sa.live().counters().bytes, 960);
    assert_eq!(sa.live().take_hard_event(), Some(LimitReached::Bytes));
    assert!(seal_many(&sa, 1, 30).iter().all(Result::is_err), "stopped is stopped");
}

#[test]
fn inbound_limits_drop_what_would_exceed_them() {
    let sender = outbound(gcm(), Esn::No);
    let mut record = record(gcm(), Esn::No, Direction::Inbound);
    record.lifetime = Lifetime { soft: packets(5), hard: packets(10) };
    let sa = inbound_of(&record);
    let mut sealed: Vec<_> = seal_many(&sender, 40, 60).into_iter().map(Result::unwrap).collect();
    let mut burst: Vec<_> =
        sealed.iter_mut().map(|packet| OpenPacket::new(&sa, packet, None)).collect();
    open_burst(&mut burst);
    let passed = burst.iter().filter(|p| matches!(p.outcome(), OpenOutcome::Inner(_))).count();
    assert_eq!(passed, 10);
    assert_eq!(sa.live().take_soft_event(), Some(LimitReached::Packets));
    assert_eq!(sa.live().take_hard_event(), Some(LimitReached::Packets));
    assert_eq!(sa.live().counters().dropped(DropReason::Expired), 30);
}

#[test]
fn the_end_of_the_numbers_cuts_a_burst() {
    let mut record = record(gcm(), Esn::No, Direction::Outbound);
    record.next_sequence = u64::from(u32::MAX) - 9;
    let sa = outbound_of(&record, &OutboundOptions::new([0; 16]));
    let outcomes = seal_many(&sa, 64, 60);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 10);
    let last = outcomes[9].as_ref().unwrap();
    assert_eq!(last[4..8], [0xff; 4]);
    assert_eq!(outcomes[10], Err(DropReason::Expired));
    assert_eq!(sa.live().counters().packets, 10, "what was not sent is not booked");
    assert_eq!(sa.live().take_soft_event(), Some(LimitReached::Sequence));
    assert_eq!(sa.live().take_hard_event(), Some(LimitReached::Sequence));
    assert!(seal_many(&sa, 3, 60).iter().all(Result::is_err));
    assert_eq!(sa.live().sequence.next(), 1 << 32);
}

#[test]
fn a_stopped_sa_opens_nothing() {
    let sender = outbound(gcm(), Esn::No);
    let sa = inbound_of(&record(gcm(), Esn::No, Direction::Inbound));
    let sealed = super::seal_inner(&sender, &ipv4(60, 0));
    sa.live().stop(LimitReached::Time);
    assert_eq!(super::open(&sa, &sealed, None), Err(DropReason::Expired));
    assert_eq!(sa.live().replay.highest(), 0);
}

/// Whoever orders what workers send has to know of every number.
#[test]
fn a_number_is_told_also_when_the_packet_failed_after_it_was_taken() {
    let mut record = record(gcm(), Esn::No, Direction::Outbound);
    record.lifetime = Lifetime { soft: packets(1), hard: packets(2) };
    let sa = outbound_of(&record, &OutboundOptions::new([0; 16]));
    let inner = ipv4(60, 0);
    let broken = [0xff; 60];
    let mut slots = [[0_u8; 200]; 4];
    let sources = [&inner[..], &broken, &inner, &inner];
    let mut burst: Vec<_> = slots
        .iter_mut()
        .zip(sources)
        .map(|(slot, head)| SealPacket::new(&sa, SealSource::Parts { head, body: &[] }, slot))
        .collect();
    seal_burst(&mut burst);
    let told: Vec<_> =
        burst.iter().map(|packet| (packet.outcome().is_ok(), packet.number_taken())).collect();
    let expected = [(true, Some(1)), (false, None), (true, Some(2)), (false, Some(3))];
    assert_eq!(told, expected);
}
