//! What can be asked of a backend.

use std::net::{IpAddr, SocketAddr};

use sa_store::{
    ChildId, DomainId, OffloadIntent, PairId, SaId, SaRecord, TrafficSelector, TunnelId,
};

/// One operation of a batch.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Replaces all policies of the backend. What a protect policy covers is dropped (and
    /// reported by an acquire notice) while no active outbound SA of its child exists.
    SetPolicies(PolicySet),
    /// Installs one SA. An inbound SA receives from now on; an outbound SA waits for
    /// [`Operation::Activate`].
    Install(Box<SaRecord>),
    /// Moves the outbound traffic of the SA's child to this outbound SA.
    Activate(SaId),
    /// The peer, or our own address, moved.
    UpdateAddresses {
        /// Which SA.
        sa: SaId,
        /// Our address and port.
        local: SocketAddr,
        /// The peer's address and port.
        remote: SocketAddr,
    },
    /// Removes an SA; done means that it is really gone. Unknown SAs are done at once.
    Remove(SaId),
    /// Asks for a [`crate::Notice::Counters`] of one SA.
    Query(SaId),
    /// Removes every SA; policies stay, so that protected traffic stays blocked.
    Flush,
}

/// All policies of a backend at one time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicySet {
    /// In order of preference: the first one that matches counts (RFC 4301 §4.4.1).
    pub policies: Vec<Policy>,
}

/// One SPD entry (RFC 4301 §4.4.1): packets from `local` to `remote`, and back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Tenant.
    pub domain: DomainId,
    /// What to do.
    pub action: PolicyAction,
    /// Selectors of our side.
    pub local: Vec<TrafficSelector>,
    /// Selectors of the peer's side.
    pub remote: Vec<TrafficSelector>,
}

/// What a policy does with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyAction {
    /// Through the active outbound SA of this child, or not at all.
    Protect {
        /// The tunnel.
        tunnel: TunnelId,
        /// The child.
        child: ChildId,
        /// The peer's outer addresses now known, for MTU and route computation; may be empty.
        peers: Vec<IpAddr>,
        /// Where it should run.
        offload: OffloadIntent,
    },
    /// Stays clear.
    Bypass,
    /// Is dropped.
    Discard,
}

/// The two SAs of a pair, for those who handle pairs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair {
    /// The pair.
    pub id: PairId,
    /// The inbound SA.
    pub inbound: SaId,
    /// The outbound SA.
    pub outbound: SaId,
}
