//! What workers see: immutable tables, published as a whole.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use esp::{InboundSa, OutboundSa};
use rustc_hash::FxHashMap;
use sa_store::{ChildId, Encapsulation, SaId};

use crate::policy::PolicyIndex;

/// An outbound SA as workers use it.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// Which SA.
    pub id: SaId,
    /// Key, sequence numbers, headers.
    pub sa: OutboundSa,
    /// Our outer address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// What is known of the way there.
    pub path: Arc<OuterPath>,
}

impl Outbound {
    /// Raw ESP or in UDP.
    pub(crate) const fn encapsulation(&self) -> Encapsulation {
        self.sa.encapsulation()
    }
}

/// What the kernel has learned of the way to a peer. Shared by all versions of an SA's entry.
#[derive(Debug, Default)]
pub(crate) struct OuterPath {
    /// The longest inner packet that fits the path and the TUN interface; follows the path MTU.
    pub max_inner: AtomicUsize,
    /// The path may be smaller still: outer packets go without DF.
    pub cut: AtomicBool,
    /// When workers last asked for a new measurement; nanoseconds of the data plane's clock.
    asked: AtomicU64,
}

impl OuterPath {
    /// Whether a new measurement may be asked for at `now`: at most ten times a second.
    pub(crate) fn may_ask(&self, now: u64) -> bool {
        ten_a_second(&self.asked, now)
    }
}

/// Whether what was `last` done some time ago may be done at `now` again; true to one of
/// several that ask at the same time.
fn ten_a_second(last: &AtomicU64, now: u64) -> bool {
    let before = last.load(Ordering::Relaxed);
    now.saturating_sub(before) > 100_000_000
        && last.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// An inbound SA as workers use it.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// Which SA.
    pub id: SaId,
    /// Its child, whose outbound SA limits the MSS of answers.
    pub child: ChildId,
    /// Key, replay window, selectors.
    pub sa: InboundSa,
    /// Where the peer is believed to be.
    pub remote: SocketAddr,
    /// Whether a packet from elsewhere may mean that a NAT has moved the peer.
    pub encapsulation: Encapsulation,
    /// What changes.
    pub seen: Arc<Seen>,
}

/// When an inbound SA heard from its peer. Shared by all versions of the SA's entry.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Nanoseconds of the data plane's clock; 0 is never.
    pub last: AtomicU64,
    /// What the control side has told of that.
    pub told: AtomicU64,
    /// When a move was last reported, so that a flood of old packets reports none.
    pub moved: AtomicU64,
}

impl Seen {
    /// Notes a packet; true for the first one.
    pub(crate) fn note(&self, now: u64) -> bool {
        let first = self.last.load(Ordering::Relaxed) == 0;
        self.last.store(now.max(1), Ordering::Relaxed);
        first
    }

    /// Whether a move may be reported at `now`: at most ten times a second.
    pub(crate) fn may_report_move(&self, now: u64) -> bool {
        ten_a_second(&self.moved, now)
    }
}

/// One version of everything.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// Selectors.
    pub policies: Arc<PolicyIndex>,
    /// The outbound SA each child's traffic goes to.
    pub active: FxHashMap<ChildId, Arc<Outbound>>,
    /// By SPI.
    pub inbound: FxHashMap<u32, Arc<Inbound>>,
}

/// What workers tell the control thread; never more than one packet causes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A packet needs an SA.
    Acquire {
        /// Which child.
        child: ChildId,
        /// Source and port.
        source: (IpAddr, u16),
        /// Destination and port.
        destination: (IpAddr, u16),
        /// Protocol.
        protocol: u8,
    },
    /// The first packet of an inbound SA.
    First(SaId),
    /// The peer's newest packet came from elsewhere.
    Moved(SaId, SocketAddr),
    /// The kernel says that packets of this SA are too long for the path.
    TooLong(SaId),
}

/// Drops and errors that belong to no SA.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// ESP for an SPI that nobody has.
    pub no_sa: AtomicU64,
    /// Clear packets that no policy or only a missing SA covered.
    pub policy: AtomicU64,
    /// What was no IP packet, no ESP and no IKE.
    pub malformed: AtomicU64,
    /// Packets that the kernel did not take, for the wire or from a tunnel.
    pub send_failed: AtomicU64,
    /// ICMP errors for packets that were too long.
    pub too_big: AtomicU64,
    /// Events that found no room.
    pub events_lost: AtomicU64,
    /// Turns of workers that a bug ended.
    pub panics: AtomicU64,
    /// The TUN interface is gone: no worker carries anything.
    pub interface_gone: AtomicBool,
    /// Something is to be looked at: a limit was reached.
    pub attention: AtomicBool,
}

impl Stats {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
