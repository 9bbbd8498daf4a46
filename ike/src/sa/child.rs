//! Child SAs: pairs of ESP SAs, from the request that installs them until their devices have
//! really let go of them. Make-before-break lives here.
//!
//! ```text
//! Installing --> Installed --> Rekeying --> Replaced --> (leaving: lingers, then removed)
//!                    |             '--------^   |
//!                    '--> Deleting ------------>'
//! ```

use alloc::{boxed::Box, collections::BTreeMap, collections::BTreeSet, vec::Vec};

use sa_store::{
    ChildId, Encapsulation, EspSpi, EspTransform, Identity, IkeSpi, Instant, KeGroup, PairId, SaId,
    TrafficSelector, TunnelId,
};

use crate::{
    config::Endpoints,
    event::{Event, Failure},
    input::CompletionResult,
    output::RequestKind,
    shared::{Shared, Waiter},
    view::{ChildState, ChildView, IkeSaId},
};

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
    /// The line of IKE SAs it belongs to, by the SPI that all began with.
    pub(crate) origin: IkeSpi,
    /// Ours.
    pub(crate) spi_in: EspSpi,
    /// The peer's.
    pub(crate) spi_out: EspSpi,
    pub(crate) transform: EspTransform,
    pub(crate) encapsulation: Encapsulation,
    pub(crate) local: Vec<TrafficSelector>,
    pub(crate) remote: Vec<TrafficSelector>,
    /// The group of its own key exchange, proposed first when it is rekeyed.
    pub(crate) group: Option<KeGroup>,
    /// The pair it was made to replace.
    pub(crate) replaces: Option<PairId>,
    pub(crate) installed: Instant,
    pub(crate) rekey_at: Instant,
    pub(crate) expires_at: Instant,
    /// The outbound SA waits: the peer is not known to use the pair yet.
    pub(crate) standby: bool,
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

/// A pair that IKE is done with.
#[derive(Clone, Debug)]
struct Leaving {
    sa: ChildSa,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The backend has not said yet whether it is installed.
    Installing,
    /// Packets on their way may still arrive.
    Lingering { until: Instant },
    /// The backend is removing it.
    Removing,
}

/// All pairs of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Children {
    live: BTreeMap<PairId, ChildSa>,
    leaving: BTreeMap<PairId, Leaving>,
    timers: BTreeSet<(Instant, PairId)>,
}

impl Children {
    pub(crate) fn insert(&mut self, sa: ChildSa) {
        self.live.insert(sa.pair, sa);
    }

    pub(crate) fn get(&self, pair: PairId) -> Option<&ChildSa> {
        self.live.get(&pair)
    }

    pub(crate) fn get_mut(&mut self, pair: PairId) -> Option<&mut ChildSa> {
        self.live.get_mut(&pair)
    }

    pub(crate) fn of(&self, owner: IkeSaId) -> impl Iterator<Item = &ChildSa> {
        self.live.values().filter(move |sa| sa.owner == owner)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &ChildSa> {
        self.live.values()
    }

    /// The pair of a line of IKE SAs that the peer receives with `spi`.
    pub(crate) fn by_peer_spi(&self, origin: IkeSpi, spi: EspSpi) -> Option<&ChildSa> {
        self.live.values().find(|sa| sa.origin == origin && sa.spi_out == spi)
    }

    pub(crate) fn by_sa(&self, id: SaId) -> Option<&ChildSa> {
        self.live.values().find(|sa| sa.sa_in == id || sa.sa_out == id)
    }

    /// The pair that carries a child, or can: the newest that is neither replaced nor deleted.
    pub(crate) fn current(&self, child: ChildId) -> Option<&ChildSa> {
        self.live
            .values()
            .rev()
            .filter(|sa| sa.child == child)
            .find(|sa| matches!(sa.phase, Phase::Installed | Phase::Rekeying))
    }

    /// Who carries the child of a pair that ends.
    fn heir(&self, old: &ChildSa) -> Option<ChildSa> {
        let successor = self.live.values().rev().find(|sa| sa.replaces == Some(old.pair));
        let installing = successor.filter(|sa| sa.phase == Phase::Installing);
        let current = self
            .live
            .values()
            .rev()
            .filter(|sa| sa.child == old.child && sa.pair != old.pair)
            .filter(|sa| sa.remote_id.same(&old.remote_id))
            .find(|sa| matches!(sa.phase, Phase::Installed | Phase::Rekeying));
        current.or(installing).cloned()
    }

    /// Whether another successor of `old` than `except` carries the traffic already.
    pub(crate) fn has_active_successor(&self, old: PairId, except: PairId) -> bool {
        self.live.values().any(|sa| {
            sa.replaces == Some(old)
                && sa.pair != except
                && !sa.standby
                && matches!(sa.phase, Phase::Installed | Phase::Rekeying)
        })
    }

    /// Whether an IKE SA has the child, or is getting it installed.
    pub(crate) fn has(&self, owner: IkeSaId, child: ChildId) -> bool {
        self.of(owner).any(|sa| {
            sa.child == child
                && matches!(sa.phase, Phase::Installing | Phase::Installed | Phase::Rekeying)
        })
    }

    pub(crate) fn count(&self, owner: IkeSaId) -> usize {
        self.of(owner).count()
    }

    /// All pairs of an IKE SA go to its successor.
    pub(crate) fn inherit(&mut self, from: IkeSaId, to: IkeSaId) {
        for sa in self.live.values_mut().filter(|sa| sa.owner == from) {
            sa.owner = to;
        }
    }

    /// Takes a pair that the backend refused; its SPI is the caller's.
    pub(crate) fn take_uninstalled(&mut self, pair: PairId) -> Option<EspSpi> {
        self.live.remove(&pair).map(|sa| sa.spi_in)
    }

    pub(crate) fn next_timer(&self) -> Instant {
        self.timers.first().map_or(Instant::NEVER, |(at, _)| *at)
    }

    pub(crate) fn views(&self, owner: IkeSaId) -> Vec<ChildView> {
        let live = self.of(owner).map(|sa| sa.view(sa.phase.state()));
        let leaving = self
            .leaving
            .values()
            .filter(|leaving| leaving.sa.owner == owner)
            .map(|leaving| leaving.sa.view(ChildState::Draining));
        live.chain(leaving).collect()
    }
}

impl Phase {
    const fn state(self) -> ChildState {
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
    fn view(&self, state: ChildState) -> ChildView {
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
            Phase::Installed => self.rekey_at.min(self.expires_at),
            Phase::Installing | Phase::Rekeying => self.expires_at,
            Phase::Replaced { until } => until.min(self.expires_at),
            Phase::Deleting => Instant::NEVER,
        }
    }
}

impl Shared {
    /// The peer uses the pair: our traffic moves to it, and what it replaces begins to drain.
    pub(crate) fn activate_pair(&mut self, pair: PairId) {
        let until = self.now + self.config.drain_time;
        let Some(sa) = self.children.get_mut(pair) else { return };
        if !sa.standby || sa.phase == Phase::Installing {
            return;
        }
        sa.standby = false;
        let (child, origin) = (sa.child, sa.origin);
        self.request(Waiter::Pair(pair), RequestKind::Activate { pair });
        for old in self.children.live.values_mut() {
            let older = old.child == child && old.origin == origin && old.pair < pair;
            if let Phase::Replaced { until: when } = &mut old.phase
                && older
            {
                *when = (*when).min(until);
            }
        }
    }

    /// A pair ends in the eyes of IKE. If another pair carries its child, that one gets the
    /// traffic and this one goes on receiving what is under way for a while; otherwise it is
    /// removed at once and its child is down because of `reason`.
    pub(crate) fn end_pair(&mut self, pair: PairId, reason: Option<&Failure>) {
        let Some(sa) = self.children.live.remove(&pair) else { return };
        let carried = sa.phase != Phase::Installing && !sa.standby;
        let heir = self.children.heir(&sa);
        match (&heir, reason) {
            (Some(heir), _) if carried => self.hand_over(&sa, heir),
            (None, Some(reason)) if carried => self.event(Event::ChildDown {
                tunnel: sa.tunnel,
                child: sa.child,
                pair,
                reason: reason.clone(),
            }),
            _ => {}
        }
        self.restore_predecessor(&sa);
        self.take_leave(sa, heir.is_some() && carried);
    }

    /// A successor goes and there is no other: what it was to replace is in use as before.
    fn restore_predecessor(&mut self, gone: &ChildSa) {
        let now = self.now;
        let Some(old) = gone.replaces else { return };
        if self.children.live.values().any(|sa| sa.replaces == Some(old)) {
            return;
        }
        if let Some(old) = self.children.get_mut(old)
            && matches!(old.phase, Phase::Replaced { .. })
        {
            old.phase = Phase::Installed;
            old.rekey_at = if old.rekey_at == Instant::NEVER && old.expires_at != Instant::NEVER {
                now
            } else {
                old.rekey_at
            };
        }
    }

    fn hand_over(&mut self, old: &ChildSa, heir: &ChildSa) {
        let pair = heir.pair;
        if heir.phase == Phase::Installing {
            return;
        }
        let announced = heir.replaces == Some(old.pair);
        if heir.standby {
            self.activate_pair(pair);
        } else if !matches!(old.phase, Phase::Replaced { .. }) {
            self.request(Waiter::Pair(pair), RequestKind::Activate { pair });
        }
        if !announced && !matches!(old.phase, Phase::Replaced { .. }) {
            let (tunnel, child) = (old.tunnel, old.child);
            self.event(Event::ChildRekeyed { tunnel, child, old: old.pair, new: pair });
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
            let until = self.now + self.config.drain_time;
            self.children.timers.insert((until, pair));
            Stage::Lingering { until }
        } else {
            self.request(Waiter::Pair(pair), RequestKind::Remove { pair });
            Stage::Removing
        };
        self.children.leaving.insert(pair, Leaving { sa, stage });
    }

    /// Removes pairs that have lingered long enough.
    pub(crate) fn remove_lingering(&mut self) {
        while let Some(&(until, pair)) = self.children.timers.first() {
            if until > self.now {
                return;
            }
            self.children.timers.pop_first();
            if let Some(leaving) = self.children.leaving.get_mut(&pair) {
                leaving.stage = Stage::Removing;
                self.request(Waiter::Pair(pair), RequestKind::Remove { pair });
            }
        }
    }

    /// An answer of the backend about a pair that IKE is done with.
    pub(crate) fn on_leaving_completion(&mut self, pair: PairId, result: &CompletionResult) {
        let Some(leaving) = self.children.leaving.get_mut(&pair) else { return };
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
        if gone {
            let leaving = self.children.leaving.remove(&pair);
            if let Some(leaving) = leaving {
                self.spis.release(leaving.sa.spi_in);
            }
        }
    }

    /// The peer of an IKE SA is at another address: pairs in UDP follow (RFC 7296 §2.23).
    pub(crate) fn move_pairs(&mut self, owner: IkeSaId, path: Endpoints) {
        let pairs: Vec<PairId> = self
            .children
            .of(owner)
            .filter(|sa| sa.encapsulation == Encapsulation::Udp && sa.phase != Phase::Installing)
            .map(|sa| sa.pair)
            .collect();
        for pair in pairs {
            self.request(Waiter::Pair(pair), RequestKind::UpdateAddresses { pair, path });
        }
    }

    /// Asks a backend for both directions of a pair and keeps it in view.
    pub(crate) fn install_pair(
        &mut self,
        sa: ChildSa,
        (inbound, outbound): (Box<sa_store::SaRecord>, Box<sa_store::SaRecord>),
    ) {
        let pair = sa.pair;
        let activate = !sa.standby;
        self.children.insert(sa);
        self.request(Waiter::Pair(pair), RequestKind::Install { inbound, outbound, activate });
    }
}
