//! Soft and hard lifetimes (RFC 7296 §2.8): jittered, so that two ends with one configuration
//! rarely rekey at once.

use core::time::Duration;

use sa_store::{Instant, Limits};

use crate::{config::Connection, shared::Shared};

/// The least time between two attempts at a rekey that fails.
const RETRY: Duration = Duration::from_secs(5);

/// The lifetime of an IKE SA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) established: Instant,
    pub(crate) rekey_at: Instant,
    pub(crate) expires_at: Instant,
}

impl Life {
    pub(crate) fn start(shared: &mut Shared, connection: &Connection) -> Self {
        let established = shared.now;
        let Some(soft) = connection.rekey else {
            return Self { established, rekey_at: Instant::NEVER, expires_at: Instant::NEVER };
        };
        let rekey_at = established + shared.jittered(soft);
        Self { established, rekey_at, expires_at: established + soft + connection.over_time }
    }
}

/// Soft and hard end of a pair by time.
pub(crate) fn child_times(shared: &mut Shared, soft: Limits, hard: Limits) -> (Instant, Instant) {
    let now = shared.now;
    let soft = soft.time.map_or(Instant::NEVER, |time| now + shared.jittered(time));
    (soft, hard.time.map_or(Instant::NEVER, |time| now + time))
}

/// When to try again what failed `attempts` times: sooner at first, never synchronously with a
/// peer that had the same trouble.
pub(crate) fn retry_at(shared: &mut Shared, attempts: u32) -> Instant {
    let base = RETRY.saturating_mul(1 << attempts.min(4));
    shared.now + base / 2 + shared.random_below(base)
}

/// When to try again after TEMPORARY_FAILURE (RFC 7296 §2.25): the peer is busy for a moment.
pub(crate) fn soon(shared: &mut Shared) -> Instant {
    shared.now + Duration::from_millis(300) + shared.random_below(Duration::from_millis(2700))
}
