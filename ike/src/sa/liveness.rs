//! Is the peer alive (RFC 7296 §2.4)? It is asked when nothing protected came for a while.

use core::time::Duration;

use sa_store::Instant;

/// The last proof of life and when to ask for the next.
#[derive(Debug)]
pub(crate) struct Liveness {
    quiet: Option<Duration>,
    seen: Instant,
}

impl Liveness {
    /// `quiet` is the time after which to ask; `None` never asks.
    pub(crate) const fn new(quiet: Option<Duration>, now: Instant) -> Self {
        Self { quiet, seen: now }
    }

    /// Something authentic came from the peer.
    pub(crate) fn seen(&mut self, now: Instant) {
        self.seen = self.seen.max(now);
    }

    /// When to ask.
    pub(crate) fn due(&self) -> Instant {
        self.quiet.map_or(Instant::NEVER, |quiet| self.seen + quiet)
    }

    /// We are asking: do not ask again before the next quiet time is over.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.seen = self.seen.max(now);
    }
}
