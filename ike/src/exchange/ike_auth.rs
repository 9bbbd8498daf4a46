//! IKE_AUTH (RFC 7296 §1.2, §2.15): both prove who they are, and the first child comes with it.
//!
//! ```text
//! Initiator                             Responder
//! HDR, SK {IDi, [N(INITIAL_CONTACT),]
//!          [IDr,] AUTH, SAi2,
//!          TSi, TSr}               -->  verifies, chooses the tunnel, installs
//!                                  <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr}
//! verifies, installs
//! ```

mod initiator;
mod responder;

use alloc::format;

use sa_store::Identity;

pub(crate) use initiator::{Authenticating, start};
pub(crate) use responder::{Request, on_request};

use crate::{
    event::{Event, Failure, FailureCode},
    sa::established::Established,
    shared::Shared,
};

/// Tells that both sides are authenticated.
fn announce(shared: &mut Shared, sa: &Established, initiator: bool) {
    shared.event(Event::IkeEstablished {
        tunnel: sa.peer.tunnel(),
        ike: sa.id,
        suite: sa.channel.suite,
        remote_id: sa.peer.remote_id.clone(),
        remote: sa.channel.path.remote,
        initiator,
    });
}

/// The peer's AUTH payload is not right.
fn wrong_auth(remote_id: &Identity, local_id: &Identity) -> Failure {
    Failure::new(
        FailureCode::AuthenticationFailed,
        format!(
            "{remote_id} did not prove its identity to {local_id}: the shared keys of both sides \
             differ (check for a trailing newline, 0x or 0s in front, and that the key belongs \
             to this pair of identities)"
        ),
    )
}
