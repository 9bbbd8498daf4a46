//! Every exchange between two endpoints in a small deterministic world.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a harness fails loudly")]

#[path = "../common/mod.rs"]
mod common;

mod handshake;
