//! The addresses of this machine, and the networks that they make reachable.

use std::{collections::BTreeSet, io, net::IpAddr};

use sa_store::Prefix;

use super::netlink::Netlink;
use crate::policy::Connected;

/// An address of this machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The network it makes reachable.
    pub network: Prefix,
    /// Index of the interface that has it.
    pub interface: u32,
    /// Whether it does: an interface that is down keeps its IPv4 addresses, but what goes to
    /// their networks takes another way then.
    pub connects: bool,
    /// Whether packets can have it as their source: not while it is looked for duplicates, nor
    /// after one was found (RFC 4862 §5.4).
    pub ready: bool,
}

/// Every address of this machine but 127.0.0.1 and the like, and those of the interface `but`.
pub(super) fn list(netlink: &mut Netlink, but: u32) -> io::Result<Vec<LocalAddress>> {
    let interfaces = pnet_datalink::interfaces();
    let up: BTreeSet<u32> =
        interfaces.iter().filter(|interface| interface.is_up()).map(|up| up.index).collect();
    let mut all: Vec<LocalAddress> = netlink
        .addresses()?
        .into_iter()
        .filter(|found| found.interface != but && !found.address.is_loopback())
        .filter_map(|found| {
            let (on_link, length) = found.network;
            let network = Prefix::of(on_link, length)?;
            let (address, interface, ready) = (found.address, found.interface, found.ready);
            let connects = up.contains(&interface);
            Some(LocalAddress { address, network, interface, connects, ready })
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

pub(super) const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The networks that are reachable without a router, but for those of the interfaces `but`.
pub(crate) fn connected(addresses: &[LocalAddress], but: &BTreeSet<u32>) -> Vec<Connected> {
    let mut all: Vec<Connected> = addresses
        .iter()
        .filter(|own| own.connects && !but.contains(&own.interface))
        .map(|own| Connected { network: own.network, interface: own.interface })
        .filter(|Connected { network, .. }| {
            let width = if network.first().is_ipv4() { 32 } else { 128 };
            network.length() < width && !is_link_local(network.first())
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}
