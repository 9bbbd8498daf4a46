//! What fits the path to a peer.
//!
//! The route and its interface say how much leaves this machine; a router on the way says, with
//! an ICMP error, that it has room for less. The kernel's own table of such errors is not asked:
//! it believes everybody who knows two addresses, for ten minutes (RFC 8201 §6 has the attack).
//! An error counts here when it quotes a packet that one of our SAs sent in the last two seconds,
//! which only those can do who saw it. What it says is held for a short time, after which full
//! packets go out again and the router, if there is one, says so again.

use std::{
    collections::{BTreeMap, btree_map},
    net::IpAddr,
};

use crate::{
    packet::IPV6_LEAST,
    steer::{netlink::Netlink, path::local_mtu},
    tables::Outbound,
};

/// Taken where the kernel has no answer (no route yet).
const USUAL: usize = 1500;
/// The least that is made of an interface or a route of IPv4: every ESP packet has some room in it.
/// Below, packets are cut.
const LEAST_V4: usize = 552;
/// How long an error is believed; nanoseconds.
const BELIEVED: u64 = 20_000_000_000;

/// What fits a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PathMtu {
    /// Octets of an outer packet.
    pub mtu: usize,
    /// The path may have room for less: packets must not have DF.
    pub cut: bool,
}

/// From us to a peer.
type Path = (IpAddr, IpAddr);

/// What a router said.
#[derive(Clone, Copy, Debug)]
struct Said {
    mtu: usize,
    /// Nanoseconds of the data plane's clock.
    until: u64,
}

/// What is known of all paths.
#[derive(Debug)]
pub(super) struct Paths {
    /// `None` where there is no socket: every path is taken for a usual one.
    netlink: Option<Netlink>,
    mark: u32,
    floor: usize,
    /// What routes and interfaces say, asked once for all SAs with one path.
    local: BTreeMap<Path, usize>,
    /// By routers; only for paths of SAs.
    said: BTreeMap<Path, Said>,
}

impl Paths {
    pub(super) fn new(mark: u32, floor: usize) -> Self {
        let netlink = Netlink::open()
            .inspect_err(|error| {
                tracing::warn!(%error, "no path MTU can be asked for; every path is taken for 1500");
            })
            .ok();
        Self { netlink, mark, floor, local: BTreeMap::new(), said: BTreeMap::new() }
    }

    /// The path of an SA, asking the kernel only if nobody has since the last change.
    pub(super) fn of(&mut self, outbound: &Outbound) -> PathMtu {
        let path = path(outbound);
        let local = match self.local.entry(path) {
            btree_map::Entry::Occupied(known) => *known.get(),
            btree_map::Entry::Vacant(unknown) => {
                let asked = self.netlink.as_mut().map(|n| local_mtu(n, path, self.mark));
                match asked {
                    Some(Ok(mtu)) => *unknown.insert(mtu),
                    // It is asked again.
                    Some(Err(_)) | None => USUAL,
                }
            }
        };
        let said = self.said.get(&path).map(|said| said.mtu);
        combined(local, said, floor(self.floor, path.1))
    }

    /// Takes what a router said of the path of `outbound`; whether that is news.
    pub(super) fn learn(&mut self, outbound: &Outbound, mtu: usize, now: u64) -> bool {
        let before = self.of(outbound);
        let path = path(outbound);
        let least = self.said.get(&path).map_or(mtu, |said| said.mtu.min(mtu));
        self.said.insert(path, Said { mtu: least, until: now.saturating_add(BELIEVED) });
        let after = self.of(outbound);
        if after != before {
            tracing::info!(
                peer = %path.1, mtu = after.mtu, claimed = mtu,
                "a router has less room than its neighbour for packets to a peer"
            );
        }
        after != before
    }

    /// Forgets what routes and interfaces said.
    pub(super) fn ask_again(&mut self) {
        self.local.clear();
    }

    /// Forgets what routers said too long ago; whether there was any.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        let before = self.said.len();
        self.said.retain(|_, said| now < said.until);
        self.said.len() != before
    }
}

fn path(outbound: &Outbound) -> Path {
    (outbound.local.ip(), outbound.remote.ip())
}

fn floor(configured: usize, remote: IpAddr) -> usize {
    if remote.is_ipv4() { configured } else { configured.max(IPV6_LEAST) }
}

fn combined(local: usize, said: Option<usize>, floor: usize) -> PathMtu {
    let least = LEAST_V4.min(floor);
    let own = PathMtu { mtu: local.max(least), cut: local < least };
    match said {
        // What comes from the wire makes packets no smaller than the floor.
        Some(said) if said < own.mtu => {
            PathMtu { mtu: said.max(floor).min(own.mtu), cut: own.cut || said < floor }
        }
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_make_packets_smaller_down_to_the_floor_and_never_larger() {
        for (local, said, floor, mtu, cut) in [
            (1500, None, 1280, 1500, false),
            (1500, Some(1400), 1280, 1400, false),
            (1500, Some(1280), 1280, 1280, false),
            (1500, Some(1279), 1280, 1280, true),
            (1500, Some(0), 1280, 1280, true),
            (1500, Some(9000), 1280, 1500, false),
            (1500, Some(600), 576, 600, false),
            // An interface with less than the floor.
            (1000, Some(900), 1280, 1000, true),
            (1000, None, 1280, 1000, false),
            (552, None, 1280, 552, false),
            (300, None, 1280, 552, true),
        ] {
            let case = (local, said, floor);
            assert_eq!(combined(local, said, floor), PathMtu { mtu, cut }, "{case:?}");
        }
    }

    #[test]
    fn no_floor_is_below_what_every_path_of_ipv6_has() {
        assert_eq!(floor(576, [192, 0, 2, 1].into()), 576);
        assert_eq!(floor(576, [1; 16].into()), 1280);
        assert_eq!(floor(1400, [1; 16].into()), 1400);
    }
}
