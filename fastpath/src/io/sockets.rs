//! How the sockets of the wire side are made.
//!
//! The kernel keeps path MTUs that ICMP errors told it, whoever made those up. So those that
//! receive, to which it would ascribe an error, do not let it (`IP_PMTUDISC_OMIT`); those that
//! send with DF hold packets only against the MTU of the interface (`IP_PMTUDISC_PROBE`), and are
//! bound where no error finds them. What fits a path is found out above, with errors that
//! [`super::errors`] reads.
//!
//! Over IPv6 only the sender cuts packets, and the kernel alone knows how: what does not fit a
//! path, and IKE, may follow what errors say, which is never below 1280.
//!
//! None asks for errors (`IP_RECVERR`) and none is connected: "unreachable" from anybody stops
//! nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{filter, sys, wire::WireConfig};
use crate::error::Error;

/// `UDP_NO_CHECK6_RX` of linux/udp.h, which the libc crate lacks for this target.
const UDP_NO_CHECK6_RX: libc::c_int = 102;

/// The sockets of one family.
#[derive(Debug)]
pub(super) struct Family {
    pub v4: bool,
    /// Receives IKE, and sends it without DF.
    pub ike: Socket,
    /// Receive on the port for NAT traversal, one a worker.
    pub nat: Vec<Socket>,
    /// Send from that port with DF, one a worker.
    pub nat_df: Vec<Socket>,
    /// Sends from that port without DF.
    pub nat_cut: Socket,
    /// Receive protocol 50, one a worker.
    pub raw: Vec<Socket>,
    /// Send it with DF, one a worker.
    pub raw_df: Vec<Socket>,
    /// Sends it without DF.
    pub raw_cut: Socket,
}

impl Family {
    pub(super) fn open(config: &WireConfig, v4: bool) -> Result<Self, Error> {
        let any: IpAddr =
            if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let at = |what: &'static str, port: u16| {
            move |source| Error::Socket { what, address: (any, port).into(), source }
        };
        let (mark, port) = (config.mark, config.nat_port);
        // Shares its port with nobody: a second daemon fails here.
        let ike = udp(v4, mark, Fragments::Cut, (any, config.ike_port).into())
            .map_err(at("UDP", config.ike_port))?;
        let workers = config.workers.max(1);
        let nat_failed = at("UDP", port);
        let nat = (0..workers)
            .map(|_| shared_udp(v4, mark, Fragments::Cut, (any, port).into()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(nat_failed)?;
        let modulus = u32::try_from(workers).unwrap_or(1);
        if let Some(first) = nat.first() {
            let program = filter::choose_by_spi(modulus);
            sys::attach_program(first.as_fd(), libc::SO_ATTACH_REUSEPORT_CBPF, &program)
                .map_err(nat_failed)?;
        }
        for socket in &nat {
            sys::set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).map_err(nat_failed)?;
            if !v4 {
                // Some peers send no UDP checksum over IPv6 either (RFC 6935): ESP and IKE have
                // integrity of their own.
                sys::set_int(socket.as_fd(), libc::SOL_UDP, UDP_NO_CHECK6_RX, 1)
                    .map_err(nat_failed)?;
            }
        }
        let send_nat = |fragments| {
            let socket = shared_udp(v4, mark, fragments, (nowhere(v4), port).into())?;
            sys::attach_program(socket.as_fd(), libc::SO_ATTACH_FILTER, &filter::NOTHING)?;
            Ok(socket)
        };
        let nat_df = (0..workers)
            .map(|_| send_nat(Fragments::Never))
            .collect::<io::Result<Vec<_>>>()
            .map_err(nat_failed)?;
        let nat_cut = send_nat(Fragments::Cut).map_err(nat_failed)?;
        let raw_failed = at("ESP", 0);
        let raw = (0..modulus)
            .map(|worker| {
                let socket = raw(v4, mark, Fragments::Cut)?;
                if modulus > 1 {
                    let program = filter::only_spis_of(worker, modulus, v4);
                    sys::attach_program(socket.as_fd(), libc::SO_ATTACH_FILTER, &program)?;
                }
                Ok(socket)
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(raw_failed)?;
        let raw_df = (0..workers)
            .map(|_| raw_sender(v4, mark, Fragments::Never))
            .collect::<io::Result<Vec<_>>>()
            .map_err(raw_failed)?;
        let raw_cut = raw_sender(v4, mark, Fragments::Cut).map_err(raw_failed)?;
        Ok(Self { v4, ike, nat, nat_df, nat_cut, raw, raw_df, raw_cut })
    }
}

/// What the kernel tells about every message.
#[derive(Clone, Copy)]
enum Told {
    /// Our address, DSCP and ECN.
    All,
    /// DSCP and ECN.
    Class,
    /// Nothing.
    Nothing,
}

/// Whether packets that are sent may be cut on the way.
#[derive(Clone, Copy)]
enum Fragments {
    /// DF is set; what the interface does not take is refused.
    Never,
    /// Here, for the interface, or by routers; over IPv6 here alone.
    Cut,
}

impl Fragments {
    const fn discovery(self, v4: bool) -> (i32, i32, i32) {
        match (self, v4) {
            (Self::Never, true) => {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
            }
            (Self::Cut, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
            (Self::Never, false) => {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            }
            (Self::Cut, false) => {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
            }
        }
    }
}

fn common(
    socket: &Socket,
    v4: bool,
    mark: u32,
    fragments: Fragments,
    told: Told,
) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if mark != 0 {
        socket.set_mark(mark)?;
    }
    // Bursts wait here while a worker is busy; the forced size needs CAP_NET_ADMIN, and a
    // smaller buffer is no reason to fail.
    for (forced, plain) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        const BUFFER: i32 = 8 << 20;
        if sys::set_int(socket.as_fd(), libc::SOL_SOCKET, forced, BUFFER).is_err() {
            sys::set_int(socket.as_fd(), libc::SOL_SOCKET, plain, BUFFER)?;
        }
    }
    let (level, info, tos) = if v4 {
        (libc::IPPROTO_IP, libc::IP_PKTINFO, libc::IP_RECVTOS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, libc::IPV6_RECVTCLASS)
    };
    let wanted = match told {
        Told::All => [Some(info), Some(tos)],
        Told::Class => [None, Some(tos)],
        Told::Nothing => [None, None],
    };
    for name in wanted.into_iter().flatten() {
        sys::set_int(socket.as_fd(), level, name, 1)?;
    }
    let (level, name, how) = fragments.discovery(v4);
    sys::set_int(socket.as_fd(), level, name, how)
}

fn udp(v4: bool, mark: u32, fragments: Fragments, bind: SocketAddr) -> io::Result<Socket> {
    let socket = unbound_udp(v4, mark, fragments)?;
    socket.bind(&bind.into())?;
    Ok(socket)
}

/// One of several with this port.
fn shared_udp(v4: bool, mark: u32, fragments: Fragments, bind: SocketAddr) -> io::Result<Socket> {
    let socket = unbound_udp(v4, mark, fragments)?;
    socket.set_reuse_port(true)?;
    socket.bind(&bind.into())?;
    Ok(socket)
}

fn unbound_udp(v4: bool, mark: u32, fragments: Fragments) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if !v4 {
        socket.set_only_v6(true)?;
    }
    common(&socket, v4, mark, fragments, Told::All)?;
    Ok(socket)
}

fn raw(v4: bool, mark: u32, fragments: Fragments) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_ESP)))?;
    // Raw IPv4 packets come with their IP header.
    common(&socket, v4, mark, fragments, if v4 { Told::Nothing } else { Told::Class })?;
    Ok(socket)
}

/// Every raw socket gets a clone of every packet before its filter is asked; one that is bound
/// nowhere gets none.
fn raw_sender(v4: bool, mark: u32, fragments: Fragments) -> io::Result<Socket> {
    let socket = raw(v4, mark, fragments)?;
    socket.bind(&SocketAddr::from((nowhere(v4), 0)).into())?;
    sys::attach_program(socket.as_fd(), libc::SO_ATTACH_FILTER, &filter::NOTHING)?;
    Ok(socket)
}

/// An address that no unicast packet has. Packets of a socket that is bound to it have the source
/// that the kernel chooses or that they ask for all the same.
fn nowhere(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 1).into() }
}
