//! Keeps one kind of line from filling the log.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines of one kind that may be logged at once.
const BURST: u32 = 10;
/// Behind them, one more may be in this time.
const EVERY: Duration = Duration::from_secs(60);

/// Keeps one kind of line from filling the log.
pub(super) struct Throttle(Mutex<Allowance>);

struct Allowance {
    left: u32,
    /// When it was last raised; `None` while it is whole.
    since: Option<Instant>,
    held: u64,
}

/// How many lines were held back before this one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held(u64);

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            held => write!(f, " (and {held} more that were not logged)"),
        }
    }
}

impl Throttle {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Allowance { left: BURST, since: None, held: 0 }))
    }

    /// Whether a line may be logged now.
    pub(super) fn admit(&self, now: Instant) -> Option<Held> {
        let mut allowance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *allowance.since.get_or_insert(now);
        let steps = now.saturating_duration_since(since).as_secs() / EVERY.as_secs();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX).min(BURST);
        if allowance.left + steps >= BURST {
            (allowance.left, allowance.since) = (BURST, Some(now));
        } else {
            allowance.left += steps;
            allowance.since = Some(since + EVERY * steps);
        }
        if let Some(left) = allowance.left.checked_sub(1) {
            allowance.left = left;
            return Some(Held(std::mem::take(&mut allowance.held)));
        }
        allowance.held = allowance.held.saturating_add(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_lines_passes_and_then_one_a_minute_that_tells_how_many_did_not() {
        let throttle = Throttle::new();
        let start = Instant::now();
        let at = |seconds| throttle.admit(start + Duration::from_secs(seconds));
        assert_eq!((0..1000).filter(|_| at(0).is_some()).count(), 10);
        assert_eq!(at(59), None);
        assert_eq!(at(60), Some(Held(991)));
        assert_eq!(at(119), None);
        assert_eq!(at(121), Some(Held(1)));
        assert_eq!(at(179), None);
        assert_eq!(at(180), Some(Held(1)), "a late line does not put off the next one");
        assert_eq!((0..1000).filter(|_| at(100_000).is_some()).count(), 10, "a burst again");
        assert_eq!(Held(0).to_string(), "");
        assert_eq!(Held(3).to_string(), " (and 3 more that were not logged)");
    }
}
