//! CREATE_CHILD_SA as initiator: from the wish for a child to its installation.

use alloc::{boxed::Box, format, vec::Vec};

use sa_store::{ChildId, EspSpi, KeGroup, PairId, SecretBytes, TrafficSelector};

use super::{
    super::{
        collision, informational,
        pair::{self, Made},
        refusal, rekey_child_sa,
    },
    Installed, config_of, method, no_spi, offered,
};
use crate::{
    config::ChildConfig,
    event::{Failure, FailureCode},
    input::CompletionResult,
    negotiate::{EspChoice, Pfs, check_esp, esp_offer, traffic_selector},
    output::{RequestKind, Ticket},
    sa::{
        Task,
        channel::Role,
        established::{Answer, Established, OwnExchange, Step},
    },
    shared::{Action, Shared, Waiter},
    wire::{ExchangeType, KeyExchange, Nonce, Notify, NotifyType, Payload, Payloads, WireError},
};

/// How often a new child is asked for again after TEMPORARY_FAILURE.
const BUSY_TRIES: u32 = 8;

/// Unknown SPIs that are remembered while a response is waited for.
const MAX_DELETED: usize = 16;

/// What we want.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Box<ChildConfig>,
    /// The pair to replace.
    pub(crate) old: Option<PairId>,
    pub(crate) attempts: u32,
    /// Methods that were tried, `None` for no key exchange: INVALID_KE_PAYLOAD cannot lead in
    /// circles.
    pub(super) tried: Vec<Option<KeGroup>>,
}

impl Plan {
    pub(crate) fn task(&self) -> Task {
        match self.old {
            Some(old) => Task::RekeyChild(old),
            None => Task::CreateChild(self.config.child),
        }
    }
}

/// The initiator's steps.
#[derive(Debug)]
pub(crate) enum Creating {
    /// The key pair is being made.
    Key(AwaitKey),
    /// The request is on its way.
    Response(AwaitResponse),
    /// The secret is being agreed on.
    Agreement(AwaitAgreement),
    /// The backend is installing.
    Install(AwaitInstall),
}

#[derive(Debug)]
pub(crate) struct AwaitKey {
    pub(crate) plan: Plan,
    group: KeGroup,
    ticket: Ticket,
}

#[derive(Debug)]
pub(crate) struct AwaitResponse {
    pub(crate) plan: Plan,
    spi_in: EspSpi,
    pub(crate) nonce_i: Vec<u8>,
    /// Unknown SPIs that the peer has deleted since: its response may be the later datagram.
    deleted: Vec<EspSpi>,
    key: Option<(KeGroup, crypto::ke::PrivateKey)>,
}

#[derive(Debug)]
pub(crate) struct AwaitAgreement {
    pub(crate) plan: Plan,
    pub(crate) made: Made,
    ticket: Ticket,
}

#[derive(Debug)]
pub(crate) struct AwaitInstall {
    pub(crate) plan: Plan,
    pub(crate) pair: PairId,
}

impl Creating {
    pub(crate) fn waits_for(&self, ticket: Ticket) -> bool {
        match self {
            Self::Key(state) => state.ticket == ticket,
            Self::Agreement(state) => state.ticket == ticket,
            Self::Response(_) | Self::Install(_) => false,
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        match self {
            Self::Key(state) => &state.plan,
            Self::Response(state) => &state.plan,
            Self::Agreement(state) => &state.plan,
            Self::Install(state) => &state.plan,
        }
    }

    /// The inbound SPI that is not yet part of a pair.
    pub(super) fn spi(&self) -> Option<EspSpi> {
        match self {
            Self::Response(state) => Some(state.spi_in),
            Self::Agreement(state) => Some(state.made.spi_in),
            Self::Key(_) | Self::Install(_) => None,
        }
    }
}

/// Asks for a child that is not there.
pub(crate) fn start(
    sa: &mut Established,
    shared: &mut Shared,
    child: ChildId,
    attempts: u32,
) -> Step {
    if shared.children.has(sa.id, child) {
        return Ok(());
    }
    let answers =
        matches!(&sa.answer, Some(Answer::Child(answering)) if answering.config.child == child);
    if answers || shared.creators(child).next().is_some() {
        // It is on its way, here or over another IKE SA: perhaps there is nothing left to do.
        sa.retry_soon(shared, Task::CreateChild(child), attempts);
        return Ok(());
    }
    let Some(config) = config_of(sa, shared, child) else { return Ok(()) };
    let config = Box::new(config);
    let method = method::first(sa, &config, None);
    begin(sa, shared, Plan { config, old: None, attempts, tried: Vec::new() }, method)
}

/// Asks for a successor of a pair.
pub(crate) fn start_rekey(
    sa: &mut Established,
    shared: &mut Shared,
    pair: PairId,
    attempts: u32,
) -> Step {
    let Some((config, group)) = rekey_child_sa::prepare(sa, shared, pair, attempts) else {
        return Ok(());
    };
    let old = Some(pair);
    let method = method::first(sa, &config, group);
    begin(sa, shared, Plan { config, old, attempts, tried: Vec::new() }, method)
}

/// Makes a key pair if there is a key exchange, else sends at once.
fn begin(
    sa: &mut Established,
    shared: &mut Shared,
    mut plan: Plan,
    method: Option<KeGroup>,
) -> Step {
    plan.tried.push(method);
    match method {
        Some(group) => {
            let ticket = shared.request(Waiter::Ike(sa.id), RequestKind::GenerateKey { group });
            sa.own = Some(OwnExchange::Child(Creating::Key(AwaitKey { plan, group, ticket })));
            Ok(())
        }
        None => send(sa, shared, plan, None),
    }
}

fn send(
    sa: &mut Established,
    shared: &mut Shared,
    plan: Plan,
    key: Option<(KeGroup, crate::input::GeneratedKey)>,
) -> Step {
    let Some(spi_in) = shared.spis.allocate() else {
        return fail(sa, shared, &plan, no_spi());
    };
    let nonce_i = shared.nonce();
    let mut payloads = Vec::new();
    if let Some(old) = plan.old.and_then(|old| shared.children.get(old)) {
        payloads.push(Payload::Notify(Notify::about_esp(NotifyType::REKEY_SA, old.spi_in)));
    }
    payloads.push(Payload::Sa(esp_offer(&plan.config.proposals, spi_in, Pfs::Configured)));
    payloads.push(Payload::Nonce(Nonce(nonce_i.as_slice().into())));
    if let Some((group, key)) = &key {
        payloads.push(Payload::Ke(KeyExchange::new(*group, key.public.as_slice())));
    }
    payloads.push(Payload::TsI(offered(&plan.config.local)));
    payloads.push(Payload::TsR(offered(&plan.config.remote)));
    let sent = sa.request(shared, ExchangeType::CREATE_CHILD_SA, &payloads);
    if sent.is_err() {
        shared.spis.release(spi_in);
    }
    sent?;
    drop(payloads);
    let key = key.map(|(group, key)| (group, key.private));
    let state = AwaitResponse { plan, spi_in, nonce_i, deleted: Vec::new(), key };
    sa.own = Some(OwnExchange::Child(Creating::Response(state)));
    Ok(())
}

/// The exchange came to nothing: says so, and keeps trying when a pair needs its successor.
pub(crate) fn fail(
    sa: &mut Established,
    shared: &mut Shared,
    plan: &Plan,
    failure: Failure,
) -> Step {
    give_up(sa, shared, plan, failure);
    Ok(())
}

fn give_up(sa: &mut Established, shared: &mut Shared, plan: &Plan, failure: Failure) {
    let (tunnel, remote) = (sa.peer.tunnel(), sa.channel.path.remote);
    shared.failed(Some(tunnel), Some(plan.config.child), remote, failure);
    rekey_child_sa::keep_trying(sa, shared, plan);
}

pub(crate) fn on_response(
    sa: &mut Established,
    shared: &mut Shared,
    state: AwaitResponse,
    payloads: &Payloads<'_>,
) -> Step {
    if let Some(notify) = payloads.error_notify() {
        shared.spis.release(state.spi_in);
        return on_error(sa, shared, state.plan, notify);
    }
    let (plan, spi_in) = (state.plan, state.spi_in);
    let accepted = match accept(&plan, state.nonce_i, state.key.as_ref().map(|key| key.0), payloads)
    {
        Ok(accepted) => accepted,
        Err(failure) => return undo(sa, shared, &plan, spi_in, failure),
    };
    let made = Made { spi_in, ..accepted.made };
    if state.deleted.contains(&made.choice.peer_spi) {
        shared.spis.release(spi_in);
        return fail(sa, shared, &plan, informational::child_deleted());
    }
    let nonce = collision::lower(&made.nonce_i, &made.nonce_r);
    if rekey_child_sa::loses(shared, &plan, nonce) {
        rekey_child_sa::yield_before_install(sa, shared, &plan, spi_in);
        return Ok(());
    }
    match (accepted.peer_public, state.key) {
        (Some(peer_public), Some((group, private))) => {
            let kind = RequestKind::Agree { group, private, peer_public };
            let ticket = shared.request(Waiter::Ike(sa.id), kind);
            let state = AwaitAgreement { plan, made, ticket };
            sa.own = Some(OwnExchange::Child(Creating::Agreement(state)));
            Ok(())
        }
        _ => install(sa, shared, plan, made, None),
    }
}

/// The peer deletes a pair that is not installed here. If it is the one that we have asked for,
/// it does not come to be; gives our SPI of it, if both ends know it already.
pub(crate) fn deleted_before_install(
    sa: &mut Established,
    shared: &mut Shared,
    spi: EspSpi,
) -> Option<EspSpi> {
    match sa.own.take() {
        Some(OwnExchange::Child(Creating::Agreement(state)))
            if state.made.choice.peer_spi == spi =>
        {
            let spi_in = state.made.spi_in;
            shared.spis.release(spi_in);
            give_up(sa, shared, &state.plan, informational::child_deleted());
            Some(spi_in)
        }
        mut own => {
            if let Some(OwnExchange::Child(Creating::Response(state))) = &mut own
                && state.deleted.len() < MAX_DELETED
            {
                state.deleted.push(spi);
            }
            sa.own = own;
            None
        }
    }
}

/// What a response says, once it has been held against the request.
struct Accepted {
    made: Made,
    peer_public: Option<Vec<u8>>,
}

fn accept(
    plan: &Plan,
    nonce_i: Vec<u8>,
    group: Option<KeGroup>,
    payloads: &Payloads<'_>,
) -> Result<Accepted, Failure> {
    let syntax = |error: WireError| {
        Failure::new(
            FailureCode::InvalidSyntax,
            format!("the peer's answer is incomplete: {error}"),
        )
    };
    let nonce_r = payloads.require_nonce().map_err(syntax)?.0.to_vec();
    let (choice, local, remote) = accept_child(&plan.config, payloads, Pfs::Configured)?;
    let peer_public = match (choice.group, payloads.ke()) {
        (None, None) => None,
        (None, Some(_)) => {
            let message = "the peer sent a public value, but the proposal that it chose has no key \
                           exchange: the two ends would have different keys";
            return Err(Failure::new(FailureCode::InvalidKe, message));
        }
        (Some(chosen), Some(ke))
            if Some(chosen) == group
                && ke.known_group() == group
                && ke.data.len() == chosen.public_len() =>
        {
            Some(ke.data.to_vec())
        }
        (Some(chosen), _) => {
            return Err(Failure::new(
                FailureCode::InvalidKe,
                format!("the peer chose {chosen} but its public value is not of that method"),
            ));
        }
    };
    let role = Role::Initiator;
    let spi_in = choice.peer_spi;
    let made = Made { choice, spi_in, local, remote, nonce_i, nonce_r, role };
    Ok(Accepted { made, peer_public })
}

/// Holds SA, TSi and TSr of a response against what we offered for a child. Gives the choice and
/// the selectors of our side and of the peer's.
pub(crate) fn accept_child(
    config: &ChildConfig,
    payloads: &Payloads<'_>,
    pfs: Pfs,
) -> Result<(EspChoice, Vec<TrafficSelector>, Vec<TrafficSelector>), Failure> {
    let syntax = |error: WireError| {
        Failure::new(
            FailureCode::InvalidSyntax,
            format!("the peer's answer is incomplete: {error}"),
        )
    };
    let answer = payloads.require_sa().map_err(syntax)?;
    let choice = check_esp(&config.proposals, answer, pfs)
        .map_err(|mismatch| Failure::new(FailureCode::NoProposalChosen, format!("{mismatch}")))?;
    let local = &payloads.require_ts_i().map_err(syntax)?.selectors;
    let remote = &payloads.require_ts_r().map_err(syntax)?.selectors;
    let fits = traffic_selector::is_subset(local, &config.local)
        && traffic_selector::is_subset(remote, &config.remote);
    if !fits {
        return Err(Failure::new(
            FailureCode::TsUnacceptable,
            format!(
                "the peer chose selectors that were not offered: {} to {} instead of {} to {}",
                refusal::list(local),
                refusal::list(remote),
                refusal::list(&config.local),
                refusal::list(&config.remote),
            ),
        ));
    }
    Ok((choice, local.clone(), remote.clone()))
}

/// The peer has a child that we cannot use: it is told to delete it.
fn undo(
    sa: &mut Established,
    shared: &mut Shared,
    plan: &Plan,
    spi_in: EspSpi,
    failure: Failure,
) -> Step {
    sa.queue.push(Task::DeleteSpi(spi_in), shared.now);
    fail(sa, shared, plan, failure)
}

fn on_error(sa: &mut Established, shared: &mut Shared, plan: Plan, notify: &Notify<'_>) -> Step {
    match notify.kind {
        NotifyType::INVALID_KE_PAYLOAD => {
            if let Some(method) = method::asked_for(&plan, notify) {
                return begin(sa, shared, plan, method);
            }
        }
        NotifyType::TEMPORARY_FAILURE => {
            let patient = plan.old.is_some() || plan.attempts < BUSY_TRIES;
            rekey_child_sa::not_rekeying(sa, shared, &plan);
            if patient && rekey_child_sa::still_wanted(shared, &plan) {
                sa.retry_soon(shared, plan.task(), plan.attempts);
                return Ok(());
            }
            if plan.old.is_some() || shared.children.has(sa.id, plan.config.child) {
                return Ok(());
            }
        }
        NotifyType::CHILD_SA_NOT_FOUND if plan.old.is_some() => {
            rekey_child_sa::peer_lost_it(sa, shared, &plan);
            return Ok(());
        }
        _ => {}
    }
    let mut failure = refusal::failure_of_child(notify, "our request for a child", &plan.config);
    refusal::explain_key_exchange(&mut failure, &plan.config, plan.old.is_some());
    fail(sa, shared, &plan, failure)
}

pub(crate) fn on_completion(
    sa: &mut Established,
    shared: &mut Shared,
    state: Creating,
    result: CompletionResult,
) -> Step {
    match (state, result) {
        (Creating::Key(state), CompletionResult::KeyGenerated(Ok(key))) => {
            if !rekey_child_sa::still_wanted(shared, &state.plan) {
                rekey_child_sa::not_rekeying(sa, shared, &state.plan);
                return Ok(());
            }
            send(sa, shared, state.plan, Some((state.group, key)))
        }
        (Creating::Key(state), result) => {
            fail(sa, shared, &state.plan, result.ke_failure().failure())
        }
        (Creating::Agreement(state), CompletionResult::Agreed(Ok(agreement))) => {
            install(sa, shared, state.plan, state.made, Some(&agreement.shared))
        }
        (Creating::Agreement(state), result) => {
            let failure = result.ke_failure().failure();
            undo(sa, shared, &state.plan, state.made.spi_in, failure)
        }
        (other, _) => {
            sa.own = Some(OwnExchange::Child(other));
            Ok(())
        }
    }
}

/// Installs what we asked for.
pub(crate) fn install(
    sa: &mut Established,
    shared: &mut Shared,
    plan: Plan,
    made: Made,
    secret: Option<&SecretBytes>,
) -> Step {
    let spi_in = made.spi_in;
    let standby = plan.old.is_some_and(|old| rekey_child_sa::contested(sa, shared, old));
    match pair::install(sa, shared, &plan.config, made, secret, plan.old, standby) {
        Ok(pair) => {
            let state = AwaitInstall { plan, pair };
            sa.own = Some(OwnExchange::Child(Creating::Install(state)));
            Ok(())
        }
        Err(failure) => undo(sa, shared, &plan, spi_in, failure),
    }
}

/// The first child of an IKE SA that we initiated: IKE_AUTH has negotiated it.
pub(crate) fn install_first(
    sa: &mut Established,
    shared: &mut Shared,
    config: Box<ChildConfig>,
    made: Made,
) -> Step {
    let plan = Plan { config, old: None, attempts: 0, tried: Vec::new() };
    install(sa, shared, plan, made, None)
}

pub(super) fn own_installed(
    sa: &mut Established,
    shared: &mut Shared,
    state: AwaitInstall,
    installed: Installed,
) -> Step {
    let AwaitInstall { plan, pair } = state;
    match (installed, plan.old) {
        (Ok(()), None) => {
            shared.announce(None, pair);
            shared.act(Action::Deduplicate(sa.peer.tunnel()));
            Ok(())
        }
        (Ok(()), Some(old)) => {
            rekey_child_sa::settle(sa, shared, old);
            Ok(())
        }
        (Err((failure, spi)), _) => {
            if let Some(spi_in) = spi {
                sa.queue.push(Task::DeleteSpi(spi_in), shared.now);
            }
            fail(sa, shared, &plan, failure)
        }
    }
}
