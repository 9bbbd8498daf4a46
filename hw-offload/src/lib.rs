//! One trait for every place an SA can run: a NIC or DPU, the kernel, the inline data plane.

mod backend;
mod capability;
mod notice;
mod operation;

pub use backend::{Backend, Busy, Placement, Ticket, Waker};
pub use capability::Capabilities;
pub use notice::{DropCounters, Notice, SaCounters};
pub use operation::{Operation, Pair, Policy, PolicyAction, PolicySet};
