//! Packets on the clear side: cutting, joining, clamping, complaining.

pub(crate) mod coalesce;
pub(crate) mod gather;
pub(crate) mod header;
#[cfg(test)]
mod hostile;
pub(crate) mod icmp;
pub(crate) mod mss;
pub(crate) mod segment;
