//! SA lifetimes (RFC 4301 §4.4.2.1, RFC 7296 §2.8).

use core::time::Duration;

/// Limits of which the first one reached counts; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Age since installation.
    pub time: Option<Duration>,
    /// Octets of inner packets, counted in the direction of the SA.
    pub bytes: Option<u64>,
    /// Packets in the direction of the SA.
    pub packets: Option<u64>,
}

/// When an SA should be replaced (soft) and when it must stop (hard).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lifetime {
    /// Reaching it asks for a rekey.
    pub soft: Limits,
    /// Reaching it stops the SA: packets are dropped and counted as expired.
    pub hard: Limits,
}
