//! INFORMATIONAL (RFC 7296 §1.4): deletes, liveness, errors.
//!
//! ```text
//! Initiator                         Responder
//! HDR, SK {[N,] [D,] [CP,] ...} -->
//!                              <--  HDR, SK {[N,] [D,] [CP], ...}
//! ```

use alloc::{format, vec::Vec};

use sa_store::{EspSpi, PairId};

use super::{create_child_sa, refusal};
use crate::{
    config::Endpoints,
    event::{Failure, FailureCode},
    sa::{
        Task,
        child::Phase,
        established::{Established, OwnExchange, Step},
    },
    shared::Shared,
    wire::{Delete, ExchangeType, NotifyType, Payload, Payloads, ProtocolId},
};

/// What we are deleting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Deleting {
    /// A pair.
    Pair(PairId, Failure),
    /// What only the peer has installed.
    Spi(EspSpi),
    /// The IKE SA.
    Ike(Failure),
}

/// SPIs in a Delete that may name nothing (any more) before the rest is not looked at.
const UNKNOWN_SPIS: usize = 64;

/// The reason for deleting what has a successor.
pub(crate) fn replaced() -> Failure {
    Failure::new(FailureCode::Replaced, "a newer SA took over")
}

const EXCHANGE: ExchangeType = ExchangeType::INFORMATIONAL;

pub(crate) fn start_liveness(sa: &mut Established, shared: &mut Shared) -> Step {
    sa.request(shared, EXCHANGE, &[])?;
    sa.own = Some(OwnExchange::Liveness);
    Ok(())
}

pub(crate) fn start_delete(
    sa: &mut Established,
    shared: &mut Shared,
    pair: PairId,
    reason: Failure,
) -> Step {
    let Some(old) = shared.children.get_mut(pair) else { return Ok(()) };
    let spi = old.spi_in;
    if old.standby && old.phase == Phase::Installed {
        // The peer may not have our answer yet: it would not know what is deleted.
        sa.retry_soon(shared, Task::DeletePair(pair, reason), 0);
        return Ok(());
    }
    // Also what was replaced: once the peer may have deleted it, nothing can fall back on it.
    old.phase = Phase::Deleting;
    sa.request(shared, EXCHANGE, &[Payload::Delete(Delete::esp([spi]))])?;
    sa.own = Some(OwnExchange::Delete(Deleting::Pair(pair, reason)));
    Ok(())
}

pub(crate) fn start_delete_spi(sa: &mut Established, shared: &mut Shared, spi: EspSpi) -> Step {
    sa.own = Some(OwnExchange::Delete(Deleting::Spi(spi)));
    sa.request(shared, EXCHANGE, &[Payload::Delete(Delete::esp([spi]))])
}

pub(crate) fn start_delete_ike(sa: &mut Established, shared: &mut Shared, reason: Failure) -> Step {
    shared.directory.set_active(sa.id, false);
    sa.request(shared, EXCHANGE, &[Payload::Delete(Delete::ike())])?;
    sa.own = Some(OwnExchange::Delete(Deleting::Ike(reason)));
    Ok(())
}

pub(crate) fn on_delete_response(
    sa: &mut Established,
    shared: &mut Shared,
    state: Deleting,
) -> Step {
    match state {
        Deleting::Pair(pair, reason) => {
            sa.queue.remove(|task| *task == Task::RekeyChild(pair));
            shared.end_pair(pair, Some(&reason));
            Ok(())
        }
        Deleting::Spi(spi) => {
            shared.spis.release(spi);
            Ok(())
        }
        Deleting::Ike(reason) => Err(reason),
    }
}

/// Answers a request. `Err` when it ends the IKE SA.
pub(crate) fn on_request(
    sa: &mut Established,
    shared: &mut Shared,
    path: Endpoints,
    payloads: &Payloads<'_>,
) -> Step {
    let fatal = [NotifyType::AUTHENTICATION_FAILED, NotifyType::INVALID_SYNTAX];
    if let Some(notify) = payloads.notifies().find(|notify| fatal.contains(&notify.kind)) {
        // RFC 7296 §2.21.2, §2.21.3: the peer has no such IKE SA any more.
        sa.respond(shared, EXCHANGE, &[], path)?;
        return Err(refusal::failure_of(notify, "after IKE_AUTH"));
    }
    if payloads.deletes().any(|delete| delete.protocol == ProtocolId::IKE) {
        sa.respond(shared, EXCHANGE, &[], path)?;
        return Err(deleted_by_peer(sa, shared));
    }
    // No more than can be: a message has room for 16,000 that are looked for in vain.
    let most =
        create_child_sa::most_pairs(sa, shared).max(shared.children.count(sa.id)) + UNKNOWN_SPIS;
    let spis: Vec<EspSpi> = payloads.deletes().flat_map(Delete::esp_spis).take(most).collect();
    let own: Vec<EspSpi> =
        spis.into_iter().filter_map(|spi| delete_pair(sa, shared, spi)).collect();
    let answer = (!own.is_empty()).then(|| Payload::Delete(Delete::esp(own)));
    sa.respond(shared, EXCHANGE, answer.as_slice(), path)
}

/// Why a child ends when the peer deletes it.
pub(crate) fn child_deleted() -> Failure {
    Failure::new(FailureCode::DeletedByPeer, "the peer deleted the child")
}

/// Why the IKE SA ends when the peer deletes it.
fn deleted_by_peer(sa: &Established, shared: &Shared) -> Failure {
    // RFC 7296 §2.25.2: we are closing it as well, and forget our own request.
    match &sa.own {
        Some(OwnExchange::Delete(Deleting::Ike(reason))) => reason.clone(),
        _ if shared.directory.active(sa.peer.tunnel()).any(|(ike, _)| ike != sa.id) => replaced(),
        _ => Failure::new(
            FailureCode::DeletedByPeer,
            format!("{} deleted the IKE SA", sa.channel.path.remote),
        ),
    }
}

/// The peer deletes the pair that it receives with `spi`; gives our SPI for the response, unless
/// we are deleting the pair ourselves or do not have it (RFC 7296 §1.4.1, §2.25.1).
fn delete_pair(sa: &mut Established, shared: &mut Shared, spi: EspSpi) -> Option<EspSpi> {
    let Some(found) = shared.children.by_peer_spi(sa.peer.line, spi) else {
        return create_child_sa::deleted_before_install(sa, shared, spi);
    };
    let (pair, spi_in, phase) = (found.pair, found.spi_in, found.phase);
    let reason = child_deleted();
    if phase == Phase::Installing {
        // The backend is at it: deleted as soon as it stands.
        sa.queue.push(Task::DeletePair(pair, reason), shared.now);
        return Some(spi_in);
    }
    let ours = matches!(&sa.own, Some(OwnExchange::Delete(Deleting::Pair(it, _))) if *it == pair);
    sa.queue.remove(
        |task| matches!(task, Task::DeletePair(it, _) | Task::RekeyChild(it) if *it == pair),
    );
    shared.end_pair(pair, Some(&reason));
    (!ours).then_some(spi_in)
}
