//! CREATE_CHILD_SA that replaces a child's pair (RFC 7296 §1.3.3, §2.8): make before break.
//!
//! ```text
//! Initiator                              Responder
//! HDR, SK {N(REKEY_SA), SA, Ni,
//!          [KEi,] TSi, TSr}         -->  installs both directions, sends on the old pair
//!                                   <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}
//! installs, sends on the new pair
//!                          ==ESP==> -->  first packet on the new pair: sends on it, too
//! HDR, SK {D(old)}                  -->  or this; the old pair lingers for packets on the way
//!                                   <--  HDR, SK {D(old)}
//! the old pair lingers, then is removed
//! ```

use alloc::boxed::Box;

use sa_store::{ChildId, EspSpi, Instant, KeGroup, PairId};

use super::{
    collision::{self, Redundant, Rival},
    create_child_sa::{self, Creating, Plan},
    informational::{self, Deleting},
    pair::Made,
};
use crate::{
    config::ChildConfig,
    event::{Event, Failure, FailureCode},
    sa::{
        Task,
        channel::Role,
        child::Phase,
        established::{Established, OwnExchange, Refusal},
    },
    shared::{Action, Shared},
    wire::{Notify, NotifyType, Payloads, ProtocolId},
};

/// How long a peer may take to delete its redundant pair, in drain times.
const PATIENCE: u32 = 3;

/// Marks a pair as being rekeyed; `None` if there is nothing to rekey any more. A pair that the
/// peer made and does not use yet has to wait: the peer may not even have it.
pub(crate) fn prepare(
    sa: &mut Established,
    shared: &mut Shared,
    pair: PairId,
) -> Option<(Box<ChildConfig>, Option<KeGroup>)> {
    let old = shared.children.get(pair).filter(|old| old.phase == Phase::Installed)?;
    let (child, group, standby) = (old.child, old.group, old.standby);
    if standby {
        sa.retry_soon(shared, Task::RekeyChild(pair), 0);
        return None;
    }
    let config = create_child_sa::config_of(sa, shared, child)?;
    shared.children.get_mut(pair)?.phase = Phase::Rekeying;
    Some((Box::new(config), group))
}

/// Whether the successor is still needed.
pub(crate) fn still_wanted(shared: &Shared, plan: &Plan) -> bool {
    plan.old.is_none_or(|old| {
        let phase = shared.children.get(old).map(|old| old.phase);
        matches!(phase, Some(Phase::Rekeying | Phase::Installed))
    })
}

/// Our attempt is over without a successor.
pub(crate) fn not_rekeying(shared: &mut Shared, plan: &Plan) {
    if let Some(old) = plan.old.and_then(|old| shared.children.get_mut(old))
        && old.phase == Phase::Rekeying
    {
        old.phase = Phase::Installed;
    }
}

/// A rekey failed: it is tried again until the hard lifetime ends the pair.
pub(crate) fn keep_trying(sa: &mut Established, shared: &mut Shared, plan: &Plan) {
    not_rekeying(shared, plan);
    if plan.old.is_some() && still_wanted(shared, plan) {
        sa.retry(shared, plan.task(), plan.attempts);
    }
}

/// CHILD_SA_NOT_FOUND: the peer does not have the pair any more (RFC 7296 §2.25.1).
pub(crate) fn peer_lost_it(sa: &mut Established, shared: &mut Shared, plan: &Plan) {
    let Some(old) = plan.old else { return };
    let Some(phase) = shared.children.get(old).map(|old| old.phase) else { return };
    let reason = Failure::new(FailureCode::ChildSaNotFound, "the peer had deleted the child");
    shared.end_pair(old, Some(&reason));
    if !matches!(phase, Phase::Replaced { .. }) && plan.rival.is_none() {
        sa.queue.push(Task::CreateChild(plan.config.child), shared.now);
    }
}

/// The peer's successor wins before ours is installed: ours is deleted.
pub(crate) fn yield_before_install(
    sa: &mut Established,
    shared: &mut Shared,
    plan: &Plan,
    spi_in: EspSpi,
) -> crate::sa::established::Step {
    sa.queue.push(Task::DeleteSpi(spi_in), shared.now);
    if let (Some(old), Some(rival)) = (plan.old, &plan.rival) {
        announce(sa, shared, plan.config.child, (old, rival.successor));
    }
    Ok(())
}

fn announce(sa: &Established, shared: &mut Shared, child: ChildId, (old, new): (PairId, PairId)) {
    let tunnel = sa.peer.tunnel();
    shared.event(Event::ChildRekeyed { tunnel, child, old, new });
}

/// Our successor is installed and carries the traffic.
pub(crate) fn finish(
    sa: &mut Established,
    shared: &mut Shared,
    plan: &Plan,
    (old, pair): (PairId, PairId),
    nonce: &[u8],
) {
    let now = shared.now;
    let rival = plan.rival.as_ref();
    let lost = rival.is_some_and(|it| collision::decide(nonce, &it.nonce) == Redundant::Ours);
    if let (true, Some(rival)) = (lost, rival) {
        if let Some(ours) = shared.children.get_mut(pair) {
            ours.phase = Phase::Replaced { until: Instant::NEVER };
        }
        sa.queue.push(Task::DeletePair(pair, informational::replaced()), now);
        announce(sa, shared, plan.config.child, (old, rival.successor));
        return;
    }
    if let Some(rival) = rival {
        await_delete(shared, rival.successor);
    }
    if let Some(old) = shared.children.get_mut(old) {
        old.phase = Phase::Replaced { until: Instant::NEVER };
        let task = Task::DeletePair(old.pair, informational::replaced());
        sa.queue.push(task, now);
    }
    announce(sa, shared, plan.config.child, (old, pair));
}

/// The peer will delete its redundant pair; if not, we do.
fn await_delete(shared: &mut Shared, pair: PairId) {
    let until = shared.now + shared.config.drain_time * PATIENCE;
    if let Some(redundant) = shared.children.get_mut(pair) {
        redundant.phase = Phase::Replaced { until };
    }
}

// The responder's side.

/// The pair that a request wants to replace; `None` if it asks for another child.
pub(crate) fn find_old(
    sa: &mut Established,
    shared: &Shared,
    payloads: &Payloads<'_>,
) -> Result<Option<PairId>, Refusal> {
    let Some(rekey) = payloads.notify(NotifyType::REKEY_SA) else { return Ok(None) };
    let not_found = NotifyType::CHILD_SA_NOT_FOUND;
    let spi = rekey.spi.esp().filter(|_| rekey.protocol == ProtocolId::ESP);
    let Some(spi) = spi else { return Err(not_found.into()) };
    let Some(old) = shared.children.by_peer_spi(sa.peer.origin, spi) else {
        return Err(Refusal::Notify(Notify::about_esp(not_found, spi)));
    };
    let pair = old.pair;
    let deleting =
        matches!(&sa.own, Some(OwnExchange::Delete(Deleting::Pair(it, _))) if *it == pair);
    // RFC 7296 §2.25.1: we are closing it, perhaps because our own rekey is done.
    let busy = matches!(old.phase, Phase::Deleting | Phase::Installing);
    if busy || deleting || sa.queue.deletes(pair) {
        return Err(NotifyType::TEMPORARY_FAILURE.into());
    }
    // Ours has not been sent: there is no collision.
    if matches!(&sa.own, Some(OwnExchange::Child(Creating::Key(own))) if own.plan.old == Some(pair))
    {
        sa.own = None;
    }
    Ok(Some(pair))
}

/// Our own exchange that replaces the same pair.
fn own_rekey(sa: &mut Established, old: Option<PairId>) -> Option<&mut Plan> {
    match &mut sa.own {
        Some(OwnExchange::Child(own)) if old.is_some() && own.plan().old == old => {
            Some(own.plan_mut())
        }
        _ => None,
    }
}

/// The peer replaces what we are replacing: nonces will decide.
pub(crate) fn note_rival(sa: &mut Established, old: Option<PairId>, made: &Made) {
    if let Some(plan) = own_rekey(sa, old) {
        let nonce = collision::lower(&made.nonce_i, &made.nonce_r).to_vec();
        plan.rival = Some(Rival { nonce, successor: PairId::default() });
    }
}

/// The rival has a pair now.
pub(crate) fn name_rival(sa: &mut Established, old: Option<PairId>, pair: PairId) {
    if let Some(rival) = own_rekey(sa, old).and_then(|plan| plan.rival.as_mut()) {
        rival.successor = pair;
    }
}

/// The rival did not come to be.
pub(crate) fn forget_rival(sa: &mut Established, old: Option<PairId>) {
    if let Some(plan) = own_rekey(sa, old) {
        plan.rival = None;
    }
}

/// Whether both ends ask for the same new child at once and the peer has to wait: the original
/// initiator of the IKE SA goes first.
pub(crate) fn crosses_own_request(sa: &Established, child: ChildId) -> bool {
    sa.channel.spis.role == Role::Initiator
        && matches!(&sa.own, Some(OwnExchange::Child(own))
            if own.plan().old.is_none() && own.plan().config.child == child)
}

/// A pair that the peer asked for stands and the peer has been told.
pub(crate) fn answered(
    sa: &mut Established,
    shared: &mut Shared,
    old: Option<PairId>,
    pair: PairId,
) {
    let Some(old) = old else {
        create_child_sa::announce(shared, pair);
        shared.act(Action::Deduplicate(sa.peer.tunnel()));
        return;
    };
    let Some(child) = shared.children.get(pair).map(|it| it.child) else { return };
    let contested = own_rekey(sa, Some(old)).is_some();
    if shared.children.has_active_successor(old, pair) && !contested {
        await_delete(shared, pair);
        return;
    }
    match shared.children.get_mut(old) {
        Some(old) => old.phase = Phase::Replaced { until: Instant::NEVER },
        None => shared.activate_pair(pair),
    }
    sa.queue.remove(|task| *task == Task::RekeyChild(old));
    if !contested {
        announce(sa, shared, child, (old, pair));
    }
}
