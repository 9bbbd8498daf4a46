//! The replay window against a plain model, alone and under concurrent workers.

use std::{
    collections::BTreeSet,
    sync::{
        Barrier,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
};

use proptest::prelude::*;
use sa_store::{
    Esn,
    replay::{ReplayWindow, Replayed},
};

/// RFC 4303 §3.4.3 written down with a set and big integers.
struct Model {
    window: u128,
    floor: u128,
    highest: u128,
    seen: BTreeSet<u128>,
}

impl Model {
    fn new(window: u32, floor: u64) -> Self {
        let floor = u128::from(floor);
        Self { window: u128::from(window), floor, highest: floor, seen: BTreeSet::new() }
    }

    fn accept(&mut self, sequence: u64) -> Result<bool, Replayed> {
        let sequence = u128::from(sequence);
        if sequence <= self.floor || sequence + self.window <= self.highest {
            return Err(Replayed::TooOld);
        }
        if !self.seen.insert(sequence) {
            return Err(Replayed::Duplicate);
        }
        let newest = sequence > self.highest;
        self.highest = self.highest.max(sequence);
        Ok(newest)
    }
}

fn agree(window: u32, floor: u64, sequences: &[u64]) {
    let (real, mut model) = (ReplayWindow::new(window, floor), Model::new(window, floor));
    for sequence in sequences {
        let checked = real.check(*sequence);
        let accepted = real.accept(*sequence);
        assert_eq!(accepted, model.accept(*sequence), "W={window} {sequence} in {sequences:?}");
        // The check before authentication refuses nothing that would be accepted, and lets
        // nothing through that the window knows.
        assert_eq!(checked, accepted.map(|_| ()), "W={window} {sequence} in {sequences:?}");
        assert_eq!(u128::from(real.highest()), model.highest);
    }
}

#[test]
fn agrees_with_the_model_on_every_short_history() {
    let numbers = [0, 1, 2, 31, 32, 33, 63, 64, 65, 96, 1000];
    for window in [32, 33, 63, 64] {
        for floor in [0, 31] {
            for a in numbers {
                for b in numbers {
                    for c in numbers {
                        for d in numbers {
                            agree(window, floor, &[a, b, c, d, a, b]);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn slides_over_every_edge_of_every_window() {
    for window in 32..=200 {
        // Every number of a window, each twice, then one step further with the whole window
        // again: everything old is a duplicate or too old, and nothing new is lost.
        let window64 = u64::from(window);
        let mut sequences: Vec<u64> = (1..=window64).rev().collect();
        sequences.extend(1..=window64);
        for step in 1..=70 {
            sequences.push(window64 + step);
            sequences.extend((1..=window64 + step).rev().take(70));
            sequences.extend([step, step + 1, step + 2]);
        }
        agree(window, 0, &sequences);
    }
}

#[test]
fn a_window_that_is_off_accepts_everything() {
    let off = ReplayWindow::new(0, 0);
    assert_eq!(off.accept(7), Ok(true));
    assert_eq!(off.accept(7), Ok(false));
    assert_eq!(off.accept(0), Ok(false));
    assert_eq!(off.check(1), Ok(()));
    assert_eq!(off.highest(), 7);
}

#[test]
fn a_large_jump_does_not_confuse_the_blocks() {
    // 2^37 numbers further on a block has the same tag; numbers near it are still told apart.
    let window = ReplayWindow::new(64, 0);
    assert_eq!(window.accept(40), Ok(true));
    let far = (1 << 37) + 41;
    assert_eq!(window.accept(far), Ok(true));
    assert_eq!(window.accept(far), Err(Replayed::Duplicate));
    assert_eq!(window.accept(40), Err(Replayed::TooOld));
    assert_eq!(window.accept(u64::MAX), Ok(true));
    assert_eq!(window.accept(u64::MAX), Err(Replayed::Duplicate));
    assert_eq!(window.accept(u64::MAX - 63), Ok(false));
    assert_eq!(window.accept(u64::MAX - 64), Err(Replayed::TooOld));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_the_model_on_random_histories(
        window in 32_u32..=4096,
        start in prop_oneof![Just(0_u64), Just((1 << 32) - 3000), any::<u64>().prop_map(|n| n >> 2)],
        steps in prop::collection::vec(
            prop_oneof![
                8 => -100_i64..100,
                4 => -5000_i64..5000,
                1 => 0_i64..(1 << 20),
            ],
            1..400,
        ),
    ) {
        let mut highest = start;
        let sequences: Vec<u64> = steps
            .iter()
            .map(|step| {
                let next = highest.saturating_add_signed(*step);
                highest = highest.max(next);
                next
            })
            .collect();
        agree(window, start, &sequences);
    }
}

/// Several workers deliver copies of the same stream, each reordered in its own way: every
/// number is accepted exactly once in total.
#[test]
fn concurrent_workers_accept_each_number_exactly_once() {
    const NUMBERS: u64 = 200_000;
    const REORDER: u64 = 24;
    for window in [32, 128, 4096] {
        let replay = ReplayWindow::new(window, 0);
        let accepted: Vec<AtomicU8> = (0..=NUMBERS).map(|_| AtomicU8::new(0)).collect();
        let barrier = Barrier::new(4);
        let newest = AtomicU64::new(0);
        thread::scope(|scope| {
            for worker in 0..4_u64 {
                let (replay, accepted, barrier, newest) = (&replay, &accepted, &barrier, &newest);
                scope.spawn(move || {
                    barrier.wait();
                    for group in 0..NUMBERS / REORDER {
                        for i in 0..REORDER {
                            // 5, 7, 11 and 13 are coprime to 24: permutations of the group.
                            let factor = [5, 7, 11, 13][usize::try_from(worker).unwrap()];
                            let sequence = group * REORDER + (i * factor) % REORDER + 1;
                            let early = replay.check(sequence);
                            if let Ok(is_newest) = replay.accept(sequence) {
                                assert_eq!(early, Ok(()), "{sequence}");
                                accepted[usize::try_from(sequence).unwrap()]
                                    .fetch_add(1, Ordering::Relaxed);
                                newest.fetch_add(u64::from(is_newest), Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let last = NUMBERS / REORDER * REORDER;
        for sequence in 1..=last {
            let times = accepted[usize::try_from(sequence).unwrap()].load(Ordering::Relaxed);
            assert_eq!(times, 1, "W={window} sequence {sequence}");
        }
        assert_eq!(replay.highest(), last);
        assert!(newest.load(Ordering::Relaxed) <= last);
    }
}

/// RFC 4303 Appendix A2: with ESN the number meant is the only one with this low half in the 2^32
/// numbers from the window's left edge on. Without, it is what the packet carries.
#[test]
fn the_number_meant_lies_in_the_cycle_that_begins_with_the_window() {
    const CYCLE: u64 = 1 << 32;
    for (asked, window) in [(0, 1_u64 << 31), (1, 32), (32, 32), (64, 64), (5000, 4096)] {
        for highest in [0, 1, 63, 64, 5000, CYCLE - 1, CYCLE, CYCLE + 40, 7 * CYCLE + 31, 9 << 40] {
            let real = ReplayWindow::new(asked, highest);
            assert_eq!(real.window(), if asked == 0 { 0 } else { window });
            for ahead in
                [0, 1, 31, 32, 33, 64, 4095, 4096, 5000, CYCLE - 4096, CYCLE - 64, CYCLE - 1]
            {
                // From the left edge on, which may lie before the first number.
                let meant = (i128::from(highest) + 1 - i128::from(window)) + i128::from(ahead);
                let low = u32::try_from(meant.rem_euclid(i128::from(CYCLE))).unwrap();
                let expected = u64::try_from(meant).ok();
                assert_eq!(real.infer(Esn::Yes, low), expected, "W={window} T={highest} {meant}");
                assert_eq!(real.infer(Esn::No, low), Some(u64::from(low)));
            }
        }
    }
}
