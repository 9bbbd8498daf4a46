//! The wire side: UDP 500 and 4500 for IKE and ESP in UDP, protocol 50 for raw ESP, each for
//! IPv4 and IPv6.
//!
//! The data plane owns port 4500, because ESP in UDP and IKE share it (RFC 3948 §2); whoever
//! speaks IKE sends through [`WireSockets::send_ike`] and gets what arrives as
//! [`IkeDatagram`]s. All sockets carry the bypass mark, so that steering never catches them.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use esp::udp::{NAT_KEEPALIVE, NON_ESP_MARKER};
use socket2::Socket;

use super::{
    cmsg::{ControlBuilder, SocketAddress},
    sockets::Family,
    sys,
};
use crate::error::Error;

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
        let socket = if to.df { pick(&family.nat_df, worker)? } else { &family.nat_cut };
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
        let socket = if to.df { pick(&family.raw_df, worker)? } else { &family.raw_cut };
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
