//! ICMP errors about packets that were too long, read by ourselves: the kernel would believe
//! whatever anybody says (RFC 8201 §6).

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::{filter, sys};
use crate::packet::too_big::{LOOKED_AT, TooBig};

/// Messages read in one go: a flood of them must not keep others waiting.
const AT_ONCE: usize = 64;
/// Of `linux/icmp.h` and `linux/icmpv6.h`; the libc crate lacks them.
const SOL_RAW: i32 = 255;
const ICMP_FILTER: i32 = 1;
const ICMP6_FILTER: i32 = 1;
const DESTINATION_UNREACHABLE: u32 = 3;
const PACKET_TOO_BIG: u32 = 2;

/// Raw sockets that get these errors and nothing else.
#[derive(Debug)]
pub(crate) struct PathErrors {
    v4: File,
    /// `None` on a machine without IPv6.
    v6: Option<File>,
}

impl PathErrors {
    pub(crate) fn open() -> io::Result<Self> {
        let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        v4.set_nonblocking(true)?;
        // A set bit is a type that is not wanted.
        let mask = !(1_u32 << DESTINATION_UNREACHABLE);
        sys::set_bytes(v4.as_fd(), SOL_RAW, ICMP_FILTER, &mask.to_ne_bytes())?;
        sys::attach_program(v4.as_fd(), libc::SO_ATTACH_FILTER, &filter::FRAGMENTATION_NEEDED)?;
        Ok(Self { v4: File::from(OwnedFd::from(v4)), v6: open_v6().ok() })
    }

    /// What to wait for.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }

    /// Gives what came to `each`; what there is no time for now stays and wakes us again.
    pub(crate) fn take(&self, mut each: impl FnMut(TooBig)) {
        let mut buffer = [0; LOOKED_AT];
        for (socket, read) in [
            (Some(&self.v4), TooBig::read_v4 as fn(&[u8]) -> Option<TooBig>),
            (self.v6.as_ref(), TooBig::read_v6),
        ] {
            let Some(mut socket) = socket else { continue };
            for _ in 0..AT_ONCE {
                let Ok(len) = socket.read(&mut buffer) else { break };
                if let Some(error) = read(buffer.get(..len).unwrap_or(&[])) {
                    each(error);
                }
            }
        }
    }
}

fn open_v6() -> io::Result<File> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    let mut mask = [0xff_u8; 32];
    let word = (!(1_u32 << PACKET_TOO_BIG)).to_ne_bytes();
    mask.iter_mut().zip(word).for_each(|(to, from)| *to = from);
    sys::set_bytes(socket.as_fd(), libc::IPPROTO_ICMPV6, ICMP6_FILTER, &mask)?;
    Ok(File::from(OwnedFd::from(socket)))
}
