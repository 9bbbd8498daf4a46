//! CREATE_CHILD_SA that replaces the IKE SA (RFC 7296 §1.3.2, §2.18): the children move to the
//! successor, the old IKE SA is deleted.
//!
//! ```text
//! Initiator                         Responder
//! [GenerateKey]
//! HDR, SK {SA, Ni, KEi}        -->  [GenerateAndAgree]
//!                              <--  HDR, SK {SA, Nr, KEr}
//! [Agree]
//! HDR, SK {D(IKE)}             -->  on the old IKE SA; the children are on the new one
//! ```

use alloc::{boxed::Box, format, sync::Arc, vec::Vec};
use core::time::Duration;

use sa_store::{Instant, KeGroup, SecretBytes};

use super::{
    collision::{self, Redundant, Rival, RivalIke},
    create_child_sa::Creating,
    informational::{self, Deleting},
    refusal,
};
use crate::{
    config::{Endpoints, IkeSuite},
    event::{Event, Failure, FailureCode},
    input::{CompletionResult, KeFailure},
    keys::Skeyseed,
    negotiate::{
        IkeChoice, KeDecision, check_ike, first_group, ike_offer, ke_decision, offers_group,
        select_ike,
    },
    output::{RequestKind, Ticket},
    sa::{
        Task,
        channel::{Channel, Role, Spis},
        established::{Answer, Established, OwnExchange, Refusal, Stage, Step},
        window::Window,
    },
    shared::{Action, Shared, Waiter},
    view::IkeSaId,
    wire::{
        ExchangeType, Fault, KeyExchange, Nonce, Notify, NotifyType, Payload, PayloadType,
        Payloads, WireError,
    },
};

/// How long the end that rekeyed may take to delete the old IKE SA: it may still be sending its
/// request again, because it has not got our response.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the peer may take to delete its successor that lost.
const REDUNDANT: Duration = Duration::from_secs(30);

/// How many replaced IKE SAs a peer may leave for us to delete before it has to wait.
const LEFTOVER: usize = 4;

/// Our own rekey.
#[derive(Debug)]
pub(crate) struct Rekeying {
    step: RekeyStep,
    attempts: u32,
    /// Groups that were tried: INVALID_KE_PAYLOAD cannot lead in circles.
    tried: Vec<KeGroup>,
    /// The peer's successor of the same IKE SA.
    rival: Option<RivalIke>,
}

#[derive(Debug)]
enum RekeyStep {
    /// The key pair is being made.
    Key { ticket: Ticket, group: KeGroup },
    /// The request is on its way.
    Response { offer: Offer, private: crypto::ke::PrivateKey },
    /// The secret is being agreed on.
    Agreement { ticket: Ticket, agreed: Agreed },
    /// Ours stands; the rival does not yet.
    Done { ike: IkeSaId, nonce: Vec<u8> },
}

/// What we sent.
#[derive(Debug)]
struct Offer {
    group: KeGroup,
    spi: sa_store::IkeSpi,
    nonce_i: Vec<u8>,
}

/// Everything but the secret.
#[derive(Debug)]
struct Agreed {
    suite: IkeSuite,
    spis: Spis,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
}

impl Rekeying {
    pub(crate) fn waits_for(&self, ticket: Ticket) -> bool {
        match &self.step {
            RekeyStep::Key { ticket: own, .. } | RekeyStep::Agreement { ticket: own, .. } => {
                *own == ticket
            }
            RekeyStep::Response { .. } | RekeyStep::Done { .. } => false,
        }
    }

    pub(crate) const fn is_unsent(&self) -> bool {
        matches!(self.step, RekeyStep::Key { .. })
    }

    const fn is_sent(&self) -> bool {
        matches!(self.step, RekeyStep::Response { .. } | RekeyStep::Agreement { .. })
    }
}

pub(crate) fn start(sa: &mut Established, shared: &mut Shared, attempts: u32) -> Step {
    let Some(group) = preferred_group(sa) else { return Ok(()) };
    begin(sa, shared, (group, attempts, Vec::new(), None))
}

fn preferred_group(sa: &Established) -> Option<KeGroup> {
    let proposals = &sa.peer.connection.proposals;
    let current = Some(sa.channel.suite.group).filter(|group| offers_group(proposals, *group));
    current.or_else(|| first_group(proposals))
}

fn begin(
    sa: &mut Established,
    shared: &mut Shared,
    (group, attempts, mut tried, rival): (KeGroup, u32, Vec<KeGroup>, Option<RivalIke>),
) -> Step {
    tried.push(group);
    let ticket = shared.request(Waiter::Ike(sa.id), RequestKind::GenerateKey { group });
    let step = RekeyStep::Key { ticket, group };
    sa.own = Some(OwnExchange::RekeyIke(Rekeying { step, attempts, tried, rival }));
    Ok(())
}

pub(crate) fn on_completion(
    sa: &mut Established,
    shared: &mut Shared,
    state: Rekeying,
    result: CompletionResult,
) -> Step {
    let Rekeying { step, attempts, tried, rival } = state;
    match (step, result) {
        (RekeyStep::Key { group, .. }, CompletionResult::KeyGenerated(Ok(key))) => {
            let offer = Offer { group, spi: shared.next_ike_spi(), nonce_i: shared.nonce() };
            let proposals = &sa.peer.connection.proposals;
            let payloads = [
                Payload::Sa(ike_offer(proposals, Some(offer.spi))),
                Payload::Nonce(Nonce(offer.nonce_i.clone().into())),
                Payload::Ke(KeyExchange::new(group, key.public)),
            ];
            sa.request(shared, ExchangeType::CREATE_CHILD_SA, &payloads)?;
            let step = RekeyStep::Response { offer, private: key.private };
            sa.own = Some(OwnExchange::RekeyIke(Rekeying { step, attempts, tried, rival }));
            Ok(())
        }
        (RekeyStep::Agreement { agreed, .. }, CompletionResult::Agreed(Ok(agreement))) => {
            let nonce = collision::lower(&agreed.nonce_i, &agreed.nonce_r).to_vec();
            let stage = if rival.is_some() { Stage::Parked } else { Stage::Active };
            let ike = succeed(sa, shared, agreed, &agreement.shared, stage)?;
            let step = RekeyStep::Done { ike, nonce };
            sa.own = Some(OwnExchange::RekeyIke(Rekeying { step, attempts, tried, rival }));
            settle(sa, shared);
            Ok(())
        }
        // The peer has moved on to an IKE SA that we cannot have.
        (RekeyStep::Agreement { .. }, result) if rival.is_none() => {
            sa.give_up_on(shared, result.ke_failure().failure())
        }
        (_, result) => {
            fail(sa, shared, attempts, rival, result.ke_failure().failure());
            Ok(())
        }
    }
}

pub(crate) fn on_response(
    sa: &mut Established,
    shared: &mut Shared,
    state: Rekeying,
    payloads: &Payloads<'_>,
) -> Step {
    let Rekeying { step, attempts, tried, rival } = state;
    let RekeyStep::Response { offer, private } = step else { return Ok(()) };
    if let Some(notify) = payloads.error_notify() {
        return on_error(sa, shared, (attempts, tried, rival), notify);
    }
    match accept(sa, &offer, payloads) {
        Ok((agreed, peer_public)) => {
            let kind = RequestKind::Agree { group: offer.group, private, peer_public };
            let ticket = shared.request(Waiter::Ike(sa.id), kind);
            let step = RekeyStep::Agreement { ticket, agreed };
            sa.own = Some(OwnExchange::RekeyIke(Rekeying { step, attempts, tried, rival }));
            Ok(())
        }
        // The peer has moved on to an IKE SA that we cannot have.
        Err(failure) => sa.give_up_on(shared, failure),
    }
}

fn accept(
    sa: &Established,
    offer: &Offer,
    payloads: &Payloads<'_>,
) -> Result<(Agreed, Vec<u8>), Failure> {
    let syntax = |error| {
        Failure::new(
            FailureCode::InvalidSyntax,
            format!("the peer's answer is incomplete: {error}"),
        )
    };
    let answer = payloads.require_sa().map_err(syntax)?;
    let choice = check_ike(&sa.peer.connection.proposals, answer, true)
        .map_err(|mismatch| Failure::new(FailureCode::NoProposalChosen, format!("{mismatch}")))?;
    let nonce_r = payloads.require_nonce().map_err(syntax)?.0.to_vec();
    let ke = payloads.require_ke().map_err(syntax)?;
    let fits = choice.suite.group == offer.group
        && ke.known_group() == Some(offer.group)
        && ke.data.len() == offer.group.public_len();
    let (true, Some(spi_r)) = (fits, choice.peer_spi) else {
        let message = "the peer's public value is not of the method it chose";
        return Err(Failure::new(FailureCode::InvalidKe, message));
    };
    let spis = Spis { role: Role::Initiator, spi_i: offer.spi, spi_r };
    let nonce_i = offer.nonce_i.clone();
    Ok((Agreed { suite: choice.suite, spis, nonce_i, nonce_r }, ke.data.to_vec()))
}

fn on_error(
    sa: &mut Established,
    shared: &mut Shared,
    (attempts, tried, rival): (u32, Vec<KeGroup>, Option<RivalIke>),
    notify: &Notify<'_>,
) -> Step {
    if notify.kind == NotifyType::INVALID_KE_PAYLOAD && rival.is_none() {
        let proposals = &sa.peer.connection.proposals;
        let wanted = notify.data_u16().and_then(KeGroup::from_transform_id);
        let group = wanted.filter(|it| !tried.contains(it) && offers_group(proposals, *it));
        if let Some(group) = group {
            return begin(sa, shared, (group, attempts, tried, rival));
        }
    }
    if notify.kind == NotifyType::TEMPORARY_FAILURE {
        if rival.is_none() {
            sa.retry_soon(shared, Task::RekeyIke, attempts);
        } else {
            // RFC 7296 §2.25.2: the peer did not notice the collision; its successor is the one.
            yield_to(sa, shared, attempts, rival);
        }
        return Ok(());
    }
    fail(sa, shared, attempts, rival, refusal::failure_of(notify, "our IKE SA rekey"));
    Ok(())
}

/// Ours does not come to be: the rival takes over, or it is tried again later.
fn fail(
    sa: &mut Established,
    shared: &mut Shared,
    attempts: u32,
    rival: Option<RivalIke>,
    failure: Failure,
) {
    if rival.is_some() {
        yield_to(sa, shared, attempts, rival);
        return;
    }
    shared.failed(Some(sa.peer.tunnel()), None, sa.channel.path.remote, failure);
    sa.retry(shared, Task::RekeyIke, attempts);
}

fn yield_to(sa: &mut Established, shared: &mut Shared, attempts: u32, rival: Option<RivalIke>) {
    if let Some(ike) = rival.and_then(|rival| rival.successor).filter(|it| stands(shared, *it)) {
        hand_over(sa, shared, ike, Instant::NEVER);
        let until = shared.now + PATIENCE;
        sa.set_stage(shared, Stage::Superseded { until });
    } else {
        // The pending answer goes on as if there had been no collision. If it fails, ours is due.
        sa.retry(shared, Task::RekeyIke, attempts);
    }
}

/// Builds the successor. It inherits who the peer is: that was proven once.
fn succeed(
    sa: &Established,
    shared: &mut Shared,
    agreed: Agreed,
    secret: &SecretBytes,
    stage: Stage,
) -> Result<IkeSaId, Failure> {
    let internal = || Failure::new(FailureCode::Internal, "the new keys could not be derived");
    let Agreed { suite, spis, nonce_i, nonce_r } = agreed;
    let keys = Skeyseed::rekey(&sa.sk_d, secret, &nonce_i, &nonce_r)
        .derive(suite, &nonce_i, &nonce_r, spis.spi_i, spis.spi_r)
        .map_err(|_| internal())?;
    let (old, window) = (&sa.channel, Window::new(0, 0));
    let surroundings = (old.path, old.nat, old.fragmentation);
    let (mut channel, secrets) =
        Channel::open_with(shared, spis, suite, keys, surroundings, window)
            .map_err(|_| internal())?;
    channel.moves_like(old);
    let id = shared.next_ike_id();
    let mut new = Established::new(shared, id, Arc::clone(&sa.peer), channel, secrets);
    new.set_stage(shared, stage);
    shared.act(Action::Adopt(Box::new(new)));
    Ok(id)
}

/// Whether a successor is still there: either end may have deleted it before it was needed.
fn stands(shared: &Shared, successor: IkeSaId) -> bool {
    shared.directory.entry(successor).is_some()
}

/// Children and tasks move to the successor, which must [stand](stands). The old IKE SA is deleted
/// by us at `delete_at`.
fn hand_over(sa: &mut Established, shared: &mut Shared, to: IkeSaId, delete_at: Instant) {
    shared.children.inherit(sa.id, to);
    let mut tasks = sa.queue.take_for_successor();
    // What was to end with the old IKE SA ends with its successor, but for old age.
    tasks.extend(sa.queue.take_delete_ike(|reason| reason.code != FailureCode::Expired));
    let retries = |task: &Task| matches!(task, Task::RekeyIke);
    sa.queue.remove(retries);
    shared.act(Action::Promote(to, tasks));
    let tunnel = sa.peer.tunnel();
    shared.event(Event::IkeRekeyed { tunnel, old: sa.id, new: to });
    sa.set_stage(shared, Stage::Superseded { until: Instant::NEVER });
    if delete_at != Instant::NEVER {
        sa.queue.push(Task::DeleteIke(informational::replaced()), delete_at);
    }
}

/// Decides between two successors once both have been built, or for ours when there is no rival.
/// One that is gone by then is out of the question, whatever the nonces say.
fn settle(sa: &mut Established, shared: &mut Shared) {
    let Some(OwnExchange::RekeyIke(state)) = &sa.own else { return };
    let RekeyStep::Done { ike, nonce } = &state.step else { return };
    let ours = Some(*ike).filter(|it| stands(shared, *it));
    let (theirs, redundant) = match &state.rival {
        None => (None, Redundant::Theirs),
        Some(Rival { successor: None, .. }) => return,
        Some(Rival { nonce: other, successor: Some(ike) }) => {
            (Some(*ike).filter(|it| stands(shared, *it)), collision::decide(nonce, other))
        }
    };
    let attempts = state.attempts;
    sa.own = None;
    let now = shared.now;
    let delete = || Task::DeleteIke(informational::replaced());
    match (ours, theirs, redundant) {
        (Some(ours), None, _) => hand_over(sa, shared, ours, now),
        (Some(ours), Some(theirs), Redundant::Theirs) => {
            hand_over(sa, shared, ours, now);
            shared.act(Action::Assign(theirs, delete(), now + REDUNDANT));
        }
        (ours, Some(theirs), _) => {
            hand_over(sa, shared, theirs, Instant::NEVER);
            sa.set_stage(shared, Stage::Superseded { until: now + PATIENCE });
            if let Some(ours) = ours {
                shared.act(Action::Assign(ours, delete(), now));
            }
        }
        (None, None, _) => sa.retry(shared, Task::RekeyIke, attempts),
    }
}

/// The old IKE SA ends in the middle of a collision (RFC 7296 §2.25.2: its peer has not noticed
/// ours): what stands of the successors takes the children.
pub(crate) fn save_children(sa: &mut Established, shared: &mut Shared) -> bool {
    let Some(OwnExchange::RekeyIke(state)) = &sa.own else { return false };
    let ours = match &state.step {
        RekeyStep::Done { ike, .. } => Some(*ike),
        _ => None,
    };
    // The peer may have deleted its own as the redundant one, while ours never got its answer.
    let theirs = state.rival.as_ref().and_then(|rival| rival.successor);
    let mut heirs = [theirs, ours].into_iter().flatten();
    let Some(heir) = heirs.find(|it| stands(shared, *it)) else { return false };
    sa.own = None;
    hand_over(sa, shared, heir, Instant::NEVER);
    true
}

// The responder's side.

/// The peer's request that is being answered.
#[derive(Debug)]
pub(crate) struct Answering {
    ticket: Ticket,
    path: Endpoints,
    choice: IkeChoice,
    agreed: Agreed,
}

impl Answering {
    pub(crate) fn waits_for(&self, ticket: Ticket) -> bool {
        self.ticket == ticket
    }
}

/// Answers a request to replace the IKE SA, which is in use and not being deleted.
pub(crate) fn on_request(
    sa: &mut Established,
    shared: &mut Shared,
    path: Endpoints,
    payloads: &Payloads<'_>,
) -> Result<(), Refusal> {
    let busy = match &sa.own {
        None | Some(OwnExchange::Liveness) => false,
        // Ours has not been sent: there is no collision, and the peer's will do.
        Some(OwnExchange::Child(Creating::Key(_))) => {
            requeue(sa, shared);
            false
        }
        Some(OwnExchange::RekeyIke(own)) if !own.is_sent() => {
            let (waits, attempts) = (matches!(own.step, RekeyStep::Done { .. }), own.attempts);
            if !waits {
                sa.own = None;
                // Should the peer's come to nothing.
                sa.again_soon(shared, Task::RekeyIke, attempts);
            }
            waits
        }
        Some(OwnExchange::RekeyIke(_)) => false,
        // RFC 7296 §2.25.2: creating, rekeying or closing a child, or the IKE SA itself.
        Some(OwnExchange::Child(_)) | Some(OwnExchange::Delete(Deleting::Ike(_))) => true,
        Some(OwnExchange::Delete(_)) => true,
    };
    // Who rekeys has to delete what was rekeyed.
    let leftover = shared.directory.leftover(sa.peer.tunnel(), sa.peer.line);
    if busy || leftover >= LEFTOVER {
        return Err(NotifyType::TEMPORARY_FAILURE.into());
    }
    let nonce_i = payloads.require_nonce()?.0.to_vec();
    let choice = match select_ike(&sa.peer.connection.proposals, payloads.require_sa()?, true) {
        Ok(choice) => choice,
        Err(mismatch) => {
            let failure = Failure::new(FailureCode::NoProposalChosen, format!("{mismatch}"));
            shared.failed_request(sa.peer.tunnel(), None, sa.channel.path.remote, failure);
            return Err(NotifyType::NO_PROPOSAL_CHOSEN.into());
        }
    };
    let group = match ke_decision(Some(choice.suite.group), payloads.ke()) {
        KeDecision::Use(group) => group,
        KeDecision::None | KeDecision::Retry(_) => {
            return Err(Refusal::Notify(Notify::invalid_ke(choice.suite.group)));
        }
    };
    let ke = payloads.require_ke()?;
    let Some(spi_i) = choice.peer_spi.filter(|_| ke.data.len() == group.public_len()) else {
        return Err(WireError::Malformed(PayloadType::KE, Fault::Value).into());
    };
    let nonce_r = shared.nonce();
    if let Some(OwnExchange::RekeyIke(own)) = &mut sa.own {
        let nonce = collision::lower(&nonce_i, &nonce_r).to_vec();
        own.rival = Some(Rival { nonce, successor: None });
    }
    let spis = Spis { role: Role::Responder, spi_i, spi_r: shared.next_ike_spi() };
    let (peer_public, asker) = (ke.data.to_vec(), sa.asker());
    let kind = RequestKind::GenerateAndAgree { group, peer_public, asker };
    let ticket = shared.request(Waiter::Ike(sa.id), kind);
    let agreed = Agreed { suite: choice.suite, spis, nonce_i, nonce_r };
    sa.answer = Some(Answer::RekeyIke(Answering { ticket, path, choice, agreed }));
    Ok(())
}

/// Our request for a child has not been sent: it is made on the successor.
fn requeue(sa: &mut Established, shared: &mut Shared) {
    if let Some(OwnExchange::Child(own)) = sa.own.take() {
        super::rekey_child_sa::not_rekeying(sa, shared, own.plan());
        sa.queue.push(own.plan().task(), shared.now);
    }
}

pub(crate) fn on_answer_completion(
    sa: &mut Established,
    shared: &mut Shared,
    state: Answering,
    result: CompletionResult,
) -> Step {
    let exchange = ExchangeType::CREATE_CHILD_SA;
    let group = state.agreed.suite.group;
    let (public, secret) = match result {
        CompletionResult::Agreed(Ok(agreement)) => {
            (agreement.public.unwrap_or_default(), agreement.shared)
        }
        other => {
            if let Some(OwnExchange::RekeyIke(own)) = &mut sa.own {
                own.rival = None;
            }
            settle(sa, shared);
            let invalid =
                matches!(other, CompletionResult::Agreed(Err(KeFailure::InvalidPublicValue)));
            let kind =
                if invalid { NotifyType::INVALID_SYNTAX } else { NotifyType::TEMPORARY_FAILURE };
            sa.respond(shared, exchange, &[Payload::Notify(Notify::new(kind))], state.path)?;
            if !invalid {
                return Ok(());
            }
            // RFC 7296 §2.21.3: the peer ends the IKE SA because of this answer.
            let message = "the peer's public value for a new IKE SA is not valid";
            return Err(Failure::new(FailureCode::InvalidSyntax, message));
        }
    };
    let payloads = [
        Payload::Sa(state.choice.answer(Some(state.agreed.spis.spi_r))),
        Payload::Nonce(Nonce(state.agreed.nonce_r.clone().into())),
        Payload::Ke(KeyExchange::new(group, public)),
    ];
    sa.respond(shared, exchange, &payloads, state.path)?;
    if matches!(sa.own, Some(OwnExchange::RekeyIke(_))) {
        let ike = succeed(sa, shared, state.agreed, &secret, Stage::Parked)?;
        if let Some(OwnExchange::RekeyIke(Rekeying { rival: Some(rival), .. })) = &mut sa.own {
            rival.successor = Some(ike);
        }
        settle(sa, shared);
        return Ok(());
    }
    let ike = succeed(sa, shared, state.agreed, &secret, Stage::Active)?;
    hand_over(sa, shared, ike, Instant::NEVER);
    let until = shared.now + PATIENCE;
    sa.set_stage(shared, Stage::Superseded { until });
    Ok(())
}
