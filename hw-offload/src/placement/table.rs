//! Which SA is where.

use std::{collections::BTreeMap, net::IpAddr};

use sa_store::{PairId, Path, SaId, SaRecord};

use super::choice::udp_address;
use crate::{Operation, Placement};

/// An SA and where it is, or is being put.
#[derive(Debug)]
struct Placed {
    place: usize,
    pair: PairId,
    /// The local address whose UDP port it needs.
    udp: Option<IpAddr>,
    /// Whether its installation is done.
    stands: bool,
    soft_told: bool,
    hard_told: bool,
    passed_over: Vec<String>,
}

/// Which SA is where.
#[derive(Debug, Default)]
pub(super) struct Table {
    sas: BTreeMap<SaId, Placed>,
    pairs: BTreeMap<PairId, Vec<SaId>>,
    /// Owners of the UDP ports of local addresses, and how many SAs need each.
    udp: BTreeMap<IpAddr, (usize, usize)>,
}

impl Table {
    pub(super) fn insert(&mut self, record: &SaRecord, place: usize, passed_over: Vec<String>) {
        let udp = udp_address(record);
        if let Some(address) = udp {
            self.udp.entry(address).or_insert((place, 0)).1 += 1;
        }
        self.pairs.entry(record.pair).or_default().push(record.id);
        self.sas.insert(
            record.id,
            Placed {
                place,
                pair: record.pair,
                udp,
                stands: false,
                soft_told: false,
                hard_told: false,
                passed_over,
            },
        );
    }

    pub(super) fn stands(&mut self, sa: SaId) {
        if let Some(placed) = self.sas.get_mut(&sa) {
            placed.stands = true;
        }
    }

    pub(super) fn remove(&mut self, sa: SaId) {
        let Some(placed) = self.sas.remove(&sa) else { return };
        self.release_udp(placed.udp);
        if let Some(members) = self.pairs.get_mut(&placed.pair) {
            members.retain(|member| *member != sa);
            if members.is_empty() {
                self.pairs.remove(&placed.pair);
            }
        }
    }

    /// Forgets every SA that stood when all were flushed.
    pub(super) fn clear(&mut self) {
        let standing: Vec<SaId> =
            self.sas.iter().filter(|(_, placed)| placed.stands).map(|(sa, _)| *sa).collect();
        for sa in standing {
            self.remove(sa);
        }
    }

    pub(super) fn forget_pair(&mut self, pair: PairId) {
        for sa in self.pairs.get(&pair).cloned().unwrap_or_default() {
            self.remove(sa);
        }
    }

    /// Forgets what a batch that was not split to its end has placed.
    pub(super) fn forget_new(&mut self, batch: &[Operation]) {
        for operation in batch {
            if let Operation::Install(record) = operation
                && self.sas.get(&record.id).is_some_and(|placed| !placed.stands)
            {
                self.remove(record.id);
            }
        }
    }

    pub(super) fn place_of(&self, sa: SaId) -> Option<usize> {
        self.sas.get(&sa).map(|placed| placed.place)
    }

    pub(super) fn pair_of(&self, sa: SaId) -> Option<PairId> {
        self.sas.get(&sa).map(|placed| placed.pair)
    }

    fn first_of(&self, pair: PairId) -> Option<&Placed> {
        self.sas.get(self.pairs.get(&pair)?.first()?)
    }

    pub(super) fn pair_place(&self, pair: PairId) -> Option<usize> {
        self.first_of(pair).map(|placed| placed.place)
    }

    pub(super) fn pair_passed_over(&self, pair: PairId) -> Vec<String> {
        self.first_of(pair).map(|placed| placed.passed_over.clone()).unwrap_or_default()
    }

    /// The only place that may take SAs of this pair, and why no other.
    pub(super) fn bound_place(
        &self,
        pair: PairId,
        records: &[&SaRecord],
    ) -> Option<(usize, String)> {
        if let Some(place) = self.pair_place(pair) {
            return Some((place, "does not hold the other SA of the pair".into()));
        }
        records.iter().find_map(|record| {
            let address = udp_address(record)?;
            let (owner, _) = self.udp.get(&address)?;
            Some((*owner, format!("does not own the UDP port of {address}")))
        })
    }

    /// Where the SA is, if it may use this local address from there.
    pub(super) fn may_move(&self, sa: SaId, local: IpAddr) -> Result<usize, String> {
        let placed = self.sas.get(&sa).ok_or_else(|| format!("there is no SA {sa}"))?;
        match self.udp.get(&local) {
            Some((owner, _)) if placed.udp.is_some() && *owner != placed.place => {
                Err(format!("the UDP port of {local} is owned by another place"))
            }
            _ => Ok(placed.place),
        }
    }

    /// The SA has a new local address.
    pub(super) fn moved(&mut self, sa: SaId, local: IpAddr) {
        let Some(placed) = self.sas.get_mut(&sa).filter(|placed| placed.udp.is_some()) else {
            return;
        };
        let place = placed.place;
        let old = placed.udp.replace(local);
        self.udp.entry(local).or_insert((place, 0)).1 += 1;
        self.release_udp(old);
    }

    fn release_udp(&mut self, address: Option<IpAddr>) {
        let Some(address) = address else { return };
        if let Some((_, users)) = self.udp.get_mut(&address) {
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.udp.remove(&address);
            }
        }
    }

    /// Whether this is the first notice of a soft limit from the place that holds the SA.
    pub(super) fn first_soft(&mut self, sa: SaId, place: usize) -> bool {
        self.sas
            .get_mut(&sa)
            .filter(|placed| placed.place == place)
            .is_some_and(|placed| !std::mem::replace(&mut placed.soft_told, true))
    }

    /// Whether this is the first notice of the SA's end from the place that holds it.
    pub(super) fn first_hard(&mut self, sa: SaId, place: usize) -> bool {
        self.sas
            .get_mut(&sa)
            .filter(|placed| placed.place == place)
            .is_some_and(|placed| !std::mem::replace(&mut placed.hard_told, true))
    }

    pub(super) fn placement(
        &self,
        sa: SaId,
        path: impl Fn(usize) -> Option<Path>,
    ) -> Option<Placement> {
        let placed = self.sas.get(&sa)?;
        Some(Placement { path: path(placed.place)?, passed_over: placed.passed_over.clone() })
    }
}
