//! A whole gateway as one pure machine: no socket, no clock, no file.

mod attempt;
mod backoff;
pub mod command;
mod config;
mod counters;
mod describe;
mod event_log;
mod gateway;
pub mod input;
mod installer;
mod lifecycle;
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
