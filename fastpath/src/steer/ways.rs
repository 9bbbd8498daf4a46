//! Which interfaces lead out: to the peers, and to the Internet.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::netlink::Netlink;

/// Addresses far away, in both halves of each family: the way to them is the way to a peer that
/// may call from anywhere. No packet is sent there.
const FAR: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(8, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(200, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 1)),
];

/// The interfaces that packets of our sockets, which have `mark`, leave by.
pub(super) fn outer(
    netlink: &mut Netlink,
    mark: u32,
    peers: &[IpAddr],
) -> io::Result<BTreeSet<u32>> {
    let all: BTreeSet<IpAddr> = peers.iter().chain(&FAR).copied().collect();
    let mut outer = BTreeSet::new();
    for address in all {
        outer.extend(netlink.way_to(address, mark)?);
    }
    Ok(outer)
}
