//! The responder's side.

use alloc::{boxed::Box, format, sync::Arc};

use sa_store::{Identity, SecretBytes};

use super::{announce, claimed, wrong_auth};
use crate::{
    config::{AuthMethod, Connection, Endpoints},
    connections,
    event::{Failure, FailureCode},
    exchange::{
        create_child_sa::{self, Wanted},
        ike_sa_init::Opening,
    },
    fragment::MAX_REASSEMBLED_LEN,
    keys::{Opened, PeerAuthenticated, SignedOctets, psk_auth, verify_psk},
    sa::{
        IkeSa,
        channel::{Channel, Secrets},
        established::{Established, Peer, Refusal},
    },
    shared::{Action, Shared},
    wire::{ExchangeType, Identification, Notify, NotifyType, Payload, Payloads, WireError},
};

/// An IKE_AUTH request: authentic, which says nothing about who sent it.
pub(crate) struct Request {
    pub(crate) opened: Result<Opened, WireError>,
    pub(crate) path: Endpoints,
}

/// The peer is not let in; the half-open state lives on to repeat that.
type Refused = (Box<Opening>, Box<Channel>);

/// Answers IKE_AUTH.
pub(crate) fn on_request(
    shared: &mut Shared,
    opening: Opening,
    (mut channel, secrets): (Channel, Secrets),
    request: Request,
) -> Result<Option<IkeSa>, Refused> {
    let Request { opened, path } = request;
    let payloads = match &opened {
        Ok(opened) => opened.payloads(),
        Err(error) => Err(*error),
    };
    let payloads = match payloads {
        Ok(payloads) => payloads,
        Err(WireError::UnsupportedCritical(kind)) => {
            return refuse(shared, opening, channel, path, Notify::unsupported_critical(kind));
        }
        Err(_) => {
            let notify = Notify::new(NotifyType::INVALID_SYNTAX);
            return refuse(shared, opening, channel, path, notify);
        }
    };
    let (proof, connection, local_id, remote_id) =
        match verify(shared, &opening, &secrets, &channel, &payloads) {
            Ok(proven) => proven,
            Err((tunnel, failure)) => {
                shared.hint(tunnel.map(|it| it.tunnel), path.remote, failure);
                // Rule: one answer for every reason, so that nothing can be probed.
                let notify = Notify::new(NotifyType::AUTHENTICATION_FAILED);
                return refuse(shared, opening, channel, path, notify);
            }
        };
    let id = Identification::new(&local_id);
    let octets = SignedOctets {
        message: &opening.transcript.response,
        peer_nonce: &opening.transcript.nonce_i,
        identity: &id.rest_of_payload(),
    };
    let AuthMethod::Psk(secret) = &connection.auth;
    let auth = psk_auth(secret, &secrets.sk_pr, &octets);
    channel.path = path;
    channel.limit_requests(MAX_REASSEMBLED_LEN);
    let line = (opening.id, channel.spis.spi_i);
    let peer = Peer::new(proof, connection, (local_id, remote_id), line, false);
    let mut sa = Box::new(Established::new(shared, opening.id, Arc::new(peer), channel, secrets));
    announce(shared, &sa, false);
    let initial_contact = payloads.has_notify(NotifyType::INITIAL_CONTACT);
    shared.act(Action::Settle { ike: sa.id, begun: opening.begun, initial_contact });
    let prefix = alloc::vec![Payload::IdR(id), Payload::Auth(auth)];
    let wanted = Wanted {
        exchange: ExchangeType::IKE_AUTH,
        begun: Some(opening.begun),
        path,
        prefix: prefix.clone(),
        old: None,
        nonce_i: opening.transcript.nonce_i,
        nonce_r: opening.transcript.nonce_r,
    };
    let step = match create_child_sa::answer(&mut sa, shared, wanted, &payloads) {
        Ok(()) => Ok(()),
        Err(Refusal::Notify(notify)) => {
            // RFC 7296 §1.2: the IKE SA stands, its first child does not.
            let mut payloads = prefix;
            payloads.push(Payload::Notify(notify));
            sa.respond(shared, ExchangeType::IKE_AUTH, &payloads, path)
        }
        Err(Refusal::Syntax(error)) => {
            let notify = Payload::Notify(Notify::new(NotifyType::INVALID_SYNTAX));
            let sent = sa.respond(shared, ExchangeType::IKE_AUTH, &[notify], path);
            sent.and_then(|()| {
                let message = format!("the peer's IKE_AUTH is not valid: {error}");
                Err(Failure::new(FailureCode::InvalidSyntax, message))
            })
        }
        Err(Refusal::Fatal(failure)) => Err(failure),
    };
    Ok(sa.carry_on(shared, step))
}

fn refuse(
    shared: &mut Shared,
    opening: Opening,
    mut channel: Channel,
    path: Endpoints,
    notify: Notify<'_>,
) -> Result<Option<IkeSa>, Refused> {
    let payloads = [Payload::Notify(notify)];
    // If it cannot be sealed there is nothing to repeat either.
    let _ = channel.respond(shared, ExchangeType::IKE_AUTH, &payloads, path);
    Err((Box::new(opening), Box::new(channel)))
}

type Proven = (PeerAuthenticated, Arc<Connection>, Identity, Identity);
type Unproven = (Option<Arc<Connection>>, Failure);

/// Chooses the tunnel and verifies the peer. An unknown peer costs the same work as a wrong key.
fn verify(
    shared: &mut Shared,
    opening: &Opening,
    secrets: &Secrets,
    channel: &Channel,
    payloads: &Payloads<'_>,
) -> Result<Proven, Unproven> {
    let incomplete = |error: WireError| {
        let message = format!("the peer's IKE_AUTH is incomplete: {error}");
        (None, Failure::new(FailureCode::InvalidSyntax, message))
    };
    let id = payloads.require_id_i().map_err(incomplete)?;
    let Some(auth) = payloads.auth() else {
        let message = "the peer wants to authenticate with EAP, which is not offered";
        return Err((None, Failure::new(FailureCode::AuthenticationFailed, message)));
    };
    let unreadable = |error| {
        let message = format!("the peer's identity cannot be read: {error}");
        (None, Failure::new(FailureCode::IdentityMismatch, message))
    };
    let remote_id = id.identity().map_err(unreadable)?;
    let wanted = payloads.id_r().and_then(|id| id.identity().ok());
    let path = channel.path;
    let connection =
        shared.connections.by_identity(path, channel.suite, &remote_id, wanted.as_ref());
    let octets = SignedOctets {
        message: &opening.transcript.request,
        peer_nonce: &opening.transcript.nonce_r,
        identity: &id.rest_of_payload(),
    };
    let Some(connection) = connection else {
        let decoy = SecretBytes::new(shared.nonce());
        let _ = verify_psk(&decoy, &secrets.sk_pi, &octets, auth);
        return Err(nobody(shared, path, &remote_id, wanted.as_ref()));
    };
    let local_id = connections::local_id(&connection, path);
    let AuthMethod::Psk(secret) = &connection.auth;
    match verify_psk(secret, &secrets.sk_pi, &octets, auth) {
        Ok(proof) => Ok((proof, connection, local_id, remote_id)),
        Err(_) => {
            let failure = wrong_auth(auth.method, &remote_id, &local_id);
            Err((Some(connection), failure))
        }
    }
}

/// No tunnel takes this identity.
fn nobody(
    shared: &Shared,
    path: Endpoints,
    remote_id: &Identity,
    wanted: Option<&Identity>,
) -> Unproven {
    let asked = wanted.map(|id| format!(" and asks for {}", claimed(id))).unwrap_or_default();
    let expected: alloc::vec::Vec<_> = shared
        .connections
        .by_address(path)
        .take(4)
        .map(|it| {
            format!("{} (as {}) in {}", it.remote_id, connections::local_id(it, path), it.name)
        })
        .collect();
    let message = format!(
        "{} says it is {}{asked}; expected from there: {}",
        path.remote.ip(),
        claimed(remote_id),
        if expected.is_empty() {
            alloc::string::String::from("nobody")
        } else {
            expected.join(", ")
        }
    );
    let likely = shared.connections.by_address(path).next().cloned();
    (likely, Failure::new(FailureCode::IdentityMismatch, message))
}
