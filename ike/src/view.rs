//! Read-only views for status and tests.

use alloc::vec::Vec;
use core::fmt;

use sa_store::{
    ChildId, Encapsulation, EspSpi, EspTransform, Identity, IkeSpi, Instant, PairId, SaId,
    TrafficSelector, TunnelId,
};

use crate::config::{Endpoints, IkeSuite};

/// One IKE SA of an endpoint; counts up, never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IkeSaId(pub u64);

impl fmt::Display for IkeSaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where an IKE SA is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IkeState {
    /// Before both sides are authenticated.
    Connecting,
    /// In use.
    Established,
    /// In use, a successor is being negotiated.
    Rekeying,
    /// Waiting for the peer to confirm the delete.
    Deleting,
}

/// Where a pair is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChildState {
    /// Being negotiated or installed.
    Installing,
    /// In use.
    Installed,
    /// In use, a successor is being negotiated.
    Rekeying,
    /// Replaced: still receives until the peer deleted it or the drain time is over.
    Draining,
    /// Waiting for the peer to confirm the delete.
    Deleting,
}

/// An IKE SA as status shows it.
#[derive(Clone, Debug)]
pub struct IkeSaView {
    /// The IKE SA.
    pub id: IkeSaId,
    /// Which tunnel; a responder does not know it before IKE_AUTH.
    pub tunnel: Option<TunnelId>,
    /// State.
    pub state: IkeState,
    /// Whether we initiated this IKE SA (a rekey's initiator counts for the new one).
    pub initiator: bool,
    /// Initiator's SPI.
    pub spi_i: IkeSpi,
    /// Responder's SPI.
    pub spi_r: IkeSpi,
    /// What was negotiated.
    pub suite: Option<IkeSuite>,
    /// Both ends.
    pub path: Endpoints,
    /// Our identity.
    pub local_id: Option<Identity>,
    /// The peer's identity, once proven.
    pub remote_id: Option<Identity>,
    /// Since when it is established.
    pub established: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// Whether a NAT is in front of us.
    pub nat_local: bool,
    /// Whether a NAT is in front of the peer.
    pub nat_remote: bool,
    /// Its pairs.
    pub children: Vec<ChildView>,
}

/// A pair as status shows it.
#[derive(Clone, Debug)]
pub struct ChildView {
    /// The pair.
    pub pair: PairId,
    /// Which configured child.
    pub child: ChildId,
    /// State.
    pub state: ChildState,
    /// The inbound SA.
    pub sa_in: SaId,
    /// The outbound SA.
    pub sa_out: SaId,
    /// Inbound SPI.
    pub spi_in: EspSpi,
    /// Outbound SPI; `None` while the peer has not told it.
    pub spi_out: Option<EspSpi>,
    /// What was negotiated.
    pub transform: Option<EspTransform>,
    /// Raw or in UDP.
    pub encapsulation: Encapsulation,
    /// Selectors of our side.
    pub local: Vec<TrafficSelector>,
    /// Selectors of the peer's side.
    pub remote: Vec<TrafficSelector>,
    /// Since when it is installed.
    pub installed: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// When it stops.
    pub expires_at: Option<Instant>,
}
