//! The initiator's side.

mod candidate;

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::net::SocketAddr;

use candidate::{Candidate, First, Proven, Unproven};
use sa_store::{ChildId, Instant, TunnelId};

use super::announce;
use crate::{
    config::Endpoints,
    event::{Event, Failure, FailureCode},
    exchange::{
        create_child_sa::{self, accept_child},
        ike_sa_init::{Agreed, Initiating, Target, Transcript, connecting, unreachable},
        pair::Made,
        refusal,
    },
    input::CompletionResult,
    keys::Opened,
    negotiate::Pfs,
    output::Ticket,
    sa::{
        IkeSa, Task,
        channel::{Channel, Received, Role},
        established::{Established, Peer, Step},
        window::Due,
    },
    shared::{Action, Shared},
    view::{IkeSaId, IkeSaView},
    wire::{ExchangeType, Header, Payloads, WireError},
};

/// An IKE SA whose IKE_AUTH request is on its way: one for each answer to IKE_SA_INIT that is
/// tried. Which of these is the peer's shows when it proves who it is (RFC 7296 §2.4).
#[derive(Debug)]
pub(crate) struct Authenticating {
    init: Box<Initiating>,
    /// At least one.
    candidates: Vec<Candidate>,
}

/// Proves our identity to who gave the first answer, and asks for the first child.
pub(crate) fn start(shared: &mut Shared, init: Box<Initiating>, agreed: Agreed) -> Option<IkeSa> {
    let state = Box::new(Authenticating { init, candidates: Vec::new() });
    state.try_answer(shared, agreed)
}

impl Authenticating {
    pub(crate) fn tunnel(&self) -> TunnelId {
        self.init.tunnel()
    }

    pub(crate) fn children_mut(&mut self) -> &mut Vec<ChildId> {
        self.init.children_mut()
    }

    /// Tries one more answer.
    fn try_answer(mut self: Box<Self>, shared: &mut Shared, agreed: Agreed) -> Option<IkeSa> {
        match Candidate::open(shared, &self.init, agreed) {
            Ok(candidate) => {
                self.candidates.push(candidate);
                self.go_on(shared)
            }
            Err(failure) => {
                self.fail(shared, failure);
                None
            }
        }
    }

    /// After every step: what is next.
    fn go_on(mut self: Box<Self>, shared: &mut Shared) -> Option<IkeSa> {
        self.init.go_on(shared, !self.candidates.is_empty());
        if self.candidates.is_empty() {
            return Some(IkeSa::Initiating(self.init));
        }
        Some(IkeSa::Authenticating(self))
    }

    pub(crate) fn on_completion(
        mut self: Box<Self>,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Option<IkeSa> {
        match self.init.completed(shared, ticket, result) {
            Ok(Some(agreed)) => self.try_answer(shared, agreed),
            Ok(None) | Err(_) => self.go_on(shared),
        }
    }

    pub(crate) fn on_datagram(
        mut self: Box<Self>,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<IkeSa> {
        let Ok((header, _)) = Header::parse(datagram) else {
            shared.counters.malformed += 1;
            return Some(IkeSa::Authenticating(self));
        };
        if header.exchange == ExchangeType::IKE_SA_INIT {
            if let Some(answered) = self.init.read(shared, path, datagram) {
                let tried = &mut self.candidates;
                if !tried.iter_mut().any(|it| it.answered.merge(&answered)) {
                    self.init.take(answered);
                }
            }
            return self.go_on(shared);
        }
        let fits = |it: &Candidate| it.channel.spis.match_peer(&header);
        if !self.candidates.iter().any(fits) {
            shared.counters.unknown_spi += 1;
        }
        for at in 0..self.candidates.len() {
            let Some(candidate) = self.candidates.get_mut(at).filter(|it| fits(it)) else {
                continue;
            };
            match candidate.channel.receive(shared, path, datagram) {
                Received::Response(exchange, opened) => {
                    let candidate = self.candidates.remove(at);
                    return self.on_response(shared, candidate, (exchange, opened));
                }
                // The peer is ahead: it repeats the request when we are as far.
                Received::Request(..) => shared.counters.unexpected += 1,
                Received::Nothing => {}
            }
        }
        Some(IkeSa::Authenticating(self))
    }

    /// A response with the keys of an answer: it proves that this is the peer's, or ends it.
    fn on_response(
        mut self: Box<Self>,
        shared: &mut Shared,
        mut candidate: Candidate,
        (exchange, opened): (ExchangeType, Result<Opened, WireError>),
    ) -> Option<IkeSa> {
        let judged = if exchange == ExchangeType::IKE_AUTH {
            candidate.judge(&self.init.target.connection, &opened)
        } else {
            let message = "the peer answered IKE_AUTH with another exchange";
            Err(Unproven::Refused(Failure::new(FailureCode::InvalidSyntax, message)))
        };
        match judged {
            Ok(proven) => {
                let payloads = opened.as_ref().ok().and_then(|opened| opened.payloads().ok())?;
                self.establish(shared, candidate, proven, &payloads)
            }
            Err(Unproven::Refused(failure)) => {
                candidate.release(shared);
                self.init.refused(shared, failure, true);
                self.go_on(shared)
            }
            Err(Unproven::Wrong(failure)) => {
                candidate.refuse(shared);
                candidate.release(shared);
                self.init.refused(shared, failure, false);
                self.go_on(shared)
            }
        }
    }

    /// The answer is the peer's: the others are forgotten.
    fn establish(
        self,
        shared: &mut Shared,
        candidate: Candidate,
        proven: Proven,
        payloads: &Payloads<'_>,
    ) -> Option<IkeSa> {
        let Self { init, candidates } = self;
        for other in candidates {
            other.release(shared);
        }
        let Candidate { answered, mut channel, secrets, local_id, first } = candidate;
        let Proven { proof, remote_id, reading } = proven;
        channel.settle(reading.nat, reading.fragmentation);
        let Target { id, connection, children, begun, .. } = init.into_target();
        let line = (id, channel.spis.spi_i);
        let peer = Peer::new(proof, connection, (local_id, remote_id), line, true);
        let mut sa = Box::new(Established::new(shared, id, Arc::new(peer), channel, secrets));
        announce(shared, &sa, true);
        shared.act(Action::Settle { ike: id, begun, initial_contact: false });
        let now = shared.now;
        for child in children.into_iter().filter(|child| *child != first.config.child) {
            sa.queue.push(Task::CreateChild(child), now);
        }
        let step = first_child(&mut sa, shared, first, &answered.transcript, payloads);
        sa.carry_on(shared, step)
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, shared: &mut Shared) -> Option<IkeSa> {
        let (tunnel, mut at) = (self.tunnel(), 0);
        while let Some(candidate) = self.candidates.get_mut(at) {
            let path = candidate.channel.path;
            match candidate.channel.on_timeout(shared) {
                Due::Wait => {}
                Due::Again(tries) => {
                    shared.event(Event::Retransmitting { tunnel, remote: path.remote, tries });
                }
                Due::GiveUp => {
                    self.candidates.remove(at).release(shared);
                    if self.candidates.is_empty() && self.init.is_over() {
                        let failure = unreachable(shared, path);
                        self.fail(shared, failure);
                        return None;
                    }
                    continue;
                }
            }
            at += 1;
        }
        match self.init.tick(shared, !self.candidates.is_empty()) {
            Ok(()) => self.go_on(shared),
            Err(failure) => {
                self.fail(shared, failure);
                None
            }
        }
    }

    pub(crate) fn due(&self, shared: &Shared) -> Instant {
        let candidates = self.candidates.iter().map(|it| it.channel.due(shared)).min();
        self.init.due_while(true).min(candidates.unwrap_or(Instant::NEVER))
    }

    fn channel(&self) -> Option<&Channel> {
        self.candidates.first().map(|candidate| &candidate.channel)
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.channel().map_or_else(|| self.init.remote(), |channel| channel.path.remote)
    }

    /// Gives up.
    pub(crate) fn fail(self, shared: &mut Shared, failure: Failure) {
        let Self { init, candidates } = self;
        for candidate in candidates {
            candidate.release(shared);
        }
        init.fail(shared, failure);
    }

    pub(crate) fn view(&self, id: IkeSaId) -> IkeSaView {
        let Some(channel) = self.channel() else { return self.init.view(id) };
        let view =
            connecting(id, Some(self.tunnel()), channel.spis, channel.path, Some(channel.suite));
        IkeSaView { nat_local: channel.nat.local, nat_remote: channel.nat.remote, ..view }
    }
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
