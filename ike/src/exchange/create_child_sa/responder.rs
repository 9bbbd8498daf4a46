//! CREATE_CHILD_SA as responder: from a request to its answer, once the pair stands. IKE_AUTH
//! has its child answered here too.

use alloc::{boxed::Box, format, vec::Vec};
use core::time::Duration;

use sa_store::{ChildId, EspSpi, Instant, KeGroup, PairId, SecretBytes, TrafficSelector};

use super::{
    super::{
        pair::{self, Made},
        refusal, rekey_child_sa, rekey_ike_sa,
    },
    Installed, config_of, connection_of, no_spi,
};
use crate::{
    config::{ChildConfig, Endpoints},
    event::{Failure, FailureCode},
    input::CompletionResult,
    negotiate::{
        KeDecision, Pfs, has_key_exchange, ke_decision, select_esp, sent_method, traffic_selector,
    },
    output::{RequestKind, Ticket},
    sa::{
        channel::Role,
        established::{Answer, Established, OwnExchange, Refusal, Stage, Step},
    },
    shared::{Shared, Waiter},
    wire::{
        ExchangeType, KeyExchange, Nonce, Notify, NotifyType, Payload, Payloads, ProtocolId,
        TrafficSelectors, WireError,
    },
};

/// Pairs an IKE SA may have for each configured child before a peer gets NO_ADDITIONAL_SAS.
const PAIRS_PER_CHILD: usize = 4;
/// Pairs it may have besides while the peer replaces one.
const PAIRS_PER_REKEY: usize = 2;
/// Pairs of a child that may be leaving before its peer has to wait with the next.
const LEAVING_PER_CHILD: usize = 16 * PAIRS_PER_CHILD;
/// The same for all peers of a tunnel together, whatever they call themselves.
const LEAVING_OF_ALL: usize = 4 * LEAVING_PER_CHILD;
/// Two IKE SAs of both ends' own making come up within this time.
const CROSSWISE: Duration = Duration::from_secs(90);

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Answering {
    exchange: ExchangeType,
    path: Endpoints,
    /// What stands before the child's payloads: IDr and AUTH in IKE_AUTH.
    prefix: Vec<Payload<'static>>,
    standby: bool,
    pub(super) config: Box<ChildConfig>,
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

    pub(super) fn installs(&self, pair: PairId) -> bool {
        matches!(&self.step, AnswerStep::Install { pair: own, .. } if *own == pair)
    }

    pub(super) fn spi(&self) -> Option<EspSpi> {
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
    // What a successor replaces goes soon.
    let most = most_pairs(sa, shared) + if old.is_some() { PAIRS_PER_REKEY } else { 0 };
    if shared.children.count(sa.id) >= most {
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

/// How many pairs a peer may have made with an IKE SA, by the configuration as it is now.
pub(crate) fn most_pairs(sa: &Established, shared: &Shared) -> usize {
    PAIRS_PER_CHILD * connection_of(sa, shared).children.len().max(1)
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
    let first = wanted.exchange == ExchangeType::IKE_AUTH;
    let pfs = if first { Pfs::No } else { sent_method(payloads.ke()) };
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
    // What the peer has made and deleted is there until the backend has let go of it.
    let leaving = shared.children.leaving_of(config.child, |it| it.same(&sa.peer.remote_id));
    let of_all = shared.children.leaving_of(config.child, |_| true);
    if leaving >= LEAVING_PER_CHILD || of_all >= LEAVING_OF_ALL {
        return Err(NotifyType::TEMPORARY_FAILURE.into());
    }
    let choice = match select_esp(&config.proposals, sa_i, pfs) {
        Ok(choice) => choice,
        Err(mismatch) => {
            let mut failure = Failure::new(FailureCode::NoProposalChosen, format!("{mismatch}"));
            if mismatch.is_key_exchange() {
                refusal::explain_key_exchange(&mut failure, &config, true);
            }
            return refuse(sa, shared, Some(config.child), failure);
        }
    };
    if !first && payloads.ke().is_some() && !has_key_exchange(sa_i) {
        let message = "the peer sent a public value for a child, but none of its proposals has a \
                       key exchange: the two ends might have different keys";
        let failure = Failure::new(FailureCode::NoProposalChosen, message);
        return refuse(sa, shared, Some(config.child), failure);
    }
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
            let kind = RequestKind::GenerateAndAgree { group, peer_public, asker: sa.asker() };
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
    let connection = connection_of(sa, shared);
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
    let connection = connection_of(sa, shared);
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
    shared.failed_request(sa.peer.tunnel(), child, sa.channel.path.remote, failure);
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
            let failure = result.ke_failure().failure();
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
    shared.failed_request(tunnel, Some(child), remote, failure);
    if let Some(old) = old {
        rekey_child_sa::settle(sa, shared, old);
    }
    let mut payloads = head.prefix;
    payloads.push(Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE)));
    sa.respond(shared, head.exchange, &payloads, head.path)
}

pub(super) fn answer_installed(
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
