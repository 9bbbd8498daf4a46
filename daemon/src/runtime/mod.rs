//! What drives the gateway: the loop, the clock, slow work, the addresses of this machine.

pub mod addresses;
pub mod clock;
pub mod driver;
mod events;
mod fair;
pub mod handle;
mod lane;
mod requests;
mod share;
mod workers;
