//! What the peer sends: its requests in order, and its responses to ours.

use alloc::{boxed::Box, sync::Arc};
use core::time::Duration;

use sa_store::Instant;

use super::{
    super::{
        IkeSa, Task,
        channel::{Channel, Received},
    },
    Established, OwnExchange, Peer, Step,
};
use crate::{
    config::Endpoints,
    event::{Event, Failure, FailureCode},
    exchange::{create_child_sa, informational, rekey_ike_sa},
    keys::Opened,
    shared::Shared,
    wire::{ExchangeType, Notify, NotifyType, Payload, WireError},
};

/// How long the answer to the request that ended an IKE SA is repeated.
const CLOSED: Duration = Duration::from_secs(60);

/// An IKE SA that the peer deleted: it only repeats its last response (RFC 7296 §2.1).
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) peer: Arc<Peer>,
    channel: Channel,
    pub(crate) until: Instant,
}

impl Closed {
    pub(crate) fn on_datagram(&mut self, shared: &mut Shared, path: Endpoints, datagram: &[u8]) {
        let _ = self.channel.receive(shared, path, datagram);
    }

    pub(crate) fn end(&self, shared: &mut Shared) {
        shared.directory.remove_spi(self.channel.spis.own());
    }
}

/// How a request is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// With a notification; the IKE SA lives on.
    Notify(Notify<'static>),
    /// Because it breaks the rules.
    Syntax(WireError),
    /// Not at all: the IKE SA cannot go on.
    Fatal(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

impl From<WireError> for Refusal {
    fn from(error: WireError) -> Self {
        Self::Syntax(error)
    }
}

impl From<NotifyType> for Refusal {
    fn from(kind: NotifyType) -> Self {
        Self::Notify(Notify::new(kind))
    }
}

impl Established {
    pub(crate) fn on_datagram(
        mut self: Box<Self>,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<IkeSa> {
        match self.channel.receive(shared, path, datagram) {
            Received::Nothing => Some(IkeSa::Established(self)),
            Received::Request(..) if self.answer.is_some() => {
                shared.counters.window += 1;
                Some(IkeSa::Established(self))
            }
            Received::Request(exchange, opened) => {
                self.heard(shared, path);
                shared.confirm_pairs(self.id, false);
                match self.on_request(shared, path, exchange, &opened) {
                    Ok(()) => self.carry_on(shared, Ok(())),
                    // The peer may ask again if our answer was lost.
                    Err(reason) => Some(self.close(shared, &reason)),
                }
            }
            Received::Response(exchange, opened) => {
                self.heard(shared, path);
                let step = self.on_response(shared, exchange, &opened);
                self.carry_on(shared, step)
            }
        }
    }

    /// It ended with an answer to the peer, which is repeated for a while.
    pub(super) fn close(self: Box<Self>, shared: &mut Shared, reason: &Failure) -> IkeSa {
        let (id, peer) = (self.id, Arc::clone(&self.peer));
        let mut channel = self.die(shared, reason);
        channel.limit_requests(0);
        let until = shared.now + CLOSED;
        shared.directory.add_spi(channel.spis.own(), id);
        IkeSa::Closed(Box::new(Closed { peer, channel, until }))
    }

    /// The peer lives, and perhaps elsewhere.
    fn heard(&mut self, shared: &mut Shared, path: Endpoints) {
        self.liveness.seen(shared.now);
        self.seen_at(shared, path);
    }

    /// The peer was seen at `path`, where it is followed in time.
    pub(crate) fn seen_at(&mut self, shared: &mut Shared, path: Endpoints) {
        self.channel.seen_at(path);
        self.follow(shared);
    }

    pub(super) fn follow(&mut self, shared: &mut Shared) {
        let Some(old) = self.channel.follow(shared.now) else { return };
        let new = self.channel.path.remote;
        shared.event(Event::PeerMoved { tunnel: self.peer.tunnel(), old, new });
        shared.move_pairs(self.id, self.channel.path);
    }

    fn on_request(
        &mut self,
        shared: &mut Shared,
        path: Endpoints,
        exchange: ExchangeType,
        opened: &Result<Opened, WireError>,
    ) -> Step {
        let payloads = match opened.as_ref().map(Opened::payloads) {
            Ok(Ok(payloads)) => payloads,
            Ok(Err(error)) => return self.refuse_malformed(shared, path, exchange, &error),
            Err(error) => return self.refuse_malformed(shared, path, exchange, error),
        };
        let step = match exchange {
            ExchangeType::INFORMATIONAL => {
                return informational::on_request(self, shared, path, &payloads);
            }
            ExchangeType::CREATE_CHILD_SA => {
                create_child_sa::on_request(self, shared, path, &payloads)
            }
            other => Err(Refusal::Syntax(WireError::Unexpected(crate::wire::PayloadType(other.0)))),
        };
        match step {
            Ok(()) => Ok(()),
            Err(Refusal::Notify(notify)) => {
                self.respond(shared, exchange, &[Payload::Notify(notify)], path)
            }
            Err(Refusal::Syntax(error)) => self.refuse_malformed(shared, path, exchange, &error),
            Err(Refusal::Fatal(failure)) => Err(failure),
        }
    }

    /// Answers an authentic request that breaks the rules. INVALID_SYNTAX ends the IKE SA at
    /// both ends (RFC 7296 §2.21.3).
    fn refuse_malformed(
        &mut self,
        shared: &mut Shared,
        path: Endpoints,
        exchange: ExchangeType,
        error: &WireError,
    ) -> Step {
        let notify = match error {
            WireError::UnsupportedCritical(kind) => Notify::unsupported_critical(*kind),
            _ => Notify::new(NotifyType::INVALID_SYNTAX),
        };
        self.respond(shared, exchange, &[Payload::Notify(notify)], path)?;
        match error {
            WireError::UnsupportedCritical(_) => Ok(()),
            _ => Err(Failure::new(
                FailureCode::InvalidSyntax,
                alloc::format!("the peer sent a request that RFC 7296 does not allow: {error}"),
            )),
        }
    }

    fn on_response(
        &mut self,
        shared: &mut Shared,
        exchange: ExchangeType,
        opened: &Result<Opened, WireError>,
    ) -> Step {
        let invalid = |error: &WireError| {
            Failure::new(
                FailureCode::InvalidSyntax,
                alloc::format!("the peer sent a response that RFC 7296 does not allow: {error}"),
            )
        };
        let payloads = match opened.as_ref().map(Opened::payloads) {
            Ok(Ok(payloads)) => payloads,
            Ok(Err(error)) => return self.give_up_on(shared, invalid(&error)),
            Err(error) => return self.give_up_on(shared, invalid(error)),
        };
        // RFC 7296 §2.21.3: the peer has ended the IKE SA with this notification.
        if payloads.has_notify(NotifyType::INVALID_SYNTAX) {
            return Err(Failure::new(
                FailureCode::InvalidSyntax,
                "the peer says that our request was malformed (INVALID_SYNTAX)",
            ));
        }
        match self.own.take() {
            Some(OwnExchange::Child(create_child_sa::Creating::Response(state)))
                if exchange == ExchangeType::CREATE_CHILD_SA =>
            {
                create_child_sa::on_response(self, shared, state, &payloads)
            }
            Some(OwnExchange::RekeyIke(state)) if exchange == ExchangeType::CREATE_CHILD_SA => {
                rekey_ike_sa::on_response(self, shared, state, &payloads)
            }
            Some(OwnExchange::Delete(state)) => {
                informational::on_delete_response(self, shared, state)
            }
            Some(OwnExchange::Liveness) => {
                shared.confirm_pairs(self.id, true);
                Ok(())
            }
            own => {
                self.own = own;
                let error = WireError::Unexpected(crate::wire::PayloadType(exchange.0));
                self.give_up_on(shared, invalid(&error))
            }
        }
    }

    /// The peer breaks the rules in a response: we delete the IKE SA.
    #[expect(clippy::unnecessary_wraps, reason = "callers return it as their step")]
    pub(crate) fn give_up_on(&mut self, shared: &mut Shared, failure: Failure) -> Step {
        create_child_sa::release_own(self, shared);
        let now = shared.now;
        self.assign(shared, Task::DeleteIke(failure), now);
        Ok(())
    }
}
