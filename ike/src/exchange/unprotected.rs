//! Answers to those with whom there is no IKE SA: one notification, and nothing is kept.

use crate::{
    config::Endpoints,
    shared::Shared,
    wire::{Header, Notify, Payload, encode_message},
};

/// Answers a request, never with more octets than it had.
pub(crate) fn reply(
    shared: &mut Shared,
    path: Endpoints,
    request: &Header,
    notify: Notify<'_>,
    request_len: usize,
) {
    let header = Header { initiator: !request.initiator, response: true, ..*request };
    match encode_message(&header, &[Payload::Notify(notify)]) {
        Ok(response) if response.len() <= request_len => shared.transmit(path, response),
        _ => {}
    }
}
