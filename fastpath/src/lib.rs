//! The inline ESP data plane.
//!
//! ```text
//!   clear side                        workers                            wire side
//!   TUN queue ──▶ policy ─▶ cut ─▶ seal ─▶ UDP_SEGMENT ──▶ UDP 4500, protocol 50
//!   TUN queue ◀── join ◀─ MSS ◀─ selectors ◀─ open ◀─ SPI ◀── UDP_GRO
//!        ▲                            ▲                                     │ IKE
//!        │ nftables, rules, routes    │ immutable tables                    ▼
//!   steering ◀──────────────── control thread ◀── Backend ◀── gateway    IkeSink
//! ```
//!
//! [`InlineBackend`] is a [`hw_offload::Backend`] like any other. Workers are plain threads; on
//! the way of an ESP packet nothing allocates, locks, logs or waits, and every interface on it
//! takes bursts. Steering brings exactly the packets that policies cover into the TUN interface, and
//! keeps them from leaving in clear when this process is gone.
//!
//! What it never does: choose SPIs, speak IKE, decide lifetimes (it holds bytes and packets, and
//! a margin behind the time limit as a dead man's switch).

mod backend;
mod config;
mod control;
mod error;
mod io;
mod packet;
mod policy;
mod steer;
mod tables;
mod worker;

pub use backend::{InlineBackend, InlineHandle, LeftClear, NodeCounters};
pub use config::InlineConfig;
pub use error::Error;
pub use io::{IkeDatagram, Offloads, Outgoing, Tun, TunQueue, WireConfig, WireSockets};
pub use steer::{Marks, SteeringConfig, is_interface_name, release};
pub use worker::IkeSink;
