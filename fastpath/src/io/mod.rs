//! Packet I/O: the TUN device on the clear side, UDP and raw sockets on the wire side.
//!
//! [`sys`] is the island of `unsafe`: four system calls that no safe wrapper offers with the
//! control messages needed here. Everything around it is ordinary code over byte slices.

pub(crate) mod cmsg;
mod filter;
pub(crate) mod sys;
pub(crate) mod tun;
pub(crate) mod wire;

pub use tun::{Offloads, Tun, TunQueue};
pub use wire::{IkeDatagram, Outgoing, WireConfig, WireSockets};
