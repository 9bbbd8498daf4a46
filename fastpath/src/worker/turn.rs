//! The order in which workers that share an SA send.
//!
//! A flow stays on one worker, but the flows of an SA do not: those that the TUN interface knows
//! no worker for yet, and those that nobody answers, come from all of them. Each worker draws
//! numbers for a burst, seals it and sends it; without an order between them a single packet
//! overtakes a burst that is still being sealed, and a peer with a window of 32 or 64 drops the
//! burst as replayed. So sealing is done side by side, and sending in turn.
//!
//! A worker whose turn it is pays for one load and one exchange a run: 25 ns, as much as drawing
//! the numbers, where sealing and sending takes 1.5 us for a packet and 20 us for a super-packet.
//! One that has to wait does so for what the other still has to do. Mostly that is some
//! microseconds. On a machine with more work than CPUs the other may be kept from running while
//! it has numbers: one TCP stream beside 2,000 new flows a second on two CPUs with eight others
//! running, a window of 32 at the peer, lost a burst in each of 8 rounds of 100 MB with a limit of
//! 100 us, in 3 of 20 with 5 ms, and in none of 24 with 20 ms. To wait that long costs no more
//! than to be kept from running oneself, and only once: who goes out of turn has passed the
//! turn of the others.

use std::{
    hint::spin_loop,
    time::{Duration, Instant},
};

use rustix::thread::{Timespec, nanosleep};
use sa_store::live::SequenceCounter;

/// For how long another worker is thought to run: it seals a burst and hands it on in less.
const BUSY: Duration = Duration::from_micros(50);
/// After that this worker leaves its CPU, which the other may be waiting for, and looks again.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 30_000 };
/// When it goes out of turn.
const LIMIT: Duration = Duration::from_millis(20);

/// Waits until the packet with `number` may be sent; false when it goes out of turn.
pub(super) fn wait(sequence: &SequenceCounter, number: u64) -> bool {
    sequence.is_turn(number) || wait_for_others(sequence, number)
}

#[cold]
fn wait_for_others(sequence: &SequenceCounter, number: u64) -> bool {
    let since = Instant::now();
    loop {
        for _ in 0..16 {
            spin_loop();
            if sequence.is_turn(number) {
                return true;
            }
        }
        let waited = since.elapsed();
        if waited >= LIMIT {
            return false;
        }
        if waited >= BUSY {
            // One that a signal ends early does no harm.
            let _ = nanosleep(&PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sa_store::Esn;

    #[test]
    fn a_worker_waits_until_those_before_it_have_sent_or_are_kept_too_long() {
        let sequence = SequenceCounter::new(Esn::Yes, 1);
        assert!(wait(&sequence, 1), "nobody is before the first");
        assert!(sequence.reserve(3).eq(1..4) && sequence.reserve(1).eq(4..5));
        let since = Instant::now();
        assert!(!wait(&sequence, 4), "three are, and stay");
        assert!(since.elapsed() >= LIMIT);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| wait(&sequence, 4));
            sequence.pass_turn(4);
            assert!(second.join().is_ok_and(|in_turn| in_turn), "they have sent");
        });
    }
}
