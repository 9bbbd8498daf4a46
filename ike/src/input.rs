//! Everything that may happen to an endpoint.

use alloc::{string::String, sync::Arc, vec::Vec};
use core::net::SocketAddr;

use sa_store::{ChildId, EspSpi, PairId, SaId, SecretBytes, TunnelId};

use crate::{
    config::{Connection, Endpoints},
    event::{Failure, FailureCode},
    output::Ticket,
    view::IkeSaId,
};

/// One thing that happened. The time of it is a parameter of `handle`.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram arrived on an IKE port. On port 4500 the non-ESP marker is already gone.
    Datagram {
        /// Where it came from and where to.
        path: Endpoints,
        /// An IKE message, or anything else somebody sent.
        payload: &'a [u8],
    },
    /// Somebody wants something.
    Command(Command),
    /// An answer to a request.
    Completion(Completion),
    /// Nothing but time passed.
    Timeout,
}

/// What the gateway wants of the endpoint.
#[derive(Debug)]
pub enum Command {
    /// Adds a tunnel or replaces its configuration. Running SAs keep what they negotiated.
    Configure(Arc<Connection>),
    /// Forgets a tunnel: its SAs are deleted first, the peer is told.
    Forget(TunnelId),
    /// Establishes an IKE SA with these children (all of the tunnel's if empty). If an IKE SA
    /// is up, missing children are created on it.
    Initiate {
        /// Which tunnel.
        tunnel: TunnelId,
        /// From and to where; a remote port of 4500 starts there.
        path: Endpoints,
        /// Which children.
        children: Vec<ChildId>,
    },
    /// Deletes the IKE SAs of a tunnel with everything in them; the peer is told.
    Terminate {
        /// Which tunnel.
        tunnel: TunnelId,
    },
    /// Deletes one child.
    TerminateChild {
        /// Which child.
        child: ChildId,
    },
    /// Rekeys the IKE SA of a tunnel.
    RekeyIke {
        /// Which tunnel.
        tunnel: TunnelId,
    },
    /// Rekeys one child.
    RekeyChild {
        /// Which child.
        child: ChildId,
    },
    /// A protected packet of the pair was received at `now`: liveness need not ask, and a
    /// responder of a rekey may move its traffic (the pair is in use by the peer).
    InboundSeen {
        /// Which pair.
        pair: PairId,
    },
    /// A backend reports the soft byte or packet limit: the pair is rekeyed.
    SoftExpired {
        /// Which SA.
        sa: SaId,
    },
    /// A backend reports that an SA stopped (hard limit, sequence numbers used up, lost
    /// device): the pair is replaced if it can be, else deleted.
    HardExpired {
        /// Which SA.
        sa: SaId,
        /// Why, for people.
        reason: String,
    },
    /// The newest authenticated ESP packet of a pair came from another address: the peer's NAT
    /// gave it a new mapping (RFC 7296 §2.23).
    MappingChanged {
        /// Which inbound SA.
        sa: SaId,
        /// Where the peer is now.
        remote: SocketAddr,
    },
    /// Asks the peer for a sign of life now.
    CheckLiveness {
        /// Which tunnel.
        tunnel: TunnelId,
    },
    /// Ends an IKE SA without telling the peer (the local address is gone).
    Abandon {
        /// Which one.
        ike: IkeSaId,
        /// Why, for people.
        reason: String,
    },
}

/// An answer to a [`crate::output::Output::Request`]. Late, doubled or unknown tickets are ignored.
#[derive(Debug)]
pub struct Completion {
    /// The ticket of the request.
    pub ticket: Ticket,
    /// The answer.
    pub result: CompletionResult,
}

/// What a request came to.
#[derive(Debug)]
pub enum CompletionResult {
    /// A key pair: the public value for the KE payload, and what [`Self::Agreed`] needs.
    KeyGenerated(Result<GeneratedKey, KeFailure>),
    /// The shared secret g^ir, and our public value if the request asked for a key pair too.
    Agreed(Result<Agreement, KeFailure>),
    /// The pair stands (or, on error, neither direction does).
    Installed(Result<(), String>),
    /// The outbound SA carries traffic.
    Activated(Result<(), String>),
    /// The addresses of a pair are changed.
    Updated(Result<(), String>),
    /// Both directions are gone from their backends, with the outbound sequence numbers done.
    Removed,
}

/// A generated key pair.
#[derive(Debug)]
pub struct GeneratedKey {
    /// For the KE payload.
    pub public: Vec<u8>,
    /// Stays on this side.
    pub private: crypto::ke::PrivateKey,
}

/// The outcome of a key agreement.
#[derive(Debug)]
pub struct Agreement {
    /// Our public value, when the request generated the key pair as well.
    pub public: Option<Vec<u8>>,
    /// g^ir.
    pub shared: SecretBytes,
}

/// Why a key exchange failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeFailure {
    /// The peer's public value is invalid (RFC 6989, RFC 8031): the exchange is refused.
    InvalidPublicValue,
    /// Our own side failed.
    Internal,
}

impl KeFailure {
    /// The failure in words, with whose fault it is.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::InvalidPublicValue => {
                Failure::new(FailureCode::InvalidKe, "the peer's public value is not valid")
            }
            Self::Internal => {
                Failure::new(FailureCode::Internal, "the key exchange failed on our side")
            }
        }
    }
}

impl CompletionResult {
    /// Why a key exchange came to nothing. An answer that does not fit is a fault of our own.
    pub(crate) const fn ke_failure(&self) -> KeFailure {
        match self {
            Self::KeyGenerated(Err(failure)) | Self::Agreed(Err(failure)) => *failure,
            _ => KeFailure::Internal,
        }
    }
}

/// Where inbound SPIs come from: the node-wide allocator.
pub trait SpiSource: Send {
    /// A fresh SPI, unique on the node until released; `None` when all are in use.
    fn allocate(&mut self) -> Option<EspSpi>;
    /// The SPI is not in use any more.
    fn release(&mut self, spi: EspSpi);
}
