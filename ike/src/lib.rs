//! IKEv2 (RFC 7296) as a pure state machine: bytes, time, randomness and answers go in; bytes,
//! requests and events come out.
//!
//! ```text
//!   Input::Datagram ----.                      .---> Output::Transmit
//!   Input::Command  -----> Endpoint::handle ---+---> Output::Request (ticket)
//!   Input::Completion --'                      '---> Output::Event
//!   Input::Timeout
//! ```
//!
//! [`Endpoint`] holds the IKE SAs of one shard. Each is in one state, a struct that whatever
//! happens consumes. An established IKE SA needs a [`keys::PeerAuthenticated`], which only a
//! verified AUTH payload mints. Slow work (key exchange, installing SAs) is a request with a
//! ticket, and its completion is input like any other.
//!
//! It never reads a clock, draws randomness of its own, opens a socket, or changes state because
//! of a message that is not authentic.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod admission;
mod complaints;
pub mod config;
mod connections;
mod counters;
mod endpoint;
pub mod event;
mod exchange;
pub mod fragment;
pub mod input;
pub mod keys;
pub mod negotiate;
pub mod output;
mod sa;
mod shared;
pub mod view;
pub mod wire;

pub use endpoint::Endpoint;
