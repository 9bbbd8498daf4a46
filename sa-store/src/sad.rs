//! The security association database (RFC 4301 §4.4.2): what is installed, without keys.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    ChildId, Direction, Encapsulation, EspSpi, EspTransform, PairId, Path, SaId, SaRecord, TunnelId,
};

/// One SA as the control plane remembers it; the keys are with the place that runs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SadEntry {
    /// The SA.
    pub id: SaId,
    /// Its pair.
    pub pair: PairId,
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The child.
    pub child: ChildId,
    /// Inbound or outbound.
    pub direction: Direction,
    /// The SPI in its packets.
    pub spi: EspSpi,
    /// Our outer address and port.
    pub local: SocketAddr,
    /// The peer's outer address and port.
    pub remote: SocketAddr,
    /// Raw or in UDP.
    pub encapsulation: Encapsulation,
    /// What was negotiated.
    pub transform: EspTransform,
    /// Where it runs.
    pub path: Path,
    /// Outbound: whether it carries its child's traffic.
    pub active: bool,
}

impl SadEntry {
    /// What is remembered of a record that runs at `path`.
    #[must_use]
    pub fn of(record: &SaRecord, path: Path) -> Self {
        Self {
            id: record.id,
            pair: record.pair,
            tunnel: record.tunnel,
            child: record.child,
            direction: record.direction,
            spi: record.spi,
            local: record.local,
            remote: record.remote,
            encapsulation: record.encapsulation,
            transform: record.transform,
            path,
            active: false,
        }
    }
}

/// Every SA of the node, in the order of their ids.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sad {
    sas: BTreeMap<SaId, SadEntry>,
    pairs: BTreeMap<PairId, Vec<SaId>>,
    /// The outbound SA that carries each child's traffic.
    active: BTreeMap<ChildId, SaId>,
}

impl Sad {
    pub(crate) fn insert(&mut self, entry: SadEntry) {
        self.pairs.entry(entry.pair).or_default().push(entry.id);
        self.sas.insert(entry.id, entry);
    }

    pub(crate) fn remove(&mut self, sa: SaId) {
        let Some(entry) = self.sas.remove(&sa) else { return };
        if self.active.get(&entry.child) == Some(&sa) {
            self.active.remove(&entry.child);
        }
        if let Some(members) = self.pairs.get_mut(&entry.pair) {
            members.retain(|member| *member != sa);
            if members.is_empty() {
                self.pairs.remove(&entry.pair);
            }
        }
    }

    /// Makes an outbound SA the one that carries its child's traffic.
    pub(crate) fn activate(&mut self, sa: SaId) {
        let Some(entry) = self.sas.get_mut(&sa) else { return };
        entry.active = true;
        let before = self.active.insert(entry.child, sa).filter(|before| *before != sa);
        if let Some(entry) = before.and_then(|before| self.sas.get_mut(&before)) {
            entry.active = false;
        }
    }

    pub(crate) fn relocate(&mut self, sa: SaId, local: SocketAddr, remote: SocketAddr) {
        if let Some(entry) = self.sas.get_mut(&sa) {
            (entry.local, entry.remote) = (local, remote);
        }
    }

    /// One SA.
    #[must_use]
    pub fn get(&self, sa: SaId) -> Option<&SadEntry> {
        self.sas.get(&sa)
    }

    /// One direction of a pair.
    #[must_use]
    pub fn of_pair(&self, pair: PairId, direction: Direction) -> Option<&SadEntry> {
        self.pairs
            .get(&pair)?
            .iter()
            .filter_map(|sa| self.sas.get(sa))
            .find(|entry| entry.direction == direction)
    }

    /// Every SA.
    pub fn iter(&self) -> impl Iterator<Item = &SadEntry> {
        self.sas.values()
    }
}
