//! What the operator of a tunnel hears of the requests that its peer makes in vain: a few a second,
//! and how many more there were. A peer may repeat such a request as often as it likes, and each
//! event is a line in the log that takes the place of another tunnel's.

use alloc::format;

use sa_store::Instant;

use crate::event::Failure;

/// Failures that a peer's requests may cause in a second.
const PER_SECOND: u32 = 10;

/// Of one tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Complaints {
    second: u64,
    count: u32,
    untold: u64,
}

impl Complaints {
    /// The failure as it is told, with how many were not; `None` if this is one of them.
    pub(crate) fn tell(&mut self, now: Instant, mut failure: Failure) -> Option<Failure> {
        let second = now.as_nanos() / 1_000_000_000;
        if second != self.second {
            (self.second, self.count) = (second, 0);
        }
        if self.count >= PER_SECOND {
            self.untold = self.untold.saturating_add(1);
            return None;
        }
        self.count += 1;
        let untold = core::mem::take(&mut self.untold);
        if untold > 0 {
            failure.message.push_str(&format!(" ({untold} more before it)"));
        }
        Some(failure)
    }
}
