//! Child SAs: pairs of ESP SAs, from the request that installs them until their devices have
//! really let go of them. Make-before-break lives here.
//!
//! ```text
//! Installing --> Installed --> Rekeying --> Replaced --> (leaving: lingers, then removed)
//!                    |             '--------^   |
//!                    '--> Deleting ------------>'
//! ```

use alloc::{boxed::Box, vec::Vec};

use sa_store::{
    ChildId, Encapsulation, EspSpi, EspTransform, Identity, Instant, KeGroup, PairId, SaId,
    TrafficSelector, TunnelId,
};

use super::child_table::Stage;
use crate::{
    config::Endpoints,
    event::{Event, Failure},
    input::CompletionResult,
    output::RequestKind,
    shared::{Action, Shared, Waiter},
    view::{ChildState, ChildView, IkeSaId},
};

/// A pair that got its child back because a successor went is rekeyed after this long.
const REKEY_AGAIN: core::time::Duration = core::time::Duration::from_secs(3);

/// How long the peer may need to install a pair.
const INSTALLING: core::time::Duration = core::time::Duration::from_secs(1);

/// One pair.
#[derive(Clone, Debug)]
pub(crate) struct ChildSa {
    pub(crate) pair: PairId,
    pub(crate) sa_in: SaId,
    pub(crate) sa_out: SaId,
    pub(crate) tunnel: TunnelId,
    pub(crate) child: ChildId,
    pub(crate) owner: IkeSaId,
    /// Who the peer is: a tunnel may have several.
    pub(crate) remote_id: Identity,
    /// The line of IKE SAs it belongs to, see [`super::established::Peer::line`].
    pub(crate) line: IkeSaId,
    /// Ours.
    pub(crate) spi_in: EspSpi,
    /// The peer's.
    pub(crate) spi_out: EspSpi,
    pub(crate) transform: EspTransform,
    pub(crate) encapsulation: Encapsulation,
    /// Where its packets go as far as the backend has been told.
    pub(crate) path: Endpoints,
    /// The backend has not answered yet to what it was told last.
    pub(crate) moving: bool,
    pub(crate) local: Vec<TrafficSelector>,
    pub(crate) remote: Vec<TrafficSelector>,
    /// The group of its own key exchange, proposed first when it is rekeyed.
    pub(crate) group: Option<KeGroup>,
    /// The pair it was made to replace.
    pub(crate) replaces: Option<PairId>,
    pub(crate) installed: Instant,
    pub(crate) rekey_at: Instant,
    pub(crate) expires_at: Instant,
    /// Whether IKE_AUTH brought it.
    pub(crate) first: bool,
    /// The lower nonce of the exchange that made it.
    pub(crate) nonce: Vec<u8>,
    /// Whether we began that exchange.
    pub(crate) ours: bool,
    /// The outbound SA waits: the peer is not known to use the pair yet.
    pub(crate) standby: bool,
    /// When it stops waiting at the latest.
    pub(crate) carry_at: Instant,
    /// The pair that carried the child when the backend was asked to install this one.
    pub(crate) displaces: Option<PairId>,
    /// The operator was told that this pair is the child's.
    pub(crate) announced: bool,
    pub(crate) phase: Phase,
}

/// Where a pair is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// The backend has not answered yet.
    Installing,
    /// In use.
    Installed,
    /// In use; we are negotiating a successor.
    Rekeying,
    /// A successor stands; received on until the peer deletes it or `until`.
    Replaced { until: Instant },
    /// We are deleting it.
    Deleting,
}

impl Phase {
    pub(super) const fn state(self) -> ChildState {
        match self {
            Self::Installing => ChildState::Installing,
            Self::Installed => ChildState::Installed,
            Self::Rekeying => ChildState::Rekeying,
            Self::Replaced { .. } => ChildState::Draining,
            Self::Deleting => ChildState::Deleting,
        }
    }
}

impl ChildSa {
    pub(super) fn view(&self, state: ChildState) -> ChildView {
        let time = |at: Instant| (at != Instant::NEVER).then_some(at);
        ChildView {
            pair: self.pair,
            child: self.child,
            state,
            sa_in: self.sa_in,
            sa_out: self.sa_out,
            spi_in: self.spi_in,
            spi_out: Some(self.spi_out),
            transform: Some(self.transform),
            encapsulation: self.encapsulation,
            local: self.local.clone(),
            remote: self.remote.clone(),
            installed: (state != ChildState::Installing).then_some(self.installed),
            rekey_at: time(self.rekey_at),
            expires_at: time(self.expires_at),
        }
    }

    /// When something is due for it.
    pub(crate) fn due(&self) -> Instant {
        match self.phase {
            Phase::Installed => self.rekey_at.min(self.expires_at).min(self.carry_at),
            Phase::Installing | Phase::Rekeying => self.expires_at,
            Phase::Replaced { until } => until.min(self.expires_at),
            Phase::Deleting => Instant::NEVER,
        }
    }
}

impl Shared {
    /// The peer uses the pair: our traffic moves to it, and what it replaces begins to drain.
    /// While we negotiate another successor of the same pair, nothing moves: that one may win.
    pub(crate) fn activate_pair(&mut self, pair: PairId) {
        let until = self.now + self.config.drain_time;
        let Some(sa) = self.children.get(pair) else { return };
        let ready = sa.standby && matches!(sa.phase, Phase::Installed | Phase::Rekeying);
        let father = sa.replaces.and_then(|old| self.children.get(old));
        if !ready || father.is_some_and(|old| old.phase == Phase::Rekeying) {
            return;
        }
        let (child, line) = (sa.child, sa.line);
        self.carry(pair);
        for old in self.children.older_of(child, pair) {
            if let Some(old) = self.children.get_mut(old).filter(|old| old.line == line)
                && let Phase::Replaced { until: when } = &mut old.phase
            {
                *when = (*when).min(until);
            }
        }
    }

    /// The backend has moved a child's traffic to a pair.
    pub(crate) fn pair_carries(&mut self, pair: PairId) {
        if let Some(sa) = self.children.get(pair).filter(|sa| sa.replaces.is_none()) {
            let tunnel = sa.tunnel;
            self.announce(None, pair);
            self.act(Action::Deduplicate(tunnel));
        }
    }

    /// The peer has our last response, so it has the pairs of this IKE SA or is installing them.
    /// A response of the peer proves that for IKE_AUTH only: its own requests go another way.
    pub(crate) fn confirm_pairs(&mut self, owner: IkeSaId, first: bool) {
        let at = self.now + INSTALLING;
        let waits = |sa: &&ChildSa| {
            sa.standby
                && sa.replaces.is_none()
                && sa.phase == Phase::Installed
                && (sa.first || !first)
        };
        let waiting: Vec<PairId> =
            self.children.of(owner).filter(waits).map(|sa| sa.pair).collect();
        for pair in waiting {
            if let Some(sa) = self.children.get_mut(pair) {
                sa.carry_at = sa.carry_at.min(at);
            }
        }
    }

    /// Moves traffic to pairs that have waited long enough for the peer to use them.
    pub(crate) fn carry_waiting(&mut self, owner: IkeSaId) {
        let now = self.now;
        let due: Vec<PairId> = self
            .children
            .of(owner)
            .filter(|sa| sa.carry_at <= now && sa.phase == Phase::Installed)
            .map(|sa| sa.pair)
            .collect();
        for pair in due {
            self.activate_pair(pair);
        }
    }

    /// The child's traffic goes out on this pair from now on; true if it does already.
    pub(crate) fn carry(&mut self, pair: PairId) -> bool {
        let Some(sa) = self.children.get_mut(pair).filter(|sa| sa.phase != Phase::Installing)
        else {
            return false;
        };
        (sa.standby, sa.carry_at) = (false, Instant::NEVER);
        let child = sa.child;
        let carries = self.children.set_carrier(child, pair) == Some(pair);
        if !carries {
            self.request(Waiter::Pair(pair), RequestKind::Activate { pair });
        }
        carries
    }

    /// Tells once that a pair is the child's: in the place of `old`, or as a new one.
    pub(crate) fn announce(&mut self, old: Option<PairId>, pair: PairId) {
        let old = old.filter(|old| {
            let told = self.children.get_mut(*old).map(|old| &mut old.announced);
            told.is_some_and(core::mem::take)
        });
        self.replaced_by(old, pair);
    }

    /// As [`Self::announce`], for an `old` that is out of the books already.
    fn replaced_by(&mut self, old: Option<PairId>, pair: PairId) {
        let Some(sa) = self.children.get_mut(pair) else { return };
        let told = core::mem::replace(&mut sa.announced, true);
        let event = match old {
            Some(old) => Event::ChildRekeyed { tunnel: sa.tunnel, child: sa.child, old, new: pair },
            None if told => return,
            None => Event::ChildInstalled {
                tunnel: sa.tunnel,
                child: sa.child,
                pair,
                transform: sa.transform,
                local: sa.local.clone(),
                remote: sa.remote.clone(),
            },
        };
        self.event(event);
    }

    /// A pair stands at the backend.
    pub(crate) fn pair_stands(&mut self, pair: PairId) {
        let Some(sa) = self.children.get(pair).filter(|sa| !sa.standby) else { return };
        // Somebody else may have got the traffic in the meantime.
        let (child, displaces) = (sa.child, sa.displaces);
        if self.children.carrier(child) == displaces {
            self.children.set_carrier(child, pair);
        }
    }

    /// A pair ends in the eyes of IKE. If another pair can carry its child, that one gets the
    /// traffic and this one goes on receiving what is under way for a while; otherwise it is
    /// removed at once and its child is down because of `reason`.
    pub(crate) fn end_pair(&mut self, pair: PairId, reason: Option<&Failure>) {
        let Some(sa) = self.children.remove(pair) else { return };
        let heir = self.children.heir(&sa);
        if self.children.carrier(sa.child) == Some(pair) {
            match heir {
                Some(heir) => {
                    self.carry(heir);
                }
                None => {
                    self.children.no_carrier(sa.child);
                }
            }
        }
        match (heir, reason) {
            (Some(heir), _) if sa.announced => {
                self.revive(heir);
                self.replaced_by(Some(pair), heir);
            }
            (None, Some(reason)) if sa.announced => self.event(Event::ChildDown {
                tunnel: sa.tunnel,
                child: sa.child,
                pair,
                reason: reason.clone(),
            }),
            _ => {}
        }
        if heir.is_none() {
            // The child is down: what still drains has nothing to wait for.
            for pair in self.children.end_lingering(sa.child, &sa.remote_id) {
                self.request(Waiter::Pair(pair), RequestKind::Remove { pair });
            }
        }
        self.take_leave(sa, heir.is_some());
    }

    /// A pair whose successors came to nothing has its child back, and needs another one.
    fn revive(&mut self, pair: PairId) {
        let now = self.now;
        if let Some(sa) = self.children.get_mut(pair)
            && matches!(sa.phase, Phase::Replaced { .. })
        {
            sa.phase = Phase::Installed;
            sa.rekey_at = now + REKEY_AGAIN;
        }
    }

    /// All pairs of an IKE SA end.
    pub(crate) fn end_pairs_of(&mut self, owner: IkeSaId, reason: &Failure) {
        let pairs: Vec<PairId> = self.children.of(owner).map(|sa| sa.pair).collect();
        for pair in pairs {
            self.end_pair(pair, Some(reason));
        }
    }

    fn take_leave(&mut self, sa: ChildSa, linger: bool) {
        let pair = sa.pair;
        let stage = if sa.phase == Phase::Installing {
            Stage::Installing
        } else if linger {
            Stage::Lingering { until: self.now + self.config.drain_time }
        } else {
            self.request(Waiter::Pair(pair), RequestKind::Remove { pair });
            Stage::Removing
        };
        self.children.leave(sa, stage);
    }

    /// Removes pairs that have lingered long enough.
    pub(crate) fn remove_lingering(&mut self) {
        while let Some(pair) = self.children.next_lingered(self.now) {
            self.request(Waiter::Pair(pair), RequestKind::Remove { pair });
        }
    }

    /// An answer of the backend about a pair that IKE is done with.
    pub(crate) fn on_leaving_completion(&mut self, pair: PairId, result: &CompletionResult) {
        let Some(leaving) = self.children.leaving_mut(pair) else { return };
        let gone = match (leaving.stage, result) {
            (Stage::Installing, CompletionResult::Installed(Ok(()))) => {
                leaving.stage = Stage::Removing;
                self.request(Waiter::Pair(pair), RequestKind::Remove { pair });
                return;
            }
            (Stage::Installing, CompletionResult::Installed(Err(_)))
            | (Stage::Removing, CompletionResult::Removed) => true,
            _ => false,
        };
        if gone && let Some(sa) = self.children.left(pair) {
            self.spis.release(sa.spi_in);
        }
    }

    /// The peer of an IKE SA is at another address: pairs in UDP follow (RFC 7296 §2.23).
    ///
    /// One that is being installed follows when it stands, one that is being moved afterwards.
    pub(crate) fn move_pairs(&mut self, owner: IkeSaId, path: Endpoints) {
        let behind = |sa: &&ChildSa| {
            sa.encapsulation == Encapsulation::Udp
                && sa.phase != Phase::Installing
                && !sa.moving
                && sa.path != path
        };
        let pairs: Vec<PairId> = self.children.of(owner).filter(behind).map(|sa| sa.pair).collect();
        for pair in pairs {
            if let Some(sa) = self.children.get_mut(pair) {
                (sa.path, sa.moving) = (path, true);
            }
            self.request(Waiter::Pair(pair), RequestKind::UpdateAddresses { pair, path });
        }
    }

    /// The backend has answered to where a pair was moved.
    pub(crate) fn pair_moved(&mut self, pair: PairId) {
        if let Some(sa) = self.children.get_mut(pair) {
            sa.moving = false;
        }
    }

    /// Asks a backend for both directions of a pair and keeps it in view.
    pub(crate) fn install_pair(
        &mut self,
        mut sa: ChildSa,
        (inbound, outbound): (Box<sa_store::SaRecord>, Box<sa_store::SaRecord>),
    ) {
        let pair = sa.pair;
        let activate = !sa.standby;
        sa.displaces = self.children.carrier(sa.child);
        self.children.insert(sa);
        self.request(Waiter::Pair(pair), RequestKind::Install { inbound, outbound, activate });
    }
}
