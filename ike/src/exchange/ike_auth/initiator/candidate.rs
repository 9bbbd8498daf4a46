//! An answer to IKE_SA_INIT that is tried: its keys, our IKE_AUTH under them, and whether what comes
//! back proves that it is the peer's.

use alloc::{boxed::Box, format};

use sa_store::{EspSpi, Identity, IdentityPattern, SecretBytes, TunnelId};

use super::super::{claimed, wrong_auth};
use crate::{
    config::{AuthMethod, ChildConfig, Connection, Endpoints},
    connections,
    event::{Failure, FailureCode},
    exchange::{
        create_child_sa::{no_spi, offered},
        ike_sa_init::{Agreed, Answered, Initiating, Line, Reading},
        refusal,
    },
    keys::{Opened, PeerAuthenticated, SignedOctets, Skeyseed, psk_auth, verify_psk},
    negotiate::{Pfs, esp_offer},
    sa::{
        channel::{Channel, NoChannel, Secrets},
        nat,
        window::Window,
    },
    shared::Shared,
    wire::{
        Delete, ExchangeType, Identification, Notify, NotifyType, Payload, Payloads, WireError,
    },
};

/// An answer to IKE_SA_INIT with its keys.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) answered: Box<Answered>,
    pub(super) channel: Channel,
    pub(super) secrets: Secrets,
    pub(super) local_id: Identity,
    pub(super) first: First,
}

/// The child that IKE_AUTH brings.
#[derive(Debug)]
pub(super) struct First {
    pub(super) config: Box<ChildConfig>,
    pub(super) spi_in: EspSpi,
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

impl Candidate {
    pub(super) fn open(
        shared: &mut Shared,
        init: &Initiating,
        agreed: Agreed,
    ) -> Result<Self, Failure> {
        let internal = |message: &str| Failure::new(FailureCode::Internal, message);
        let (answered, secret) = agreed;
        let target = &init.target;
        let wanted = target.children.iter().find_map(|child| {
            target.connection.children.iter().find(|config| config.child == *child)
        });
        let Some(config) = wanted.cloned().map(Box::new) else {
            return Err(internal("the tunnel has no child that could be established"));
        };
        let channel = open_channel(shared, init, &answered, &secret);
        let Ok((channel, secrets)) = channel else {
            return Err(internal("the keys of the IKE SA could not be derived"));
        };
        let Some(spi_in) = shared.spis.allocate() else { return Err(no_spi()) };
        let local_id = connections::local_id(&target.connection, channel.path);
        let first = First { config, spi_in };
        let mut candidate = Self { answered, channel, secrets, local_id, first };
        match candidate.send(shared, &target.connection) {
            Ok(()) => Ok(candidate),
            Err(failure) => {
                shared.spis.release(spi_in);
                Err(failure)
            }
        }
    }

    fn send(&mut self, shared: &mut Shared, connection: &Connection) -> Result<(), Failure> {
        let transcript = &self.answered.transcript;
        let id = Identification::new(&self.local_id);
        let identity = id.rest_of_payload();
        let octets = SignedOctets {
            message: &transcript.request,
            peer_nonce: &transcript.nonce_r,
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

    /// Whether a response proves that the answer is the peer's.
    pub(super) fn judge(
        &self,
        connection: &Connection,
        opened: &Result<Opened, WireError>,
    ) -> Result<Proven, Unproven> {
        let syntax = |error: &WireError| {
            let message = format!("the peer's IKE_AUTH response is not valid: {error}");
            Failure::new(FailureCode::InvalidSyntax, message)
        };
        let opened = opened.as_ref().map_err(|error| Unproven::Refused(syntax(error)))?;
        let payloads = opened.payloads().map_err(|error| Unproven::Wrong(syntax(&error)))?;
        self.verify(connection, &payloads)
    }

    /// Whether the peer is who it should be.
    fn verify(&self, connection: &Connection, payloads: &Payloads<'_>) -> Result<Proven, Unproven> {
        if let (None, Some(notify)) = (payloads.auth(), payloads.error_notify()) {
            return Err(Unproven::Refused(refusal::failure_of(notify, "our IKE_AUTH")));
        }
        let missing = |error: WireError| {
            let message = format!("the peer's IKE_AUTH response is incomplete: {error}");
            Unproven::Wrong(Failure::new(FailureCode::InvalidSyntax, message))
        };
        let id = payloads.require_id_r().map_err(missing)?;
        let auth = payloads.require_auth().map_err(missing)?;
        let remote_id = id.identity().map_err(|error| {
            let message = format!("the peer's identity cannot be read: {error}");
            Unproven::Wrong(Failure::new(FailureCode::IdentityMismatch, message))
        })?;
        let AuthMethod::Psk(secret) = &connection.auth;
        // What the peer has said is what its AUTH says that it has said.
        let proof = self.answered.readings.iter().find_map(|reading| {
            let octets = SignedOctets {
                message: &reading.response,
                peer_nonce: &self.answered.transcript.nonce_i,
                identity: &id.rest_of_payload(),
            };
            let proof = verify_psk(secret, &self.secrets.sk_pr, &octets, auth).ok()?;
            Some((proof, reading.clone()))
        });
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
            Some((proof, reading)) => Ok(Proven { proof, remote_id, reading }),
            None => Err(Unproven::Wrong(wrong_auth(auth.method, &remote_id, &self.local_id))),
        }
    }

    /// The peer did not prove who it is: it may think that all is well, so it is told (RFC 7296
    /// §2.21.2). Nothing is kept to repeat it.
    pub(super) fn refuse(&mut self, shared: &mut Shared) {
        let notify = Notify::new(NotifyType::AUTHENTICATION_FAILED);
        let payloads = [Payload::Notify(notify), Payload::Delete(Delete::ike())];
        // If it cannot be sealed, the peer finds out by itself.
        let _ = self.channel.request(shared, ExchangeType::INFORMATIONAL, &payloads);
    }

    pub(super) fn release(self, shared: &mut Shared) {
        shared.spis.release(self.first.spi_in);
    }
}

/// The protected channel that an answer leads to.
fn open_channel(
    shared: &mut Shared,
    init: &Initiating,
    answered: &Answered,
    secret: &SecretBytes,
) -> Result<(Channel, Secrets), NoChannel> {
    let Line { suite, spi_r, nonce_r, .. } = &answered.line;
    let spis = init.spis(*spi_r);
    let nonce_i = &answered.transcript.nonce_i;
    let keys = Skeyseed::initial(suite.prf, nonce_i, nonce_r, secret)
        .derive(*suite, nonce_i, nonce_r, spis.spi_i, spis.spi_r)?;
    let nat = answered.readings.first().map(|reading| reading.nat).unwrap_or_default();
    let path = init.target.path;
    let path = if nat.any() { nat::float(path) } else { path };
    let fragmentation = answered.readings.iter().any(|reading| reading.fragmentation);
    let window = Window::new(1, 0);
    Channel::open_with(shared, spis, *suite, keys, (path, nat, fragmentation), window)
}

/// The peer is who it should be.
pub(super) struct Proven {
    pub(super) proof: PeerAuthenticated,
    pub(super) remote_id: Identity,
    /// What it has said in IKE_SA_INIT.
    pub(super) reading: Reading,
}

/// Why the peer is not authenticated.
pub(super) enum Unproven {
    /// It refused us.
    Refused(Failure),
    /// It is wrong itself.
    Wrong(Failure),
}
