//! A deterministic world to put whole gateways in: virtual time, seeded links and devices.

pub mod audit;
pub mod book;
pub mod device;
pub mod network;
pub mod packet;
pub mod random;
