//! Everything a gateway may ask of its driver.

use std::net::IpAddr;

use ike::config::Endpoints;
use sa_store::KeGroup;

use crate::{
    command::{CommandId, Outcome},
    read_model::EventRecord,
};

/// Names a request until its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// One thing to do.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram; on local port 4500 with the non-ESP marker in front unless it is a
    /// keepalive.
    Transmit {
        /// Both ends.
        path: Endpoints,
        /// Octets.
        payload: Vec<u8>,
        /// A NAT keepalive.
        keepalive: bool,
    },
    /// Something slow.
    Request {
        /// Names it.
        ticket: Ticket,
        /// What.
        kind: RequestKind,
    },
    /// A command is done.
    Outcome {
        /// Which one.
        id: CommandId,
        /// What became of it.
        outcome: Outcome,
    },
    /// Something an operator may want to know; also kept in the read model's ring.
    Event(EventRecord),
}

/// Something slow.
#[derive(Debug)]
pub enum RequestKind {
    /// As in `ike`.
    GenerateKey {
        /// The method.
        group: KeGroup,
    },
    /// As in `ike`.
    Agree {
        /// The method.
        group: KeGroup,
        /// Ours.
        private: crypto::ke::PrivateKey,
        /// The peer's public value.
        peer_public: Vec<u8>,
    },
    /// As in `ike`.
    GenerateAndAgree {
        /// The method.
        group: KeGroup,
        /// The peer's public value.
        peer_public: Vec<u8>,
        /// Who wants it.
        asker: ike::output::Asker,
    },
    /// Resolve a host name.
    Resolve {
        /// The name.
        host: String,
    },
    /// Find the local address that packets to the peer leave from.
    SourceAddress {
        /// The peer.
        remote: IpAddr,
    },
}
