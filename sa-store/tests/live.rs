//! Sequence numbers, limits and the registry.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::BTreeSet, sync::Arc, thread};

use sa_store::{
    ChildId, Direction, DomainId, Encapsulation, Esn, EspCipher, EspSpi, EspSuite, EspTransform,
    KeyMaterial, Lifetime, Limits, Mode, OffloadIntent, PairId, SaId, SaRecord, SecretBytes,
    TunnelId,
    live::{DropReason, LimitReached, LiveSa, LiveTable, SequenceCounter},
};

fn record(esn: Esn, next_sequence: u64, lifetime: Lifetime) -> SaRecord {
    SaRecord {
        id: SaId(7),
        pair: PairId(1),
        tunnel: TunnelId(1),
        child: ChildId(1),
        direction: Direction::Outbound,
        spi: EspSpi::new(0x1234).unwrap(),
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: "192.0.2.2:4500".parse().unwrap(),
        encapsulation: Encapsulation::None,
        mode: Mode::Tunnel,
        transform: EspTransform {
            suite: EspSuite::new(EspCipher::ChaCha20Poly1305, None).unwrap(),
            esn,
        },
        keys: KeyMaterial {
            encryption: SecretBytes::new(vec![1; 36]),
            integrity: SecretBytes::default(),
        },
        replay_window: 64,
        replay_floor: 0,
        next_sequence,
        local_selectors: Vec::new(),
        remote_selectors: Vec::new(),
        lifetime,
        dscp: Default::default(),
        ecn: Default::default(),
        df: Default::default(),
        domain: DomainId(0),
        mark: 0,
        interface_id: 0,
        offload: OffloadIntent::Auto,
    }
}

fn limits(bytes: Option<u64>, packets: Option<u64>) -> Limits {
    Limits { time: None, bytes, packets }
}

#[test]
fn the_counter_starts_at_one_and_gives_each_number_once() {
    let counter = SequenceCounter::new(Esn::Yes, 0);
    assert_eq!(counter.reserve(3).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(counter.next(), 4);
    assert!(counter.reserve(0).is_empty());
    counter.advance_to(100);
    counter.advance_to(50);
    assert_eq!(counter.reserve(1).collect::<Vec<_>>(), [100]);
}

#[test]
fn every_number_has_its_turn_once_those_before_it_had_theirs() {
    let counter = SequenceCounter::new(Esn::Yes, 10);
    assert!(counter.is_turn(10));
    let taken: Vec<u64> = counter.reserve(5).collect();
    assert_eq!(taken, [10, 11, 12, 13, 14]);
    assert!(!counter.is_turn(11));
    counter.pass_turn(12);
    assert!(counter.is_turn(12) && !counter.is_turn(13));
    counter.pass_turn(11);
    assert!(counter.is_turn(12), "never back");
    counter.pass_all_turns();
    assert!(counter.is_turn(15) && !counter.is_turn(16), "but only what was taken");
    counter.advance_to(100);
    assert!(counter.is_turn(100) && !counter.is_turn(101), "nobody will take what is skipped");
}

#[test]
fn the_counter_ends_and_never_wraps() {
    for (esn, last) in [(Esn::No, u64::from(u32::MAX)), (Esn::Yes, u64::MAX - 1)] {
        let counter = SequenceCounter::new(esn, last - 2);
        assert!(counter.is_soft_exhausted() && !counter.is_exhausted());
        assert_eq!(counter.reserve(2).collect::<Vec<_>>(), [last - 2, last - 1]);
        assert_eq!(counter.reserve(5).collect::<Vec<_>>(), [last]);
        assert!(counter.is_exhausted());
        for wanted in [1, 64, u64::MAX] {
            assert!(counter.reserve(wanted).is_empty());
        }
        counter.advance_to(u64::MAX);
        assert!(counter.reserve(1).is_empty());
        assert_eq!(counter.next(), last + 1);
    }
}

#[test]
fn concurrent_reservations_never_overlap() {
    let counter = SequenceCounter::new(Esn::No, u64::from(u32::MAX) - 30_000);
    let taken: Vec<Vec<u64>> = thread::scope(|scope| {
        let workers: Vec<_> = (1..=4)
            .map(|burst| {
                let counter = &counter;
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    loop {
                        let range = counter.reserve(burst * 7);
                        if range.is_empty() {
                            return mine;
                        }
                        mine.extend(range);
                    }
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let total: usize = taken.iter().map(Vec::len).sum();
    let distinct: BTreeSet<u64> = taken.into_iter().flatten().collect();
    assert_eq!(total, 30_001);
    assert_eq!(distinct.len(), 30_001);
    assert_eq!(distinct.last(), Some(&u64::from(u32::MAX)));
}

#[test]
fn sequence_exhaustion_asks_for_a_rekey_first_and_then_stops_the_sa() {
    let three_quarters = u64::from(u32::MAX) / 4 * 3;
    let sa = LiveSa::new(&record(Esn::No, three_quarters - 10, Lifetime::default()));
    assert_eq!(sa.reserve(5).len(), 5);
    assert_eq!(sa.take_soft_event(), None);
    assert_eq!(sa.reserve(64).len(), 64);
    assert_eq!(sa.take_soft_event(), Some(LimitReached::Sequence));
    assert_eq!(sa.take_soft_event(), None, "told once");
    sa.sequence.advance_to(u64::from(u32::MAX));
    assert_eq!(sa.reserve(1).len(), 1);
    assert!(!sa.is_stopped());
    assert!(sa.reserve(1).is_empty());
    assert!(sa.is_stopped());
    assert_eq!(sa.take_hard_event(), Some(LimitReached::Sequence));
    assert_eq!(sa.take_hard_event(), None, "told once");
}

#[test]
fn limits_are_exact() {
    let lifetime = Lifetime { soft: limits(Some(500), None), hard: limits(Some(1000), None) };
    let sa = LiveSa::new(&record(Esn::Yes, 1, lifetime));
    assert_eq!(sa.charge(1, 499), Ok(()));
    assert_eq!(sa.take_soft_event(), None);
    assert_eq!(sa.charge(1, 1), Ok(()));
    assert_eq!(sa.take_soft_event(), Some(LimitReached::Bytes));
    assert!(!sa.charge_burst(2, 501), "a burst that does not fit stops nothing");
    assert!(!sa.is_stopped());
    assert_eq!(sa.charge(1, 500), Ok(()));
    assert_eq!(sa.charge(1, 1), Err(DropReason::Expired));
    assert_eq!(sa.take_hard_event(), Some(LimitReached::Bytes));
    assert!(sa.reserve(1).is_empty(), "a stopped SA gives no sequence numbers");
    assert_eq!((sa.counters().packets, sa.counters().bytes), (3, 1000));

    let lifetime = Lifetime { soft: limits(None, Some(2)), hard: limits(None, Some(3)) };
    let sa = LiveSa::new(&record(Esn::Yes, 1, lifetime));
    assert!(sa.charge_burst(3, 10));
    assert_eq!(sa.take_soft_event(), Some(LimitReached::Packets));
    assert_eq!(sa.charge(1, 10), Err(DropReason::Expired));
    assert_eq!(sa.take_hard_event(), Some(LimitReached::Packets));
    assert_eq!((sa.counters().packets, sa.counters().bytes), (3, 10), "refused is not booked");
}

#[test]
fn drops_are_counted_apart_and_add_up_over_rekeys() {
    let sa = LiveSa::new(&record(Esn::Yes, 1, Lifetime::default()));
    for (n, reason) in (1..).zip(DropReason::ALL) {
        sa.count_drop(reason, n);
    }
    let counters = sa.counters();
    for (n, reason) in (1..).zip(DropReason::ALL) {
        assert_eq!(counters.dropped(reason), n);
        assert_eq!(counters.plus(&counters).dropped(reason), 2 * n);
    }
}

#[test]
fn stopping_keeps_the_first_reason() {
    let sa = LiveSa::new(&record(Esn::Yes, 1, Lifetime::default()));
    sa.stop(LimitReached::Time);
    sa.stop(LimitReached::Bytes);
    assert_eq!(sa.take_hard_event(), Some(LimitReached::Time));
    assert_eq!(sa.charge(1, 1), Err(DropReason::Expired));
}

#[test]
fn inserting_an_sa_again_does_not_start_its_numbers_again() {
    let table = LiveTable::new();
    let record = record(Esn::Yes, 1, Lifetime::default());
    let first = table.insert(&record);
    assert_eq!(first.reserve(10).len(), 10);
    let second = table.insert(&record);
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(second.reserve(1).next(), Some(11));
    assert_eq!(table.snapshot().len(), 1);
    assert!(table.remove(record.id).is_some());
    assert!(table.get(record.id).is_none() && table.is_empty());
}
