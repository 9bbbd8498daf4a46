//! The initiator's side.

mod response;

use alloc::{boxed::Box, format, sync::Arc, vec::Vec};
use core::{net::SocketAddr, time::Duration};

use sa_store::{ChildId, IkeSpi, Instant, KeGroup, SecretBytes, TunnelId};

use super::{
    answer::{Answered, Answers},
    attempt::Attempt,
};
use crate::{
    config::{Connection, Endpoints, IkeSuite},
    event::{Event, Failure, FailureCode},
    exchange::ike_auth,
    input::CompletionResult,
    negotiate::first_group,
    output::{RequestKind, Ticket},
    sa::{
        IkeSa,
        channel::{Role, Spis},
        window::{Due, Resend},
    },
    shared::{Shared, Waiter},
    view::{IkeSaId, IkeSaView, IkeState},
    wire::EncodeError,
};

/// How long a real answer may still come after an unprotected error (RFC 7296 §2.21.1: it may
/// be forged).
const HINT_PATIENCE: Duration = Duration::from_secs(3);
/// The same after a refusal that has the keys of an answer: whoever answered has them. The peer's
/// answer is on its way; a round trip over a satellite takes 600 ms.
const REFUSAL_PATIENCE: Duration = Duration::from_millis(800);
/// How long an answer without a cookie is waited for when a cookie has led nowhere before.
const COOKIE_PATIENCE: Duration = Duration::from_secs(1);

/// An IKE SA that we asked for, until it is up: what concerns IKE_SA_INIT.
#[derive(Debug)]
pub(crate) struct Initiating {
    pub(in crate::exchange) target: Target,
    attempt: Attempt,
    /// The key pair that is being made.
    making: Option<(Ticket, KeGroup)>,
    /// Of the current request, while it has no answer.
    resend: Option<Resend>,
    answers: Answers,
    /// A refusal, and until when a better answer is waited for.
    hint: Option<(Failure, Instant)>,
    /// A cookie that is not followed before then.
    held: Option<(Vec<u8>, Instant)>,
    /// Whether it began anew because a cookie may have been forged, or has to.
    anew: Anew,
    /// Until when a key exchange may take.
    patience: Instant,
}

/// A response does not say which request it answers. Where one of them had a forged cookie, our
/// AUTH may have been about the wrong one; the next time no cookie is followed at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Anew {
    No,
    Due,
    Done,
}

/// What it is for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: IkeSaId,
    pub(crate) connection: Arc<Connection>,
    pub(crate) path: Endpoints,
    /// The children that are wanted, at least one.
    pub(crate) children: Vec<ChildId>,
    /// When it began.
    pub(crate) begun: Instant,
}

/// A response and the secret that belongs to it.
pub(crate) type Agreed = (Box<Answered>, SecretBytes);

/// Begins to establish an IKE SA.
pub(crate) fn start(shared: &mut Shared, target: Target) -> Option<IkeSa> {
    let Some(group) = first_group(&target.connection.proposals) else {
        let failure = Failure::new(FailureCode::Internal, "the tunnel has no IKE proposal");
        shared.failed(Some(target.connection.tunnel), None, target.path.remote, failure);
        return None;
    };
    let attempt = Attempt::new(shared, &target);
    let mut state = Initiating {
        target,
        attempt,
        making: None,
        resend: None,
        answers: Answers::default(),
        hint: None,
        held: None,
        anew: Anew::No,
        patience: Instant::NEVER,
    };
    state.make_key(shared, group);
    Some(IkeSa::Initiating(Box::new(state)))
}

impl Initiating {
    pub(crate) fn tunnel(&self) -> TunnelId {
        self.target.connection.tunnel
    }

    pub(crate) fn children_mut(&mut self) -> &mut Vec<ChildId> {
        &mut self.target.children
    }

    pub(in crate::exchange) fn spis(&self, spi_r: IkeSpi) -> Spis {
        Spis { role: Role::Initiator, spi_i: self.attempt.spi_i, spi_r }
    }

    fn make_key(&mut self, shared: &mut Shared, group: KeGroup) {
        let ticket =
            shared.request(Waiter::Ike(self.target.id), RequestKind::GenerateKey { group });
        self.making = Some((ticket, group));
        self.patience = shared.now + shared.config.half_open_timeout;
    }

    /// Sends the request that was written last.
    fn send(&mut self, shared: &mut Shared, written: Result<(), EncodeError>) {
        match (written, self.attempt.current()) {
            (Ok(()), Some(round)) => {
                shared.transmit(self.target.path, round.request.clone());
                self.resend = Some(Resend::start(shared));
            }
            (written, _) => {
                let why = written.map_or_else(|error| format!("{error}"), |()| "no request".into());
                self.hinted(shared, Failure::new(FailureCode::Internal, why));
            }
        }
    }

    pub(crate) fn on_datagram(
        mut self: Box<Self>,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<IkeSa> {
        if let Some(answered) = self.read(shared, path, datagram) {
            self.take(answered);
        }
        self.go_on(shared, false);
        Some(IkeSa::Initiating(self))
    }

    /// Follows a response when its turn comes.
    pub(in crate::exchange) fn take(&mut self, answered: Box<Answered>) {
        if self.answers.take(answered) {
            self.resend = None;
        }
    }

    /// An unprotected error: it may be forged, so a better answer is waited for a little.
    fn hinted(&mut self, shared: &Shared, failure: Failure) {
        if self.hint.is_none() {
            self.hint = Some((failure, shared.now + HINT_PATIENCE));
        }
    }

    /// An answer has come to nothing, in a message with its keys: whoever answered refuses, or is
    /// not the peer. `ours`: because of what we have said.
    pub(in crate::exchange) fn refused(&mut self, shared: &Shared, failure: Failure, ours: bool) {
        self.hint = Some((failure, shared.now + REFUSAL_PATIENCE));
        if ours && self.anew == Anew::No && self.attempt.followed_cookies() {
            self.anew = Anew::Due;
        }
    }

    pub(crate) fn on_completion(
        mut self: Box<Self>,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Option<IkeSa> {
        match self.completed(shared, ticket, result) {
            Ok(Some(agreed)) => return ike_auth::start(shared, self, agreed),
            Ok(None) => self.go_on(shared, false),
            Err(failure) => {
                self.fail(shared, failure);
                return None;
            }
        }
        Some(IkeSa::Initiating(self))
    }

    /// A key exchange is done; an error ends the attempt if nothing else is under way.
    pub(in crate::exchange) fn completed(
        &mut self,
        shared: &mut Shared,
        ticket: Ticket,
        result: CompletionResult,
    ) -> Result<Option<Agreed>, Failure> {
        if let Some((_, group)) = self.making.take_if(|(own, _)| *own == ticket) {
            match result {
                CompletionResult::KeyGenerated(Ok(key)) => {
                    let written = self.attempt.add_key(&self.target, group, key);
                    self.send(shared, written);
                }
                result => {
                    let failure = result.ke_failure().failure();
                    if self.attempt.current().is_none() {
                        return Err(failure);
                    }
                    self.hinted(shared, failure);
                }
            }
        } else if let Some(answered) = self.answers.finish(ticket) {
            match result {
                CompletionResult::Agreed(Ok(agreement)) => {
                    return Ok(Some((answered, agreement.shared)));
                }
                // Nobody has vouched for the public value.
                result => self.hinted(shared, result.ke_failure().failure()),
            }
        }
        Ok(None)
    }

    /// Nothing is under way but the request.
    fn is_idle(&self, live: bool) -> bool {
        !live && self.making.is_none() && self.answers.is_idle()
    }

    /// After every step: what is next. `live`: an answer is being tried.
    pub(in crate::exchange) fn go_on(&mut self, shared: &mut Shared, live: bool) {
        if self.answers.begin(shared, self.target.id, live) {
            self.patience = shared.now + shared.config.half_open_timeout;
        }
        if self.anew == Anew::Due && self.is_idle(live) {
            self.anew = Anew::Done;
            shared.directory.remove_spi(self.attempt.spi_i);
            let group = self.attempt.current().map(|round| round.group);
            let Some(group) = group.or_else(|| first_group(&self.target.connection.proposals))
            else {
                return;
            };
            self.attempt = Attempt::new(shared, &self.target);
            self.answers = Answers::default();
            if let Some((_, until)) = &mut self.hint {
                *until = shared.now + HINT_PATIENCE;
            }
            self.make_key(shared, group);
        }
    }

    pub(crate) fn on_timeout(mut self: Box<Self>, shared: &mut Shared) -> Option<IkeSa> {
        match self.tick(shared, false) {
            Ok(()) => Some(IkeSa::Initiating(self)),
            Err(failure) => {
                self.fail(shared, failure);
                None
            }
        }
    }

    /// What is due; an error ends the attempt.
    pub(in crate::exchange) fn tick(
        &mut self,
        shared: &mut Shared,
        live: bool,
    ) -> Result<(), Failure> {
        let now = shared.now;
        if (self.making.is_some() || self.answers.is_agreeing()) && self.patience <= now {
            let message = "the key exchange was not computed in time on our side";
            if !live {
                return Err(Failure::new(FailureCode::Timeout, message));
            }
            self.making = None;
            self.answers.give_up();
        }
        if let Some((cookie, _)) = self.held.take_if(|(_, until)| *until <= now) {
            self.send_cookie(shared, cookie);
        }
        let idle = self.is_idle(live);
        if idle && let Some((failure, _)) = self.hint.as_ref().filter(|(_, until)| *until <= now) {
            return Err(failure.clone());
        }
        match self.resend.as_mut().map_or(Due::Wait, |resend| resend.check(shared)) {
            Due::Wait => {}
            Due::Again(tries) => {
                if let Some(round) = self.attempt.current() {
                    shared.transmit(self.target.path, round.request.clone());
                }
                let (tunnel, remote) = (self.tunnel(), self.target.path.remote);
                shared.event(Event::Retransmitting { tunnel, remote, tries });
            }
            Due::GiveUp if idle => {
                let hint = self.hint.take().map(|(failure, _)| failure);
                return Err(hint.unwrap_or_else(|| unreachable(shared, self.target.path)));
            }
            Due::GiveUp => self.resend = None,
        }
        self.go_on(shared, live);
        Ok(())
    }

    pub(crate) fn due(&self) -> Instant {
        self.due_while(false)
    }

    /// When something is due.
    pub(in crate::exchange) fn due_while(&self, live: bool) -> Instant {
        let computing = self.making.is_some() || self.answers.is_agreeing();
        let patience = if computing { self.patience } else { Instant::NEVER };
        let hint = self.hint.as_ref().filter(|_| self.is_idle(live)).map(|(_, until)| *until);
        let held = self.held.as_ref().map(|(_, until)| *until);
        let resend = self.resend.as_ref().map(Resend::due);
        let next = [hint, held, resend].into_iter().flatten().min().unwrap_or(Instant::NEVER);
        next.min(patience).min(self.answers.due())
    }

    /// Gives up.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.target.path.remote
    }

    /// Nobody can be waited for any more when the only answer has fallen silent.
    pub(in crate::exchange) fn is_over(&self) -> bool {
        self.is_idle(false) && self.resend.is_none() && self.hint.is_none() && self.held.is_none()
    }

    pub(crate) fn fail(self: Box<Self>, shared: &mut Shared, failure: Failure) {
        shared.failed(Some(self.tunnel()), None, self.target.path.remote, failure);
        self.drop_silently(shared);
    }

    pub(in crate::exchange) fn into_target(self: Box<Self>) -> Target {
        self.target
    }

    /// Gives up because the tunnel came up in another way.
    pub(crate) fn drop_silently(&self, shared: &mut Shared) {
        shared.directory.remove_spi(self.attempt.spi_i);
    }

    /// The children it was to bring.
    pub(crate) fn children(&self) -> &[ChildId] {
        &self.target.children
    }

    pub(crate) fn view(&self, id: IkeSaId) -> IkeSaView {
        let target = &self.target;
        let (spis, suite) = (self.spis(IkeSpi::ZERO), self.answers.suite());
        connecting(id, Some(target.connection.tunnel), spis, target.path, suite)
    }
}

/// The failure of a peer that says nothing.
pub(crate) fn unreachable(shared: &Shared, path: Endpoints) -> Failure {
    Failure::new(
        FailureCode::PeerUnreachable,
        format!(
            "{} did not answer {} messages from {}: is it up, and do firewalls pass UDP 500 and \
             4500?",
            path.remote,
            shared.config.retransmit_tries + 1,
            path.local
        ),
    )
}

/// The view of an IKE SA whose peer is not authenticated.
pub(crate) fn connecting(
    id: IkeSaId,
    tunnel: Option<TunnelId>,
    spis: Spis,
    path: Endpoints,
    suite: Option<IkeSuite>,
) -> IkeSaView {
    IkeSaView {
        id,
        tunnel,
        state: IkeState::Connecting,
        initiator: spis.role == Role::Initiator,
        spi_i: spis.spi_i,
        spi_r: spis.spi_r,
        suite,
        path,
        local_id: None,
        remote_id: None,
        established: None,
        rekey_at: None,
        nat_local: false,
        nat_remote: false,
        children: Vec::new(),
    }
}
