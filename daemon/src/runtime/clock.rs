//! The only clock: everything else is told what time it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sa_store::Instant;

/// A monotonic clock with its own origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        let passed = self.origin.elapsed().as_nanos();
        Instant::from_nanos(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// A deadline as the event loop needs it; what lies far ahead becomes an hour, after which
    /// it is looked at again.
    #[must_use]
    pub fn deadline(&self, at: Instant) -> tokio::time::Instant {
        const FAR: Duration = Duration::from_secs(3600);
        let now = self.now();
        tokio::time::Instant::now() + at.since(now).min(FAR)
    }
}

/// Milliseconds since 1970, for people: nothing is decided by it.
#[must_use]
pub fn unix_ms() -> i64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
}
