//! An established IKE SA: it takes requests in order, runs one exchange of its own at a time,
//! and answers for its children.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::time::Duration;

use sa_store::{ChildId, Identity, IkeSpi, Instant, TunnelId};

use super::{
    IkeSa, Task,
    channel::{Channel, Received, Role, Secrets},
    child::Phase,
    directory::Entry,
    lifetime::{self, Life},
    liveness::Liveness,
    queue::{Queue, Queued},
    window::Due,
};
use crate::{
    config::{Connection, Endpoints},
    event::{Event, Failure, FailureCode},
    exchange::{create_child_sa, informational, rekey_child_sa, rekey_ike_sa},
    input::CompletionResult,
    keys::{Opened, PeerAuthenticated, SkD},
    output::Ticket,
    shared::Shared,
    view::{IkeSaId, IkeSaView, IkeState},
    wire::{ExchangeType, Notify, NotifyType, Payload, WireError},
};

/// Who the peer is. It is proven: there is no other way to make one.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) connection: Arc<Connection>,
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
    /// `SPIi` of the IKE_SA_INIT, see [`Entry::origin`].
    pub(crate) origin: IkeSpi,
    /// Whether we sent that IKE_SA_INIT.
    pub(crate) ours: bool,
    proof: PeerAuthenticated,
}

impl Peer {
    pub(crate) fn new(
        proof: PeerAuthenticated,
        connection: Arc<Connection>,
        (local_id, remote_id): (Identity, Identity),
        origin: IkeSpi,
        ours: bool,
    ) -> Self {
        Self { connection, local_id, remote_id, origin, ours, proof }
    }

    pub(crate) fn tunnel(&self) -> TunnelId {
        let PeerAuthenticated { .. } = self.proof;
        self.connection.tunnel
    }
}

/// Where an established IKE SA is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// In use.
    Active,
    /// The peer made it in a rekey that collides with ours: whether it will be used is open.
    Parked,
    /// A successor has its children; the peer deletes it, or we do at the given time.
    Superseded { until: Instant },
}

impl Stage {
    /// Whether a task may be started.
    const fn allows(self, task: &Task) -> bool {
        match self {
            Self::Active => true,
            Self::Parked => matches!(task, Task::DeleteIke(_)),
            Self::Superseded { .. } => matches!(task, Task::DeleteIke(_) | Task::Liveness),
        }
    }
}

/// Our own exchange, from its request until all its consequences are done.
#[derive(Debug)]
pub(crate) enum OwnExchange {
    Child(create_child_sa::Creating),
    RekeyIke(rekey_ike_sa::Rekeying),
    Delete(informational::Deleting),
    Liveness,
}

/// A request of the peer whose response waits for a completion.
#[derive(Debug)]
pub(crate) enum Answer {
    Child(create_child_sa::Answering),
    RekeyIke(rekey_ike_sa::Answering),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) id: IkeSaId,
    pub(crate) peer: Arc<Peer>,
    pub(crate) channel: Channel,
    pub(crate) sk_d: SkD,
    pub(crate) stage: Stage,
    pub(crate) own: Option<OwnExchange>,
    pub(crate) answer: Option<Answer>,
    pub(crate) queue: Queue,
    pub(crate) liveness: Liveness,
    pub(crate) life: Life,
}

/// How long the answer to the request that ended an IKE SA is repeated.
const CLOSED: Duration = Duration::from_secs(60);

/// An IKE SA that the peer deleted: it only repeats its last response (RFC 7296 §2.1).
#[derive(Debug)]
pub(crate) struct Closed {
    channel: Channel,
    pub(crate) until: Instant,
}

impl Closed {
    pub(crate) fn on_datagram(&mut self, shared: &mut Shared, path: Endpoints, datagram: &[u8]) {
        let _ = self.channel.receive(shared, path, datagram);
    }

    pub(crate) fn end(&self, shared: &mut Shared) {
        shared.directory.remove_spi(self.channel.spis.own());
    }
}

/// `Err` ends the IKE SA at once, without a word to the peer.
pub(crate) type Step = Result<(), Failure>;

impl Established {
    /// An IKE SA whose peer is authenticated.
    pub(crate) fn new(
        shared: &mut Shared,
        id: IkeSaId,
        peer: Arc<Peer>,
        channel: Channel,
        secrets: Secrets,
    ) -> Self {
        let life = Life::start(shared, &peer.connection);
        let liveness = Liveness::new(peer.connection.dpd, shared.now);
        shared.directory.add_spi(channel.spis.own(), id);
        shared.directory.enter(
            id,
            Entry {
                tunnel: peer.tunnel(),
                origin: peer.origin,
                ours: peer.ours,
                since: shared.now,
                active: true,
            },
        );
        Self {
            id,
            peer,
            channel,
            sk_d: secrets.sk_d,
            stage: Stage::Active,
            own: None,
            answer: None,
            queue: Queue::default(),
            liveness,
            life,
        }
    }

    pub(crate) fn set_stage(&mut self, shared: &mut Shared, stage: Stage) {
        self.stage = stage;
        shared.directory.set_active(self.id, stage == Stage::Active && !self.is_closing());
    }

    /// Whether we are deleting it, or are about to.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(&self.own, Some(OwnExchange::Delete(informational::Deleting::Ike(_))))
            || self.queue.contains(|task| matches!(task, Task::DeleteIke(_)))
    }

    /// The new child that we are asking for.
    pub(crate) fn creates(&self) -> Option<sa_store::ChildId> {
        match &self.own {
            Some(OwnExchange::Child(own)) if own.plan().old.is_none() => {
                Some(own.plan().config.child)
            }
            _ => None,
        }
    }

    /// Adds something to do.
    pub(crate) fn assign(&mut self, shared: &mut Shared, task: Task, at: Instant) {
        if let Task::DeletePair(pair, _) = &task {
            self.queue.remove(|other| *other == Task::RekeyChild(*pair));
        }
        let closes = matches!(task, Task::DeleteIke(_)) && at <= shared.now;
        self.queue.push(task, at);
        if closes {
            shared.directory.set_active(self.id, false);
        }
    }

    pub(crate) fn on_datagram(
        mut self: Box<Self>,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<IkeSa> {
        match self.channel.receive(shared, path, datagram) {
            Received::Nothing => Some(IkeSa::Established(self)),
            Received::Request(..) if self.answer.is_some() => {
                shared.counters.window += 1;
                Some(IkeSa::Established(self))
            }
            Received::Request(exchange, opened) => {
                self.heard(shared, path);
                shared.confirm_pairs(self.id, false);
                match self.on_request(shared, path, exchange, &opened) {
                    Ok(()) => self.carry_on(shared, Ok(())),
                    // The peer may ask again if our answer was lost.
                    Err(reason) => Some(self.close(shared, &reason)),
                }
            }
            Received::Response(exchange, opened) => {
                self.heard(shared, path);
                let step = self.on_response(shared, exchange, &opened);
                self.carry_on(shared, step)
            }
        }
    }

    /// The peer's request ended it.
    fn close(self: Box<Self>, shared: &mut Shared, reason: &Failure) -> IkeSa {
        let id = self.id;
        let channel = self.die(shared, reason);
        let until = shared.now + CLOSED;
        shared.directory.add_spi(channel.spis.own(), id);
        IkeSa::Closed(Box::new(Closed { channel, until }))
    }

    /// The peer lives, and perhaps elsewhere.
    fn heard(&mut self, shared: &mut Shared, path: Endpoints) {
        self.liveness.seen(shared.now);
        if let Some(old) = self.channel.follow(path) {
            self.moved(shared, old);
        }
    }

    pub(crate) fn moved(&self, shared: &mut Shared, old: core::net::SocketAddr) {
        let new = self.channel.path.remote;
        shared.event(Event::PeerMoved { tunnel: self.peer.tunnel(), old, new });
        shared.move_pairs(self.id, self.channel.path);
    }

    fn on_request(
        &mut self,
        shared: &mut Shared,
        path: Endpoints,
        exchange: ExchangeType,
        opened: &Result<Opened, WireError>,
    ) -> Step {
        let payloads = match opened.as_ref().map(Opened::payloads) {
            Ok(Ok(payloads)) => payloads,
            Ok(Err(error)) => return self.refuse_malformed(shared, path, exchange, &error),
            Err(error) => return self.refuse_malformed(shared, path, exchange, error),
        };
        let step = match exchange {
            ExchangeType::INFORMATIONAL => {
                return informational::on_request(self, shared, path, &payloads);
            }
            ExchangeType::CREATE_CHILD_SA => {
                create_child_sa::on_request(self, shared, path, &payloads)
            }
            other => Err(Refusal::Syntax(WireError::Unexpected(crate::wire::PayloadType(other.0)))),
        };
        match step {
            Ok(()) => Ok(()),
            Err(Refusal::Notify(notify)) => {
                self.respond(shared, exchange, &[Payload::Notify(notify)], path)
            }
            Err(Refusal::Syntax(error)) => self.refuse_malformed(shared, path, exchange, &error),
            Err(Refusal::Fatal(failure)) => Err(failure),
        }
    }

    /// Answers an authentic request that breaks the rules. INVALID_SYNTAX ends the IKE SA at
    /// both ends (RFC 7296 §2.21.3).
    fn refuse_malformed(
        &mut self,
        shared: &mut Shared,
        path: Endpoints,
        exchange: ExchangeType,
        error: &WireError,
    ) -> Step {
        let notify = match error {
            WireError::UnsupportedCritical(kind) => Notify::unsupported_critical(*kind),
            _ => Notify::new(NotifyType::INVALID_SYNTAX),
        };
        self.respond(shared, exchange, &[Payload::Notify(notify)], path)?;
        match error {
            WireError::UnsupportedCritical(_) => Ok(()),
            _ => Err(Failure::new(
                FailureCode::InvalidSyntax,
                alloc::format!("the peer sent a request that RFC 7296 does not allow: {error}"),
            )),
        }
    }

    fn on_response(
        &mut self,
        shared: &mut Shared,
        exchange: ExchangeType,
        opened: &Result<Opened, WireError>,
    ) -> Step {
        let invalid = |error: &WireError| {
            Failure::new(
                FailureCode::InvalidSyntax,
                alloc::format!("the peer sent a response that RFC 7296 does not allow: {error}"),
            )
        };
        let payloads = match opened.as_ref().map(Opened::payloads) {
            Ok(Ok(payloads)) => payloads,
            Ok(Err(error)) => return self.give_up_on(shared, invalid(&error)),
            Err(error) => return self.give_up_on(shared, invalid(error)),
        };
        // RFC 7296 §2.21.3: the peer has ended the IKE SA with this notification.
        if payloads.has_notify(NotifyType::INVALID_SYNTAX) {
            return Err(Failure::new(
                FailureCode::InvalidSyntax,
                "the peer says that our request was malformed (INVALID_SYNTAX)",
            ));
        }
        match self.own.take() {
            Some(OwnExchange::Child(create_child_sa::Creating::Response(state)))
                if exchange == ExchangeType::CREATE_CHILD_SA =>
            {
                create_child_sa::on_response(self, shared, state, &payloads)
            }
            Some(OwnExchange::RekeyIke(state)) if exchange == ExchangeType::CREATE_CHILD_SA => {
                rekey_ike_sa::on_response(self, shared, state, &payloads)
            }
            Some(OwnExchange::Delete(state)) => {
                informational::on_delete_response(self, shared, state)
            }
            Some(OwnExchange::Liveness) => {
                shared.confirm_pairs(self.id, true);
                Ok(())
            }
            own => {
                self.own = own;
                let error = WireError::Unexpected(crate::wire::PayloadType(exchange.0));
                self.give_up_on(shared, invalid(&error))
            }
        }
    }

    /// The peer breaks the rules in a response: we delete the IKE SA.
    #[expect(clippy::unnecessary_wraps, reason = "callers return it as their step")]
    pub(crate) fn give_up_on(&mut self, shared: &mut Shared, failure: Failure) -> Step {
        self.own = None;
        let now = shared.now;
        self.assign(shared, Task::DeleteIke(failure), now);
        Ok(())
    }

    pub(crate) fn on_completion(
        mut self: Box<Self>,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Option<IkeSa> {
        let step = self.dispatch_completion(shared, ticket, result);
        self.carry_on(shared, step)
    }

    fn dispatch_completion(
        &mut self,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Step {
        match self.own.take() {
            Some(OwnExchange::Child(state)) if state.waits_for(ticket) => {
                return create_child_sa::on_completion(self, shared, state, result);
            }
            Some(OwnExchange::RekeyIke(state)) if state.waits_for(ticket) => {
                return rekey_ike_sa::on_completion(self, shared, state, result);
            }
            own => self.own = own,
        }
        match self.answer.take() {
            Some(Answer::Child(state)) if state.waits_for(ticket) => {
                return create_child_sa::on_answer_completion(self, shared, state, result);
            }
            Some(Answer::RekeyIke(state)) if state.waits_for(ticket) => {
                return rekey_ike_sa::on_answer_completion(self, shared, state, result);
            }
            answer => self.answer = answer,
        }
        Ok(())
    }

    /// A backend's answer about one of our pairs.
    pub(crate) fn on_pair_completion(
        mut self: Box<Self>,
        shared: &mut Shared,
        pair: sa_store::PairId,
        result: CompletionResult,
    ) -> Option<IkeSa> {
        let step = match result {
            CompletionResult::Installed(result) => {
                create_child_sa::on_installed(&mut self, shared, pair, result)
            }
            CompletionResult::Activated(Err(reason)) | CompletionResult::Updated(Err(reason)) => {
                self.replace_broken(shared, pair, reason);
                Ok(())
            }
            CompletionResult::Activated(Ok(())) => {
                shared.pair_carries(pair);
                Ok(())
            }
            _ => Ok(()),
        };
        self.carry_on(shared, step)
    }

    /// A pair does not work any more: it is replaced, or deleted if that fails.
    pub(crate) fn replace_broken(
        &mut self,
        shared: &mut Shared,
        pair: sa_store::PairId,
        reason: alloc::string::String,
    ) {
        let now = shared.now;
        let Some(sa) = shared.children.get_mut(pair) else { return };
        if sa.phase != Phase::Installed {
            return;
        }
        // From now on a failed rekey deletes it.
        sa.expires_at = now + Duration::from_secs(30);
        sa.rekey_at = now;
        let (tunnel, child) = (sa.tunnel, sa.child);
        let remote = self.channel.path.remote;
        let failure = Failure::new(FailureCode::Expired, reason);
        shared.failed(Some(tunnel), Some(child), remote, failure);
        self.queue.push(Task::RekeyChild(pair), now);
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, shared: &mut Shared) -> Option<IkeSa> {
        match self.channel.on_timeout(shared) {
            Due::Wait => {}
            Due::Again(tries) => shared.event(Event::Retransmitting {
                tunnel: self.peer.tunnel(),
                remote: self.channel.path.remote,
                tries,
            }),
            Due::GiveUp => {
                let reason = self.silence(shared);
                self.die(shared, &reason);
                return None;
            }
        }
        if self.life.expires_at <= shared.now && !self.is_closing() {
            let failure = Failure::new(
                FailureCode::Expired,
                "the hard lifetime of the IKE SA was reached before it could be rekeyed",
            );
            let now = shared.now;
            self.assign(shared, Task::DeleteIke(failure), now);
        }
        self.child_timers(shared);
        self.own_timers(shared);
        self.carry_on(shared, Ok(()))
    }

    /// What our unanswered request comes to.
    fn silence(&self, shared: &Shared) -> Failure {
        match &self.own {
            Some(OwnExchange::Delete(informational::Deleting::Ike(reason))) => reason.clone(),
            _ => Failure::new(
                FailureCode::PeerDead,
                alloc::format!(
                    "{} did not answer a request that was sent {} times",
                    self.channel.path.remote,
                    shared.config.retransmit_tries + 1
                ),
            ),
        }
    }

    fn child_timers(&mut self, shared: &mut Shared) {
        let now = shared.now;
        shared.carry_waiting(self.id);
        let due: Vec<_> = shared
            .children
            .of(self.id)
            .filter(|sa| sa.due() <= now)
            .map(|sa| (sa.pair, sa.phase, sa.expires_at <= now))
            .collect();
        for (pair, phase, expired) in due {
            match phase {
                Phase::Replaced { .. } => {
                    self.queue.push(Task::DeletePair(pair, informational::replaced()), now);
                    if let Some(sa) = shared.children.get_mut(pair) {
                        sa.phase = Phase::Replaced { until: Instant::NEVER };
                        sa.expires_at = Instant::NEVER;
                    }
                }
                Phase::Installed if !expired => {
                    if let Some(sa) = shared.children.get_mut(pair) {
                        sa.rekey_at = Instant::NEVER;
                    }
                    self.queue.push(Task::RekeyChild(pair), now);
                }
                _ => {
                    if let Some(sa) = shared.children.get_mut(pair) {
                        sa.expires_at = Instant::NEVER;
                    }
                    let failure = Failure::new(
                        FailureCode::Expired,
                        "the hard lifetime was reached before the child could be rekeyed",
                    );
                    self.queue.remove(|task| *task == Task::RekeyChild(pair));
                    self.queue.push(Task::DeletePair(pair, failure), now);
                }
            }
        }
    }

    fn own_timers(&mut self, shared: &mut Shared) {
        let now = shared.now;
        match self.stage {
            Stage::Active => {
                if self.life.rekey_at <= now {
                    self.life.rekey_at = Instant::NEVER;
                    self.queue.push(Task::RekeyIke, now);
                }
            }
            Stage::Superseded { until } if until <= now => {
                self.stage = Stage::Superseded { until: Instant::NEVER };
                self.queue.push(Task::DeleteIke(informational::replaced()), now);
            }
            Stage::Superseded { .. } | Stage::Parked => {}
        }
        if self.stage == Stage::Active && self.liveness.due() <= now {
            self.liveness.asked(now);
            self.queue.push(Task::Liveness, now);
        }
    }

    /// After every step: ends the IKE SA if it must, else starts what is next.
    pub(crate) fn carry_on(mut self: Box<Self>, shared: &mut Shared, step: Step) -> Option<IkeSa> {
        if let Err(reason) = step.and_then(|()| self.run_queue(shared)) {
            self.die(shared, &reason);
            return None;
        }
        Some(IkeSa::Established(self))
    }

    /// Whether a request of ours may begin. While the peer's rekey of the IKE SA is answered
    /// nothing does: it goes to the successor.
    fn may_start(&self) -> bool {
        self.own.is_none()
            && self.channel.window.is_free()
            && !matches!(self.answer, Some(Answer::RekeyIke(_)))
    }

    /// What was not sent yet does not keep a delete waiting.
    fn cancel_unsent(&mut self, shared: &mut Shared) {
        let now = shared.now;
        let delete = |task: &Task| matches!(task, Task::DeleteIke(_));
        if self.queue.due(delete) > now || !self.channel.window.is_free() {
            return;
        }
        match self.own.take() {
            Some(OwnExchange::Child(create_child_sa::Creating::Key(state))) => {
                rekey_child_sa::not_rekeying(self, shared, &state.plan);
            }
            Some(OwnExchange::RekeyIke(state)) if state.is_unsent() => {}
            own => self.own = own,
        }
    }

    fn run_queue(&mut self, shared: &mut Shared) -> Step {
        self.cancel_unsent(shared);
        while self.may_start() {
            let stage = self.stage;
            let next = self.queue.pop(shared.now, |task| stage.allows(task));
            let Some(queued) = next else { return Ok(()) };
            self.start(shared, queued)?;
        }
        Ok(())
    }

    fn start(&mut self, shared: &mut Shared, queued: Queued) -> Step {
        let attempts = queued.attempts;
        match queued.task {
            Task::CreateChild(child) => create_child_sa::start(self, shared, child, attempts),
            Task::RekeyChild(pair) => create_child_sa::start_rekey(self, shared, pair, attempts),
            Task::RekeyIke => rekey_ike_sa::start(self, shared, attempts),
            Task::EndChild(child, reason) => {
                self.end_child(shared, child, &reason);
                Ok(())
            }
            Task::DeletePair(pair, reason) => {
                informational::start_delete(self, shared, pair, reason)
            }
            Task::DeleteSpi(spi) => informational::start_delete_spi(self, shared, spi),
            Task::DeleteIke(reason) => informational::start_delete_ike(self, shared, reason),
            Task::Liveness => informational::start_liveness(self, shared),
        }
    }

    /// Deletes what there is of a child. What the peer is replacing just now is waited for.
    fn end_child(&mut self, shared: &mut Shared, child: ChildId, reason: &Failure) {
        if self.answer.is_some() {
            self.retry_soon(shared, Task::EndChild(child, reason.clone()), 0);
            return;
        }
        self.queue.remove(|task| *task == Task::CreateChild(child));
        let now = shared.now;
        let pairs: Vec<_> = shared
            .children
            .of(self.id)
            .filter(|sa| sa.child == child && sa.phase != Phase::Deleting)
            .map(|sa| (sa.pair, matches!(sa.phase, Phase::Replaced { .. })))
            .collect();
        for (pair, replaced) in pairs {
            // Who replaced it deletes it; if not, we do.
            let at = if replaced { now + shared.config.drain_time } else { now };
            self.assign(shared, Task::DeletePair(pair, reason.clone()), at);
        }
    }

    /// Sends a request of ours.
    pub(crate) fn request(
        &mut self,
        shared: &mut Shared,
        exchange: ExchangeType,
        payloads: &[Payload<'_>],
    ) -> Step {
        self.channel.request(shared, exchange, payloads).map_err(|error| cannot_seal(&error))
    }

    /// Answers the peer's request.
    pub(crate) fn respond(
        &mut self,
        shared: &mut Shared,
        exchange: ExchangeType,
        payloads: &[Payload<'_>],
        path: Endpoints,
    ) -> Step {
        self.channel.respond(shared, exchange, payloads, path).map_err(|error| cannot_seal(&error))
    }

    /// Ends here, with all its children.
    pub(crate) fn die(mut self: Box<Self>, shared: &mut Shared, reason: &Failure) -> Channel {
        self.leave(shared);
        if rekey_ike_sa::save_children(&mut self, shared) {
            return self.channel;
        }
        shared.end_pairs_of(self.id, reason);
        if self.stage == Stage::Active {
            shared.event(Event::IkeDown {
                tunnel: self.peer.tunnel(),
                ike: self.id,
                reason: reason.clone(),
            });
        }
        create_child_sa::release(&mut self, shared);
        self.channel
    }

    /// Takes it out of the indexes.
    fn leave(&mut self, shared: &mut Shared) {
        shared.directory.remove_spi(self.channel.spis.own());
        shared.directory.leave(self.id);
    }

    pub(crate) fn due(&self, shared: &Shared) -> Instant {
        let children = shared.children.of(self.id).map(super::child::ChildSa::due).min();
        let stage = match self.stage {
            Stage::Active => self.life.rekey_at.min(self.liveness.due()),
            Stage::Superseded { until } => until,
            Stage::Parked => Instant::NEVER,
        };
        let expiry = if self.is_closing() { Instant::NEVER } else { self.life.expires_at };
        let mut due = self.channel.due(shared).min(stage).min(expiry);
        due = due.min(children.unwrap_or(Instant::NEVER));
        if self.may_start() {
            due = due.min(self.queue.due(|task| self.stage.allows(task)));
        }
        due
    }

    pub(crate) fn view(&self, shared: &Shared) -> IkeSaView {
        let state = if self.is_closing() || matches!(self.stage, Stage::Superseded { .. }) {
            IkeState::Deleting
        } else if matches!(self.own, Some(OwnExchange::RekeyIke(_))) {
            IkeState::Rekeying
        } else {
            IkeState::Established
        };
        let time = |at: Instant| (at != Instant::NEVER).then_some(at);
        IkeSaView {
            id: self.id,
            tunnel: Some(self.peer.tunnel()),
            state,
            initiator: self.channel.spis.role == Role::Initiator,
            spi_i: self.channel.spis.spi_i,
            spi_r: self.channel.spis.spi_r,
            suite: Some(self.channel.suite),
            path: self.channel.path,
            local_id: Some(self.peer.local_id.clone()),
            remote_id: Some(self.peer.remote_id.clone()),
            established: Some(self.life.established),
            rekey_at: time(self.life.rekey_at),
            nat_local: self.channel.nat.local,
            nat_remote: self.channel.nat.remote,
            children: shared.children.views(self.id),
        }
    }

    /// When to try something again that failed, see [`lifetime::retry_at`].
    pub(crate) fn retry(&mut self, shared: &mut Shared, task: Task, attempts: u32) {
        let at = lifetime::retry_at(shared, attempts);
        self.queue.push_again(task, at, attempts + 1);
    }

    /// When to try something again that the peer had no time for.
    pub(crate) fn retry_soon(&mut self, shared: &mut Shared, task: Task, attempts: u32) {
        let at = lifetime::soon(shared);
        self.queue.push_again(task, at, attempts + 1);
    }
}

/// How a request is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// With a notification; the IKE SA lives on.
    Notify(Notify<'static>),
    /// Because it breaks the rules.
    Syntax(WireError),
    /// Not at all: the IKE SA cannot go on.
    Fatal(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::Syntax(error)
    }
}

impl From<NotifyType> for Refusal {
    fn from(kind: NotifyType) -> Self {
        Self::Notify(Notify::new(kind))
    }
}

fn cannot_seal(error: &crate::keys::SealError) -> Failure {
    Failure::new(FailureCode::Internal, alloc::format!("a message could not be sealed: {error}"))
}
