//! The initiator's side.

use alloc::{boxed::Box, format, sync::Arc, vec::Vec};
use core::net::SocketAddr;

use sa_store::{ChildId, EspSpi, Identity, IdentityPattern, Instant, TunnelId};

use super::{announce, claimed, wrong_auth};
use crate::{
    config::{AuthMethod, ChildConfig, Connection, Endpoints},
    connections,
    event::{Event, Failure, FailureCode},
    exchange::{
        create_child_sa::{self, accept_child, no_spi, offered},
        ike_sa_init::{Target, Transcript, connecting, unreachable},
        pair::Made,
        refusal,
    },
    keys::{Opened, PeerAuthenticated, SignedOctets, psk_auth, verify_psk},
    negotiate::{Pfs, esp_offer},
    sa::{
        IkeSa, Task,
        channel::{Channel, Received, Role, Secrets},
        established::{Established, Peer, Step},
        window::Due,
    },
    shared::{Action, Shared},
    view::{IkeSaId, IkeSaView},
    wire::{
        Delete, ExchangeType, Identification, Notify, NotifyType, Payload, Payloads, WireError,
    },
};

/// An IKE SA whose IKE_AUTH request is on its way.
#[derive(Debug)]
pub(crate) struct Authenticating {
    target: Target,
    channel: Channel,
    secrets: Secrets,
    transcript: Transcript,
    local_id: Identity,
    first: First,
}

/// The child that IKE_AUTH brings.
#[derive(Debug)]
struct First {
    config: Box<ChildConfig>,
    spi_in: EspSpi,
}

/// Proves our identity and asks for the first child.
pub(crate) fn start(
    shared: &mut Shared,
    target: Target,
    channel: Channel,
    secrets: Secrets,
    transcript: Transcript,
) -> Option<IkeSa> {
    match prepare(shared, target, channel, secrets, transcript) {
        Ok(state) => Some(IkeSa::Authenticating(state)),
        Err((target, own_spi, failure)) => {
            shared.directory.remove_spi(own_spi);
            let tunnel = Some(target.connection.tunnel);
            shared.failed(tunnel, None, target.path.remote, failure);
            None
        }
    }
}

type NotStarted = (Box<Target>, sa_store::IkeSpi, Failure);

fn prepare(
    shared: &mut Shared,
    target: Target,
    channel: Channel,
    secrets: Secrets,
    transcript: Transcript,
) -> Result<Box<Authenticating>, NotStarted> {
    let own_spi = channel.spis.own();
    let refuse = |target: Target, failure| Err((Box::new(target), own_spi, failure));
    let wanted = target
        .children
        .iter()
        .find_map(|child| target.connection.children.iter().find(|config| config.child == *child));
    let Some(config) = wanted.cloned().map(Box::new) else {
        let message = "the tunnel has no child that could be established";
        return refuse(target, Failure::new(FailureCode::Internal, message));
    };
    let Some(spi_in) = shared.spis.allocate() else { return refuse(target, no_spi()) };
    let local_id = connections::local_id(&target.connection, channel.path);
    let first = First { config, spi_in };
    let mut state =
        Box::new(Authenticating { target, channel, secrets, transcript, local_id, first });
    match state.send(shared) {
        Ok(()) => Ok(state),
        Err(failure) => {
            shared.spis.release(spi_in);
            refuse(state.target, failure)
        }
    }
}

/// Whether there is no other IKE SA between the two identities, in whichever tunnel: the peer
/// deletes all that it knows of when we say so (RFC 7296 §2.4). One that may come up while the
/// peer reads our message counts.
fn is_first_contact(
    shared: &Shared,
    connection: &Connection,
    local_id: &Identity,
    path: Endpoints,
) -> bool {
    let present = |tunnel: TunnelId| {
        shared.is_calling(tunnel) || shared.directory.of_tunnel(tunnel).next().is_some()
    };
    let same = |other: &Connection| connections::is_local_id(other, path, local_id);
    let mut others = shared.connections.meeting(&connection.remote_id);
    !present(connection.tunnel) && !others.any(|other| same(other) && present(other.tunnel))
}

impl Authenticating {
    pub(crate) fn tunnel(&self) -> TunnelId {
        self.target.connection.tunnel
    }

    pub(crate) fn children_mut(&mut self) -> &mut Vec<ChildId> {
        &mut self.target.children
    }

    fn send(&mut self, shared: &mut Shared) -> Result<(), Failure> {
        let connection = &self.target.connection;
        let id = Identification::new(&self.local_id);
        let identity = id.rest_of_payload();
        let octets = SignedOctets {
            message: &self.transcript.request,
            peer_nonce: &self.transcript.nonce_r,
            identity: &identity,
        };
        let AuthMethod::Psk(secret) = &connection.auth;
        let auth = psk_auth(secret, &self.secrets.sk_pi, &octets);
        let mut payloads = alloc::vec![Payload::IdI(id)];
        if is_first_contact(shared, connection, &self.local_id, self.channel.path) {
            payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)));
        }
        if let IdentityPattern::Exact(remote) = &connection.remote_id {
            payloads.push(Payload::IdR(Identification::new(remote)));
        }
        let config = &self.first.config;
        payloads.push(Payload::Auth(auth));
        payloads.push(Payload::Sa(esp_offer(&config.proposals, self.first.spi_in, Pfs::No)));
        payloads.push(Payload::TsI(offered(&config.local)));
        payloads.push(Payload::TsR(offered(&config.remote)));
        self.channel
            .request(shared, ExchangeType::IKE_AUTH, &payloads)
            .map_err(|error| Failure::new(FailureCode::Internal, format!("{error}")))
    }

    pub(crate) fn on_datagram(
        mut self: Box<Self>,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<IkeSa> {
        match self.channel.receive(shared, path, datagram) {
            Received::Response(ExchangeType::IKE_AUTH, opened) => self.on_response(shared, opened),
            Received::Response(..) => {
                let message = "the peer answered IKE_AUTH with another exchange";
                self.fail(shared, Failure::new(FailureCode::InvalidSyntax, message));
                None
            }
            Received::Request(..) => {
                // The peer is ahead: it repeats the request when we are as far.
                shared.counters.unexpected += 1;
                Some(IkeSa::Authenticating(self))
            }
            Received::Nothing => Some(IkeSa::Authenticating(self)),
        }
    }

    fn on_response(
        self: Box<Self>,
        shared: &mut Shared,
        opened: Result<Opened, WireError>,
    ) -> Option<IkeSa> {
        let syntax = |error: &WireError| {
            let message = format!("the peer's IKE_AUTH response is not valid: {error}");
            Failure::new(FailureCode::InvalidSyntax, message)
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.fail(shared, syntax(&error));
                return None;
            }
        };
        let payloads = match opened.payloads() {
            Ok(payloads) => payloads,
            Err(error) => {
                self.refuse_peer(shared, syntax(&error));
                return None;
            }
        };
        match self.verify(&payloads) {
            Ok((proof, remote_id)) => self.establish(shared, proof, remote_id, &payloads),
            Err(Unproven::Refused(failure)) => {
                self.fail(shared, failure);
                None
            }
            Err(Unproven::Wrong(failure)) => {
                self.refuse_peer(shared, failure);
                None
            }
        }
    }

    /// Whether the peer is who it should be.
    fn verify(&self, payloads: &Payloads<'_>) -> Result<(PeerAuthenticated, Identity), Unproven> {
        if let (None, Some(notify)) = (payloads.auth(), payloads.error_notify()) {
            return Err(Unproven::Refused(refusal::failure_of(notify, "our IKE_AUTH")));
        }
        let missing = |error: WireError| {
            let message = format!("the peer's IKE_AUTH response is incomplete: {error}");
            Unproven::Wrong(Failure::new(FailureCode::InvalidSyntax, message))
        };
        let id = payloads.require_id_r().map_err(missing)?;
        let auth = payloads.require_auth().map_err(missing)?;
        let connection = &self.target.connection;
        let remote_id = id.identity().map_err(|error| {
            let message = format!("the peer's identity cannot be read: {error}");
            Unproven::Wrong(Failure::new(FailureCode::IdentityMismatch, message))
        })?;
        let octets = SignedOctets {
            message: &self.transcript.response,
            peer_nonce: &self.transcript.nonce_i,
            identity: &id.rest_of_payload(),
        };
        let AuthMethod::Psk(secret) = &connection.auth;
        let proof = verify_psk(secret, &self.secrets.sk_pr, &octets, auth);
        if !connection.remote_id.accepts(&remote_id) {
            let message = format!(
                "the peer says it is {}, and {} is expected: compare remote.id here with the \
                 peer's own identity",
                claimed(&remote_id),
                connection.remote_id
            );
            return Err(Unproven::Wrong(Failure::new(FailureCode::IdentityMismatch, message)));
        }
        match proof {
            Ok(proof) => Ok((proof, remote_id)),
            Err(_) => Err(Unproven::Wrong(wrong_auth(auth.method, &remote_id, &self.local_id))),
        }
    }

    fn establish(
        self: Box<Self>,
        shared: &mut Shared,
        proof: PeerAuthenticated,
        remote_id: Identity,
        payloads: &Payloads<'_>,
    ) -> Option<IkeSa> {
        let Self { target, channel, secrets, transcript, local_id, first } = *self;
        let Target { id, connection, children, begun, .. } = target;
        let line = (id, channel.spis.spi_i);
        let peer = Peer::new(proof, connection, (local_id, remote_id), line, true);
        let mut sa = Box::new(Established::new(shared, id, Arc::new(peer), channel, secrets));
        announce(shared, &sa, true);
        shared.act(Action::Settle { ike: id, begun, initial_contact: false });
        let now = shared.now;
        for child in children.into_iter().filter(|child| *child != first.config.child) {
            sa.queue.push(Task::CreateChild(child), now);
        }
        let step = first_child(&mut sa, shared, first, &transcript, payloads);
        sa.carry_on(shared, step)
    }

    /// The peer did not prove who it is: it may think that all is well, so it is told (RFC 7296
    /// §2.21.2). Nothing is kept to repeat it.
    fn refuse_peer(mut self: Box<Self>, shared: &mut Shared, failure: Failure) {
        let notify = Notify::new(NotifyType::AUTHENTICATION_FAILED);
        let payloads = [Payload::Notify(notify), Payload::Delete(Delete::ike())];
        // If it cannot be sealed, the peer finds out by itself.
        let _ = self.channel.request(shared, ExchangeType::INFORMATIONAL, &payloads);
        self.fail(shared, failure);
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, shared: &mut Shared) -> Option<IkeSa> {
        match self.channel.on_timeout(shared) {
            Due::Wait => Some(IkeSa::Authenticating(self)),
            Due::Again(tries) => {
                let (tunnel, remote) = (self.tunnel(), self.channel.path.remote);
                shared.event(Event::Retransmitting { tunnel, remote, tries });
                Some(IkeSa::Authenticating(self))
            }
            Due::GiveUp => {
                let failure = unreachable(shared, self.channel.path);
                self.fail(shared, failure);
                None
            }
        }
    }

    pub(crate) fn due(&self, shared: &Shared) -> Instant {
        self.channel.due(shared)
    }

    /// Gives up.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.channel.path.remote
    }

    pub(crate) fn fail(self: Box<Self>, shared: &mut Shared, failure: Failure) {
        shared.spis.release(self.first.spi_in);
        shared.directory.remove_spi(self.channel.spis.own());
        shared.failed(Some(self.tunnel()), None, self.channel.path.remote, failure);
    }

    pub(crate) fn view(&self, id: IkeSaId) -> IkeSaView {
        let channel = &self.channel;
        let view =
            connecting(id, Some(self.tunnel()), channel.spis, channel.path, Some(channel.suite));
        IkeSaView { nat_local: channel.nat.local, nat_remote: channel.nat.remote, ..view }
    }
}

/// Why the peer is not authenticated.
enum Unproven {
    /// It refused us.
    Refused(Failure),
    /// It is wrong itself.
    Wrong(Failure),
}

/// The IKE SA stands; what became of its first child?
fn first_child(
    sa: &mut Established,
    shared: &mut Shared,
    first: First,
    transcript: &Transcript,
    payloads: &Payloads<'_>,
) -> Step {
    let First { config, spi_in } = first;
    let (tunnel, remote) = (sa.peer.tunnel(), sa.channel.path.remote);
    if let Some(notify) = payloads.error_notify() {
        shared.spis.release(spi_in);
        let failure = refusal::failure_of_child(notify, "the first child", &config);
        shared.failed(Some(tunnel), Some(config.child), remote, failure);
        return Ok(());
    }
    match accept_child(&config, payloads, Pfs::No) {
        Ok((choice, local, remote)) => {
            let (nonce_i, nonce_r) = (transcript.nonce_i.clone(), transcript.nonce_r.clone());
            let role = Role::Initiator;
            let made = Made { choice, spi_in, local, remote, nonce_i, nonce_r, role };
            create_child_sa::install_first(sa, shared, config, made)
        }
        Err(failure) => {
            sa.queue.push(Task::DeleteSpi(spi_in), shared.now);
            shared.failed(Some(tunnel), Some(config.child), remote, failure);
            Ok(())
        }
    }
}
