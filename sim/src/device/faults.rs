//! What a device gets wrong.

use std::time::Duration;

/// How slow and unreliable a device is.
#[derive(Clone, Debug)]
pub struct Faults {
    /// SAs it holds.
    pub capacity: u64,
    /// Batches that may wait before it is busy.
    pub queue: usize,
    /// Longest time until a batch takes effect.
    pub work: Duration,
    /// Longest time from the effect to the answer.
    pub answer: Duration,
    /// Percent of answers and notices that come twice.
    pub twice: u64,
    /// Percent of batches with installations that are refused.
    pub refuses: u64,
    /// A bug, to show that it is found. `None` in every honest run.
    pub planted: Option<Planted>,
}

impl Faults {
    /// A device without faults that takes no time.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            capacity: 1 << 16,
            queue: 1024,
            work: Duration::ZERO,
            answer: Duration::ZERO,
            twice: 0,
            refuses: 0,
            planted: None,
        }
    }
}

/// Bugs that the invariants of the world must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// An outbound SA starts its sequence numbers anew after so many packets: nonces repeat.
    RestartsSequence(u64),
    /// One in so many packets that were opened is thrown away.
    Loses(u64),
    /// Nothing looks for replays.
    TakesReplays,
    /// While a child has no active SA its packets leave in clear.
    LeaksClear,
    /// SAs are reported as removed but stay.
    KeepsRemoved,
    /// New outbound SAs carry traffic as soon as they are installed, whoever has activated what.
    ActivatesEarly,
    /// A new SA displaces the older one of its child and direction at once.
    BreaksBeforeMake,
    /// It panics when an SA has sealed so many packets.
    Panics(u64),
}
