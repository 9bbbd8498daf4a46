//! The TUN device on the clear side: several queues, unfinished packets in both directions.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd},
};

use super::sys;
use crate::error::Error;

const IFF_TUN: i16 = 0x0001;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const IFF_MULTI_QUEUE: i16 = 0x0100;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// Octets of `struct virtio_net_hdr` in front of every packet.
pub(crate) const VNET_HEADER: usize = 10;

/// What the kernel leaves to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offloads {
    /// TCP super-packets of up to 64 KiB.
    pub tso: bool,
    /// UDP super-packets (kernel 6.2 and later).
    pub uso: bool,
}

/// One queue of the device. Reads and writes never wait.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
}

impl TunQueue {
    /// Reads one packet with its virtio header.
    ///
    /// # Errors
    /// As `read(2)`; `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, buffer)?)
    }

    /// Writes one packet, its virtio header first, gathered from `parts`.
    ///
    /// # Errors
    /// As `writev(2)`.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.file, parts)?)
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// An open TUN device. It is not persistent: it vanishes with the process, and then the
/// `unreachable` route behind it answers.
#[derive(Debug)]
pub struct Tun {
    /// The name of the interface.
    pub name: String,
    /// The index of the interface.
    pub index: u32,
    /// What the kernel accepted.
    pub offloads: Offloads,
    /// The queues, one a worker.
    pub queues: Vec<TunQueue>,
}

impl Tun {
    /// Creates the interface.
    ///
    /// # Errors
    /// [`Error::Tun`] says what to do: load the module, run as root, choose another name.
    pub fn open(name: &str, queues: usize) -> Result<Self, Error> {
        let failed = |source| Error::Tun { name: name.to_owned(), source };
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )
        .map_err(|errno| failed(errno.into()))?;
        if rustix::net::netdevice::name_to_index(&socket, name).is_ok() {
            return Err(Error::InterfaceExists(name.to_owned()));
        }
        let mut flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
        if queues > 1 {
            flags |= IFF_MULTI_QUEUE;
        }
        let mut offloads = Offloads { tso: true, uso: true };
        let queues = (0..queues.max(1))
            .map(|_| {
                let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
                sys::tun_set_interface(&file, name, flags)?;
                sys::tun_set_header_size(&file, VNET_HEADER as i32)?;
                offloads = offer(&file)?;
                rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK)?;
                Ok(TunQueue { file })
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed)?;
        let index = rustix::net::netdevice::name_to_index(&socket, name)
            .map_err(|errno| failed(errno.into()))?;
        Ok(Self { name: name.to_owned(), index, offloads, queues })
    }
}

/// Offers to take super-packets; kernels before 6.2 know no USO.
fn offer(file: &File) -> io::Result<Offloads> {
    let tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if sys::tun_set_offload(file, tso | TUN_F_USO4 | TUN_F_USO6).is_ok() {
        return Ok(Offloads { tso: true, uso: true });
    }
    if sys::tun_set_offload(file, tso).is_ok() {
        return Ok(Offloads { tso: true, uso: false });
    }
    sys::tun_set_offload(file, TUN_F_CSUM)?;
    Ok(Offloads { tso: false, uso: false })
}
