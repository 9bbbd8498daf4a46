//! Desired state: what every management front end produces.

use std::{net::IpAddr, time::Duration};

use ike::config::{AuthMethod, EncapPolicy, EspProposal, IkeProposal};
use sa_store::{Identity, IdentityPattern, Limits, OffloadIntent, Prefix, TrafficSelector};

/// Who wants a connection: a reload only touches what its own origin wanted before.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Origin {
    /// `config.toml`.
    File,
    /// A management client, by name.
    Client(String),
}

/// One tunnel as somebody wants it.
#[derive(Clone, Debug)]
pub struct ConnectionSpec {
    /// Unique in its origin.
    pub name: String,
    /// When it is up.
    pub mode: TunnelMode,
    /// Our addresses; empty is the one the route to the peer takes.
    pub local: Vec<IpAddr>,
    /// The peer's addresses, tried in order.
    pub remote: Vec<RemoteAddress>,
    /// Our identity; `None` is our address.
    pub local_id: Option<Identity>,
    /// The peer's identity.
    pub remote_id: IdentityPattern,
    /// How both sides authenticate.
    pub auth: AuthMethod,
    /// IKE proposals.
    pub proposals: Vec<IkeProposal>,
    /// IKE SA soft lifetime.
    pub rekey: Option<Duration>,
    /// Liveness.
    pub dpd: Option<Duration>,
    /// ESP in UDP.
    pub encap: EncapPolicy,
    /// Children.
    pub children: Vec<ChildSpec>,
}

/// When a tunnel is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TunnelMode {
    /// Always: it never gives up.
    #[default]
    AlwaysOn,
    /// When the peer or an operator says so.
    Passive,
}

/// Where a peer is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemoteAddress {
    /// An address.
    Address(IpAddr),
    /// A host name, resolved before each attempt; all its addresses are tried.
    Host(String),
    /// Any address in the prefix may come; nobody is called.
    Prefix(Prefix),
    /// Any address may come; nobody is called.
    Any,
}

/// One child as somebody wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChildSpec {
    /// Unique in its tunnel.
    pub name: String,
    /// Our networks.
    pub local: Vec<TrafficSelector>,
    /// The peer's networks.
    pub remote: Vec<TrafficSelector>,
    /// ESP proposals.
    pub proposals: Vec<EspProposal>,
    /// Soft limits.
    pub rekey: Limits,
    /// Hard limits.
    pub life: Limits,
    /// Replay window, 32 to 4096 packets, 0 is off.
    pub replay_window: u32,
    /// Selectors inside the networks that stay clear.
    pub bypass: Vec<TrafficSelector>,
    /// Where it should run.
    pub offload: OffloadIntent,
}
