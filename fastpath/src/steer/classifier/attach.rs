//! Where programs are attached: the two hooks of `clsact` of an interface.
//!
//! A filter belongs to its interface, not to who made it. A new one with the same handle takes the
//! place of the old one at once.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use super::{
    super::netlink::{Message, Netlink, array},
    program::Way,
};

const RTM_GETLINK: u16 = 18;
const RTM_NEWQDISC: u16 = 36;
pub(in crate::steer) const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
pub(in crate::steer) const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const ACK: u16 = 0x4;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFF_LOOPBACK: u32 = 0x8;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// What the program returns is what happens.
const DIRECT: u32 = 1;

/// `ffff:`, which `clsact` and `ingress` share.
const HANDLE: u32 = 0xffff_0000;
const PARENT: u32 = 0xffff_fff1;
/// Preference 1, before all others, and every protocol.
const INFO: u32 = 1 << 16 | (3_u16.to_be() as u32);
/// By this handle our filters are found again.
const OURS: u32 = 0x0050_4f53;

/// Errors that say: there is no such filter, or no such interface any more.
const GONE: [i32; 3] = [libc::ENOENT, libc::ENODEV, libc::EINVAL];

/// An interface.
#[derive(Clone, Debug)]
pub(in crate::steer) struct Link {
    pub index: u32,
    pub name: String,
    loopback: bool,
    kind: String,
    /// What it is a part of.
    part_of: String,
}

impl Link {
    /// Whether routed packets leave through it. What a bridge passes on between its ports is not
    /// routed, and the packets of ifb and vrf come through another interface as well.
    fn is_way_out(&self) -> bool {
        !self.loopback && !self.is_port() && !matches!(self.kind.as_str(), "ifb" | "vrf")
    }

    /// Whether it is a port of a bridge, or one of several below an interface that has been asked.
    fn is_port(&self) -> bool {
        matches!(self.part_of.as_str(), "bridge" | "openvswitch" | "bond" | "team")
    }
}

fn text(data: &[u8]) -> String {
    let end = data.iter().position(|octet| *octet == 0).unwrap_or(data.len());
    String::from_utf8_lossy(data.get(..end).unwrap_or(&[])).into_owned()
}

/// Every interface.
pub(in crate::steer) fn links(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let replies = netlink.dump(RTM_GETLINK, &[0; 16])?;
    let link = |reply: &super::super::netlink::Reply| {
        let mut link = Link {
            index: u32::from_ne_bytes(array(&reply.body, 4)),
            name: String::new(),
            loopback: u32::from_ne_bytes(array(&reply.body, 8)) & IFF_LOOPBACK != 0,
            kind: String::new(),
            part_of: String::new(),
        };
        for (kind, data) in reply.attributes(16) {
            match kind {
                IFLA_IFNAME => link.name = text(data),
                IFLA_LINKINFO => {
                    for (kind, data) in super::super::netlink::attributes(data) {
                        match kind {
                            IFLA_INFO_KIND => link.kind = text(data),
                            IFLA_INFO_SLAVE_KIND => link.part_of = text(data),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    };
    Ok(replies.iter().map(link).collect())
}

/// The interfaces that packets leave through, but for `tun`.
pub(super) fn ways_out(netlink: &mut Netlink, tun: u32) -> io::Result<Vec<Link>> {
    let mut all = links(netlink)?;
    all.retain(|link| link.is_way_out() && link.index != tun);
    Ok(all)
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut header = [0; 20];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        if let Some(place) = header.get_mut(at..at + 4) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }
    header
}

const fn parent(way: Way) -> u32 {
    match way {
        Way::In => 0xffff_fff2,
        Way::Out => 0xffff_fff3,
    }
}

/// What stands at `ffff:` of every interface: `clsact`, or `ingress` of somebody else.
pub(super) fn hooks(netlink: &mut Netlink) -> io::Result<BTreeMap<u32, String>> {
    let replies = netlink.dump(RTM_GETQDISC, &[0; 20])?;
    let of = |reply: &super::super::netlink::Reply| {
        let ours = u32::from_ne_bytes(array(&reply.body, 8)) == HANDLE;
        let kind = reply.attributes(20).find(|(kind, _)| *kind == TCA_KIND);
        let index = u32::from_ne_bytes(array(&reply.body, 4));
        kind.filter(|_| ours).map(|(_, data)| (index, text(data)))
    };
    Ok(replies.iter().filter_map(of).collect())
}

/// Makes the hooks of an interface.
pub(super) fn hook(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let body = header(index, HANDLE, PARENT, 0);
    let message = Message::new(RTM_NEWQDISC, CREATE | EXCL | ACK, &body);
    match netlink.request(message.attribute(TCA_KIND, b"clsact\0")) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Attaches a program to a hook, in the place of one that is there.
pub(super) fn attach(
    netlink: &mut Netlink,
    index: u32,
    way: Way,
    program: &OwnedFd,
) -> io::Result<()> {
    let options = [
        (TCA_BPF_FD, program.as_raw_fd().to_ne_bytes().to_vec()),
        (TCA_BPF_NAME, b"postern\0".to_vec()),
        (TCA_BPF_FLAGS, DIRECT.to_ne_bytes().to_vec()),
    ];
    // All values are multiples of four octets long.
    let nested: Vec<u8> = options
        .iter()
        .flat_map(|(kind, value)| {
            let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
            [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        })
        .collect();
    let body = header(index, OURS, parent(way), INFO);
    let message = Message::new(RTM_NEWTFILTER, CREATE | ACK, &body)
        .attribute(TCA_KIND, b"bpf\0")
        .attribute(TCA_OPTIONS, &nested);
    netlink.request(message)
}

/// Takes our filters from an interface, and its hooks when nobody else uses them.
fn detach(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut empty = true;
    for way in [Way::Out, Way::In] {
        let body = header(index, OURS, parent(way), INFO);
        let message = Message::new(RTM_DELTFILTER, ACK, &body).attribute(TCA_KIND, b"bpf\0");
        netlink.request_all([message], &GONE)?;
        let body = header(index, 0, parent(way), 0);
        empty &= match netlink.dump(RTM_GETTFILTER, &body) {
            Ok(left) => left.is_empty(),
            Err(_) => false,
        };
    }
    if empty {
        let body = header(index, HANDLE, PARENT, 0);
        netlink.request_all([Message::new(RTM_DELQDISC, ACK, &body)], &GONE)?;
    }
    Ok(())
}

/// Takes our filters from every interface.
pub(super) fn detach_all(netlink: &mut Netlink) -> io::Result<()> {
    for (index, kind) in hooks(netlink)? {
        if kind == "clsact" {
            detach(netlink, index)?;
        }
    }
    Ok(())
}

/// Whether a message may tell that a filter of ours went: one by its handle, all of a preference
/// without any, or the hooks of an interface.
pub(in crate::steer) fn is_about_ours(body: &[u8]) -> bool {
    matches!(u32::from_ne_bytes(array(body, 8)), 0 | OURS | HANDLE)
}
