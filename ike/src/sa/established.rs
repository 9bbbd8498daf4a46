//! An established IKE SA: it takes requests in order, runs one exchange of its own at a time,
//! and answers for its children.

mod receive;
mod tasks;
mod timers;

use alloc::{boxed::Box, sync::Arc};
use core::time::Duration;

use sa_store::{Identity, IkeSpi, Instant, TunnelId};

use super::{
    IkeSa, Task,
    channel::{Channel, Role, Secrets},
    child::Phase,
    directory::Entry,
    lifetime::Life,
    liveness::Liveness,
    queue::Queue,
};
use crate::{
    config::{Connection, Endpoints},
    event::{Event, Failure, FailureCode},
    exchange::{create_child_sa, informational, rekey_ike_sa},
    input::CompletionResult,
    keys::{PeerAuthenticated, SkD},
    output::{Asker, Standing, Ticket},
    shared::Shared,
    view::{IkeSaId, IkeSaView, IkeState},
    wire::{ExchangeType, Payload},
};

pub(crate) use receive::{Closed, Refusal};

/// How long a pair that does not work any more may wait for its successor.
const BROKEN: Duration = Duration::from_secs(30);

/// Who the peer is. It is proven: there is no other way to make one.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) connection: Arc<Connection>,
    pub(crate) local_id: Identity,
    pub(crate) remote_id: Identity,
    /// `SPIi` of the IKE_SA_INIT, see [`Entry::origin`].
    pub(crate) origin: IkeSpi,
    /// The first IKE SA of this line of rekeys. Whose a pair is goes by this alone: the peer chose
    /// the SPIs, and may choose those of another peer.
    pub(crate) line: IkeSaId,
    /// Whether we sent that IKE_SA_INIT.
    pub(crate) ours: bool,
    proof: PeerAuthenticated,
}

impl Peer {
    pub(crate) fn new(
        proof: PeerAuthenticated,
        connection: Arc<Connection>,
        (local_id, remote_id): (Identity, Identity),
        (line, origin): (IkeSaId, IkeSpi),
        ours: bool,
    ) -> Self {
        Self { connection, local_id, remote_id, origin, line, ours, proof }
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

/// `Err` ends the IKE SA at once, without a word to the peer.
pub(crate) type Step = Result<(), Failure>;

impl Established {
    /// The peer, as one who causes work.
    pub(crate) fn asker(&self) -> Asker {
        let source = self.channel.path.remote.ip();
        Asker { standing: Standing::Authenticated, source }
    }

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
                line: peer.line,
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

    pub(crate) fn on_completion(
        mut self: Box<Self>,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Option<IkeSa> {
        match self.dispatch_completion(shared, ticket, result) {
            Ok(()) => self.carry_on(shared, Ok(())),
            // Perhaps with an answer, which the peer may ask for again.
            Err(reason) => Some(self.close(shared, &reason)),
        }
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
            CompletionResult::Activated(Err(reason)) => {
                self.replace_broken(shared, pair, reason);
                Ok(())
            }
            CompletionResult::Activated(Ok(())) => {
                shared.pair_carries(pair);
                Ok(())
            }
            CompletionResult::Updated(Ok(())) => {
                shared.pair_moved(pair);
                // The peer may have moved on in the meantime.
                shared.move_pairs(self.id, self.channel.path);
                Ok(())
            }
            CompletionResult::Updated(Err(reason)) => {
                shared.pair_moved(pair);
                self.replace_broken(shared, pair, reason);
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
        let end = now + BROKEN;
        match sa.phase {
            Phase::Installed => sa.rekey_at = now,
            // Its successor is being negotiated, which may fail. Both directions may be broken.
            Phase::Rekeying if end < sa.expires_at => {}
            _ => return,
        }
        // From now on a failed rekey deletes it.
        sa.expires_at = sa.expires_at.min(end);
        let (tunnel, child) = (sa.tunnel, sa.child);
        let remote = self.channel.path.remote;
        let failure = Failure::new(FailureCode::Expired, reason);
        let rekeys = sa.phase == Phase::Rekeying;
        shared.failed(Some(tunnel), Some(child), remote, failure);
        if !rekeys {
            self.queue.push(Task::RekeyChild(pair), now);
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
}

fn cannot_seal(error: &crate::keys::SealError) -> Failure {
    Failure::new(FailureCode::Internal, alloc::format!("a message could not be sealed: {error}"))
}
