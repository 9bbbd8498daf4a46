//! One trait for every place an SA can run: a NIC or DPU, the kernel, the inline data plane.

mod backend;
mod capability;
pub mod contract;
mod notice;
mod operation;
pub mod placement;

pub use backend::{Backend, Busy, Placement, Ticket, Waker};
pub use capability::Capabilities;
pub use notice::{DropCounters, Notice, SaCounters};
pub use operation::{Operation, Pair, Policy, PolicyAction, PolicySet};
