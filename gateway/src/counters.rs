//! Counters that go on across rekeys.

use hw_offload::{DropCounters, SaCounters};
use sa_store::live::{Counters, DropReason};

/// What passed and what was dropped, in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Flow {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Both directions of a pair, or of a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) inbound: Flow,
    pub(crate) outbound: Flow,
    pub(crate) dropped: DropCounters,
}

impl Totals {
    /// Adds those of another pair.
    pub(crate) fn add(&mut self, other: &Self) {
        self.inbound.add(other.inbound.packets, other.inbound.bytes);
        self.outbound.add(other.outbound.packets, other.outbound.bytes);
        self.add_drops(&other.dropped);
    }

    /// Adds the counters of an inbound SA.
    pub(crate) fn add_inbound(&mut self, counters: &SaCounters) {
        self.inbound.add(counters.packets, counters.bytes);
        self.add_drops(&counters.dropped);
    }

    /// Adds the counters of an outbound SA.
    pub(crate) fn add_outbound(&mut self, counters: &SaCounters) {
        self.outbound.add(counters.packets, counters.bytes);
        self.add_drops(&counters.dropped);
    }

    fn add_drops(&mut self, drops: &DropCounters) {
        let DropCounters { replay, auth, policy, malformed, expired } = &mut self.dropped;
        for (sum, more) in [
            (replay, drops.replay),
            (auth, drops.auth),
            (policy, drops.policy),
            (malformed, drops.malformed),
            (expired, drops.expired),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

impl Flow {
    const fn add(&mut self, packets: u64, bytes: u64) {
        self.packets = self.packets.saturating_add(packets);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// The drop counters of the live registry as notices carry them.
pub(crate) fn drops(counters: &Counters) -> DropCounters {
    DropCounters {
        replay: counters.dropped(DropReason::Replay),
        auth: counters.dropped(DropReason::Auth),
        policy: counters.dropped(DropReason::Policy),
        malformed: counters.dropped(DropReason::Malformed),
        expired: counters.dropped(DropReason::Expired),
    }
}
