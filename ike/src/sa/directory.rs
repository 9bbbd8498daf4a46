//! Which IKE SA a message belongs to, and which IKE SAs of a tunnel are up.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::SocketAddr;

use sa_store::{IkeSpi, Instant, TunnelId};

use crate::view::IkeSaId;

/// Indexes over all IKE SAs of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    by_spi: BTreeMap<IkeSpi, IkeSaId>,
    half_open: BTreeSet<(SocketAddr, IkeSpi, IkeSaId)>,
    established: BTreeMap<IkeSaId, Entry>,
    tunnels: BTreeSet<(TunnelId, IkeSaId)>,
    /// The established ones that began with an IKE_SA_INIT of the peer, by its `SPIi`.
    begun_by_peers: BTreeSet<(IkeSpi, IkeSaId)>,
}

/// An established IKE SA as others need to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) tunnel: TunnelId,
    /// `SPIi` of the IKE_SA_INIT that all began with: both ends name the line of rekeys by it.
    pub(crate) origin: IkeSpi,
    /// Whether that IKE_SA_INIT was ours.
    pub(crate) ours: bool,
    /// The line of rekeys itself, see [`super::established::Peer::line`].
    pub(crate) line: IkeSaId,
    pub(crate) since: Instant,
    /// In use: not replaced, not being deleted, not waiting for the outcome of a collision.
    pub(crate) active: bool,
}

impl Directory {
    /// The IKE SA with this SPI of ours.
    pub(crate) fn find(&self, own_spi: IkeSpi) -> Option<IkeSaId> {
        self.by_spi.get(&own_spi).copied()
    }

    pub(crate) fn add_spi(&mut self, own_spi: IkeSpi, ike: IkeSaId) {
        self.by_spi.insert(own_spi, ike);
    }

    pub(crate) fn remove_spi(&mut self, own_spi: IkeSpi) {
        self.by_spi.remove(&own_spi);
    }

    /// The half-open IKE SAs that IKE_SA_INIT requests with this SPI began, oldest first. More
    /// than one: somebody else chose the same SPI, or altered what the peer sent.
    pub(crate) fn half_open(
        &self,
        from: SocketAddr,
        spi_i: IkeSpi,
    ) -> impl Iterator<Item = IkeSaId> + '_ {
        let (first, last) = (IkeSaId(0), IkeSaId(u64::MAX));
        self.half_open.range((from, spi_i, first)..=(from, spi_i, last)).map(|(.., ike)| *ike)
    }

    pub(crate) fn add_half_open(&mut self, from: SocketAddr, spi_i: IkeSpi, ike: IkeSaId) {
        self.half_open.insert((from, spi_i, ike));
    }

    pub(crate) fn remove_half_open(&mut self, from: SocketAddr, spi_i: IkeSpi, ike: IkeSaId) {
        self.half_open.remove(&(from, spi_i, ike));
    }

    pub(crate) fn enter(&mut self, ike: IkeSaId, entry: Entry) {
        self.tunnels.insert((entry.tunnel, ike));
        if !entry.ours {
            self.begun_by_peers.insert((entry.origin, ike));
        }
        self.established.insert(ike, entry);
    }

    pub(crate) fn leave(&mut self, ike: IkeSaId) {
        if let Some(entry) = self.established.remove(&ike) {
            self.tunnels.remove(&(entry.tunnel, ike));
            self.begun_by_peers.remove(&(entry.origin, ike));
        }
    }

    /// The established IKE SAs that began with an IKE_SA_INIT of a peer with this `SPIi`.
    pub(crate) fn begun_by_peers(&self, spi_i: IkeSpi) -> impl Iterator<Item = IkeSaId> + '_ {
        let (first, last) = (IkeSaId(0), IkeSaId(u64::MAX));
        self.begun_by_peers.range((spi_i, first)..=(spi_i, last)).map(|(_, ike)| *ike)
    }

    /// Forgets the SPIs of all IKE SAs that are not there; gives these, and those that are
    /// [entered](Self::enter) still.
    pub(crate) fn forget_all_but(&mut self, there: impl Fn(IkeSaId) -> bool) -> BTreeSet<IkeSaId> {
        let half_open = self.half_open.iter().map(|(.., ike)| ike);
        let known = self.by_spi.values().chain(half_open);
        let all = known.chain(self.established.keys()).copied();
        let lost: BTreeSet<IkeSaId> = all.filter(|ike| !there(*ike)).collect();
        self.by_spi.retain(|_, ike| !lost.contains(ike));
        self.half_open.retain(|(.., ike)| !lost.contains(ike));
        lost
    }

    pub(crate) fn set_active(&mut self, ike: IkeSaId, active: bool) {
        if let Some(entry) = self.established.get_mut(&ike) {
            entry.active = active;
        }
    }

    pub(crate) fn entry(&self, ike: IkeSaId) -> Option<Entry> {
        self.established.get(&ike).copied()
    }

    /// The IKE SAs of a tunnel that are in use, oldest first.
    pub(crate) fn active(&self, tunnel: TunnelId) -> impl Iterator<Item = (IkeSaId, Entry)> + '_ {
        self.of_tunnel(tunnel)
            .filter_map(|ike| Some((ike, self.entry(ike).filter(|entry| entry.active)?)))
    }

    /// How many IKE SAs of a line are not in use (any more), but still there.
    pub(crate) fn leftover(&self, tunnel: TunnelId, line: IkeSaId) -> usize {
        let entries = self.of_tunnel(tunnel).filter_map(|ike| self.entry(ike));
        entries.filter(|entry| entry.line == line && !entry.active).count()
    }

    /// Every established IKE SA of a tunnel, also those that are on their way out.
    pub(crate) fn of_tunnel(&self, tunnel: TunnelId) -> impl Iterator<Item = IkeSaId> + '_ {
        let (first, last) = ((tunnel, IkeSaId(0)), (tunnel, IkeSaId(u64::MAX)));
        self.tunnels.range(first..=last).map(|(_, ike)| *ike)
    }
}
