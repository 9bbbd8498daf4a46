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

/// How well somebody is known who causes work, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    /// A peer that has proved its identity.
    Authenticated,
    /// Somebody at an address that is configured as it is, or that a configured name stands for.
    Address,
    /// Somebody in a configured network of some size: at least an IPv4 /16 or an IPv6 /32.
    Prefix,
    /// Anybody.
    Anybody,
}

/// Who causes work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// How well it is known.
    pub standing: Standing,
    /// Where it is.
    pub source: core::net::IpAddr,
}

impl Standing {
    /// Those who have proved at most where they are.
    pub const STRANGERS: [Self; 3] = [Self::Address, Self::Prefix, Self::Anybody];
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
        /// Who wants it: when there is too much to do, the best known come first.
        asker: Asker,
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
