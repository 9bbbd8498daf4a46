//! Everything an endpoint may ask of its driver.

use alloc::{boxed::Box, vec::Vec};

use sa_store::{KeGroup, PairId, SaRecord};

use crate::{config::Endpoints, event::Event};

/// Names a request until its completion; never used twice by one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// One thing to do.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram. When `path.local` is port 4500 the driver puts the non-ESP marker in
    /// front, except for NAT keepalives (`keepalive` is true: a single octet 0xff).
    Transmit {
        /// From and to where.
        path: Endpoints,
        /// The message.
        payload: Vec<u8>,
        /// A NAT keepalive: no marker.
        keepalive: bool,
    },
    /// Something slow; the answer comes back as a completion with the same ticket.
    Request {
        /// Names it.
        ticket: Ticket,
        /// What to do.
        kind: RequestKind,
    },
    /// Something an operator may want to know.
    Event(Event),
}

/// Something slow.
#[derive(Debug)]
pub enum RequestKind {
    /// Make a key pair (completion: `KeyGenerated`).
    GenerateKey {
        /// The method.
        group: KeGroup,
    },
    /// Agree on a secret with the private key of a `GenerateKey` (completion: `Agreed`).
    Agree {
        /// The method.
        group: KeGroup,
        /// Ours.
        private: crypto::ke::PrivateKey,
        /// The peer's public value as received; its length is already checked.
        peer_public: Vec<u8>,
    },
    /// Make a key pair and agree at once: the responder's side (completion: `Agreed`).
    GenerateAndAgree {
        /// The method.
        group: KeGroup,
        /// The peer's public value as received; its length is already checked.
        peer_public: Vec<u8>,
    },
    /// Install both directions of a pair: inbound first, both or neither (completion:
    /// `Installed`). With `activate` the outbound SA takes over the traffic of its child at
    /// once, otherwise it waits for `Activate`.
    Install {
        /// The inbound SA.
        inbound: Box<SaRecord>,
        /// The outbound SA.
        outbound: Box<SaRecord>,
        /// Whether outbound traffic moves at once.
        activate: bool,
    },
    /// Move the child's outbound traffic to this pair (completion: `Activated`).
    Activate {
        /// Which pair.
        pair: PairId,
    },
    /// The peer moved (completion: `Updated`).
    UpdateAddresses {
        /// Which pair.
        pair: PairId,
        /// Where both ends are now.
        path: Endpoints,
    },
    /// Remove both directions of a pair (completion: `Removed`).
    Remove {
        /// Which pair.
        pair: PairId,
    },
}
