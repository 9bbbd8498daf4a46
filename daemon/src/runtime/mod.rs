//! What drives the gateway: the loop, the clock, slow work, the addresses of this machine.

pub mod addresses;
pub mod clock;
pub mod driver;
pub mod handle;
mod requests;
mod workers;
