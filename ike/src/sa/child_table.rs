//! All pairs of an endpoint, found in a few steps however many there are.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use sa_store::{ChildId, EspSpi, Identity, Instant, PairId, SaId};

use super::child::{ChildSa, Phase};
use crate::view::{ChildState, ChildView, IkeSaId};

/// A pair that IKE is done with.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    sa: ChildSa,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
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
    /// The pair whose outbound SA carries a child's traffic.
    carriers: BTreeMap<ChildId, PairId>,
    index: Index,
}

/// Ways to the pairs, by what does not change while a pair is there (but for its owner).
#[derive(Debug, Default)]
struct Index {
    owners: BTreeSet<(IkeSaId, PairId)>,
    /// Of pairs that are leaving.
    former_owners: BTreeSet<(IkeSaId, PairId)>,
    former_children: BTreeSet<(ChildId, PairId)>,
    children: BTreeSet<(ChildId, PairId)>,
    sas: BTreeMap<SaId, PairId>,
    peer_spis: BTreeSet<(IkeSaId, EspSpi, PairId)>,
    /// What was to be replaced, and by what.
    successors: BTreeSet<(PairId, PairId)>,
}

impl Index {
    fn enter(&mut self, sa: &ChildSa) {
        self.owners.insert((sa.owner, sa.pair));
        self.children.insert((sa.child, sa.pair));
        self.sas.extend([(sa.sa_in, sa.pair), (sa.sa_out, sa.pair)]);
        self.peer_spis.insert((sa.line, sa.spi_out, sa.pair));
        self.successors.extend(sa.replaces.map(|old| (old, sa.pair)));
    }

    fn leave(&mut self, sa: &ChildSa) {
        self.owners.remove(&(sa.owner, sa.pair));
        self.children.remove(&(sa.child, sa.pair));
        self.sas.remove(&sa.sa_in);
        self.sas.remove(&sa.sa_out);
        self.peer_spis.remove(&(sa.line, sa.spi_out, sa.pair));
        if let Some(old) = sa.replaces {
            self.successors.remove(&(old, sa.pair));
        }
    }
}

/// Every pair there can be.
const FIRST: PairId = PairId(0);
const LAST: PairId = PairId(u64::MAX);

impl Children {
    pub(crate) fn insert(&mut self, sa: ChildSa) {
        self.index.enter(&sa);
        self.live.insert(sa.pair, sa);
    }

    /// Takes a pair out of the books.
    pub(super) fn remove(&mut self, pair: PairId) -> Option<ChildSa> {
        let sa = self.live.remove(&pair)?;
        self.index.leave(&sa);
        Some(sa)
    }

    pub(crate) fn get(&self, pair: PairId) -> Option<&ChildSa> {
        self.live.get(&pair)
    }

    /// A pair, to change where it is in its life; who it is and whose it is stays.
    pub(crate) fn get_mut(&mut self, pair: PairId) -> Option<&mut ChildSa> {
        self.live.get_mut(&pair)
    }

    /// Every IKE SA that has a pair, once for each.
    pub(crate) fn owners(&self) -> impl Iterator<Item = IkeSaId> {
        self.index.owners.iter().map(|(owner, _)| *owner)
    }

    /// The pairs of an IKE SA, oldest first.
    pub(crate) fn of(&self, owner: IkeSaId) -> impl Iterator<Item = &ChildSa> {
        let own = self.index.owners.range((owner, FIRST)..=(owner, LAST));
        own.filter_map(|(_, pair)| self.live.get(pair))
    }

    /// The pairs of a child, oldest first.
    fn of_child(&self, child: ChildId) -> impl DoubleEndedIterator<Item = &ChildSa> {
        let all = self.index.children.range((child, FIRST)..=(child, LAST));
        all.filter_map(|(_, pair)| self.live.get(pair))
    }

    /// The pairs of a child that are older than this one.
    pub(super) fn older_of(&self, child: ChildId, pair: PairId) -> Vec<PairId> {
        let older = self.index.children.range((child, FIRST)..(child, pair));
        older.map(|(_, pair)| *pair).collect()
    }

    /// The pair of a line of IKE SAs that the peer receives with `spi`.
    pub(crate) fn by_peer_spi(&self, line: IkeSaId, spi: EspSpi) -> Option<&ChildSa> {
        let mut found = self.index.peer_spis.range((line, spi, FIRST)..=(line, spi, LAST));
        self.live.get(&found.next()?.2)
    }

    pub(crate) fn by_sa(&self, id: SaId) -> Option<&ChildSa> {
        self.live.get(self.index.sas.get(&id)?)
    }

    /// The pair that carries a child, or can: the newest that is neither replaced nor deleted.
    pub(crate) fn current(&self, child: ChildId) -> Option<&ChildSa> {
        self.of_child(child).rev().find(|sa| matches!(sa.phase, Phase::Installed | Phase::Rekeying))
    }

    /// Who carries the child of a pair that ends, of what stands at both ends: its successor; or,
    /// if it is itself a successor that is not needed, what it was made to replace or another
    /// successor of that; or any pair of the child.
    pub(super) fn heir(&self, old: &ChildSa) -> Option<PairId> {
        let usable = |sa: &&ChildSa| matches!(sa.phase, Phase::Installed | Phase::Rekeying);
        let others = || {
            self.of_child(old.child)
                .rev()
                .filter(|sa| sa.pair != old.pair && sa.remote_id.same(&old.remote_id))
        };
        let successor = others().filter(usable).find(|sa| sa.replaces == Some(old.pair));
        let brother = || {
            let same = |sa: &&ChildSa| sa.replaces == old.replaces && !sa.standby;
            old.replaces.and_then(|_| others().filter(usable).find(same))
        };
        let father = || {
            let father = old.replaces.and_then(|father| self.live.get(&father));
            father.filter(|sa| !matches!(sa.phase, Phase::Deleting | Phase::Installing))
        };
        successor
            .or_else(brother)
            .or_else(father)
            .or_else(|| others().filter(usable).find(|sa| !sa.standby))
            .or_else(|| others().find(usable))
            .map(|sa| sa.pair)
    }

    /// The successor of a pair that stands, ours or the peer's.
    pub(crate) fn successor(&self, old: PairId, ours: bool) -> Option<&ChildSa> {
        let all = self.index.successors.range((old, FIRST)..=(old, LAST)).rev();
        all.filter_map(|(_, pair)| self.live.get(pair))
            .find(|sa| sa.ours == ours && matches!(sa.phase, Phase::Installed | Phase::Rekeying))
    }

    /// The pair that carries a child's traffic now.
    pub(crate) fn carrier(&self, child: ChildId) -> Option<PairId> {
        self.carriers.get(&child).copied()
    }

    /// A pair carries a child's traffic from now on; gives the one that did.
    pub(super) fn set_carrier(&mut self, child: ChildId, pair: PairId) -> Option<PairId> {
        self.carriers.insert(child, pair)
    }

    pub(super) fn no_carrier(&mut self, child: ChildId) {
        self.carriers.remove(&child);
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
        let pairs: Vec<PairId> = self.of(from).map(|sa| sa.pair).collect();
        for pair in pairs {
            self.index.owners.remove(&(from, pair));
            self.index.owners.insert((to, pair));
            if let Some(sa) = self.live.get_mut(&pair) {
                sa.owner = to;
            }
        }
    }

    /// Takes a pair that the backend refused; its SPI is the caller's.
    pub(crate) fn take_uninstalled(&mut self, pair: PairId) -> Option<EspSpi> {
        self.remove(pair).map(|sa| sa.spi_in)
    }

    /// IKE is done with a pair.
    pub(super) fn leave(&mut self, sa: ChildSa, stage: Stage) {
        if let Stage::Lingering { until } = stage {
            self.timers.insert((until, sa.pair));
        }
        self.index.former_owners.insert((sa.owner, sa.pair));
        self.index.former_children.insert((sa.child, sa.pair));
        self.leaving.insert(sa.pair, Leaving { sa, stage });
    }

    pub(super) fn leaving_mut(&mut self, pair: PairId) -> Option<&mut Leaving> {
        self.leaving.get_mut(&pair)
    }

    /// The next pair that has lingered long enough: it is to be removed now.
    pub(super) fn next_lingered(&mut self, now: Instant) -> Option<PairId> {
        while let Some((until, pair)) = self.timers.first().copied() {
            if until > now {
                return None;
            }
            self.timers.remove(&(until, pair));
            if let Some(leaving) = self.leaving.get_mut(&pair) {
                leaving.stage = Stage::Removing;
                return Some(pair);
            }
        }
        None
    }

    /// What lingers of a child and a peer of it: it is to be removed now.
    pub(super) fn end_lingering(&mut self, child: ChildId, peer: &Identity) -> Vec<PairId> {
        let mut ended = Vec::new();
        for (_, pair) in self.index.former_children.range((child, FIRST)..=(child, LAST)) {
            let Some(leaving) = self.leaving.get_mut(pair) else { continue };
            if let Stage::Lingering { until } = leaving.stage
                && leaving.sa.remote_id.same(peer)
            {
                leaving.stage = Stage::Removing;
                self.timers.remove(&(until, *pair));
                ended.push(*pair);
            }
        }
        ended
    }

    /// How many pairs of a child and of certain peers of it are leaving.
    pub(crate) fn leaving_of(&self, child: ChildId, peer: impl Fn(&Identity) -> bool) -> usize {
        let former = self.index.former_children.range((child, FIRST)..=(child, LAST));
        let pairs = former.filter_map(|(_, pair)| self.leaving.get(pair));
        pairs.filter(|leaving| peer(&leaving.sa.remote_id)).count()
    }

    /// The backend has let go of a pair.
    pub(super) fn left(&mut self, pair: PairId) -> Option<ChildSa> {
        let Leaving { sa, .. } = self.leaving.remove(&pair)?;
        self.index.former_owners.remove(&(sa.owner, pair));
        self.index.former_children.remove(&(sa.child, pair));
        Some(sa)
    }

    pub(crate) fn next_timer(&self) -> Instant {
        self.timers.first().map_or(Instant::NEVER, |(at, _)| *at)
    }

    pub(crate) fn views(&self, owner: IkeSaId) -> Vec<ChildView> {
        let live = self.of(owner).map(|sa| sa.view(sa.phase.state()));
        let former = self.index.former_owners.range((owner, FIRST)..=(owner, LAST));
        let leaving = former
            .filter_map(|(_, pair)| self.leaving.get(pair))
            .map(|leaving| leaving.sa.view(ChildState::Draining));
        live.chain(leaving).collect()
    }
}
