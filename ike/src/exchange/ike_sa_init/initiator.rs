//! The initiator's side.

use alloc::{boxed::Box, format, sync::Arc, vec::Vec};
use core::{net::SocketAddr, time::Duration};

use sa_store::{ChildId, IkeSpi, Instant, KeGroup, TunnelId};

use super::{Transcript, does_fragmentation, extensions};
use crate::{
    config::{Connection, Endpoints, IkeSuite},
    event::{Event, Failure, FailureCode},
    exchange::{ike_auth, refusal},
    input::{CompletionResult, GeneratedKey},
    keys::Skeyseed,
    negotiate::{Mismatch, check_ike, first_group, ike_offer, offers_group},
    output::{RequestKind, Ticket},
    sa::{
        IkeSa,
        channel::{Channel, Role, Spis},
        nat::{self, Nat},
        window::{Due, Resend, Window},
    },
    shared::{Shared, Waiter},
    view::{IkeSaId, IkeSaView, IkeState},
    wire::{
        ExchangeType, Header, KeyExchange, Message, Nonce, Notify, NotifyType, Payload, Payloads,
        encode_message,
    },
};

/// Cookies that are followed in one attempt.
const MAX_COOKIES: u32 = 4;
/// How long a real answer may still come after an unprotected error (RFC 7296 §2.21.1: it may
/// be forged).
const HINT_PATIENCE: Duration = Duration::from_secs(3);

/// An IKE SA that we asked for, until its keys are there.
#[derive(Debug)]
pub(crate) struct Initiating {
    target: Target,
    attempt: Attempt,
    step: InitStep,
    /// Until when a key exchange may take.
    patience: Instant,
}

/// What it is for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: IkeSaId,
    pub(crate) connection: Arc<Connection>,
    pub(crate) path: Endpoints,
    /// The children that are wanted, at least one.
    pub(crate) children: Vec<ChildId>,
    /// When it began.
    pub(crate) begun: Instant,
}

/// What stays the same from one request to the next.
#[derive(Debug)]
struct Attempt {
    spi_i: IkeSpi,
    nonce_i: Vec<u8>,
    /// The status notifications, with what was drawn at random for them.
    extensions: Vec<Payload<'static>>,
    group: KeGroup,
    tried: Vec<KeGroup>,
    cookie: Vec<u8>,
    cookies: u32,
}

#[derive(Debug)]
enum InitStep {
    /// The key pair is being made.
    Key(Ticket),
    /// The request is on its way.
    Sent(Box<Sent>),
    /// The secret is being agreed on.
    Agreement(Ticket, Box<Answered>),
}

#[derive(Debug)]
struct Sent {
    key: GeneratedKey,
    request: Vec<u8>,
    resend: Resend,
    /// An unprotected error, and until when a better answer is waited for.
    hint: Option<(Failure, Instant)>,
}

#[derive(Debug)]
struct Answered {
    suite: IkeSuite,
    spi_r: IkeSpi,
    transcript: Transcript,
    nat: Nat,
    fragmentation: bool,
}

/// Begins to establish an IKE SA.
pub(crate) fn start(shared: &mut Shared, target: Target) -> Option<IkeSa> {
    let Some(group) = first_group(&target.connection.proposals) else {
        let failure = Failure::new(FailureCode::Internal, "the tunnel has no IKE proposal");
        shared.failed(Some(target.connection.tunnel), None, target.path.remote, failure);
        return None;
    };
    let spi_i = shared.next_ike_spi();
    shared.directory.add_spi(spi_i, target.id);
    let nonce_i = shared.nonce();
    let spis = Spis { role: Role::Initiator, spi_i, spi_r: IkeSpi::ZERO };
    let extensions = extensions(shared, target.connection.encap, spis, target.path, true);
    let tried = alloc::vec![group];
    let cookie = Vec::new();
    let attempt = Attempt { spi_i, nonce_i, extensions, group, tried, cookie, cookies: 0 };
    let ticket = shared.request(Waiter::Ike(target.id), RequestKind::GenerateKey { group });
    let patience = shared.now + shared.config.half_open_timeout;
    let state = Initiating { target, attempt, step: InitStep::Key(ticket), patience };
    Some(IkeSa::Initiating(Box::new(state)))
}

impl Initiating {
    pub(crate) fn tunnel(&self) -> TunnelId {
        self.target.connection.tunnel
    }

    pub(crate) fn children_mut(&mut self) -> &mut Vec<ChildId> {
        &mut self.target.children
    }

    fn spis(&self, spi_r: IkeSpi) -> Spis {
        Spis { role: Role::Initiator, spi_i: self.attempt.spi_i, spi_r }
    }

    /// Writes and sends the request.
    fn send(mut self: Box<Self>, shared: &mut Shared, key: GeneratedKey) -> Option<IkeSa> {
        let attempt = &self.attempt;
        let spis = self.spis(IkeSpi::ZERO);
        let mut payloads = Vec::new();
        if !attempt.cookie.is_empty() {
            let cookie = Notify::with_data(NotifyType::COOKIE, attempt.cookie.as_slice());
            payloads.push(Payload::Notify(cookie));
        }
        let connection = &self.target.connection;
        payloads.push(Payload::Sa(ike_offer(&connection.proposals, None)));
        payloads.push(Payload::Ke(KeyExchange::new(attempt.group, key.public.as_slice())));
        payloads.push(Payload::Nonce(Nonce(attempt.nonce_i.as_slice().into())));
        payloads.extend(attempt.extensions.iter().cloned());
        let header = Header {
            spi_i: spis.spi_i,
            spi_r: spis.spi_r,
            exchange: ExchangeType::IKE_SA_INIT,
            initiator: true,
            response: false,
            message_id: 0,
        };
        let request = match encode_message(&header, &payloads) {
            Ok(request) => request,
            Err(error) => {
                let failure = Failure::new(FailureCode::Internal, format!("{error}"));
                self.fail(shared, failure);
                return None;
            }
        };
        drop(payloads);
        shared.transmit(self.target.path, request.clone());
        let resend = Resend::start(shared);
        self.step = InitStep::Sent(Box::new(Sent { key, request, resend, hint: None }));
        Some(IkeSa::Initiating(self))
    }

    pub(crate) fn on_datagram(
        mut self: Box<Self>,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<IkeSa> {
        let Ok(message) = Message::parse(datagram) else {
            shared.counters.malformed += 1;
            return Some(IkeSa::Initiating(self));
        };
        let header = message.header;
        let fits = header.response
            && !header.initiator
            && header.exchange == ExchangeType::IKE_SA_INIT
            && header.message_id == 0
            && header.spi_i == self.attempt.spi_i
            && path.remote.ip() == self.target.path.remote.ip();
        let step = core::mem::replace(&mut self.step, InitStep::Key(Ticket(u64::MAX)));
        let InitStep::Sent(sent) = step else {
            self.step = step;
            return Some(IkeSa::Initiating(self));
        };
        if !fits || message.protected.is_some() {
            shared.counters.unexpected += 1;
            self.step = InitStep::Sent(sent);
            return Some(IkeSa::Initiating(self));
        }
        let payloads = &message.clear;
        if payloads.sa().is_none() {
            return self.on_notify(shared, *sent, payloads);
        }
        match self.accept(path, header.spi_r, &sent, payloads, datagram) {
            Ok((answered, peer_public)) => {
                let (group, private) = (self.attempt.group, sent.key.private);
                let kind = RequestKind::Agree { group, private, peer_public };
                let ticket = shared.request(Waiter::Ike(self.target.id), kind);
                self.step = InitStep::Agreement(ticket, Box::new(answered));
                self.patience = shared.now + shared.config.half_open_timeout;
                Some(IkeSa::Initiating(self))
            }
            Err(failure) => Some(self.hinted(shared, *sent, failure)),
        }
    }

    /// A response without SA payload: the peer wants something else, or refuses.
    fn on_notify(
        mut self: Box<Self>,
        shared: &mut Shared,
        sent: Sent,
        payloads: &Payloads<'_>,
    ) -> Option<IkeSa> {
        if let Some(cookie) = payloads.notify(NotifyType::COOKIE) {
            let new = (1..=64).contains(&cookie.data.len())
                && *cookie.data != *self.attempt.cookie
                && self.attempt.cookies < MAX_COOKIES;
            if new {
                self.attempt.cookie = cookie.data.to_vec();
                self.attempt.cookies += 1;
                return self.send(shared, sent.key);
            }
            self.step = InitStep::Sent(Box::new(sent));
            return Some(IkeSa::Initiating(self));
        }
        if let Some(notify) = payloads.notify(NotifyType::INVALID_KE_PAYLOAD) {
            let wanted = notify.data_u16().and_then(KeGroup::from_transform_id);
            if wanted == Some(self.attempt.group) {
                // The answer to an earlier request, once more: what it wants is on its way.
                self.step = InitStep::Sent(Box::new(sent));
                return Some(IkeSa::Initiating(self));
            }
            let group = wanted.filter(|group| {
                !self.attempt.tried.contains(group)
                    && offers_group(&self.target.connection.proposals, *group)
            });
            if let Some(group) = group {
                self.attempt.group = group;
                self.attempt.tried.push(group);
                let kind = RequestKind::GenerateKey { group };
                let ticket = shared.request(Waiter::Ike(self.target.id), kind);
                self.step = InitStep::Key(ticket);
                self.patience = shared.now + shared.config.half_open_timeout;
                return Some(IkeSa::Initiating(self));
            }
        }
        let failure = match payloads.error_notify() {
            Some(notify) => self.refused(notify),
            None => {
                shared.counters.unexpected += 1;
                self.step = InitStep::Sent(Box::new(sent));
                return Some(IkeSa::Initiating(self));
            }
        };
        Some(self.hinted(shared, sent, failure))
    }

    fn refused(&self, notify: &Notify<'_>) -> Failure {
        let mut failure = refusal::failure_of(notify, "our IKE_SA_INIT");
        if failure.code == FailureCode::NoProposalChosen {
            let proposals = self.target.connection.proposals.iter();
            let ours: Vec<_> = proposals.map(|it| format!("{it}")).collect();
            failure.message.push_str(&format!(" (we offered {})", ours.join(", ")));
        }
        failure
    }

    /// An unprotected error: it may be forged, so a better answer is waited for a little.
    fn hinted(mut self: Box<Self>, shared: &Shared, mut sent: Sent, failure: Failure) -> IkeSa {
        if sent.hint.is_none() {
            sent.hint = Some((failure, shared.now + HINT_PATIENCE));
        }
        self.step = InitStep::Sent(Box::new(sent));
        IkeSa::Initiating(self)
    }

    fn accept(
        &self,
        path: Endpoints,
        spi_r: IkeSpi,
        sent: &Sent,
        payloads: &Payloads<'_>,
        datagram: &[u8],
    ) -> Result<(Answered, Vec<u8>), Failure> {
        let syntax = |error| {
            let message = format!("the peer's IKE_SA_INIT response is incomplete: {error}");
            Failure::new(FailureCode::InvalidSyntax, message)
        };
        let mismatch =
            |mismatch: Mismatch| Failure::new(FailureCode::NoProposalChosen, format!("{mismatch}"));
        let connection = &self.target.connection;
        let answer = payloads.require_sa().map_err(syntax)?;
        let suite = check_ike(&connection.proposals, answer, false).map_err(mismatch)?.suite;
        let ke = payloads.require_ke().map_err(syntax)?;
        let nonce_r = payloads.require_nonce().map_err(syntax)?.0.to_vec();
        let group = self.attempt.group;
        let fits = suite.group == group
            && ke.known_group() == Some(group)
            && ke.data.len() == group.public_len();
        if !fits || spi_r.is_zero() {
            let message = "the peer's public value is not of the method that was asked for";
            return Err(Failure::new(FailureCode::InvalidKe, message));
        }
        let spis = (self.attempt.spi_i, spi_r);
        let transcript = Transcript {
            request: sent.request.clone(),
            response: datagram.to_vec(),
            nonce_i: self.attempt.nonce_i.clone(),
            nonce_r,
        };
        let nat = nat::detect(connection.encap, payloads, spis, path).unwrap_or_default();
        let fragmentation = does_fragmentation(payloads);
        Ok((Answered { suite, spi_r, transcript, nat, fragmentation }, ke.data.to_vec()))
    }

    pub(crate) fn on_completion(
        mut self: Box<Self>,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Option<IkeSa> {
        let internal = || Failure::new(FailureCode::Internal, "the key exchange failed");
        let step = core::mem::replace(&mut self.step, InitStep::Key(Ticket(u64::MAX)));
        match (step, result) {
            (InitStep::Key(own), result) if own == ticket => match result {
                CompletionResult::KeyGenerated(Ok(key)) => self.send(shared, key),
                _ => {
                    self.fail(shared, internal());
                    None
                }
            },
            (InitStep::Agreement(own, answered), result) if own == ticket => match result {
                CompletionResult::Agreed(Ok(agreement)) => {
                    self.protect(shared, *answered, &agreement.shared)
                }
                _ => {
                    self.fail(shared, internal());
                    None
                }
            },
            (step, _) => {
                self.step = step;
                Some(IkeSa::Initiating(self))
            }
        }
    }

    /// The keys are there: everything from now on is protected.
    fn protect(
        self: Box<Self>,
        shared: &mut Shared,
        answered: Answered,
        secret: &sa_store::SecretBytes,
    ) -> Option<IkeSa> {
        let Answered { suite, spi_r, transcript, nat, fragmentation } = answered;
        let spis = self.spis(spi_r);
        let (nonce_i, nonce_r) = (&transcript.nonce_i, &transcript.nonce_r);
        let keys = Skeyseed::initial(suite.prf, nonce_i, nonce_r, secret)
            .derive(suite, nonce_i, nonce_r, spis.spi_i, spis.spi_r);
        let path = if nat.any() { nat::float(self.target.path) } else { self.target.path };
        let window = Window::new(1, 0);
        let channel = keys.map_err(|_| ()).and_then(|keys| {
            Channel::open_with(shared, spis, suite, keys, (path, nat, fragmentation), window)
                .map_err(|_| ())
        });
        match channel {
            Ok((channel, secrets)) => {
                ike_auth::start(shared, self.target, channel, secrets, transcript)
            }
            Err(()) => {
                let message = "the keys of the IKE SA could not be derived";
                self.fail(shared, Failure::new(FailureCode::Internal, message));
                None
            }
        }
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, shared: &mut Shared) -> Option<IkeSa> {
        let (tunnel, path) = (self.tunnel(), self.target.path);
        let InitStep::Sent(sent) = &mut self.step else {
            if self.patience > shared.now {
                return Some(IkeSa::Initiating(self));
            }
            let message = "the key exchange was not computed in time on our side";
            self.fail(shared, Failure::new(FailureCode::Timeout, message));
            return None;
        };
        let hint = sent.hint.as_ref().filter(|(_, until)| *until <= shared.now);
        if let Some((failure, _)) = hint {
            let failure = failure.clone();
            self.fail(shared, failure);
            return None;
        }
        match sent.resend.check(shared) {
            Due::Wait => Some(IkeSa::Initiating(self)),
            Due::Again(tries) => {
                shared.transmit(path, sent.request.clone());
                shared.event(Event::Retransmitting { tunnel, remote: path.remote, tries });
                Some(IkeSa::Initiating(self))
            }
            Due::GiveUp => {
                let failure = match &sent.hint {
                    Some((failure, _)) => failure.clone(),
                    None => unreachable(shared, path),
                };
                self.fail(shared, failure);
                None
            }
        }
    }

    pub(crate) fn due(&self) -> Instant {
        match &self.step {
            InitStep::Sent(sent) => {
                let hint = sent.hint.as_ref().map_or(Instant::NEVER, |(_, until)| *until);
                sent.resend.due().min(hint)
            }
            InitStep::Key(_) | InitStep::Agreement(..) => self.patience,
        }
    }

    /// Gives up.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.target.path.remote
    }

    pub(crate) fn fail(self: Box<Self>, shared: &mut Shared, failure: Failure) {
        shared.failed(Some(self.tunnel()), None, self.target.path.remote, failure);
        self.drop_silently(shared);
    }

    /// Gives up because the tunnel came up in another way.
    pub(crate) fn drop_silently(&self, shared: &mut Shared) {
        shared.directory.remove_spi(self.attempt.spi_i);
    }

    /// The children it was to bring.
    pub(crate) fn children(&self) -> &[ChildId] {
        &self.target.children
    }

    pub(crate) fn view(&self, id: IkeSaId) -> IkeSaView {
        let target = &self.target;
        let suite = match &self.step {
            InitStep::Agreement(_, answered) => Some(answered.suite),
            InitStep::Key(_) | InitStep::Sent(_) => None,
        };
        connecting(id, Some(target.connection.tunnel), self.spis(IkeSpi::ZERO), target.path, suite)
    }
}

/// The failure of a peer that says nothing.
pub(crate) fn unreachable(shared: &Shared, path: Endpoints) -> Failure {
    Failure::new(
        FailureCode::PeerUnreachable,
        format!(
            "{} did not answer {} messages from {}: is it up, and do firewalls pass UDP 500 and \
             4500?",
            path.remote,
            shared.config.retransmit_tries + 1,
            path.local
        ),
    )
}

/// The view of an IKE SA whose peer is not authenticated.
pub(crate) fn connecting(
    id: IkeSaId,
    tunnel: Option<TunnelId>,
    spis: Spis,
    path: Endpoints,
    suite: Option<IkeSuite>,
) -> IkeSaView {
    IkeSaView {
        id,
        tunnel,
        state: IkeState::Connecting,
        initiator: spis.role == Role::Initiator,
        spi_i: spis.spi_i,
        spi_r: spis.spi_r,
        suite,
        path,
        local_id: None,
        remote_id: None,
        established: None,
        rekey_at: None,
        nat_local: false,
        nat_remote: false,
        children: Vec::new(),
    }
}
