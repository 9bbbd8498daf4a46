//! The unsafe island: `ioctl` on TUN, `setsockopt` with raw bytes, `sendmsg`, `recvmmsg`.
#![expect(unsafe_code, reason = "system calls without a safe wrapper that takes control messages")]

use std::{
    fs::File,
    io::{self, IoSlice},
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use arrayvec::ArrayVec;

use super::cmsg::{Control, SOCKADDR_LEN, SocketAddress};

/// `TUNSETIFF`, `TUNSETOFFLOAD` and `TUNSETVNETHDRSZ` of `linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// Messages taken by one `recvmmsg` at most.
pub(crate) const RECEIVE_BATCH: usize = 64;
/// Messages given to one `sendmmsg` at most.
pub(crate) const SEND_BATCH: usize = 64;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `file`, an open `/dev/net/tun`, a queue of the interface `name`.
pub(crate) fn tun_set_interface(file: &File, name: &str, flags: i16) -> io::Result<()> {
    let mut request = [0_u8; size_of::<libc::ifreq>()];
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let (front, rest) = request.split_at_mut(libc::IFNAMSIZ);
    front.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    rest.iter_mut().zip(flags.to_ne_bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the kernel reads and writes one `ifreq`, and `request` has exactly its size.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) })
}

/// Tells which unfinished packets (`TUN_F_*`) this process takes.
pub(crate) fn tun_set_offload(file: &File, flags: u32) -> io::Result<()> {
    // SAFETY: the argument is a number, no memory is passed.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) })
}

/// Sets the size of the virtio header in front of every packet.
pub(crate) fn tun_set_header_size(file: &File, size: i32) -> io::Result<()> {
    // SAFETY: the kernel reads one int behind the pointer, and `size` lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ as _, ptr::from_ref(&size)) })
}

/// `setsockopt` with an int.
pub(crate) fn set_int(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: libc::c_int,
) -> io::Result<()> {
    set_bytes(fd, level, name, &value.to_ne_bytes())
}

/// `setsockopt` with plain bytes (an option that holds no pointers).
fn set_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes from `value`, which is that long.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) })
}

/// `getsockopt` for an int.
pub(crate) fn get_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len: libc::socklen_t = 4;
    // SAFETY: the kernel writes at most `len` = 4 bytes to `value` and then the length.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_mut(&mut value).cast(),
            ptr::from_mut(&mut len),
        )
    })?;
    Ok(value)
}

/// Attaches a classic BPF program with `name` (a filter, or the choice in a reuseport group).
pub(crate) fn attach_program(
    fd: BorrowedFd<'_>,
    name: i32,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let fprog = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    let size =
        libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(io::Error::other)?;
    // SAFETY: `fprog` points at `program` with its true length; the kernel only reads both.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, ptr::from_ref(&fprog).cast(), size)
    })
}

/// One `sendmsg`.
pub(crate) fn send(
    fd: BorrowedFd<'_>,
    to: &SocketAddress,
    buffers: &[IoSlice<'_>],
    control: &[u8],
) -> io::Result<usize> {
    let (name, name_len) = to.as_bytes();
    // SAFETY: `msghdr` is plain data for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = libc::socklen_t::try_from(name_len).map_err(io::Error::other)?;
    // `IoSlice` is documented to have the layout of `iovec`.
    message.msg_iov = buffers.as_ptr().cast_mut().cast();
    message.msg_iovlen = buffers.len() as _;
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = control.len() as _;
    }
    // SAFETY: every pointer in `message` is to memory borrowed for this call, with its length;
    // `sendmsg` writes to none of it.
    let sent = unsafe {
        libc::sendmsg(
            fd.as_raw_fd(),
            ptr::from_ref(&message),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// One `sendmmsg`: each of `packets` (the first [`SEND_BATCH`]) as a message of its own, all to
/// one address with one set of control messages. Returns how many the kernel took; an error is
/// that of the first packet, of which nothing was sent.
pub(crate) fn send_many(
    fd: BorrowedFd<'_>,
    to: &SocketAddress,
    packets: &[IoSlice<'_>],
    control: &[u8],
) -> io::Result<usize> {
    let (name, name_len) = to.as_bytes();
    let name_len = libc::socklen_t::try_from(name_len).map_err(io::Error::other)?;
    let mut messages: ArrayVec<libc::mmsghdr, SEND_BATCH> = ArrayVec::new();
    for packet in packets.iter().take(SEND_BATCH) {
        // SAFETY: `mmsghdr` is plain data for which zeroes are valid.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        let header = &mut message.msg_hdr;
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = name_len;
        // `IoSlice` is documented to have the layout of `iovec`.
        header.msg_iov = ptr::from_ref(packet).cast_mut().cast();
        header.msg_iovlen = 1;
        if !control.is_empty() {
            header.msg_control = control.as_ptr().cast_mut().cast();
            header.msg_controllen = control.len() as _;
        }
        messages.push(message);
    }
    let count = libc::c_uint::try_from(messages.len()).map_err(io::Error::other)?;
    // SAFETY: the `count` headers live across the call, and every pointer in them is to memory
    // borrowed for it, with its length; `sendmmsg` writes only the headers' own lengths.
    let sent = unsafe {
        libc::sendmmsg(
            fd.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What `recvmmsg` told about one message; its bytes are in the data buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Octets received.
    pub len: usize,
    /// The sender.
    pub from: SocketAddress,
    /// Control messages.
    pub control: Control,
    /// Whether the message was longer than its buffer.
    pub truncated: bool,
}

/// What a receiver wants to know about messages beside their bytes; each costs the kernel time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    /// The sender.
    pub from: bool,
    /// Control messages.
    pub control: bool,
}

const CONTROL: usize = 128;

/// Room for what `recvmmsg` writes beside the data; made once.
pub(crate) struct Receiver {
    names: [[u8; SOCKADDR_LEN]; RECEIVE_BATCH],
    controls: [[u8; CONTROL]; RECEIVE_BATCH],
}

impl Receiver {
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self {
            names: [[0; SOCKADDR_LEN]; RECEIVE_BATCH],
            controls: [[0; CONTROL]; RECEIVE_BATCH],
        })
    }

    /// Receives up to [`RECEIVE_BATCH`] messages; message `i` goes to `data[i * stride..]`.
    pub(crate) fn receive(
        &mut self,
        fd: BorrowedFd<'_>,
        data: &mut [u8],
        stride: usize,
        wanted: Wanted,
        mut each: impl FnMut(usize, Received),
    ) -> io::Result<usize> {
        let mut vectors: ArrayVec<libc::iovec, RECEIVE_BATCH> = ArrayVec::new();
        let slots = data.chunks_exact_mut(stride.max(1)).take(RECEIVE_BATCH);
        vectors.extend(
            slots.map(|slot| libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot.len(),
            }),
        );
        let mut messages: ArrayVec<libc::mmsghdr, RECEIVE_BATCH> = ArrayVec::new();
        for ((vector, name), control) in
            vectors.iter_mut().zip(&mut self.names).zip(&mut self.controls)
        {
            // SAFETY: `mmsghdr` is plain data for which zeroes are valid.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            let header = &mut message.msg_hdr;
            header.msg_iov = ptr::from_mut(vector);
            header.msg_iovlen = 1;
            if wanted.from {
                header.msg_name = name.as_mut_ptr().cast();
                header.msg_namelen = SOCKADDR_LEN as _;
            }
            if wanted.control {
                header.msg_control = control.as_mut_ptr().cast();
                header.msg_controllen = CONTROL as _;
            }
            messages.push(message);
        }
        let count = libc::c_uint::try_from(messages.len()).map_err(io::Error::other)?;
        // SAFETY: the `count` headers point at live, disjoint buffers with their true lengths, or
        // have no pointer and no length.
        let got = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                messages.as_mut_ptr(),
                count,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (index, ((message, name), control)) in
            messages.iter().zip(&self.names).zip(&self.controls).take(got).enumerate()
        {
            let header = &message.msg_hdr;
            // What the kernel did not write is from a message before.
            let named = wanted.from && header.msg_namelen > 0;
            let used = if wanted.control { header.msg_controllen.min(CONTROL) } else { 0 };
            each(
                index,
                Received {
                    len: (message.msg_len as usize).min(stride),
                    from: SocketAddress::from_bytes(if named { *name } else { [0; SOCKADDR_LEN] }),
                    control: Control::parse(control.get(..used).unwrap_or(&[])),
                    truncated: header.msg_flags & libc::MSG_TRUNC != 0,
                },
            );
        }
        Ok(got)
    }
}
