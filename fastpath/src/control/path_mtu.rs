//! What the kernel knows about the path to a peer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::io::sys;

/// Taken where the kernel has no answer (no route yet).
const USUAL: usize = 1500;
/// No path is taken to be smaller: IPv4 hosts reassemble as much (RFC 1122 §3.3.2).
const LEAST: usize = 576;

/// The MTU of the path from `local` to `remote`, with what ICMP told the kernel about it.
pub(super) fn of(local: IpAddr, remote: IpAddr, mark: u32) -> usize {
    ask(local, remote, mark).map_or(USUAL, |mtu| mtu.max(LEAST))
}

fn ask(local: IpAddr, remote: IpAddr, mark: u32) -> io::Result<usize> {
    let domain = Domain::for_address((remote, 0).into());
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_mark(mark)?;
    if !local.is_unspecified() {
        socket.bind(&SocketAddr::from((local, 0)).into())?;
    }
    // Connecting a UDP socket only looks the route up; the port is never used.
    socket.connect(&SocketAddr::from((remote, 9)).into())?;
    let (level, name) = if remote.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let mtu = sys::get_int(socket.as_fd(), level, name)?;
    usize::try_from(mtu).map_err(io::Error::other)
}
