//! What an operator wants of a peer, as the state machine needs it.

use alloc::{string::String, vec::Vec};
use core::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use sa_store::{
    ChildId, DfPolicy, DomainId, DscpPolicy, EcnPolicy, Esn, EspSuite, Identity, IdentityPattern,
    IntegrityAlgorithm, KeGroup, OffloadIntent, Prefix, PrfAlgorithm, SecretBytes, TrafficSelector,
    TunnelId,
};

/// Limits and timers that hold for all peers of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Half-open IKE SAs (as responder) from which on a cookie is asked for; default 64.
    pub cookie_threshold: usize,
    /// Half-open IKE SAs (as responder) that are kept at most; default 4096.
    pub half_open_limit: usize,
    /// How long a half-open IKE SA may take; default 30 s.
    pub half_open_timeout: Duration,
    /// First retransmission timeout; default 2 s.
    pub retransmit_timeout: Duration,
    /// Factor between two retransmissions in percent; default 180.
    pub retransmit_base_percent: u32,
    /// Retransmissions before the peer counts as dead; default 5.
    pub retransmit_tries: u32,
    /// Jitter on every timer in percent of the timer; default 10.
    pub jitter_percent: u32,
    /// Octets of an IP datagram from which on messages are fragmented (RFC 7383); default 1280.
    pub fragment_size: usize,
    /// NAT keepalive interval (RFC 3948 §4); default 20 s.
    pub nat_keepalive: Duration,
    /// How long a replaced Child SA may still receive if the peer never deletes it; default 10 s.
    pub drain_time: Duration,
    /// Upper 8 bits of our IKE SPIs: the shard this endpoint serves.
    pub shard: u8,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            cookie_threshold: 64,
            half_open_limit: 4096,
            half_open_timeout: Duration::from_secs(30),
            retransmit_timeout: Duration::from_secs(2),
            retransmit_base_percent: 180,
            retransmit_tries: 5,
            jitter_percent: 10,
            fragment_size: 1280,
            nat_keepalive: Duration::from_secs(20),
            drain_time: Duration::from_secs(10),
            shard: 0,
        }
    }
}

/// One tunnel: a peer and how to speak IKE with it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Stable handle of the tunnel.
    pub tunnel: TunnelId,
    /// The name the operator gave, for events.
    pub name: String,
    /// Our addresses this tunnel may use; empty is any. Port 500 unless set otherwise.
    pub local: Vec<IpAddr>,
    /// Which remote addresses may be this peer when it initiates.
    pub remote: Vec<RemoteMatch>,
    /// Our identity; `None` is our address.
    pub local_id: Option<Identity>,
    /// The identities accepted from the peer; sent as IDr when exact.
    pub remote_id: IdentityPattern,
    /// How both sides authenticate.
    pub auth: AuthMethod,
    /// IKE proposals, most preferred first.
    pub proposals: Vec<IkeProposal>,
    /// Soft lifetime of an IKE SA before jitter; `None` never rekeys.
    pub rekey: Option<Duration>,
    /// Time after the soft lifetime at which the IKE SA is given up; default 10 % of `rekey`.
    pub over_time: Duration,
    /// Quiet time after which the peer is asked for a sign of life; `None` never asks.
    pub dpd: Option<Duration>,
    /// ESP in UDP.
    pub encap: EncapPolicy,
    /// What happens when the same peer identity establishes a second IKE SA without
    /// `INITIAL_CONTACT`: the older ones are replaced (true) or both live on (false).
    pub replace_duplicates: bool,
    /// The children, in the order of the configuration.
    pub children: Vec<ChildConfig>,
}

/// Which remote addresses may be a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteMatch {
    /// Every address.
    Any,
    /// Addresses in a prefix; a single address is a prefix of full length.
    Prefix(Prefix),
}

impl RemoteMatch {
    /// Whether `address` may be the peer.
    #[must_use]
    pub fn accepts(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(prefix) => prefix.contains(address),
        }
    }
}

/// How the two sides authenticate. Certificates join here later.
#[derive(Clone, Debug)]
pub enum AuthMethod {
    /// RFC 7296 §2.15 shared key message integrity code.
    Psk(SecretBytes),
}

/// Whether ESP travels in UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EncapPolicy {
    /// When a NAT is found between the peers.
    #[default]
    Auto,
    /// Always: the NAT detection hashes are made to fail.
    Always,
    /// Never, not even behind a NAT.
    Never,
}

/// One IKE proposal as configured: every combination of its algorithms is acceptable.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IkeProposal {
    /// Ciphers with their MACs (`None` for AEAD); all AEAD or none.
    pub ciphers: Vec<sa_store::EspCipher>,
    /// MACs; empty for AEAD.
    pub integrity: Vec<IntegrityAlgorithm>,
    /// PRFs.
    pub prfs: Vec<PrfAlgorithm>,
    /// Key exchange methods.
    pub groups: Vec<KeGroup>,
}

/// One ESP proposal as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EspProposal {
    /// Ciphers; all AEAD or none.
    pub ciphers: Vec<sa_store::EspCipher>,
    /// MACs; empty for AEAD.
    pub integrity: Vec<IntegrityAlgorithm>,
    /// Key exchange methods for a new exchange on CREATE_CHILD_SA; empty is none.
    pub groups: Vec<KeGroup>,
    /// Sequence number sizes, most preferred first.
    pub esn: Vec<Esn>,
}

/// One child of a tunnel.
#[derive(Clone, Debug)]
pub struct ChildConfig {
    /// Stable handle.
    pub child: ChildId,
    /// The name the operator gave.
    pub name: String,
    /// Our networks.
    pub local: Vec<TrafficSelector>,
    /// The peer's networks.
    pub remote: Vec<TrafficSelector>,
    /// ESP proposals, most preferred first.
    pub proposals: Vec<EspProposal>,
    /// Soft lifetime before jitter (time, bytes, packets).
    pub rekey: sa_store::Limits,
    /// Hard lifetime.
    pub life: sa_store::Limits,
    /// Inbound replay window in packets, 32 to 4096, or 0 for off.
    pub replay_window: u32,
    /// DSCP handling.
    pub dscp: DscpPolicy,
    /// ECN handling.
    pub ecn: EcnPolicy,
    /// DF handling.
    pub df: DfPolicy,
    /// Tenant.
    pub domain: DomainId,
    /// Mark; 0 is none.
    pub mark: u32,
    /// Bound interface; 0 is none.
    pub interface_id: u32,
    /// Where it should run.
    pub offload: OffloadIntent,
}

/// What an IKE SA negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IkeSuite {
    /// Cipher and MAC of the SK payload.
    pub suite: EspSuite,
    /// PRF.
    pub prf: PrfAlgorithm,
    /// Key exchange method.
    pub group: KeGroup,
}

impl core::fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}-{}-{}", self.suite, self.prf, self.group)
    }
}

/// The two ends of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoints {
    /// Our address and port: 500, or 4500 after the float (RFC 7296 §2.23).
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
}
