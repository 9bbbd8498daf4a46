//! Every exchange between two endpoints in a small deterministic world.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a harness fails loudly")]

#[path = "../common/mod.rs"]
mod common;

mod admission;
mod authentication;
mod bystander;
mod children;
mod collision;
mod deletion;
mod duplicates;
mod forged;
mod fragmentation;
mod handshake;
mod hostile;
mod interloper;
mod liveness;
mod nat;
mod negotiation;
mod panics;
mod pfs;
mod rekey;
mod strange_peer;
