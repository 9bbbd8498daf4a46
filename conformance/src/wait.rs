//! Waiting for a condition, with a limit.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};

/// How long between two looks at something that cannot announce itself.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Calls `look` until it returns a value. `Err(seen)` means "not yet" and says what was seen, so
/// that a failure after `limit` shows the last state.
pub fn until<T, S: Display>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> Outcome<T> {
    let end = Instant::now() + limit;
    loop {
        let seen = match look() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if Instant::now() >= end {
            return Err(Failure::new(format!(
                "waited {:.1} s for: {what}; last seen: {seen}",
                limit.as_secs_f32()
            )));
        }
        thread::sleep(LOOK_EVERY);
    }
}
