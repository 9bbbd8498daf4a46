//! IKE SAs: their states and what all states share.

use alloc::boxed::Box;

use sa_store::{ChildId, EspSpi, Instant, PairId, TunnelId};

use crate::{
    config::Endpoints,
    event::Failure,
    exchange::{
        ike_auth::Authenticating,
        ike_sa_init::{HalfOpen, Initiating},
    },
    input::CompletionResult,
    output::Ticket,
    shared::Shared,
    view::{IkeSaId, IkeSaView},
};

pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod child_table;
pub(crate) mod directory;
pub(crate) mod established;
pub(crate) mod lifetime;
pub(crate) mod liveness;
pub(crate) mod mobility;
pub(crate) mod nat;
pub(crate) mod queue;
pub(crate) mod window;

use established::{Closed, Established};

/// An IKE SA in one of its states. Whatever happens consumes the state and gives the next one,
/// or none when the IKE SA is over.
#[derive(Debug)]
pub(crate) enum IkeSa {
    /// We asked for it: until the keys are there.
    Initiating(Box<Initiating>),
    /// We sent IKE_AUTH.
    Authenticating(Box<Authenticating>),
    /// The peer asked for it: until its IKE_AUTH.
    HalfOpen(Box<HalfOpen>),
    /// Both are authenticated.
    Established(Box<Established>),
    /// Over; our last response is repeated for a while.
    Closed(Box<Closed>),
}

/// Something an established IKE SA has to do when its window is free.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    /// Negotiate a child that is not there.
    CreateChild(ChildId),
    /// Replace a pair.
    RekeyChild(PairId),
    /// Delete all pairs of a child.
    EndChild(ChildId, Failure),
    /// Delete a pair; the reason is told if nothing takes over.
    DeletePair(PairId, Failure),
    /// Delete what the peer installed and we did not.
    DeleteSpi(EspSpi),
    /// Replace the IKE SA.
    RekeyIke,
    /// Delete it.
    DeleteIke(Failure),
    /// Ask for a sign of life.
    Liveness,
}

impl IkeSa {
    pub(crate) fn on_datagram(
        self,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<Self> {
        match self {
            Self::Initiating(state) => state.on_datagram(shared, path, datagram),
            Self::Authenticating(state) => state.on_datagram(shared, path, datagram),
            Self::HalfOpen(state) => state.on_datagram(shared, path, datagram),
            Self::Established(state) => state.on_datagram(shared, path, datagram),
            Self::Closed(mut state) => {
                state.on_datagram(shared, path, datagram);
                Some(Self::Closed(state))
            }
        }
    }

    pub(crate) fn on_completion(
        self,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Option<Self> {
        match self {
            Self::Initiating(state) => state.on_completion(shared, ticket, result),
            Self::HalfOpen(state) => state.on_completion(shared, ticket, result),
            Self::Established(state) => state.on_completion(shared, ticket, result),
            Self::Authenticating(state) => state.on_completion(shared, ticket, result),
            Self::Closed(_) => Some(self),
        }
    }

    pub(crate) fn on_timeout(self, shared: &mut Shared) -> Option<Self> {
        match self {
            Self::Initiating(state) => state.on_timeout(shared),
            Self::Authenticating(state) => state.on_timeout(shared),
            Self::HalfOpen(state) => state.on_timeout(shared),
            Self::Established(state) => state.on_timeout(shared),
            Self::Closed(state) if state.until > shared.now => Some(Self::Closed(state)),
            Self::Closed(state) => {
                state.end(shared);
                None
            }
        }
    }

    /// Gives up without a word to the peer.
    pub(crate) fn abandon(self, shared: &mut Shared, reason: &Failure) {
        match self {
            Self::Initiating(state) => state.fail(shared, reason.clone()),
            Self::Authenticating(state) => state.fail(shared, reason.clone()),
            Self::HalfOpen(state) => state.drop_silently(shared),
            Self::Established(state) => {
                state.die(shared, reason);
            }
            Self::Closed(state) => state.end(shared),
        }
    }

    /// When something is due.
    pub(crate) fn due(&self, shared: &Shared) -> Instant {
        match self {
            Self::Initiating(state) => state.due(),
            Self::Authenticating(state) => state.due(shared),
            Self::HalfOpen(state) => state.due(),
            Self::Established(state) => state.due(shared),
            Self::Closed(state) => state.until,
        }
    }

    pub(crate) fn tunnel(&self) -> Option<TunnelId> {
        match self {
            Self::Initiating(state) => Some(state.tunnel()),
            Self::Authenticating(state) => Some(state.tunnel()),
            Self::HalfOpen(_) | Self::Closed(_) => None,
            Self::Established(state) => Some(state.peer.tunnel()),
        }
    }

    /// As status shows it; what is over is not shown.
    pub(crate) fn view(&self, id: IkeSaId, shared: &Shared) -> Option<IkeSaView> {
        match self {
            Self::Initiating(state) => Some(state.view(id)),
            Self::Authenticating(state) => Some(state.view(id)),
            Self::HalfOpen(state) => Some(state.view(id)),
            Self::Established(state) => Some(state.view(shared)),
            Self::Closed(_) => None,
        }
    }
}
