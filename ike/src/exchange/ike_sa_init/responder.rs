//! The responder's side: nothing is kept before [`crate::admission`] lets a peer in.

use alloc::{boxed::Box, format, sync::Arc, vec::Vec};
use core::net::{IpAddr, SocketAddr};

use sa_store::{IkeSpi, Instant, KeGroup, SecretBytes};

use super::{Transcript, does_fragmentation, extensions};
use crate::{
    admission::{MAX_INIT_LEN, Verdict},
    config::{Connection, EncapPolicy, Endpoints, IkeSuite},
    event::{Failure, FailureCode},
    exchange::{ike_auth, unprotected::reply},
    input::{CompletionResult, KeFailure},
    keys::Skeyseed,
    negotiate::{IkeChoice, KeDecision, find_ike, ke_decision, select_ike},
    output::{Asker, RequestKind, Standing, Ticket},
    sa::{
        IkeSa,
        channel::{Channel, Received, Role, Secrets, Spis},
        nat::{self, Nat},
        window::Window,
    },
    shared::{Action, Shared, Waiter},
    view::{IkeSaId, IkeSaView},
    wire::{
        ExchangeType, Header, KeyExchange, Message, Nonce, Notify, NotifyType, Payload, Payloads,
        WireError, encode_message,
    },
};

/// An IKE SA that a peer asked for, until its IKE_AUTH.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    opening: Opening,
    step: HalfOpenStep,
}

/// What is known of it.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) id: IkeSaId,
    pub(crate) path: Endpoints,
    pub(crate) spis: Spis,
    pub(crate) begun: Instant,
    /// How long it may be half open.
    until: Instant,
    standing: Standing,
    pub(crate) transcript: Transcript,
    nat: Nat,
    policy: EncapPolicy,
    fragmentation: bool,
}

#[derive(Debug)]
enum HalfOpenStep {
    /// Our public value and the secret are being computed.
    Agreement(Ticket, Box<IkeChoice>),
    /// The response is sent; IKE_AUTH is waited for.
    Waiting(Box<Channel>, Box<Secrets>),
    /// IKE_AUTH was refused; kept to repeat the refusal.
    Refused(Box<Channel>),
    /// There was nothing to agree on; kept to be counted: its key exchange cost as much as any.
    Broken(IkeSuite),
}

/// Answers an IKE_SA_INIT request that belongs to no IKE SA. Gives the half-open IKE SA if there
/// is one now.
pub(crate) fn on_first_request(
    shared: &mut Shared,
    path: Endpoints,
    datagram: &[u8],
) -> Option<(IkeSaId, IkeSa)> {
    if datagram.len() > MAX_INIT_LEN {
        shared.counters.malformed += 1;
        return None;
    }
    let message = match Message::parse(datagram) {
        Ok(message) if message.protected.is_none() => message,
        Err(WireError::UnsupportedCritical(kind)) => {
            shared.counters.malformed += 1;
            if let Ok((header, _)) = Header::parse(datagram) {
                // RFC 7296 §2.5: the one thing a request that cannot be read is told.
                reply(shared, path, &header, Notify::unsupported_critical(kind), datagram.len());
            }
            return None;
        }
        _ => {
            shared.counters.malformed += 1;
            return None;
        }
    };
    let payloads = &message.clear;
    let (Some(_), Some(ke), Some(nonce)) = (payloads.sa(), payloads.ke(), payloads.nonce()) else {
        shared.counters.malformed += 1;
        return None;
    };
    let header = message.header;
    if !admitted(shared, path, &header, &nonce.0, payloads, datagram.len()) {
        return None;
    }
    match choose(shared, path, payloads) {
        Some((connection, choice)) => match ke_decision(Some(choice.suite.group), Some(ke)) {
            KeDecision::Use(group) if ke.data.len() == group.public_len() => {
                let public = (group, ke.data.to_vec());
                let nonce_i = nonce.0.to_vec();
                let known = (header.spi_i, nonce_i, datagram.to_vec());
                Some(open(shared, path, known, (connection, choice, public), payloads))
            }
            KeDecision::Use(_) => {
                shared.counters.malformed += 1;
                None
            }
            KeDecision::None | KeDecision::Retry(_) => {
                let notify = Notify::invalid_ke(choice.suite.group);
                reply(shared, path, &header, notify, datagram.len());
                None
            }
        },
        None => {
            why_not(shared, path, payloads);
            let notify = Notify::new(NotifyType::NO_PROPOSAL_CHOSEN);
            reply(shared, path, &header, notify, datagram.len());
            None
        }
    }
}

fn admitted(
    shared: &mut Shared,
    path: Endpoints,
    header: &Header,
    nonce: &[u8],
    payloads: &Payloads<'_>,
    request_len: usize,
) -> bool {
    let cookie = payloads.notify(NotifyType::COOKIE).map(|notify| notify.data.as_ref());
    let key = (path.remote.ip(), header.spi_i, nonce);
    let (now, random) = (shared.now, &mut *shared.random);
    match shared.admission.judge(now, &shared.config, random, key, cookie) {
        Verdict::Admit => true,
        Verdict::Challenge(cookie) => {
            shared.counters.cookie += 1;
            let notify = Notify::with_data(NotifyType::COOKIE, cookie);
            reply(shared, path, header, notify, request_len);
            false
        }
    }
}

type Chosen = (Arc<Connection>, IkeChoice);

/// Cheap, whatever is offered: everybody can ask, as often as they like, and get no cookie.
fn choose(shared: &Shared, path: Endpoints, payloads: &Payloads<'_>) -> Option<Chosen> {
    let offered = payloads.sa()?;
    shared.connections.by_proposals(path).find_map(|connection| {
        Some((Arc::clone(connection), find_ike(&connection.proposals, offered)?))
    })
}

/// Why [`choose`] found nothing, for the operator.
fn why_not(shared: &mut Shared, path: Endpoints, payloads: &Payloads<'_>) {
    let nearest = shared.connections.by_proposals(path).next().cloned();
    if nearest.is_none() {
        shared.counters.no_tunnel += 1;
    }
    if !shared.hears_hints() {
        return;
    }
    let (code, message) = match (&nearest, payloads.sa()) {
        (Some(connection), Some(offered)) => {
            let mismatch = select_ike(&connection.proposals, offered, false).err();
            (FailureCode::NoProposalChosen, format!("{}", mismatch.unwrap_or_default()))
        }
        _ => {
            let message = format!(
                "{} wants a tunnel with {}, and none is configured for these addresses",
                path.remote.ip(),
                path.local.ip()
            );
            (FailureCode::NoMatchingTunnel, message)
        }
    };
    shared.hint(nearest.map(|it| it.tunnel), path.remote, Failure::new(code, message));
}

fn open(
    shared: &mut Shared,
    path: Endpoints,
    (spi_i, nonce_i, request): (IkeSpi, Vec<u8>, Vec<u8>),
    (connection, choice, (group, peer_public)): (Arc<Connection>, IkeChoice, (KeGroup, Vec<u8>)),
    payloads: &Payloads<'_>,
) -> (IkeSaId, IkeSa) {
    let id = shared.next_ike_id();
    let spis = Spis { role: Role::Responder, spi_i, spi_r: shared.next_ike_spi() };
    shared.directory.add_spi(spis.spi_r, id);
    shared.directory.add_half_open(path.remote, spi_i, id);
    let standing = shared.connections.standing(path);
    enter(shared, (standing, path.remote.ip()), id);
    // The initiator does not know our SPI yet: its hashes have zero in its place.
    let detected = nat::detect(connection.encap, payloads, (spi_i, IkeSpi::ZERO), path);
    let policy = if detected.is_some() { connection.encap } else { EncapPolicy::Never };
    let nonce_r = shared.nonce();
    let asker = Asker { standing, source: path.remote.ip() };
    let kind = RequestKind::GenerateAndAgree { group, peer_public, asker };
    let ticket = shared.request(Waiter::Ike(id), kind);
    let opening = Opening {
        id,
        path,
        spis,
        begun: shared.now,
        until: shared.now + shared.admission.life(&shared.config, standing),
        standing,
        transcript: Transcript { request, response: Vec::new(), nonce_i, nonce_r },
        nat: detected.unwrap_or_default(),
        policy,
        fragmentation: does_fragmentation(payloads),
    };
    let step = HalfOpenStep::Agreement(ticket, Box::new(choice));
    (id, IkeSa::HalfOpen(Box::new(HalfOpen { opening, step })))
}

impl HalfOpen {
    pub(crate) fn on_datagram(
        mut self: Box<Self>,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<IkeSa> {
        match Header::parse(datagram) {
            Ok((header, _)) if header.exchange == ExchangeType::IKE_SA_INIT => {
                self.repeat(shared, path, datagram);
                return Some(IkeSa::HalfOpen(self));
            }
            _ => {}
        }
        let (mut channel, secrets) = match self.step {
            HalfOpenStep::Waiting(channel, secrets) => (channel, secrets),
            HalfOpenStep::Refused(mut channel) => {
                let _ = channel.receive(shared, path, datagram);
                self.step = HalfOpenStep::Refused(channel);
                return Some(IkeSa::HalfOpen(self));
            }
            HalfOpenStep::Agreement(..) | HalfOpenStep::Broken(_) => {
                shared.counters.unexpected += 1;
                return Some(IkeSa::HalfOpen(self));
            }
        };
        let held = channel.held();
        channel.limit_requests(shared.admission.room_for_fragments(held));
        let received = channel.receive(shared, path, datagram);
        shared.admission.hold_fragments(held, channel.held());
        match received {
            Received::Request(ExchangeType::IKE_AUTH, opened) => {
                channel.path = path;
                shared.admission.hold_fragments(channel.held(), 0);
                self.opening.end(shared);
                let request = ike_auth::Request { opened, path };
                match ike_auth::on_request(shared, self.opening, (*channel, *secrets), request) {
                    Ok(sa) => sa,
                    Err((opening, mut channel)) => {
                        channel.limit_requests(0);
                        // Still half open: it only repeats the refusal until it times out.
                        shared.directory.add_spi(opening.spis.own(), opening.id);
                        enter(shared, opening.source(), opening.id);
                        let step = HalfOpenStep::Refused(channel);
                        Some(IkeSa::HalfOpen(Box::new(Self { opening: *opening, step })))
                    }
                }
            }
            Received::Request(..) => {
                // RFC 7296 §2.21: nothing but IKE_AUTH may come now.
                shared.counters.unexpected += 1;
                self.step = HalfOpenStep::Waiting(channel, secrets);
                Some(IkeSa::HalfOpen(self))
            }
            Received::Response(..) | Received::Nothing => {
                self.step = HalfOpenStep::Waiting(channel, secrets);
                Some(IkeSa::HalfOpen(self))
            }
        }
    }

    /// Whether this is the IKE_SA_INIT request that it began with.
    pub(crate) fn began_with(&self, path: Endpoints, datagram: &[u8]) -> bool {
        path == self.opening.path && datagram == self.opening.transcript.request.as_slice()
    }

    /// Our response was lost: the very same request gets the very same response.
    fn repeat(&self, shared: &mut Shared, path: Endpoints, datagram: &[u8]) {
        let response = &self.opening.transcript.response;
        if !self.began_with(path, datagram) {
            shared.counters.unexpected += 1;
        } else if !response.is_empty() {
            shared.transmit(path, response.clone());
        }
    }

    pub(crate) fn on_completion(
        mut self: Box<Self>,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Option<IkeSa> {
        let choice = match self.step {
            HalfOpenStep::Agreement(own, choice) if own == ticket => choice,
            step => {
                self.step = step;
                return Some(IkeSa::HalfOpen(self));
            }
        };
        let agreement = match result {
            CompletionResult::Agreed(Ok(agreement)) => agreement,
            CompletionResult::Agreed(Err(KeFailure::InvalidPublicValue)) => {
                // RFC 7296 has no answer to it; silence tells least.
                self.step = HalfOpenStep::Broken(choice.suite);
                return Some(IkeSa::HalfOpen(self));
            }
            // Ours: the peer's next try may have more luck.
            _ => {
                self.opening.end(shared);
                return None;
            }
        };
        let public = agreement.public.unwrap_or_default();
        match self.opening.answer(shared, &choice, public, &agreement.shared) {
            Some((channel, secrets)) => {
                let step = HalfOpenStep::Waiting(Box::new(channel), Box::new(secrets));
                Some(IkeSa::HalfOpen(Box::new(Self { opening: self.opening, step })))
            }
            None => {
                self.opening.end(shared);
                None
            }
        }
    }

    /// Whom it is counted for.
    pub(crate) fn source(&self) -> (Standing, IpAddr) {
        self.opening.source()
    }

    /// Octets of fragments that it holds.
    pub(crate) fn held(&self) -> usize {
        match &self.step {
            HalfOpenStep::Waiting(channel, _) => channel.held(),
            _ => 0,
        }
    }

    /// Not half open any more, as far as indexes and limits go.
    fn leave(&self, shared: &mut Shared) {
        shared.admission.hold_fragments(self.held(), 0);
        self.opening.end(shared);
    }

    pub(crate) fn on_timeout(self: Box<Self>, shared: &mut Shared) -> Option<IkeSa> {
        if self.due() > shared.now {
            return Some(IkeSa::HalfOpen(self));
        }
        self.leave(shared);
        None
    }

    pub(crate) fn drop_silently(&self, shared: &mut Shared) {
        self.leave(shared);
    }

    pub(crate) const fn due(&self) -> Instant {
        self.opening.until
    }

    pub(crate) fn view(&self, id: IkeSaId) -> IkeSaView {
        let suite = match &self.step {
            HalfOpenStep::Agreement(_, choice) => choice.suite,
            HalfOpenStep::Broken(suite) => *suite,
            HalfOpenStep::Waiting(channel, _) | HalfOpenStep::Refused(channel) => channel.suite,
        };
        let opening = &self.opening;
        super::connecting(id, None, opening.spis, opening.path, Some(suite))
    }
}

/// Counts one as half open; when that is one too many, another one goes.
fn enter(shared: &mut Shared, source: (Standing, IpAddr), ike: IkeSaId) {
    if let Some(gone) = shared.admission.enter(&shared.config, source, ike) {
        shared.counters.half_open += 1;
        shared.act(Action::Evict(gone));
    }
}

impl Opening {
    fn source(&self) -> (Standing, IpAddr) {
        (self.standing, self.path.remote.ip())
    }

    /// Takes it out of the indexes and the half-open count.
    fn end(&self, shared: &mut Shared) {
        let from: SocketAddr = self.path.remote;
        shared.directory.remove_half_open(from, self.spis.spi_i, self.id);
        shared.directory.remove_spi(self.spis.spi_r);
        shared.admission.leave(self.source(), self.id);
    }

    /// Sends the response.
    fn answer(
        &mut self,
        shared: &mut Shared,
        choice: &IkeChoice,
        public: Vec<u8>,
        secret: &SecretBytes,
    ) -> Option<(Channel, Secrets)> {
        let suite = choice.suite;
        let mut payloads = alloc::vec![
            Payload::Sa(choice.answer(None)),
            Payload::Ke(KeyExchange::new(suite.group, public)),
            Payload::Nonce(Nonce(self.transcript.nonce_r.clone().into())),
        ];
        let fragmentation = self.fragmentation;
        payloads.extend(extensions(shared, self.policy, self.spis, self.path, fragmentation));
        let header = Header {
            spi_i: self.spis.spi_i,
            spi_r: self.spis.spi_r,
            exchange: ExchangeType::IKE_SA_INIT,
            initiator: false,
            response: true,
            message_id: 0,
        };
        let response = encode_message(&header, &payloads).ok()?;
        let (nonce_i, nonce_r) = (&self.transcript.nonce_i, &self.transcript.nonce_r);
        let keys = Skeyseed::initial(suite.prf, nonce_i, nonce_r, secret)
            .derive(suite, nonce_i, nonce_r, self.spis.spi_i, self.spis.spi_r)
            .ok()?;
        let surroundings = (self.path, self.nat, fragmentation);
        let window = Window::new(0, 1);
        let opened =
            Channel::open_with(shared, self.spis, suite, keys, surroundings, window).ok()?;
        shared.transmit(self.path, response.clone());
        self.transcript.response = response;
        Some(opened)
    }
}
