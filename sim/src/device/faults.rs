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
    /// Sealed packets after which an outbound SA starts its sequence numbers anew: the planted
    /// bug that the auditor must catch. `None` in every honest run.
    pub restarts_sequence_after: Option<u64>,
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
            restarts_sequence_after: None,
        }
    }
}
