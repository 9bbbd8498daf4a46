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
use core::time::Duration;

use sa_store::{ChildId, EspSpi, IkeSpi, Instant, KeGroup, PairId};

use super::{
    collision::{self, Redundant},
    create_child_sa::{self, Creating, Plan},
    informational::{self, Deleting},
};
use crate::{
    config::ChildConfig,
    event::{Failure, FailureCode},
    sa::{
        Task,
        channel::Role,
        child::{ChildSa, Phase},
        established::{Answer, Established, OwnExchange, Refusal},
    },
    shared::{Action, Shared},
    wire::{Notify, NotifyType, Payloads, ProtocolId},
};

/// How long a peer may take to delete its redundant pair, in drain times.
const PATIENCE: u32 = 3;
/// How long a request of the peer may have been under way, sent again and again.
const UNDER_WAY: Duration = Duration::from_secs(90);
/// When to ask whether the peer has a pair that it has not used yet.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Marks a pair as being rekeyed; `None` if there is nothing to rekey any more. A pair that the
/// peer made and does not use yet has to wait: the peer may not even have it.
pub(crate) fn prepare(
    sa: &mut Established,
    shared: &mut Shared,
    pair: PairId,
    attempts: u32,
) -> Option<(Box<ChildConfig>, Option<KeGroup>)> {
    if answers(sa, pair) {
        // The peer's may come to nothing.
        sa.again_soon(shared, Task::RekeyChild(pair), attempts);
        return None;
    }
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

/// Whether the peer's request to replace a pair is being answered.
fn answers(sa: &Established, pair: PairId) -> bool {
    matches!(&sa.answer, Some(Answer::Child(answering)) if answering.replaces() == Some(pair))
}

/// Whether our own request to replace a pair is under way.
fn asks(sa: &Established, pair: PairId) -> bool {
    matches!(&sa.own, Some(OwnExchange::Child(own)) if own.plan().old == Some(pair))
}

/// Whether the successor is still needed.
pub(crate) fn still_wanted(shared: &Shared, plan: &Plan) -> bool {
    plan.old.is_none_or(|old| {
        let phase = shared.children.get(old).map(|old| old.phase);
        matches!(phase, Some(Phase::Rekeying | Phase::Installed))
    })
}

/// Our attempt is over without a successor. If the peer's stands, that is the one.
pub(crate) fn not_rekeying(sa: &mut Established, shared: &mut Shared, plan: &Plan) {
    let Some(old) = plan.old else { return };
    if let Some(it) = shared.children.get_mut(old)
        && it.phase == Phase::Rekeying
    {
        it.phase = Phase::Installed;
    }
    settle(sa, shared, old);
}

/// A rekey failed: it is tried again until the hard lifetime ends the pair.
pub(crate) fn keep_trying(sa: &mut Established, shared: &mut Shared, plan: &Plan) {
    not_rekeying(sa, shared, plan);
    if plan.old.is_some() && still_wanted(shared, plan) {
        sa.retry(shared, plan.task(), plan.attempts);
    }
}

/// CHILD_SA_NOT_FOUND: the peer does not have the pair any more (RFC 7296 §2.25.1).
pub(crate) fn peer_lost_it(sa: &mut Established, shared: &mut Shared, plan: &Plan) {
    not_rekeying(sa, shared, plan);
    // If the peer has deleted it in the meantime, the child is down because the peer wants it.
    let Some(old) = plan.old.filter(|old| shared.children.get(*old).is_some()) else { return };
    let reason = Failure::new(FailureCode::ChildSaNotFound, "the peer had deleted the child");
    shared.end_pair(old, Some(&reason));
    let child = plan.config.child;
    if !shared.children.has(sa.id, child) {
        sa.queue.push(Task::CreateChild(child), shared.now);
    }
}

/// Whether the peer's successor stands and wins against one of ours with this lower nonce.
pub(crate) fn loses(shared: &Shared, plan: &Plan, nonce: &[u8]) -> bool {
    let theirs = plan.old.and_then(|old| shared.children.successor(old, false));
    theirs.is_some_and(|it| collision::decide(nonce, &it.nonce) == Redundant::Ours)
}

/// The peer's successor wins before ours is installed: ours is deleted.
pub(crate) fn yield_before_install(
    sa: &mut Established,
    shared: &mut Shared,
    plan: &Plan,
    spi_in: EspSpi,
) {
    sa.queue.push(Task::DeleteSpi(spi_in), shared.now);
    not_rekeying(sa, shared, plan);
}

/// Whether a successor of ours that is about to be installed may have a rival: then traffic
/// waits for the decision.
pub(crate) fn contested(sa: &Established, shared: &Shared, old: PairId) -> bool {
    answers(sa, old) || shared.children.successor(old, false).is_some()
}

/// Decides who succeeds a pair as soon as that can be known at both ends: when no exchange that
/// replaces it is open any more. Both ends see the same successors then, and the same nonces.
pub(crate) fn settle(sa: &mut Established, shared: &mut Shared, old: PairId) {
    let ours = shared.children.successor(old, true).map(|it| (it.pair, it.nonce.clone()));
    let theirs = shared.children.successor(old, false).map(|it| (it.pair, it.nonce.clone()));
    match (ours, theirs) {
        (None, None) => {}
        (Some((ours, _)), None) => {
            if !answers(sa, old) {
                inherit(sa, shared, old, ours);
            }
        }
        (None, Some((theirs, _))) => {
            if !asks(sa, old) {
                give_way(sa, shared, old, theirs);
            }
        }
        (Some((ours, own_nonce)), Some((theirs, nonce))) => {
            match collision::decide(&own_nonce, &nonce) {
                Redundant::Ours => {
                    if let Some(it) = shared.children.get_mut(ours) {
                        it.phase = Phase::Replaced { until: Instant::NEVER };
                    }
                    let task = Task::DeletePair(ours, informational::replaced());
                    sa.queue.push(task, shared.now);
                    give_way(sa, shared, old, theirs);
                    let child = shared.children.get(theirs).map(|it| it.child);
                    if child.and_then(|child| shared.children.carrier(child)) == Some(ours) {
                        // Back to what the peer has for sure, until it uses its successor.
                        let stands = shared.children.get(old).is_some();
                        shared.carry(if stands { old } else { theirs });
                    }
                }
                Redundant::Theirs => {
                    await_delete(shared, theirs);
                    inherit(sa, shared, old, ours);
                }
            }
        }
    }
}

/// Our successor carries the traffic from now on; we delete what it replaces.
fn inherit(sa: &mut Established, shared: &mut Shared, old: PairId, ours: PairId) {
    shared.carry(ours);
    retire(sa, shared, old);
    if shared.children.get(old).is_some() {
        sa.queue.push(Task::DeletePair(old, informational::replaced()), shared.now);
    }
    shared.announce(Some(old), ours);
}

/// The peer's successor carries the traffic as soon as the peer uses it or has deleted what it
/// replaces.
fn give_way(sa: &mut Established, shared: &mut Shared, old: PairId, theirs: PairId) {
    if retire(sa, shared, old) {
        shared.announce(Some(old), theirs);
    } else {
        shared.carry(theirs);
        shared.announce(None, theirs);
    }
}

/// A pair has its successor; false if it is gone already.
fn retire(sa: &mut Established, shared: &mut Shared, old: PairId) -> bool {
    sa.queue.remove(|task| *task == Task::RekeyChild(old));
    let Some(it) = shared.children.get_mut(old) else { return false };
    if matches!(it.phase, Phase::Installed | Phase::Rekeying) {
        it.phase = Phase::Replaced { until: Instant::NEVER };
    }
    true
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
    shared: &mut Shared,
    payloads: &Payloads<'_>,
) -> Result<Option<PairId>, Refusal> {
    let Some(rekey) = payloads.notify(NotifyType::REKEY_SA) else { return Ok(None) };
    let not_found = NotifyType::CHILD_SA_NOT_FOUND;
    let spi = rekey.spi.esp().filter(|_| rekey.protocol == ProtocolId::ESP);
    let Some(spi) = spi else { return Err(not_found.into()) };
    let Some(old) = shared.children.by_peer_spi(sa.peer.line, spi) else {
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
    if let Some(OwnExchange::Child(Creating::Key(own))) = &sa.own
        && own.plan.old == Some(pair)
    {
        let attempts = own.plan.attempts;
        sa.own = None;
        // Should the peer's come to nothing.
        sa.again_soon(shared, Task::RekeyChild(pair), attempts);
        if let Some(old) = shared.children.get_mut(pair) {
            old.phase = Phase::Installed;
        }
    }
    Ok(Some(pair))
}

/// Whether both ends ask for the same new child at once and the peer has to wait: the original
/// initiator of the IKE SA goes first, and of two IKE SAs the one that stays. A request that was
/// under way while ours was answered comes too late.
pub(crate) fn crosses_own_request(sa: &Established, shared: &Shared, child: ChildId) -> bool {
    let asked = sa.channel.spis.role == Role::Initiator
        && matches!(&sa.own, Some(OwnExchange::Child(own))
            if own.plan().old.is_none() && own.plan().config.child == child);
    let fresh = |it: &ChildSa| {
        it.child == child
            && (it.ours || it.replaces.is_some())
            && shared.now.since(it.installed) < UNDER_WAY
            && matches!(it.phase, Phase::Installing | Phase::Installed | Phase::Rekeying)
    };
    let elsewhere = |origin: IkeSpi| origin < sa.peer.origin;
    asked || shared.creators(child).any(elsewhere) || shared.children.of(sa.id).any(fresh)
}

/// A pair that the peer asked for stands and the peer has been told.
pub(crate) fn answered(
    sa: &mut Established,
    shared: &mut Shared,
    old: Option<PairId>,
    pair: PairId,
) {
    let Some(old) = old else {
        let waits = shared.children.get(pair).is_some_and(|it| {
            it.standby
                && (shared.children.carrier(it.child).is_some() || shared.is_calling(it.tunnel))
        });
        if waits {
            // After IKE_AUTH the peer's sign of life proves that it has the response.
            sa.queue.push(Task::Liveness, shared.now + SIGN_OF_LIFE);
        } else if shared.carry(pair) {
            shared.announce(None, pair);
        }
        shared.act(Action::Deduplicate(sa.peer.tunnel()));
        return;
    };
    settle(sa, shared, old);
}
