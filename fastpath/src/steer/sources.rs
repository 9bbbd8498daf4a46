//! Routes that give this machine's own packets a source address inside the local selectors.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use super::{
    LAST_RESORT,
    addresses::{LocalAddress, is_link_local},
    netlink::{Message, Netlink, Route, RouteKind},
};
use crate::policy::{Rule, Span};

/// Errors that say: there is no such route, and so nothing to delete.
const GONE: [i32; 3] = [libc::ESRCH, libc::ENOENT, libc::ENODEV];

/// The table of those routes, as it stands in the system.
#[derive(Debug)]
pub(super) struct Sources {
    table: u32,
    standing: BTreeSet<Route>,
    missing: Option<String>,
}

impl Sources {
    /// With what a process before left in the table.
    pub(super) fn take_over(table: u32, netlink: &mut Netlink) -> io::Result<Self> {
        let standing = netlink.routes(table)?.into_iter().collect();
        Ok(Self { table, standing, missing: None })
    }

    /// Adds what is not there. A route that the kernel does not take must keep nobody from being
    /// protected; [`Self::missing`] tells of it.
    pub(super) fn add(
        &mut self,
        wanted: &BTreeSet<Route>,
        netlink: &mut Netlink,
    ) -> io::Result<()> {
        let new: Vec<Route> = wanted.difference(&self.standing).copied().collect();
        let failed = netlink.request_each(new.iter().map(Message::add_route))?;
        // Adding a route replaced the one with the same destination and metric.
        let places: BTreeSet<_> = wanted.iter().map(Route::place).collect();
        self.standing.retain(|old| wanted.contains(old) || !places.contains(&old.place()));
        self.standing.extend(new.iter().copied());
        self.forget(&new, &failed);
        Ok(())
    }

    /// Deletes what is not wanted.
    pub(super) fn delete(
        &mut self,
        wanted: &BTreeSet<Route>,
        netlink: &mut Netlink,
    ) -> io::Result<()> {
        let delete: Vec<Message> =
            self.standing.difference(wanted).map(Message::delete_route).collect();
        netlink.request_all(delete, &GONE)?;
        self.standing.retain(|route| wanted.contains(route));
        Ok(())
    }

    /// Puts back what somebody took out.
    pub(super) fn restore(&mut self, netlink: &mut Netlink) -> io::Result<()> {
        let wanted: Vec<Route> = self.standing.iter().copied().collect();
        // Restoring what is there tells nobody, so that this does not wake itself again.
        let mut failed = netlink.request_each(wanted.iter().map(Message::restore_route))?;
        failed.retain(|(_, error)| error.raw_os_error() != Some(libc::EEXIST));
        if !failed.is_empty() {
            self.forget(&wanted, &failed);
        }
        Ok(())
    }

    /// Notes which of `tried` do not stand.
    fn forget(&mut self, tried: &[Route], failed: &[(usize, io::Error)]) {
        self.missing = failed.first().map(|(_, error)| {
            format!(
                "{} routes that give this machine's own traffic a source address are missing \
                 ({error})",
                failed.len()
            )
        });
        for route in failed.iter().filter_map(|(number, _)| tried.get(*number)) {
            self.standing.remove(route);
        }
    }

    /// What the kernel did not take, in words.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// The routes that `rules` want: through the TUN interface `interface`.
    pub(super) fn wanted(
        &self,
        rules: &[Rule],
        addresses: &[LocalAddress],
        interface: u32,
    ) -> BTreeSet<Route> {
        let mut by_destination: BTreeMap<(IpAddr, u8), Way> = BTreeMap::new();
        for rule in rules {
            let caught = rule.verdict.is_caught();
            if !caught && !rule.is_wide() {
                continue;
            }
            let Some(way) = Way::of(rule, addresses) else { continue };
            for prefix in rule.remote.prefixes(rule.v4) {
                // The first rule counts, as everywhere.
                by_destination.entry(prefix).or_insert(if caught { way } else { Way::Clear });
            }
        }
        by_destination
            .into_iter()
            .flat_map(|(destination, way)| way.routes(self.table, destination, interface))
            .collect()
    }
}

/// Rules are looked through one by one for every packet: no more addresses than this are exempt.
const MOST_EXEMPT: usize = 64;

/// Own addresses whose packets no selector can cover, and which must not meet the routes of the
/// table: behind the TUN interface those of IPv6 lead nowhere, whatever the source is. (Those of
/// IPv4 lead to loopback, where the packets are let go; see the rules of `super::nft`.)
pub(super) fn exempt(rules: &[Rule], addresses: &[LocalAddress]) -> BTreeSet<IpAddr> {
    let caught = || rules.iter().filter(|rule| !rule.v4 && rule.verdict.is_caught());
    if !caught().any(|rule| Way::of(rule, addresses).is_some()) {
        return BTreeSet::new();
    }
    let covered = Span::union(caught().map(|rule| rule.local).collect());
    addresses
        .iter()
        .map(|own| own.address)
        .filter(|own| own.is_ipv6() && !is_link_local(*own))
        .filter(|own| !covered.iter().any(|span| span.contains(Span::bits(*own))))
        .take(MOST_EXEMPT)
        .collect()
}

/// What becomes of this machine's own packets to some destination.
#[derive(Clone, Copy)]
enum Way {
    /// The next rule decides.
    Clear,
    /// Through the TUN interface, with this source.
    From(IpAddr),
    /// Nowhere, until the source is ready.
    Closed,
}

impl Way {
    /// `None` where this machine has no address inside the local side.
    fn of(rule: &Rule, addresses: &[LocalAddress]) -> Option<Self> {
        let inside = || {
            addresses.iter().filter(|own| {
                own.address.is_ipv4() == rule.v4
                    && !is_link_local(own.address)
                    && rule.local.contains(Span::bits(own.address))
            })
        };
        match inside().find(|own| own.ready) {
            Some(own) => Some(Self::From(own.address)),
            None => inside().next().map(|_| Self::Closed),
        }
    }

    fn routes(self, table: u32, destination: (IpAddr, u8), interface: u32) -> Vec<Route> {
        let route = |metric, kind, source| Route { destination, table, metric, kind, source };
        let closed = route(LAST_RESORT, RouteKind::Unreachable, None);
        match self {
            Self::Clear => vec![route(1, RouteKind::Throw, None)],
            Self::Closed => vec![closed],
            // Behind the route through the TUN interface one that gives the same source address
            // when that interface is gone, so that own packets still match the selectors and
            // meet `unreachable` instead of leaving in clear.
            Self::From(source) => vec![
                route(1, RouteKind::Device(interface), Some(source)),
                if source.is_ipv4() {
                    // Index 1 is loopback in every network namespace.
                    route(LAST_RESORT, RouteKind::Device(1), Some(source))
                } else {
                    // IPv6 has no unicast routes through loopback.
                    closed
                },
            ],
        }
    }
}
