//! The unsafe island: the system call `bpf`.
#![expect(unsafe_code, reason = "a system call without a safe wrapper")]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
/// What the kernel is told, for functions of its own that it keeps for programs under the GPL. We
/// use none of them.
const LICENSE: &[u8] = b"Apache-2.0\0";

/// `union bpf_attr` of `linux/bpf.h`, as far as loading a program needs it.
#[repr(C, align(8))]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// Gives a program for traffic control to the kernel, which checks it.
///
/// # Errors
/// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`; `EINVAL`, `EACCES` or `E2BIG` when it does not
/// take the program; `ENOSYS` where it has no BPF.
pub(super) fn load(program: &[u8], name: [u8; 16]) -> io::Result<OwnedFd> {
    let instructions = u32::try_from(program.len() / 8).unwrap_or(u32::MAX);
    let attributes = Load {
        kind: BPF_PROG_TYPE_SCHED_CLS,
        instructions,
        code: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        name,
        ..Load::default()
    };
    // SAFETY: the kernel reads as many octets as it is told of `attributes`, as many instructions
    // of `program` as it has, and the license up to its zero; all outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            std::ptr::from_ref(&attributes),
            size_of::<Load>(),
        )
    };
    let fd = libc::c_int::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
pub(super) mod test_run {
    //! `BPF_PROG_TEST_RUN`: the program on a packet, as the kernel runs it.

    use std::os::fd::{AsRawFd, OwnedFd};

    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    const SK_BUFF: usize = 192;

    #[repr(C, align(8))]
    #[derive(Default)]
    struct Run {
        program: u32,
        result: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        nanoseconds: u32,
        context_size_in: u32,
        context_size_out: u32,
        context_in: u64,
        context_out: u64,
    }

    /// What a program made of a packet.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(in super::super) struct Ran {
        pub(in super::super) result: i32,
        pub(in super::super) mark: u32,
        /// Of one run, where there were many.
        pub(in super::super) nanoseconds: u32,
    }

    /// What a packet has beside its octets.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(in super::super) struct Beside {
        pub(in super::super) mark: u32,
        /// The interface that it came through; 0 for own packets.
        pub(in super::super) ingress: u32,
    }

    /// Runs a program on an Ethernet frame.
    pub(in super::super) fn run(
        program: &OwnedFd,
        frame: &[u8],
        beside: Beside,
        repeat: u32,
    ) -> Ran {
        let mut context = [0_u8; SK_BUFF];
        context[8..12].copy_from_slice(&beside.mark.to_ne_bytes());
        context[36..40].copy_from_slice(&beside.ingress.to_ne_bytes());
        let mut after = [0_u8; SK_BUFF];
        let mut attributes = Run {
            program: program.as_raw_fd() as u32,
            size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            repeat,
            context_size_in: SK_BUFF as u32,
            context_size_out: SK_BUFF as u32,
            context_in: context.as_ptr() as u64,
            context_out: after.as_mut_ptr() as u64,
            ..Run::default()
        };
        // SAFETY: all buffers have the sizes that the kernel is told and outlive the call.
        let status = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_TEST_RUN,
                std::ptr::from_mut(&mut attributes),
                size_of::<Run>(),
            )
        };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
        Ran {
            result: attributes.result as i32,
            mark: u32::from_ne_bytes(after[8..12].try_into().unwrap()),
            nanoseconds: attributes.nanoseconds,
        }
    }
}
