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

use alloc::{format, string::String};

use sa_store::Identity;

pub(crate) use initiator::{Authenticating, start};
pub(crate) use responder::{Request, on_request};

use crate::{
    event::{Event, Failure, FailureCode},
    sa::established::Established,
    shared::Shared,
    wire,
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

/// Characters of a peer's identity that are shown: it may have as many as a message has room for,
/// and nobody has vouched for it.
const SHOWN: usize = 200;

/// What a peer says it is, for people.
fn claimed(identity: &Identity) -> String {
    let mut text = format!("{identity}");
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The peer's AUTH payload is not right.
fn wrong_auth(method: wire::AuthMethod, remote_id: &Identity, local_id: &Identity) -> Failure {
    let claimed = claimed(remote_id);
    let message = if method == wire::AuthMethod::SHARED_KEY_MIC {
        format!(
            "{claimed} did not prove its identity to {local_id}: the shared keys of both sides \
             differ (check for a trailing newline, 0x or 0s in front, and that the key belongs to \
             this pair of identities)"
        )
    } else {
        format!(
            "{claimed} authenticates with another method ({method}) than the pre-shared key that \
             is configured here: let it use one, too (strongSwan: local {{ auth = psk }})"
        )
    };
    Failure::new(FailureCode::AuthenticationFailed, message)
}
