//! What others change in the system around us.

use std::{io, os::fd::OwnedFd};

use rustix::net::RecvFlags;

use super::{
    classifier::{RTM_DELQDISC, RTM_DELTFILTER, is_about_ours},
    netlink::{
        NFPROTO_INET, RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR,
        RTM_NEWLINK, RTM_NEWROUTE, Reply, array, open_filter_socket, open_socket, replies,
    },
};

/// `NFNL_SUBSYS_NFTABLES << 8`, and in it `NFT_MSG_NEWGEN`, which ends a transaction.
const NFTABLES: u16 = 10 << 8;
const NEW_GENERATION: u16 = NFTABLES | 15;
/// The name of the table is the first attribute of whatever is in one.
const NFTA_TABLE_NAME: u16 = 1;
const IFF_UP: u32 = 1;

/// What others did to the system, as far as steering is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Changes {
    /// Addresses or interfaces changed.
    pub addresses: bool,
    /// Routes or rules were deleted, perhaps ours, or our interface changed.
    pub routes: bool,
    /// Routes of others came or went: ways may lead elsewhere.
    pub ways: bool,
    /// Our interface was taken down.
    pub down: bool,
    /// Somebody touched our nftables table, or may have.
    pub table: bool,
    /// Filters of ours were taken from an interface, or may have been.
    pub filters: bool,
}

impl Changes {
    const EVERYTHING: Self =
        Self { addresses: true, routes: true, ways: true, down: true, table: true, filters: true };
}

/// Sockets that become readable when the system changes around us: addresses come and go, a
/// network manager removes rules it does not know, somebody flushes nftables.
#[derive(Debug)]
pub(crate) struct Watch {
    route: OwnedFd,
    filter: OwnedFd,
    /// Index of the TUN interface.
    interface: u32,
    nft_table: String,
}

impl Watch {
    pub(crate) fn open(interface: u32, nft_table: &str) -> io::Result<Self> {
        use rustix::net::netlink::SocketAddrNetlink;
        let route = open_socket()?;
        // RTMGRP_LINK, _TC, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE and the
        // group RTNLGRP_IPV6_RULE (19).
        let groups = 0x1 | 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;
        rustix::net::bind(&route, &SocketAddrNetlink::new(0, groups))?;
        let filter = open_filter_socket()?;
        // NFNLGRP_NFTABLES (7).
        rustix::net::bind(&filter, &SocketAddrNetlink::new(0, 1 << 6))?;
        for socket in [&route, &filter] {
            // Thousands of selectors are thousands of messages about our own routes.
            rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, 4 << 20)?;
            rustix::fs::fcntl_setfl(socket, rustix::fs::OFlags::NONBLOCK)?;
        }
        Ok(Self { route, filter, interface, nft_table: nft_table.to_owned() })
    }

    /// What to wait for.
    pub(crate) const fn fds(&self) -> [&OwnedFd; 2] {
        [&self.route, &self.filter]
    }

    /// Reads what happened; lost messages (`ENOBUFS`) count as everything.
    pub(crate) fn take(&self) -> Changes {
        let mut changes = Changes::default();
        let mut buffer = vec![0; 1 << 16];
        while let Some(replies) = drain(&self.route, &mut buffer) {
            let Ok(replies) = replies else {
                changes = Changes { table: changes.table, ..Changes::EVERYTHING };
                continue;
            };
            for reply in replies {
                match reply.kind {
                    RTM_NEWLINK | RTM_DELLINK => {
                        changes.addresses = true;
                        // Routes through an interface that is taken down are gone.
                        if self.is_ours(&reply) {
                            changes.routes = true;
                            changes.down = !is_up(&reply);
                        }
                    }
                    RTM_NEWADDR | RTM_DELADDR => changes.addresses = true,
                    // A router deletes many routes; ours are few.
                    RTM_NEWROUTE => changes.ways |= reply.route().is_none(),
                    RTM_DELROUTE => match reply.route() {
                        Some(_) => changes.routes = true,
                        None => changes.ways = true,
                    },
                    RTM_DELRULE => (changes.routes, changes.ways) = (true, true),
                    RTM_DELQDISC | RTM_DELTFILTER => {
                        changes.filters |= is_about_ours(&reply.body);
                    }
                    _ => {}
                }
            }
        }
        // Our own loads have been read by `own_loads`: whatever is left is of others.
        while let Some(replies) = drain(&self.filter, &mut buffer) {
            changes.table |=
                replies.map_or(true, |replies| replies.iter().any(|reply| self.is_in_table(reply)));
        }
        changes
    }

    /// Reads what our own loads of `loads` rulesets told of the table; whether somebody else
    /// touched it meanwhile. Of very large loads messages are lost, and with them who made them.
    pub(crate) fn own_loads(&self, loads: usize) -> bool {
        let mut buffer = vec![0; 1 << 16];
        let (mut transactions, mut touched, mut lost) = (0, false, false);
        while let Some(replies) = drain(&self.filter, &mut buffer) {
            let Ok(replies) = replies else {
                lost = true;
                continue;
            };
            for reply in replies {
                if reply.kind == NEW_GENERATION {
                    transactions += usize::from(std::mem::take(&mut touched));
                } else {
                    touched |= self.is_in_table(&reply);
                }
            }
        }
        !lost && transactions > loads
    }

    fn is_ours(&self, link: &Reply) -> bool {
        u32::from_ne_bytes(array(&link.body, 4)) == self.interface
    }

    /// Whether a message of nftables is about our table or something in it.
    fn is_in_table(&self, reply: &Reply) -> bool {
        reply.kind & 0xff00 == NFTABLES
            && reply.kind != NEW_GENERATION
            && reply.body.first() == Some(&NFPROTO_INET)
            && reply.attributes(4).any(|(kind, data)| {
                kind == NFTA_TABLE_NAME
                    && data.strip_suffix(&[0]) == Some(self.nft_table.as_bytes())
            })
    }
}

fn is_up(link: &Reply) -> bool {
    u32::from_ne_bytes(array(&link.body, 8)) & IFF_UP != 0
}

/// One read of a socket that does not wait; `None` when there is nothing.
fn drain(socket: &OwnedFd, buffer: &mut [u8]) -> Option<io::Result<Vec<Reply>>> {
    match rustix::net::recv(socket, &mut *buffer, RecvFlags::empty()) {
        Ok((len, _)) => Some(Ok(replies(buffer.get(..len).unwrap_or(&[])))),
        Err(rustix::io::Errno::NOBUFS) => Some(Err(io::ErrorKind::OutOfMemory.into())),
        Err(_) => None,
    }
}
