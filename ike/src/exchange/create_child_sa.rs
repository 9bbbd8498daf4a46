//! CREATE_CHILD_SA for a child (RFC 7296 §1.3.1), and the child that IKE_AUTH brings with it.
//! What only concerns a rekey is in [`super::rekey_child_sa`].
//!
//! ```text
//! Initiator                         Responder
//! [GenerateKey]
//! HDR, SK {[N(REKEY_SA),] SA, Ni,
//!          [KEi,] TSi, TSr}    -->  [GenerateAndAgree], Install
//!                              <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}
//! [Agree], Install
//! ```

use alloc::{boxed::Box, format, vec::Vec};
use core::time::Duration;

use sa_store::{ChildId, EspSpi, Instant, KeGroup, PairId, SecretBytes, TrafficSelector};

use super::{
    collision,
    pair::{self, Made},
    refusal, rekey_child_sa, rekey_ike_sa,
};
use crate::{
    config::{ChildConfig, Endpoints},
    event::{Failure, FailureCode},
    input::CompletionResult,
    negotiate::{
        EspChoice, KeDecision, Pfs, check_esp, esp_offer, ke_decision, select_esp, traffic_selector,
    },
    output::{RequestKind, Ticket},
    sa::{
        Task,
        channel::Role,
        child::Phase,
        established::{Answer, Established, OwnExchange, Refusal, Stage, Step},
        lifetime,
    },
    shared::{Action, Shared, Waiter},
    wire::{
        ExchangeType, KeyExchange, Nonce, Notify, NotifyType, Payload, Payloads, ProtocolId,
        TrafficSelectors, WireError,
    },
};

/// Pairs an IKE SA may have for each configured child before a peer gets NO_ADDITIONAL_SAS.
const PAIRS_PER_CHILD: usize = 4;
/// Two IKE SAs of both ends' own making come up within this time.
const CROSSWISE: Duration = Duration::from_secs(90);
/// How often a new child is asked for again after TEMPORARY_FAILURE.
const BUSY_TRIES: u32 = 8;

/// What we want.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Box<ChildConfig>,
    /// The pair to replace.
    pub(crate) old: Option<PairId>,
    pub(crate) attempts: u32,
    /// Groups that were tried: INVALID_KE_PAYLOAD cannot lead in circles.
    tried: Vec<KeGroup>,
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
    fn spi(&self) -> Option<EspSpi> {
        match self {
            Self::Response(state) => Some(state.spi_in),
            Self::Agreement(state) => Some(state.made.spi_in),
            Self::Key(_) | Self::Install(_) => None,
        }
    }
}

/// The configuration of a child: as it is now, else as it was.
pub(crate) fn config_of(sa: &Established, shared: &Shared, child: ChildId) -> Option<ChildConfig> {
    let current = shared.connections.get(&sa.peer.tunnel());
    let find = |connection: &crate::config::Connection| {
        connection.children.iter().find(|config| config.child == child).cloned()
    };
    current.and_then(|connection| find(connection)).or_else(|| find(&sa.peer.connection))
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
    if answers || shared.creating.values().any(|(other, _)| *other == child) {
        // It is on its way, here or over another IKE SA: perhaps there is nothing left to do.
        sa.retry_soon(shared, Task::CreateChild(child), attempts);
        return Ok(());
    }
    let Some(config) = config_of(sa, shared, child) else { return Ok(()) };
    let config = Box::new(config);
    begin(sa, shared, Plan { config, old: None, attempts, tried: Vec::new() }, None)
}

/// Asks for a successor of a pair.
pub(crate) fn start_rekey(
    sa: &mut Established,
    shared: &mut Shared,
    pair: PairId,
    attempts: u32,
) -> Step {
    let Some((config, group)) = rekey_child_sa::prepare(sa, shared, pair) else { return Ok(()) };
    let old = Some(pair);
    begin(sa, shared, Plan { config, old, attempts, tried: Vec::new() }, group)
}

/// Makes a key pair if there is a key exchange, else sends at once.
fn begin(
    sa: &mut Established,
    shared: &mut Shared,
    mut plan: Plan,
    group: Option<KeGroup>,
) -> Step {
    let offers = |group: &KeGroup| plan.config.proposals.iter().any(|it| it.groups.contains(group));
    let first = plan.config.proposals.iter().find_map(|it| it.groups.first()).copied();
    match group.filter(offers).or(first) {
        Some(group) => {
            plan.tried.push(group);
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
    let state = AwaitResponse { plan, spi_in, nonce_i, key };
    sa.own = Some(OwnExchange::Child(Creating::Response(state)));
    Ok(())
}

/// Selectors as they are offered.
pub(crate) fn offered(configured: &[TrafficSelector]) -> TrafficSelectors {
    TrafficSelectors::new(traffic_selector::offer(configured, None))
}

pub(crate) fn no_spi() -> Failure {
    Failure::new(FailureCode::Internal, "there is no free SPI left on this node")
}

/// The exchange came to nothing: says so, and keeps trying when a pair needs its successor.
pub(crate) fn fail(
    sa: &mut Established,
    shared: &mut Shared,
    plan: &Plan,
    failure: Failure,
) -> Step {
    let (tunnel, remote) = (sa.peer.tunnel(), sa.channel.path.remote);
    shared.failed(Some(tunnel), Some(plan.config.child), remote, failure);
    rekey_child_sa::keep_trying(sa, shared, plan);
    Ok(())
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
        (None, _) => None,
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
            let wanted = notify.data_u16().and_then(KeGroup::from_transform_id);
            let group = wanted.filter(|group| {
                !plan.tried.contains(group)
                    && plan.config.proposals.iter().any(|it| it.groups.contains(group))
            });
            if group.is_some() {
                return begin(sa, shared, plan, group);
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
    let failure = refusal::failure_of_child(notify, "our request for a child", &plan.config);
    fail(sa, shared, &plan, failure)
}

pub(crate) fn on_completion(
    sa: &mut Established,
    shared: &mut Shared,
    state: Creating,
    result: CompletionResult,
) -> Step {
    let internal = || Failure::new(FailureCode::Internal, "the key exchange failed on our side");
    match (state, result) {
        (Creating::Key(state), CompletionResult::KeyGenerated(Ok(key))) => {
            if !rekey_child_sa::still_wanted(shared, &state.plan) {
                rekey_child_sa::not_rekeying(sa, shared, &state.plan);
                return Ok(());
            }
            send(sa, shared, state.plan, Some((state.group, key)))
        }
        (Creating::Key(state), _) => fail(sa, shared, &state.plan, internal()),
        (Creating::Agreement(state), CompletionResult::Agreed(Ok(agreement))) => {
            install(sa, shared, state.plan, state.made, Some(&agreement.shared))
        }
        (Creating::Agreement(state), _) => {
            undo(sa, shared, &state.plan, state.made.spi_in, internal())
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

// The responder's side.

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Answering {
    exchange: ExchangeType,
    path: Endpoints,
    /// What stands before the child's payloads: IDr and AUTH in IKE_AUTH.
    prefix: Vec<Payload<'static>>,
    standby: bool,
    config: Box<ChildConfig>,
    old: Option<PairId>,
    step: AnswerStep,
}

#[derive(Debug)]
enum AnswerStep {
    Agreement { ticket: Ticket, made: Box<Made>, group: KeGroup },
    Install { pair: PairId, payloads: Vec<Payload<'static>> },
}

impl Answering {
    pub(crate) fn waits_for(&self, ticket: Ticket) -> bool {
        matches!(&self.step, AnswerStep::Agreement { ticket: own, .. } if *own == ticket)
    }

    /// The pair that the peer replaces.
    pub(crate) const fn replaces(&self) -> Option<PairId> {
        self.old
    }

    fn installs(&self, pair: PairId) -> bool {
        matches!(&self.step, AnswerStep::Install { pair: own, .. } if *own == pair)
    }

    fn spi(&self) -> Option<EspSpi> {
        match &self.step {
            AnswerStep::Agreement { made, .. } => Some(made.spi_in),
            AnswerStep::Install { .. } => None,
        }
    }
}

/// Answers CREATE_CHILD_SA.
pub(crate) fn on_request(
    sa: &mut Established,
    shared: &mut Shared,
    path: Endpoints,
    payloads: &Payloads<'_>,
) -> Result<(), Refusal> {
    let offered = payloads.require_sa()?;
    let for_ike = offered.proposals.iter().any(|it| it.protocol == ProtocolId::IKE);
    if sa.stage != Stage::Active || sa.is_closing() {
        return Err(NotifyType::TEMPORARY_FAILURE.into());
    }
    if for_ike {
        return rekey_ike_sa::on_request(sa, shared, path, payloads);
    }
    // RFC 7296 §2.25.2: the IKE SA is being replaced.
    if matches!(sa.own, Some(OwnExchange::RekeyIke(_))) {
        return Err(NotifyType::TEMPORARY_FAILURE.into());
    }
    let nonce_i = payloads.require_nonce()?.0.to_vec();
    let old = rekey_child_sa::find_old(sa, shared, payloads)?;
    let limit = PAIRS_PER_CHILD * sa.peer.connection.children.len().max(1);
    if shared.children.count(sa.id) >= limit {
        return Err(NotifyType::NO_ADDITIONAL_SAS.into());
    }
    let nonce_r = shared.nonce();
    let wanted = Wanted {
        exchange: ExchangeType::CREATE_CHILD_SA,
        begun: None,
        path,
        prefix: Vec::new(),
        old,
        nonce_i,
        nonce_r,
    };
    answer(sa, shared, wanted, payloads)
}

/// A request for a child, from whichever exchange.
pub(crate) struct Wanted {
    pub(crate) exchange: ExchangeType,
    /// When the negotiation of an IKE SA began that brings the child with it.
    pub(crate) begun: Option<Instant>,
    pub(crate) path: Endpoints,
    pub(crate) prefix: Vec<Payload<'static>>,
    pub(crate) old: Option<PairId>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
}

/// Negotiates a child as responder.
pub(crate) fn answer(
    sa: &mut Established,
    shared: &mut Shared,
    wanted: Wanted,
    payloads: &Payloads<'_>,
) -> Result<(), Refusal> {
    let pfs = if wanted.exchange == ExchangeType::IKE_AUTH { Pfs::No } else { Pfs::Configured };
    let sa_i = payloads.require_sa()?;
    let (ts_i, ts_r) = (payloads.require_ts_i()?, payloads.require_ts_r()?);
    let old = wanted.old.and_then(|old| shared.children.get(old)).map(|old| old.child);
    let Some((config, local, remote)) = pick(sa, shared, (&ts_r.selectors, &ts_i.selectors), old)
    else {
        return refuse(sa, shared, old, ts_refused(sa, shared, ts_r, ts_i));
    };
    if wanted.old.is_none() && rekey_child_sa::crosses_own_request(sa, shared, config.child) {
        return Err(NotifyType::TEMPORARY_FAILURE.into());
    }
    let choice = match select_esp(&config.proposals, sa_i, pfs) {
        Ok(choice) => choice,
        Err(mismatch) => {
            let failure = Failure::new(FailureCode::NoProposalChosen, format!("{mismatch}"));
            return refuse(sa, shared, Some(config.child), failure);
        }
    };
    let group = match ke_decision(choice.group, payloads.ke()) {
        KeDecision::None => None,
        KeDecision::Use(group) => Some(group),
        KeDecision::Retry(group) => return Err(Refusal::Notify(Notify::invalid_ke(group))),
    };
    let public = match (group, payloads.ke()) {
        (Some(group), Some(ke)) if ke.data.len() != group.public_len() => {
            return Err(Refusal::Syntax(WireError::Malformed(
                crate::wire::PayloadType::KE,
                crate::wire::Fault::Value,
            )));
        }
        (Some(group), Some(ke)) => Some((group, ke.data.to_vec())),
        _ => None,
    };
    let Some(spi_in) = shared.spis.allocate() else {
        return refuse(sa, shared, Some(config.child), no_spi());
    };
    let made = Made {
        choice,
        spi_in,
        local,
        remote,
        nonce_i: wanted.nonce_i,
        nonce_r: wanted.nonce_r,
        role: Role::Responder,
    };
    let standby = wanted.old.is_some() || is_doubled(sa, shared, config.child, wanted.begun);
    let (exchange, path, prefix) = (wanted.exchange, wanted.path, wanted.prefix);
    let head = Head { exchange, path, prefix, standby };
    match public {
        Some((group, peer_public)) => {
            let kind = RequestKind::GenerateAndAgree { group, peer_public };
            let ticket = shared.request(Waiter::Ike(sa.id), kind);
            let step = AnswerStep::Agreement { ticket, made: Box::new(made), group };
            sa.answer = Some(Answer::Child(head.answering(config, wanted.old, step)));
            Ok(())
        }
        None => Ok(install_answer(sa, shared, head, (config, wanted.old), made, None)?),
    }
}

/// Where and how a response begins.
struct Head {
    exchange: ExchangeType,
    path: Endpoints,
    prefix: Vec<Payload<'static>>,
    standby: bool,
}

/// Whether the child works already and both ends know it: then its traffic does not move to the
/// new pair before the peer, which has not got our response, has it as well.
fn is_doubled(sa: &Established, shared: &Shared, child: ChildId, begun: Option<Instant>) -> bool {
    let tunnel = sa.peer.tunnel();
    let own = shared.directory.entry(sa.id).map(|entry| entry.since);
    let mut others = shared.directory.active(tunnel);
    let doubled = others.any(|(ike, entry)| {
        // A new IKE SA replaces older ones, unless both ends called at once.
        let crosswise = match (begun, own) {
            (Some(begun), _) => entry.ours && entry.since >= begun,
            (None, Some(own)) => {
                entry.ours != sa.peer.ours
                    && entry.since + CROSSWISE >= own
                    && own + CROSSWISE >= entry.since
            }
            (None, None) => false,
        };
        (ike == sa.id || crosswise) && shared.children.has(ike, child)
    });
    doubled || begun.is_some() && shared.is_calling(tunnel)
}

impl Head {
    fn answering(
        self,
        config: Box<ChildConfig>,
        old: Option<PairId>,
        step: AnswerStep,
    ) -> Answering {
        let Self { exchange, path, prefix, standby } = self;
        Answering { exchange, path, prefix, standby, config, old, step }
    }
}

/// Chooses the child: of a rekey it is known, else the first that is not up yet, then any.
fn pick(
    sa: &Established,
    shared: &Shared,
    (ours, theirs): (&[TrafficSelector], &[TrafficSelector]),
    old: Option<ChildId>,
) -> Option<(Box<ChildConfig>, Vec<TrafficSelector>, Vec<TrafficSelector>)> {
    let connection = shared.connections.get(&sa.peer.tunnel()).unwrap_or(&sa.peer.connection);
    let narrowed = |config: &ChildConfig| {
        let local = traffic_selector::narrow(&config.local, ours);
        let remote = traffic_selector::narrow(&config.remote, theirs);
        (!local.is_empty() && !remote.is_empty()).then_some((local, remote))
    };
    let candidates = connection.children.iter().filter_map(|config| {
        let (local, remote) = narrowed(config)?;
        let whole = !traffic_selector::is_narrowed(&config.local, &local)
            && !traffic_selector::is_narrowed(&config.remote, &remote);
        let rank = (shared.children.has(sa.id, config.child), !whole);
        Some((rank, config, local, remote))
    });
    let best = match old {
        Some(child) => {
            let config = config_of(sa, shared, child)?;
            let (local, remote) = narrowed(&config)?;
            return Some((Box::new(config), local, remote));
        }
        None => candidates.min_by_key(|(rank, ..)| *rank)?,
    };
    let (_, config, local, remote) = best;
    Some((Box::new(config.clone()), local, remote))
}

fn ts_refused(
    sa: &Established,
    shared: &Shared,
    ours: &TrafficSelectors,
    theirs: &TrafficSelectors,
) -> Failure {
    let connection = shared.connections.get(&sa.peer.tunnel()).unwrap_or(&sa.peer.connection);
    let configured: Vec<alloc::string::String> = connection
        .children
        .iter()
        .map(|it| format!("{} to {}", refusal::list(&it.local), refusal::list(&it.remote)))
        .collect();
    Failure::new(
        FailureCode::TsUnacceptable,
        format!(
            "the peer wants {} on our side to {} on its own; configured here: {}",
            refusal::list(&ours.selectors),
            refusal::list(&theirs.selectors),
            configured.join("; ")
        ),
    )
}

/// Refuses a child, and tells the operator why.
fn refuse(
    sa: &Established,
    shared: &mut Shared,
    child: Option<ChildId>,
    failure: Failure,
) -> Result<(), Refusal> {
    let kind = match failure.code {
        FailureCode::NoProposalChosen => NotifyType::NO_PROPOSAL_CHOSEN,
        FailureCode::TsUnacceptable => NotifyType::TS_UNACCEPTABLE,
        _ => NotifyType::TEMPORARY_FAILURE,
    };
    shared.failed(Some(sa.peer.tunnel()), child, sa.channel.path.remote, failure);
    Err(kind.into())
}

fn install_answer(
    sa: &mut Established,
    shared: &mut Shared,
    head: Head,
    (config, old): (Box<ChildConfig>, Option<PairId>),
    made: Made,
    key: Option<(KeGroup, Vec<u8>, SecretBytes)>,
) -> Step {
    let mut payloads = alloc::vec![Payload::Sa(made.choice.answer(made.spi_in)),];
    // IKE_AUTH has had its nonces already.
    if head.exchange == ExchangeType::CREATE_CHILD_SA {
        payloads.push(Payload::Nonce(Nonce(made.nonce_r.clone().into())));
    }
    let secret = key.map(|(group, public, secret)| {
        payloads.push(Payload::Ke(KeyExchange::new(group, public)));
        secret
    });
    payloads.push(Payload::TsI(TrafficSelectors::new(made.remote.clone())));
    payloads.push(Payload::TsR(TrafficSelectors::new(made.local.clone())));
    let spi_in = made.spi_in;
    match pair::install(sa, shared, &config, made, secret.as_ref(), old, head.standby) {
        Ok(pair) => {
            if let Some(it) = shared.children.get_mut(pair) {
                it.first = head.exchange == ExchangeType::IKE_AUTH;
            }
            let step = AnswerStep::Install { pair, payloads };
            sa.answer = Some(Answer::Child(head.answering(config, old, step)));
            Ok(())
        }
        Err(failure) => {
            shared.spis.release(spi_in);
            answer_failed(sa, shared, head, (config.child, old), failure)
        }
    }
}

pub(crate) fn on_answer_completion(
    sa: &mut Established,
    shared: &mut Shared,
    state: Answering,
    result: CompletionResult,
) -> Step {
    let Answering { exchange, path, prefix, standby, config, old, step } = state;
    let head = Head { exchange, path, prefix, standby };
    let AnswerStep::Agreement { made, group, .. } = step else { return Ok(()) };
    match result {
        CompletionResult::Agreed(Ok(agreement)) if agreement.public.is_some() => {
            let public = agreement.public.unwrap_or_default();
            let key = Some((group, public, agreement.shared));
            install_answer(sa, shared, head, (config, old), *made, key)
        }
        result => {
            shared.spis.release(made.spi_in);
            let invalid = matches!(
                result,
                CompletionResult::Agreed(Err(crate::input::KeFailure::InvalidPublicValue))
            );
            let failure = if invalid {
                Failure::new(FailureCode::InvalidKe, "the peer's public value is not valid")
            } else {
                Failure::new(FailureCode::Internal, "the key exchange failed on our side")
            };
            answer_failed(sa, shared, head, (config.child, old), failure)
        }
    }
}

/// The child that is being answered for does not come to be.
fn answer_failed(
    sa: &mut Established,
    shared: &mut Shared,
    head: Head,
    (child, old): (ChildId, Option<PairId>),
    failure: Failure,
) -> Step {
    let (tunnel, remote) = (sa.peer.tunnel(), sa.channel.path.remote);
    shared.failed(Some(tunnel), Some(child), remote, failure);
    if let Some(old) = old {
        rekey_child_sa::settle(sa, shared, old);
    }
    let mut payloads = head.prefix;
    payloads.push(Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE)));
    sa.respond(shared, head.exchange, &payloads, head.path)
}

/// A backend has said whether a pair stands.
pub(crate) fn on_installed(
    sa: &mut Established,
    shared: &mut Shared,
    pair: PairId,
    result: Result<(), alloc::string::String>,
) -> Step {
    let waiting = shared.children.get(pair).is_some_and(|it| it.phase == Phase::Installing);
    if !waiting {
        return Ok(());
    }
    let installed = match result {
        Ok(()) => {
            stands(sa, shared, pair);
            Ok(())
        }
        Err(reason) => {
            let spi = shared.children.take_uninstalled(pair);
            Err((Failure::new(FailureCode::InstallFailed, reason), spi))
        }
    };
    match sa.own.take() {
        Some(OwnExchange::Child(Creating::Install(state))) if state.pair == pair => {
            return own_installed(sa, shared, state, installed);
        }
        own => sa.own = own,
    }
    match sa.answer.take() {
        Some(Answer::Child(state)) if state.installs(pair) => {
            answer_installed(sa, shared, state, pair, installed)
        }
        answer => {
            sa.answer = answer;
            Ok(())
        }
    }
}

/// What installing came to; a failure leaves us with the SPI.
type Installed = Result<(), (Failure, Option<EspSpi>)>;

fn answer_installed(
    sa: &mut Established,
    shared: &mut Shared,
    state: Answering,
    pair: PairId,
    installed: Installed,
) -> Step {
    let Answering { exchange, path, mut prefix, standby, config, old, step } = state;
    let AnswerStep::Install { payloads, .. } = step else { return Ok(()) };
    match installed {
        Ok(()) => {
            prefix.extend(payloads);
            sa.respond(shared, exchange, &prefix, path)?;
            rekey_child_sa::answered(sa, shared, old, pair);
            Ok(())
        }
        Err((failure, spi)) => {
            if let Some(spi) = spi {
                shared.spis.release(spi);
            }
            let head = Head { exchange, path, prefix, standby };
            answer_failed(sa, shared, head, (config.child, old), failure)
        }
    }
}

/// The pair stands: its clock starts.
fn stands(sa: &Established, shared: &mut Shared, pair: PairId) {
    let child = shared.children.get(pair).map(|it| it.child);
    let config = child.and_then(|child| config_of(sa, shared, child));
    let (soft, hard) = config.map_or_else(Default::default, |it| (it.rekey, it.life));
    let (rekey_at, expires_at) = lifetime::child_times(shared, soft, hard);
    let now = shared.now;
    if let Some(it) = shared.children.get_mut(pair) {
        it.phase = Phase::Installed;
        it.installed = now;
        it.rekey_at = rekey_at;
        it.expires_at = expires_at;
    }
    shared.pair_stands(pair);
}

fn own_installed(
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

/// The IKE SA ends: SPIs of unfinished exchanges are free again.
pub(crate) fn release(sa: &mut Established, shared: &mut Shared) {
    let own = match sa.own.take() {
        Some(OwnExchange::Child(creating)) => creating.spi(),
        _ => None,
    };
    let answer = match sa.answer.take() {
        Some(Answer::Child(answering)) => answering.spi(),
        _ => None,
    };
    let deletes = sa.queue.take_spis();
    for spi in [own, answer].into_iter().flatten().chain(deletes) {
        shared.spis.release(spi);
    }
}
