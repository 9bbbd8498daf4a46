//! What an operator may want to know, as values: no secrets, no formatting.

use alloc::{string::String, vec::Vec};
use core::{fmt, net::SocketAddr};

use sa_store::{ChildId, EspTransform, Identity, PairId, TrafficSelector, TunnelId};

use crate::{config::IkeSuite, view::IkeSaId};

/// One event.
#[derive(Clone, Debug)]
pub enum Event {
    /// An IKE SA is up: both sides are authenticated.
    IkeEstablished {
        /// Which tunnel.
        tunnel: TunnelId,
        /// The IKE SA.
        ike: IkeSaId,
        /// What was negotiated.
        suite: IkeSuite,
        /// Who the peer proved to be.
        remote_id: Identity,
        /// Where it is.
        remote: SocketAddr,
        /// Whether we initiated.
        initiator: bool,
    },
    /// An IKE SA took over from another one.
    IkeRekeyed {
        /// Which tunnel.
        tunnel: TunnelId,
        /// The replaced one.
        old: IkeSaId,
        /// The new one.
        new: IkeSaId,
    },
    /// An established IKE SA is gone.
    IkeDown {
        /// Which tunnel.
        tunnel: TunnelId,
        /// The IKE SA.
        ike: IkeSaId,
        /// Why.
        reason: Failure,
    },
    /// A child is up for the first time on this IKE SA (not a rekey).
    ChildInstalled {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Which child.
        child: ChildId,
        /// Its pair.
        pair: PairId,
        /// What was negotiated.
        transform: EspTransform,
        /// Selectors of our side after narrowing.
        local: Vec<TrafficSelector>,
        /// Selectors of the peer's side after narrowing.
        remote: Vec<TrafficSelector>,
    },
    /// A child's pair was replaced.
    ChildRekeyed {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Which child.
        child: ChildId,
        /// The replaced pair.
        old: PairId,
        /// The new pair.
        new: PairId,
    },
    /// A pair is gone and nothing replaces it.
    ChildDown {
        /// Which tunnel.
        tunnel: TunnelId,
        /// Which child.
        child: ChildId,
        /// The pair.
        pair: PairId,
        /// Why.
        reason: Failure,
    },
    /// An attempt came to nothing; what was up before stays up.
    Failed {
        /// Which tunnel; `None` when no configured tunnel matched.
        tunnel: Option<TunnelId>,
        /// Which child, if it was about one.
        child: Option<ChildId>,
        /// The peer.
        remote: SocketAddr,
        /// What went wrong.
        failure: Failure,
        /// Somebody called and proved nothing: everybody can cause this, in any peer's name.
        stranger: bool,
    },
    /// The peer does not answer; the request is sent again.
    Retransmitting {
        /// Which tunnel.
        tunnel: TunnelId,
        /// The peer.
        remote: SocketAddr,
        /// How many times it has been sent again, this one included.
        tries: u32,
    },
    /// The peer moved to another address or port.
    PeerMoved {
        /// Which tunnel.
        tunnel: TunnelId,
        /// From.
        old: SocketAddr,
        /// To.
        new: SocketAddr,
    },
}

/// A reason in words with a stable code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Stable, for scripts and metrics.
    pub code: FailureCode,
    /// For people: what differed or went wrong, on which side, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure with words of its own.
    #[must_use]
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Stable codes of [`Failure`]s.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum FailureCode {
            $($(#[$doc])* $variant,)*
        }

        impl FailureCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as scripts see it: lower-case words joined by hyphens.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The peer did not answer at all.
    PeerUnreachable = "peer-unreachable",
    /// The peer answered before but does not any more.
    PeerDead = "peer-dead",
    /// No proposal both sides accept.
    NoProposalChosen = "no-proposal-chosen",
    /// No key exchange method both sides accept.
    InvalidKe = "invalid-ke",
    /// The peer refused our AUTH, or its own did not verify.
    AuthenticationFailed = "authentication-failed",
    /// The peer's identity is not the one configured.
    IdentityMismatch = "identity-mismatch",
    /// No configured tunnel matches the peer.
    NoMatchingTunnel = "no-matching-tunnel",
    /// The selectors have nothing in common.
    TsUnacceptable = "ts-unacceptable",
    /// The peer accepts no more children.
    NoAdditionalSas = "no-additional-sas",
    /// The peer asks to try again later.
    TemporaryFailure = "temporary-failure",
    /// The peer knows no such Child SA.
    ChildSaNotFound = "child-sa-not-found",
    /// The peer sent something that RFC 7296 does not allow.
    InvalidSyntax = "invalid-syntax",
    /// The peer needs a critical payload that we do not know.
    UnsupportedCriticalPayload = "unsupported-critical-payload",
    /// The peer speaks another major version.
    InvalidMajorVersion = "invalid-major-version",
    /// The peer sent an error notify with no code of its own here.
    PeerError = "peer-error",
    /// The SA could not be installed.
    InstallFailed = "install-failed",
    /// The peer deleted it.
    DeletedByPeer = "deleted-by-peer",
    /// The operator wanted it down.
    DeletedByOperator = "deleted-by-operator",
    /// The peer came back from a restart or established a newer SA.
    Replaced = "replaced",
    /// A hard lifetime or the end of the sequence numbers was reached.
    Expired = "expired",
    /// The local address is gone.
    LocalAddressLost = "local-address-lost",
    /// The configuration changed.
    Reconfigured = "reconfigured",
    /// The host name of the peer does not resolve.
    ResolveFailed = "resolve-failed",
    /// There is no local address to reach the peer from.
    NoLocalAddress = "no-local-address",
    /// The exchange took longer than a half-open IKE SA may.
    Timeout = "timeout",
    /// A key exchange or another internal step failed.
    Internal = "internal-error",
}
