//! IKEv2 (RFC 7296) as a pure state machine: bytes, time, randomness and answers go in; bytes,
//! requests and events come out.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod config;
pub mod event;
pub mod fragment;
pub mod input;
pub mod keys;
pub mod negotiate;
pub mod output;
pub mod view;
pub mod wire;
