//! The wire side: UDP 500 and 4500 for IKE and ESP in UDP, protocol 50 for raw ESP, each for
//! IPv4 and IPv6.
//!
//! The data plane owns port 4500, because ESP in UDP and IKE share it (RFC 3948 §2); whoever
//! speaks IKE sends through [`WireSockets::send_ike`] and gets what arrives as
//! [`IkeDatagram`]s. All sockets carry the bypass mark, so that steering never catches them.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use esp::udp::{NAT_KEEPALIVE, NON_ESP_MARKER};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    cmsg::{ControlBuilder, SocketAddress},
    filter, sys,
};
use crate::error::Error;

/// `UDP_NO_CHECK6_RX` of linux/udp.h, which the libc crate lacks for this target.
const UDP_NO_CHECK6_RX: libc::c_int = 102;
/// What kernels before 6.9 take in one `UDP_SEGMENT` send.
pub(crate) const MAX_SEGMENTS: usize = 64;
/// The largest UDP payload over IPv4; IPv6's is larger by 20.
pub(crate) const MAX_DATAGRAM: usize = 65_507;

/// Which sockets to open.
#[derive(Clone, Debug)]
pub struct WireConfig {
    /// UDP port of IKE; 500.
    pub ike_port: u16,
    /// UDP port of IKE and ESP behind NAT; 4500.
    pub nat_port: u16,
    /// `SO_MARK` of every socket; 0 sets none.
    pub mark: u32,
    /// Sockets that receive ESP, one for each worker.
    pub workers: usize,
}

impl Default for WireConfig {
    fn default() -> Self {
        Self { ike_port: 500, nat_port: 4500, mark: 0, workers: 1 }
    }
}

/// An IKE message that arrived, without its non-ESP marker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeDatagram {
    /// The address and port it was sent to.
    pub local: SocketAddr,
    /// The sender.
    pub remote: SocketAddr,
    /// The IKE message.
    pub message: Vec<u8>,
}

/// How ESP packets leave.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Our address; unspecified lets the kernel choose. The port chooses the socket.
    pub local: SocketAddr,
    /// The peer.
    pub remote: SocketAddr,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// Whether the outer IPv4 header has DF, and whether outer packets must not be cut.
    pub df: bool,
    /// The data are datagrams of this size one after the other, the last one may be shorter.
    pub segment: Option<u16>,
}

/// What arrives on a descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// IKE without marker.
    Ike,
    /// ESP in UDP, IKE behind a marker, keepalives.
    Nat,
    /// Raw ESP, behind its IP header when IPv4.
    Raw,
}

/// The sockets of one family.
#[derive(Debug)]
struct Family {
    v4: bool,
    ike: Socket,
    /// One a worker; their packets have DF set.
    nat: Vec<Socket>,
    /// Sends without DF.
    nat_cut: Socket,
    /// One a worker; their packets have DF set.
    raw: Vec<Socket>,
    /// Sends without DF.
    raw_cut: Socket,
}

/// Every socket on the wire side.
#[derive(Debug)]
pub struct WireSockets {
    v4: Option<Family>,
    v6: Option<Family>,
    ike_port: u16,
    nat_port: u16,
}

impl WireSockets {
    /// Opens and binds all sockets. A machine without IPv6 gets those of IPv4 only.
    ///
    /// # Errors
    /// [`Error::Socket`] names the socket and what to do.
    pub fn open(config: &WireConfig) -> Result<Self, Error> {
        let v4 = Family::open(config, true)?;
        let v6 = match Family::open(config, false) {
            Ok(family) => Some(family),
            Err(Error::Socket { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
                ) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self { v4: Some(v4), v6, ike_port: config.ike_port, nat_port: config.nat_port })
    }

    /// The port of IKE and ESP behind NAT.
    #[must_use]
    pub const fn nat_port(&self) -> u16 {
        self.nat_port
    }

    /// The first port of IKE.
    #[must_use]
    pub const fn ike_port(&self) -> u16 {
        self.ike_port
    }

    fn family(&self, remote: SocketAddr) -> io::Result<&Family> {
        let family = if remote.is_ipv4() { &self.v4 } else { &self.v6 };
        family.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
    }

    /// Sends an IKE message from `local` to `remote`. Behind the port for NAT traversal it gets
    /// its non-ESP marker. An unspecified local address lets the kernel choose.
    ///
    /// # Errors
    /// As `sendmsg(2)`.
    pub fn send_ike(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        message: &[u8],
    ) -> io::Result<()> {
        let family = self.family(remote)?;
        let mut control = ControlBuilder::new();
        control.source(local.ip());
        let (socket, parts) = if local.port() == self.nat_port {
            (&family.nat_cut, [IoSlice::new(&NON_ESP_MARKER), IoSlice::new(message)])
        } else {
            (&family.ike, [IoSlice::new(&[]), IoSlice::new(message)])
        };
        sys::send(socket.as_fd(), &SocketAddress::new(remote), &parts, control.as_bytes())?;
        Ok(())
    }

    /// Sends a NAT keepalive (RFC 3948 §4) from the port for NAT traversal.
    ///
    /// # Errors
    /// As `sendmsg(2)`.
    pub fn send_keepalive(&self, local: IpAddr, remote: SocketAddr) -> io::Result<()> {
        let family = self.family(remote)?;
        let mut control = ControlBuilder::new();
        control.source(local);
        let to = SocketAddress::new(remote);
        let parts = [IoSlice::new(&NAT_KEEPALIVE)];
        sys::send(family.nat_cut.as_fd(), &to, &parts, control.as_bytes())?;
        Ok(())
    }

    /// Sends ESP in UDP.
    pub(crate) fn send_udp(&self, worker: usize, to: &Outgoing, data: &[u8]) -> io::Result<()> {
        let family = self.family(to.remote)?;
        let socket = if to.df { pick(&family.nat, worker)? } else { &family.nat_cut };
        let mut control = ControlBuilder::new();
        control.source(to.local.ip());
        control.tos(family.v4, to.tos);
        if let Some(size) = to.segment {
            control.segment(size);
        }
        let address = SocketAddress::new(to.remote);
        sys::send(socket.as_fd(), &address, &[IoSlice::new(data)], control.as_bytes())?;
        Ok(())
    }

    /// Sends raw ESP packets, all to one peer; the kernel writes the outer IP headers. Returns how
    /// many it took; an error is that of the first packet.
    ///
    /// A batch saves the system calls, 7 % of a packet's time; the rest is the kernel's stack,
    /// which has no segmentation offload for protocol 50. Writing the header here (`IP_HDRINCL`)
    /// made no difference.
    pub(crate) fn send_raw(
        &self,
        worker: usize,
        to: &Outgoing,
        packets: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let family = self.family(to.remote)?;
        let socket = if to.df { pick(&family.raw, worker)? } else { &family.raw_cut };
        let mut control = ControlBuilder::new();
        control.source(to.local.ip());
        control.tos(family.v4, to.tos);
        let mut remote = to.remote;
        remote.set_port(0);
        let address = SocketAddress::new(remote);
        sys::send_many(socket.as_fd(), &address, packets, control.as_bytes())
    }

    /// The descriptors that `worker` receives from. IKE's own port is the first worker's.
    pub(crate) fn sources(&self, worker: usize) -> Vec<(BorrowedFd<'_>, Arrival, bool)> {
        let mut all = Vec::new();
        for family in [&self.v4, &self.v6].into_iter().flatten() {
            if worker == 0 {
                all.push((family.ike.as_fd(), Arrival::Ike, family.v4));
            }
            if let Some(socket) = family.nat.get(worker) {
                all.push((socket.as_fd(), Arrival::Nat, family.v4));
            }
            if let Some(socket) = family.raw.get(worker) {
                all.push((socket.as_fd(), Arrival::Raw, family.v4));
            }
        }
        all
    }
}

fn pick(sockets: &[Socket], worker: usize) -> io::Result<&Socket> {
    sockets.get(worker).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

impl Family {
    fn open(config: &WireConfig, v4: bool) -> Result<Self, Error> {
        let any: IpAddr =
            if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let at = |what: &'static str, port: u16| {
            move |source| Error::Socket { what, address: (any, port).into(), source }
        };
        // Shares its port with nobody: a second daemon fails here.
        let ike = udp(v4, config.mark, false, false, (any, config.ike_port).into())
            .map_err(at("UDP", config.ike_port))?;
        let workers = config.workers.max(1);
        let open_nat = |df| udp(v4, config.mark, true, df, (any, config.nat_port).into());
        let nat_failed = at("UDP", config.nat_port);
        let nat = (0..workers)
            .map(|_| open_nat(true))
            .collect::<io::Result<Vec<_>>>()
            .map_err(nat_failed)?;
        let nat_cut = open_nat(false).map_err(nat_failed)?;
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
        let raw_failed = at("ESP", 0);
        let raw = (0..modulus)
            .map(|worker| {
                let socket = raw(v4, config.mark, true)?;
                if modulus > 1 {
                    let program = filter::only_spis_of(worker, modulus, v4);
                    sys::attach_program(socket.as_fd(), libc::SO_ATTACH_FILTER, &program)?;
                }
                Ok(socket)
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(raw_failed)?;
        let raw_cut = raw_sender(v4, config.mark).map_err(raw_failed)?;
        Ok(Self { v4, ike, nat, nat_cut, raw, raw_cut })
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

fn common(socket: &Socket, v4: bool, mark: u32, df: bool, told: Told) -> io::Result<()> {
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
    let (level, info, tos, discover) = if v4 {
        (libc::IPPROTO_IP, libc::IP_PKTINFO, libc::IP_RECVTOS, libc::IP_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, libc::IPV6_RECVTCLASS, libc::IPV6_MTU_DISCOVER)
    };
    let how = if df { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
    let wanted = match told {
        Told::All => [Some((info, 1)), Some((tos, 1)), Some((discover, how))],
        Told::Class => [None, Some((tos, 1)), Some((discover, how))],
        Told::Nothing => [None, None, Some((discover, how))],
    };
    for (name, value) in wanted.into_iter().flatten() {
        sys::set_int(socket.as_fd(), level, name, value)?;
    }
    Ok(())
}

fn udp(v4: bool, mark: u32, shared: bool, df: bool, bind: SocketAddr) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if !v4 {
        socket.set_only_v6(true)?;
    }
    common(&socket, v4, mark, df, Told::All)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&bind.into())?;
    Ok(socket)
}

fn raw(v4: bool, mark: u32, df: bool) -> io::Result<Socket> {
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_ESP)))?;
    // Raw IPv4 packets come with their IP header.
    common(&socket, v4, mark, df, if v4 { Told::Nothing } else { Told::Class })?;
    Ok(socket)
}

fn raw_sender(v4: bool, mark: u32) -> io::Result<Socket> {
    let socket = raw(v4, mark, false)?;
    // Every raw socket gets a clone of every packet before its filter is asked; one that is bound
    // to an address that no unicast packet has gets none, and its packets have the source that
    // the kernel chooses or that they ask for all the same.
    let nowhere: IpAddr = if v4 {
        Ipv4Addr::BROADCAST.into()
    } else {
        Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 1).into()
    };
    socket.bind(&SocketAddr::from((nowhere, 0)).into())?;
    sys::attach_program(socket.as_fd(), libc::SO_ATTACH_FILTER, &filter::NOTHING)?;
    Ok(socket)
}
