//! What this machine itself says of a way: the route and its interface, without what ICMP errors
//! have told the kernel.

use std::{io, net::IpAddr};

use super::netlink::{Message, Netlink, RTA_OIF, array, attributes, family};

const RTM_GETLINK: u16 = 18;
const RTM_GETROUTE: u16 = 26;
/// The route as it was configured, not what became of it for one destination.
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_METRICS: u16 = 8;
const RTA_MARK: u16 = 16;
const RTAX_MTU: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;

/// The largest packet, in octets, that the route from `local` to `remote` takes for packets with
/// `mark`: the `mtu` that an operator gave the route, or the least of the interface's.
pub(crate) fn local_mtu(
    netlink: &mut Netlink,
    (local, remote): (IpAddr, IpAddr),
    mark: u32,
) -> io::Result<usize> {
    let bits = if remote.is_ipv4() { 32 } else { 128 };
    let mut body = [0; 12];
    body[0] = family(remote.is_ipv4());
    body[1] = bits;
    let sourced = !local.is_unspecified() && local.is_ipv4() == remote.is_ipv4();
    body[2] = if sourced { bits } else { 0 };
    body[8..12].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
    let mut question =
        Message::new(RTM_GETROUTE, 0, &body).address(RTA_DST, remote).number(RTA_MARK, mark);
    if sourced {
        question = question.address(RTA_SRC, local);
    }
    let route = netlink.ask(question)?;
    let (mut interface, mut least) = (None, None);
    for (kind, data) in route.attributes(12) {
        match kind {
            RTA_OIF => interface = Some(u32::from_ne_bytes(array(data, 0))),
            RTA_METRICS => {
                least = attributes(data)
                    .find(|(metric, _)| *metric == RTAX_MTU)
                    .map(|(_, value)| u32::from_ne_bytes(array(value, 0)));
            }
            _ => {}
        }
    }
    // One with several next hops names none here; they have one MTU, as a rule.
    let interface = interface.map(|index| link_mtu(netlink, index, remote.is_ipv4()));
    let octets = match (interface, least) {
        (Some(link), least) => link?.min(least.unwrap_or(u32::MAX)),
        (None, Some(least)) => least,
        (None, None) => return Err(io::ErrorKind::NotFound.into()),
    };
    usize::try_from(octets).map_err(io::Error::other)
}

fn link_mtu(netlink: &mut Netlink, index: u32, v4: bool) -> io::Result<u32> {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let link = netlink.ask(Message::new(RTM_GETLINK, 0, &body))?;
    let (mut name, mut mtu) = (None, None);
    for (kind, data) in link.attributes(16) {
        match kind {
            IFLA_IFNAME => name = data.strip_suffix(&[0]).and_then(|n| std::str::from_utf8(n).ok()),
            IFLA_MTU => mtu = Some(u32::from_ne_bytes(array(data, 0))),
            _ => {}
        }
    }
    let mtu = mtu.ok_or(io::ErrorKind::NotFound)?;
    // What a router on the link advertised (RFC 4861 §4.6.4) is kept apart.
    let advertised = name.filter(|_| !v4).and_then(|name| {
        let path = format!("/proc/sys/net/ipv6/conf/{}/mtu", name.replace('/', "."));
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    });
    Ok(advertised.map_or(mtu, |advertised: u32| advertised.min(mtu)))
}
