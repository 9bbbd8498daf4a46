//! The inline ESP data plane.

mod error;
mod io;
mod policy;
mod steer;

pub use error::Error;
pub use io::{IkeDatagram, Offloads, Outgoing, Tun, TunQueue, WireConfig, WireSockets};
pub use steer::{Marks, SteeringConfig, release};
