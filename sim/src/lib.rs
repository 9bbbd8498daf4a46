//! A deterministic world to put whole gateways in: virtual time, seeded links and devices.
//!
//! ```text
//!   Scenario::of(seed) --> World: Node A (Gateway, Registry, Device) --- Network (loss, NAT, ..)
//!                                 Node B                             ---'
//!        '--> run --> Report: violations, tally of every numbered packet, rekeys, events
//! ```
//!
//! Everything that happens follows from the seed, so a failure is replayed by running it again.

pub mod audit;
pub mod book;
pub mod device;
pub mod network;
mod node;
pub mod packet;
pub mod random;
mod run;
pub mod scenario;
mod trace;
mod want;
mod world;

pub use run::{REKEYS, Report, run};
pub use scenario::{Incident, Scenario};
pub use world::crossing::Crossed;
