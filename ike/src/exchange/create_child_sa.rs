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

mod initiator;
mod method;
mod responder;

use sa_store::{ChildId, EspSpi, PairId, TrafficSelector};

use crate::{
    config::{ChildConfig, Connection},
    event::{Failure, FailureCode},
    negotiate::traffic_selector,
    sa::{
        child::Phase,
        established::{Answer, Established, OwnExchange, Step},
        lifetime,
    },
    shared::Shared,
    wire::TrafficSelectors,
};

use super::informational::Deleting;
pub(crate) use initiator::{
    Creating, Plan, accept_child, deleted_before_install, install_first, on_completion,
    on_response, start, start_rekey,
};
pub(crate) use responder::{
    Answering, Wanted, answer, most_pairs, on_answer_completion, on_request,
};

/// The configuration of a tunnel: as it is now, else as it was when the peer authenticated.
pub(crate) fn connection_of<'a>(sa: &'a Established, shared: &'a Shared) -> &'a Connection {
    shared.connections.get(sa.peer.tunnel()).unwrap_or(&sa.peer.connection)
}

/// The configuration of a child: as it is now, else as it was.
pub(crate) fn config_of(sa: &Established, shared: &Shared, child: ChildId) -> Option<ChildConfig> {
    let current = shared.connections.get(sa.peer.tunnel());
    let find = |connection: &crate::config::Connection| {
        connection.children.iter().find(|config| config.child == child).cloned()
    };
    current.and_then(|connection| find(connection)).or_else(|| find(&sa.peer.connection))
}

/// Selectors as they are offered.
pub(crate) fn offered(configured: &[TrafficSelector]) -> TrafficSelectors {
    TrafficSelectors::new(traffic_selector::offer(configured, None))
}

pub(crate) fn no_spi() -> Failure {
    Failure::new(FailureCode::Internal, "there is no free SPI left on this node")
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
            return initiator::own_installed(sa, shared, state, installed);
        }
        own => sa.own = own,
    }
    match sa.answer.take() {
        Some(Answer::Child(state)) if state.installs(pair) => {
            responder::answer_installed(sa, shared, state, pair, installed)
        }
        answer => {
            sa.answer = answer;
            Ok(())
        }
    }
}

/// What installing came to; a failure leaves us with the SPI.
type Installed = Result<(), (Failure, Option<EspSpi>)>;

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
    // The peer may have moved while it was being installed.
    shared.move_pairs(sa.id, sa.channel.path);
    shared.pair_stands(pair);
}

/// Our own exchange ends without an outcome: its SPI is free again.
pub(crate) fn release_own(sa: &mut Established, shared: &mut Shared) {
    let spi = match sa.own.take() {
        Some(OwnExchange::Child(creating)) => creating.spi(),
        Some(OwnExchange::Delete(Deleting::Spi(spi))) => Some(spi),
        _ => None,
    };
    if let Some(spi) = spi {
        shared.spis.release(spi);
    }
}

/// The IKE SA ends: SPIs of unfinished exchanges are free again.
pub(crate) fn release(sa: &mut Established, shared: &mut Shared) {
    release_own(sa, shared);
    let answer = match sa.answer.take() {
        Some(Answer::Child(answering)) => answering.spi(),
        _ => None,
    };
    let deletes = sa.queue.take_spis();
    for spi in answer.into_iter().chain(deletes) {
        shared.spis.release(spi);
    }
}
