//! What becomes of a turn that a bug ends: the burst is lost, the worker is not.
//!
//! A worker that ended would keep its sockets, and the kernel would go on giving it its share of
//! the flows. So a panic costs no more than the packets of one turn. The process does not end
//! for panics alone: were there a packet that causes one, whoever can send it would take down all
//! tunnels with some of them. It ends when a path has failed for seconds without completing a
//! single turn: then nothing is lost by a new start, which may help.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Turns that failed one after the other before a path may be given up.
const HOPELESS_TURNS: u32 = 16;
/// For how long no turn must have been completed; nanoseconds.
const HOPELESS_SPAN: u64 = 10_000_000_000;
/// At most one line in the log in this time; nanoseconds.
const TELL_EVERY: u64 = 1_000_000_000;

/// Catches the panics of one path of one worker.
#[derive(Debug, Default)]
pub(super) struct Guard {
    /// Failed turns since the last completed one.
    failed: u32,
    /// When the first of them failed.
    since: u64,
    /// When a panic was last told.
    told: Option<u64>,
}

/// A turn panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    /// It is time to tell.
    pub tell: bool,
    /// The path does nothing but fail.
    pub hopeless: bool,
}

impl Guard {
    /// Runs a turn. After a failure the caller must forget what the turn left half done.
    pub(super) fn turn<R>(
        &mut self,
        now: impl FnOnce() -> u64,
        turn: impl FnOnce() -> R,
    ) -> Result<R, Failure> {
        if let Ok(done) = catch_unwind(AssertUnwindSafe(turn)) {
            self.failed = 0;
            return Ok(done);
        }
        let now = now();
        if self.failed == 0 {
            self.since = now;
        }
        self.failed = self.failed.saturating_add(1);
        let tell = self.told.is_none_or(|told| now.saturating_sub(told) >= TELL_EVERY);
        if tell {
            self.told = Some(now);
        }
        let span = now.saturating_sub(self.since);
        Err(Failure { tell, hopeless: self.failed >= HOPELESS_TURNS && span >= HOPELESS_SPAN })
    }
}

/// Ends the process where going on would lose traffic without a sign. Protected destinations
/// stay blocked, and a service manager notices and starts a new one.
pub(crate) fn give_up(why: &str) -> ! {
    tracing::error!("{why}; the process ends, protected traffic stays blocked until a new start");
    std::process::abort()
}

#[cfg(test)]
#[allow(clippy::panic, reason = "planted")]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn fail(guard: &mut Guard, at: u64) -> Failure {
        guard.turn(|| at, || panic!("planted")).expect_err("the panic is caught")
    }

    #[test]
    fn a_panic_ends_one_turn_and_is_told_once_a_second() {
        let mut guard = Guard::default();
        assert_eq!(guard.turn(|| 0, || 7), Ok(7));
        assert_eq!(fail(&mut guard, 5), Failure { tell: true, hopeless: false });
        assert_eq!(fail(&mut guard, 6), Failure { tell: false, hopeless: false });
        assert_eq!(guard.turn(|| 7, || 8), Ok(8), "the next turn runs");
        assert!(!fail(&mut guard, SECOND).tell);
        assert!(fail(&mut guard, SECOND + 5).tell);
    }

    #[test]
    fn only_a_path_that_completes_no_turn_for_seconds_is_given_up() {
        let mut guard = Guard::default();
        for _ in 0..1000 {
            assert!(!fail(&mut guard, SECOND).hopeless, "a burst of them is borne");
        }
        assert!(!fail(&mut guard, 11 * SECOND - 1).hopeless);
        assert!(fail(&mut guard, 11 * SECOND).hopeless);
        assert_eq!(guard.turn(|| 0, || ()), Ok(()));
        assert!(!fail(&mut guard, 60 * SECOND).hopeless, "a completed turn starts anew");
        assert!(!fail(&mut guard, 90 * SECOND).hopeless, "and a few are no reason, however far");
    }
}
