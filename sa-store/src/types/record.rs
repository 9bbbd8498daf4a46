//! The one record that describes an SA, whoever made it and wherever it runs.

use core::{fmt, net::SocketAddr};

use super::{
    key::KeyMaterial,
    lifetime::Lifetime,
    selector::TrafficSelector,
    spi::{ChildId, DomainId, EspSpi, PairId, SaId, TunnelId},
    transform::{Esn, EspSuite},
};

/// Which way packets of an SA go, seen from this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// From the peer: packets are opened.
    Inbound,
    /// To the peer: packets are sealed.
    Outbound,
}

/// What the inner part of an ESP packet is (RFC 4301 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// A whole IP packet.
    Tunnel,
    /// The payload of an IP packet.
    Transport,
}

/// How ESP packets travel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Encapsulation {
    /// IP protocol 50.
    None,
    /// In UDP (RFC 3948); the ports are those of the record's addresses.
    Udp,
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Udp => "udp",
        })
    }
}

/// Suite and sequence number size: what a Child SA negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EspTransform {
    /// Cipher and MAC.
    pub suite: EspSuite,
    /// Extended sequence numbers.
    pub esn: Esn,
}

impl fmt::Display for EspTransform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.suite)?;
        if self.esn == Esn::Yes { f.write_str("-esn") } else { Ok(()) }
    }
}

/// What becomes of the inner DSCP (RFC 4301 §5.1.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DscpPolicy {
    /// Outbound: copy inner to outer. Inbound: keep the inner one. The default.
    #[default]
    CopyOut,
    /// Outer packets carry this value (0 to 63).
    Set(u8),
}

/// What becomes of ECN marks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum EcnPolicy {
    /// RFC 6040 normal mode. The default.
    #[default]
    Rfc6040,
    /// The outer header is Not-ECT; congestion marks are not carried over.
    Off,
}

/// The DF bit of an outer IPv4 header (RFC 4301 §8.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum DfPolicy {
    /// As the inner IPv4 header has it; set for inner IPv6. The default.
    #[default]
    Copy,
    /// Always set.
    Set,
    /// Always clear.
    Clear,
}

/// Where an operator wants the SA to run.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum OffloadIntent {
    /// The best place that takes it.
    #[default]
    Auto,
    /// Postern's inline data plane.
    Inline,
    /// The kernel.
    Kernel,
    /// The named device.
    Device(String),
}

/// Where an SA runs, as operators see it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Path {
    /// Postern's own data plane.
    Inline,
    /// The kernel's ESP.
    Kernel,
    /// A device does the cryptography, the kernel the rest.
    Crypto(String),
    /// A device does all of ESP.
    Packet(String),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline => f.write_str("inline"),
            Self::Kernel => f.write_str("kernel"),
            Self::Crypto(device) => write!(f, "crypto:{device}"),
            Self::Packet(device) => write!(f, "packet:{device}"),
        }
    }
}

/// Everything there is to know to run one ESP SA. IKE produces records, backends consume them.
///
/// `Debug` never shows keys: [`KeyMaterial`] redacts itself.
#[derive(Clone, Debug)]
pub struct SaRecord {
    /// This SA.
    pub id: SaId,
    /// The pair it belongs to.
    pub pair: PairId,
    /// The configured tunnel.
    pub tunnel: TunnelId,
    /// The configured child.
    pub child: ChildId,
    /// Inbound or outbound.
    pub direction: Direction,
    /// The SPI in the packets: ours for inbound, the peer's for outbound.
    pub spi: EspSpi,
    /// Our outer address and UDP port (the port counts only with [`Encapsulation::Udp`]).
    pub local: SocketAddr,
    /// The peer's outer address and UDP port.
    pub remote: SocketAddr,
    /// Raw ESP or in UDP.
    pub encapsulation: Encapsulation,
    /// Tunnel or transport.
    pub mode: Mode,
    /// Suite and sequence number size.
    pub transform: EspTransform,
    /// Keys.
    pub keys: KeyMaterial,
    /// Inbound: packets behind the highest one that are still taken, 32 to 4096; 0 is off.
    pub replay_window: u32,
    /// Inbound: sequence numbers up to this one are refused (0 for a new SA).
    pub replay_floor: u64,
    /// Outbound: the first sequence number to use (1 for a new SA).
    pub next_sequence: u64,
    /// Selectors of our side, in the order negotiated.
    pub local_selectors: Vec<TrafficSelector>,
    /// Selectors of the peer's side.
    pub remote_selectors: Vec<TrafficSelector>,
    /// Soft and hard limits. The owner of time is `ike`; backends own bytes and packets.
    pub lifetime: Lifetime,
    /// DSCP handling.
    pub dscp: DscpPolicy,
    /// ECN handling.
    pub ecn: EcnPolicy,
    /// DF handling.
    pub df: DfPolicy,
    /// Tenant.
    pub domain: DomainId,
    /// Mark that selects or tags packets; 0 is none.
    pub mark: u32,
    /// Interface the child is bound to; 0 is none.
    pub interface_id: u32,
    /// Where the operator wants it.
    pub offload: OffloadIntent,
}
