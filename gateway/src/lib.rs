//! A whole gateway as one pure machine: no socket, no clock, no file.

pub mod command;
mod config;
mod gateway;
pub mod input;
pub mod output;
pub mod read_model;
pub mod spec;

pub use config::{GatewayConfig, Randomness};
pub use gateway::Gateway;
