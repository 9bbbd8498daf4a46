//! Classic BPF programs: which socket of several takes an ESP packet.
//!
//! With several workers an inbound SA belongs to the worker its SPI falls to, so that its replay
//! window has one writer. UDP sockets choose through their reuseport group; raw sockets would
//! each get a copy of everything, so each filters what is not its own.

use libc::sock_filter;

const LD_W_ABS: u16 = 0x20;
const LD_W_IND: u16 = 0x40;
const LDX_B_MSH: u16 = 0xb1;
const LDX_IMM: u16 = 0x01;
const ALU_MOD_K: u16 = 0x94;
const JEQ_K: u16 = 0x15;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;

const fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// For `SO_ATTACH_REUSEPORT_CBPF`: SPI modulo `workers`. What is shorter than an SPI (a
/// keepalive) goes to the first socket, as does IKE behind its zero marker.
pub(super) fn choose_by_spi(workers: u32) -> [sock_filter; 3] {
    [op(LD_W_ABS, 0), op(ALU_MOD_K, workers.max(1)), op(RET_A, 0)]
}

/// For `SO_ATTACH_FILTER` on a raw socket: only SPIs that fall to `worker`. Raw IPv4 sockets see
/// the IP header first, raw IPv6 sockets do not.
pub(super) fn only_spis_of(worker: u32, workers: u32, v4: bool) -> [sock_filter; 6] {
    let start = if v4 { op(LDX_B_MSH, 0) } else { op(LDX_IMM, 0) };
    [
        start,
        op(LD_W_IND, 0),
        op(ALU_MOD_K, workers.max(1)),
        sock_filter { code: JEQ_K, jt: 0, jf: 1, k: worker },
        op(RET_K, u32::MAX),
        op(RET_K, 0),
    ]
}

/// Takes nothing: for sockets that only send.
pub(super) const NOTHING: [sock_filter; 1] = [op(RET_K, 0)];
