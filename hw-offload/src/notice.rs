//! What a backend tells.

use std::net::{IpAddr, SocketAddr};

use sa_store::{ChildId, Instant, SaId};

use crate::{Capabilities, Ticket};

/// One notice.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The batch is done, all of it.
    Done(Ticket),
    /// The batch had no lasting effect.
    Refused {
        /// Which batch.
        ticket: Ticket,
        /// Which of its operations failed, counted from 0.
        operation: usize,
        /// Why, for people: what is missing or full, and where.
        reason: String,
    },
    /// A soft byte or packet limit, or three quarters of the sequence numbers, are used up.
    /// Told once for an SA.
    SoftExpired(SaId),
    /// The SA stopped: a hard limit or the end of the sequence numbers. Told once for an SA.
    HardExpired {
        /// Which SA.
        sa: SaId,
        /// Why, for people.
        reason: String,
    },
    /// A packet needs an SA that does not exist; at most one per child and second.
    Acquire {
        /// Which child.
        child: ChildId,
        /// The packet's source address and port (0 when it has none).
        source: (IpAddr, u16),
        /// The packet's destination address and port.
        destination: (IpAddr, u16),
        /// Its protocol.
        protocol: u8,
    },
    /// Answers [`crate::Operation::Query`].
    Counters(SaCounters),
    /// The first packet came in on an inbound SA.
    FirstInbound(SaId),
    /// Packets came in since the last such notice; at most one per SA and second.
    LastInbound {
        /// Which SA.
        sa: SaId,
        /// When the newest came.
        at: Instant,
    },
    /// The newest authenticated packet of an inbound SA came from another address.
    MappingChanged {
        /// Which SA.
        sa: SaId,
        /// From where it came.
        remote: SocketAddr,
    },
    /// Capabilities changed.
    CapabilityChanged(Box<Capabilities>),
    /// The SA is gone without anybody having asked for it (a lost device).
    Lost {
        /// Which SA.
        sa: SaId,
        /// The lowest sequence number that was surely not used, if it is known.
        next_sequence: Option<u64>,
        /// Why, for people.
        reason: String,
    },
}

/// Counters of one SA since its installation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SaCounters {
    /// Which SA.
    pub sa: SaId,
    /// Packets that passed.
    pub packets: u64,
    /// Octets of inner packets that passed.
    pub bytes: u64,
    /// Outbound: the next sequence number. Inbound: the highest one seen.
    pub sequence: u64,
    /// Packets that did not pass.
    pub dropped: DropCounters,
}

/// Why packets did not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DropCounters {
    /// Seen before, or behind the window.
    pub replay: u64,
    /// The ICV is wrong.
    pub auth: u64,
    /// The inner packet is outside the SA's selectors, or a clear packet should have been
    /// protected.
    pub policy: u64,
    /// No ESP packet, or wrong padding or inner headers.
    pub malformed: u64,
    /// A hard limit was reached.
    pub expired: u64,
}
