//! ESP (RFC 4303) as pure packet transforms: no socket, no clock, no table.
//!
//! ```text
//!  inner packets --> seal_burst --> [outer IP | UDP] | SPI seq | IV | ciphertext | ICV
//!  inner packets <-- open_burst <--                    SPI seq | IV | ciphertext | ICV
//! ```
//!
//! [`OutboundSa`] and [`InboundSa`] are built from an `SaRecord` and are immutable; what changes
//! (sequence numbers, replay window, counters) lives in the shared `sa_store::live::LiveSa`, so
//! one SA may be used by many workers. Bursts may mix SAs. Nothing here allocates per packet.
//!
//! Every packet ends with an outcome of its own, and drops are counted in the SA, by reason.
//!
//! # Example
//!
//! ```
//! use esp::{InboundSa, OpenPacket, OutboundSa, SealPacket, SealSource, open_burst, seal_burst};
//!
//! /// Through the tunnel: what one gateway seals, the other opens.
//! fn through(here: &OutboundSa, there: &InboundSa, inner: &[u8]) -> Option<Vec<u8>> {
//!     let mut slot = vec![0; here.sealed_len(inner.len())];
//!     let source = SealSource::Parts { head: inner, body: &[] };
//!     let mut burst = [SealPacket::new(here, source, &mut slot)];
//!     seal_burst(&mut burst);
//!     let mut on_the_wire = burst[0].sealed()?.to_vec();
//!
//!     let mut burst = [OpenPacket::new(there, &mut on_the_wire, None)];
//!     open_burst(&mut burst);
//!     Some(burst[0].inner()?.to_vec())
//! }
//! ```
//!
//! What this room never does: choose an SA, wait, log, or tell anybody why a packet was not
//! authentic.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod ecn;
mod inbound;
pub mod inner;
mod outbound;
mod outer;
mod trailer;
pub mod udp;

pub use inbound::{
    Authenticated, InboundSa, OpenOutcome, OpenPacket, Opened, open_burst, open_burst_where,
    peek_spi,
};
pub use outbound::{
    InnerHops, OutboundOptions, OutboundSa, OutputForm, SealPacket, SealSource, Sealed,
    outer_headers_len, seal_burst,
};

use core::fmt;

use crypto::aead::KeyError;

/// Octets of SPI and sequence number.
pub const ESP_HEADER_LEN: usize = 8;
/// IP protocol number of ESP.
pub const PROTOCOL_ESP: u8 = 50;

/// How many packets go to the engines at once.
const CHUNK: usize = 32;

/// Why an SA could not be built from a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// The record is of the other direction.
    Direction,
    /// Local and remote address are of different families.
    AddressFamily,
    /// Transport mode is not available yet.
    TransportMode,
    /// The key material does not fit the suite.
    Key(KeyError),
}

impl From<KeyError> for BuildError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direction => f.write_str("the record is of the other direction"),
            Self::AddressFamily => {
                f.write_str("local and remote outer address are of different families")
            }
            Self::TransportMode => f.write_str("transport mode is not available yet"),
            Self::Key(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for BuildError {}
