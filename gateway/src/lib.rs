//! A whole gateway as one pure machine: no socket, no clock, no file.
//!
//! ```text
//!   Command --> waiting, reload ---> tunnels (attempt, lifecycle) --Initiate, Terminate--> ike
//!   Datagram, Completion ----------------------------------------------------------------> |
//!   Wake ------> installer <--Install, Activate, Remove--------------------------------- <-'
//!                    |  batches                      events --> lifecycle --> event log, status
//!                    '--> hw_offload::Backend --notices--> installer --SoftExpired, ...--> ike
//! ```
//!
//! [`Gateway`] is driven by [`Gateway::handle`]; what it asks for comes out of
//! [`Gateway::poll_output`]. Time is a parameter and randomness is injected ([`Randomness`]), so
//! that two of them run in a simulated world from one seed.

mod attempt;
mod backoff;
pub mod bypass;
pub mod command;
mod config;
mod counters;
mod describe;
mod event_log;
mod gateway;
pub mod input;
mod installer;
mod lifecycle;
mod narrowing;
pub mod output;
mod policies;
pub mod read_model;
mod reload;
pub mod spec;
mod spis;
mod status;
mod translate;
mod tunnel;
mod waiting;

pub use config::{GatewayConfig, Randomness};
pub use gateway::Gateway;
