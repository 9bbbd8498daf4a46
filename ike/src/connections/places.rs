//! Tunnels by where their peers may come from. What a datagram is held against grows with the
//! number of prefix lengths and of lists of proposals, not with the number of tunnels.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::{
    cmp::Reverse,
    iter,
    net::{IpAddr, Ipv4Addr},
};

use sa_store::{Prefix, TunnelId};

use super::{FIRST, LAST, is_open, rank_of};
use crate::config::{Connection, Endpoints, IkeProposal, RemoteMatch};

/// A list of proposals: tunnels that propose the same share a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ListId(u32);

/// A list of proposals, and how many tunnels have it.
#[derive(Debug)]
struct List {
    id: ListId,
    tunnels: usize,
}

/// Where a peer comes from and to which of our addresses: all of a `Way` but the tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    /// How exact the peer's address is, the most exact first.
    rank: Reverse<u8>,
    network: IpAddr,
    /// Our address; `None` is any.
    local: Option<IpAddr>,
    /// Whether several identities are accepted there.
    open: bool,
}

/// One way from addresses to a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Way {
    place: Place,
    list: ListId,
    tunnel: TunnelId,
}

/// The network of [`RemoteMatch::Any`], and the first of all.
const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Places {
    ways: BTreeSet<Way>,
    lists: BTreeMap<Vec<IkeProposal>, List>,
    /// Numbers of lists that have been given out.
    numbers: u32,
}

impl Places {
    pub(super) fn insert(&mut self, connection: &Connection) {
        let numbers = &mut self.numbers;
        let list = self.lists.entry(connection.proposals.clone()).or_insert_with(|| {
            *numbers = numbers.wrapping_add(1);
            List { id: ListId(*numbers), tunnels: 0 }
        });
        list.tunnels += 1;
        let id = list.id;
        self.ways.extend(ways(connection, id));
    }

    pub(super) fn remove(&mut self, connection: &Connection) {
        let Some(list) = self.lists.get_mut(&connection.proposals) else { return };
        list.tunnels = list.tunnels.saturating_sub(1);
        for way in ways(connection, list.id) {
            self.ways.remove(&way);
        }
        if list.tunnels == 0 {
            self.lists.remove(&connection.proposals);
        }
    }

    /// The tunnels whose addresses fit, the most exact first; one that fits in several ways
    /// comes several times.
    pub(super) fn fitting(&self, path: Endpoints) -> impl Iterator<Item = TunnelId> + '_ {
        self.places(path).flat_map(|place| self.at(place)).map(|way| way.tunnel)
    }

    /// As [`Self::fitting`], those alone that accept several identities, each with how exact the
    /// address is.
    pub(super) fn open(&self, path: Endpoints) -> impl Iterator<Item = (u8, TunnelId)> + '_ {
        let places = self.places(path).filter(|place| place.open);
        places.flat_map(|place| self.at(place)).map(|way| (way.place.rank.0, way.tunnel))
    }

    /// As [`Self::fitting`], one tunnel for each list of proposals.
    pub(super) fn lists(&self, path: Endpoints) -> impl Iterator<Item = TunnelId> + '_ {
        let mut seen = BTreeSet::new();
        self.ranks().flat_map(move |rank| {
            let places = self.places_of(path, rank);
            let mut ways: Vec<Way> = places.flat_map(|place| self.lists_at(place)).collect();
            ways.sort_unstable_by_key(|way| way.tunnel);
            ways.retain(|way| seen.insert(way.list));
            ways.into_iter().map(|way| way.tunnel)
        })
    }

    /// How exact the addresses are that there are, the most exact first.
    fn ranks(&self) -> impl Iterator<Item = u8> + '_ {
        let next = |from: u8| {
            let place =
                Place { rank: Reverse(from), network: EVERYWHERE, local: None, open: false };
            self.ways.range(first(place)..).next().map(|way| way.place.rank.0)
        };
        iter::successors(next(u8::MAX), move |rank| next(rank.checked_sub(1)?))
    }

    fn places(&self, path: Endpoints) -> impl Iterator<Item = Place> + '_ {
        self.ranks().flat_map(move |rank| self.places_of(path, rank))
    }

    fn places_of(&self, path: Endpoints, rank: u8) -> impl Iterator<Item = Place> + use<> {
        let network = match rank.checked_sub(1) {
            None => Some(EVERYWHERE),
            Some(length) => Prefix::of(path.remote.ip(), length).map(|prefix| prefix.first()),
        };
        let local = [Some(path.local.ip()), None].into_iter();
        let ours = local.flat_map(|local| [false, true].map(|open| (local, open)));
        network.into_iter().flat_map(move |network| {
            let place = move |(local, open)| Place { rank: Reverse(rank), network, local, open };
            ours.clone().map(place)
        })
    }

    fn at(&self, place: Place) -> impl Iterator<Item = &Way> {
        self.ways.range(first(place)..=Way { place, list: ListId(u32::MAX), tunnel: LAST })
    }

    /// The first tunnel of each list.
    fn lists_at(&self, place: Place) -> impl Iterator<Item = Way> + '_ {
        let next = move |from: u32| {
            let mut ways = self.ways.range(Way { list: ListId(from), ..first(place) }..);
            ways.next().copied().filter(|way| way.place == place)
        };
        iter::successors(next(0), move |way| next(way.list.0.checked_add(1)?))
    }
}

/// The first way that there can be at a place.
const fn first(place: Place) -> Way {
    Way { place, list: ListId(0), tunnel: FIRST }
}

/// Every way to a tunnel.
fn ways(connection: &Connection, list: ListId) -> impl Iterator<Item = Way> + '_ {
    let (tunnel, open) = (connection.tunnel, is_open(&connection.remote_id));
    let any = connection.local.is_empty().then_some(None);
    let local = connection.local.iter().copied().map(Some).chain(any);
    connection.remote.iter().flat_map(move |remote| {
        let network = match remote {
            RemoteMatch::Any => EVERYWHERE,
            RemoteMatch::Prefix(prefix) => prefix.first(),
        };
        let rank = Reverse(rank_of(*remote));
        local.clone().map(move |local| Way {
            place: Place { rank, network, local, open },
            list,
            tunnel,
        })
    })
}
