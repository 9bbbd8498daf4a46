//! Everything that may happen to a gateway.

use std::net::IpAddr;

use ike::{
    config::Endpoints,
    input::{Agreement, GeneratedKey, KeFailure},
};

use crate::{
    command::{Command, CommandId},
    output::Ticket,
};

/// One thing that happened; the time is a parameter of `handle`.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram on an IKE port, without non-ESP marker.
    Datagram {
        /// Both ends.
        path: Endpoints,
        /// Octets.
        payload: &'a [u8],
    },
    /// Somebody wants something.
    Command {
        /// Names it.
        id: CommandId,
        /// What.
        command: Command,
    },
    /// An answer to a request.
    Completion {
        /// Names the request.
        ticket: Ticket,
        /// The answer.
        result: CompletionResult,
    },
    /// The backend's waker was called, or time passed.
    Wake,
}

/// What a request came to.
#[derive(Debug)]
pub enum CompletionResult {
    /// Answers `GenerateKey`.
    KeyGenerated(Result<GeneratedKey, KeFailure>),
    /// Answers `Agree` and `GenerateAndAgree`.
    Agreed(Result<Agreement, KeFailure>),
    /// Answers `Resolve`: addresses in the order to try, or why there are none.
    Resolved(Result<Vec<IpAddr>, String>),
    /// Answers `SourceAddress`: the address the route to the peer takes, or why there is none.
    Source(Result<IpAddr, String>),
}
