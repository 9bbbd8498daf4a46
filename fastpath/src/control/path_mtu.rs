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
/// The least that the kernel believes of an ICMP error over IPv4 (`route.min_pmtu`), whoever made
/// it up. It sends packets of this size, and so do we. What the path really has may be less.
const LEAST_V4: usize = 552;
/// No path of IPv6 has less (RFC 8200 §5).
const LEAST_V6: usize = 1280;

/// What fits a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PathMtu {
    /// Octets of an outer packet.
    pub mtu: usize,
    /// The path may have room for less: packets must not have DF.
    pub cut: bool,
}

/// The MTU of the path from `local` to `remote`, with what ICMP told the kernel about it.
pub(super) fn of(local: IpAddr, remote: IpAddr, mark: u32) -> PathMtu {
    from_answer(ask(local, remote, mark).unwrap_or(USUAL), remote.is_ipv4())
}

fn from_answer(answer: usize, v4: bool) -> PathMtu {
    let least = if v4 { LEAST_V4 } else { LEAST_V6 };
    PathMtu { mtu: answer.max(least), cut: v4 && answer <= least }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_believes_is_what_is_sent() {
        for (v4, answer, mtu, cut) in [
            (true, 1500, 1500, false),
            (true, 553, 553, false),
            (true, 552, 552, true),
            (true, 68, 552, true),
            (false, 1500, 1500, false),
            (false, 1280, 1280, false),
        ] {
            assert_eq!(from_answer(answer, v4), PathMtu { mtu, cut }, "{answer}");
        }
    }
}
