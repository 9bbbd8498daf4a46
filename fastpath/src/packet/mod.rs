//! Packets on the clear side: cutting, joining, clamping, complaining.

pub(crate) mod coalesce;
pub(crate) mod gather;
pub(crate) mod header;
#[cfg(test)]
mod hostile;
pub(crate) mod icmp;
pub(crate) mod mss;
pub(crate) mod segment;
pub(crate) mod too_big;

/// The least MTU of IPv6: smaller paths get outer fragments instead (RFC 8200 §5).
pub(crate) const IPV6_LEAST: usize = 1280;
