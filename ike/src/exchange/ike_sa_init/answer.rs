//! Responses to IKE_SA_INIT. None is protected, so the first one need not be the peer's: each of a
//! few is followed, one after the other (RFC 7296 §2.4).

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::time::Duration;

use crypto::ke::PrivateKey;
use sa_store::{IkeSpi, Instant};

use super::Transcript;
use crate::{
    config::IkeSuite,
    output::{RequestKind, Ticket},
    sa::nat::Nat,
    shared::{Shared, Waiter},
    view::IkeSaId,
};

/// Responses that are followed in an attempt: each costs a key exchange.
const MAX_ANSWERS: usize = 8;
/// Responses that lead to the same keys, each with other words beside.
const MAX_READINGS: usize = 4;
/// How long a response is tried before the next one is.
const TURN: Duration = Duration::from_millis(500);

/// A response that fits a request.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) line: Line,
    pub(super) private: PrivateKey,
    /// With the first of the readings.
    pub(crate) transcript: Transcript,
    pub(crate) readings: Vec<Reading>,
}

/// What the keys of an IKE SA come from, beside what is ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    pub(crate) suite: IkeSuite,
    pub(crate) spi_r: IkeSpi,
    pub(crate) nonce_r: Vec<u8>,
    pub(super) peer_public: Vec<u8>,
}

/// What a response says besides. Somebody may have altered it on its way, and the peer's AUTH
/// tells which one is right: to all of them belongs one IKE_AUTH.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    pub(crate) response: Vec<u8>,
    pub(crate) nat: Nat,
    pub(crate) fragmentation: bool,
}

impl Answered {
    /// Takes in a response that leads to the same keys, if this one does.
    pub(crate) fn merge(&mut self, other: &Self) -> bool {
        let same = self.line == other.line;
        if same {
            for reading in &other.readings {
                let known = self.readings.iter().any(|it| it.response == reading.response);
                if !known && self.readings.len() < MAX_READINGS {
                    self.readings.push(reading.clone());
                }
            }
        }
        same
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Answers {
    waiting: VecDeque<Box<Answered>>,
    agreeing: Option<(Ticket, Box<Answered>)>,
    /// Of all that were taken: keys are never used anew.
    seen: Vec<Line>,
    /// When the turn of the one before is over.
    next: Option<Instant>,
}

impl Answers {
    /// Takes a response, if it is new and not one too many.
    pub(super) fn take(&mut self, answered: Box<Answered>) -> bool {
        let known = self.waiting.iter_mut().chain(self.agreeing.as_mut().map(|(_, it)| it));
        for known in known {
            if known.merge(&answered) {
                return false;
            }
        }
        let new = self.seen.len() < MAX_ANSWERS && !self.seen.contains(&answered.line);
        if new {
            self.seen.push(answered.line.clone());
            self.waiting.push_back(answered);
        }
        new
    }

    /// Nothing waits and nothing is computed.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.agreeing.is_none()
    }

    pub(super) fn is_agreeing(&self) -> bool {
        self.agreeing.is_some()
    }

    /// The key exchange that runs came to nothing.
    pub(super) fn give_up(&mut self) {
        self.agreeing = None;
    }

    pub(super) fn suite(&self) -> Option<IkeSuite> {
        self.agreeing.as_ref().map(|(_, answered)| answered.line.suite)
    }

    /// Begins with the next response, if it is its turn: when nothing else is `live`, or has had
    /// its time. Whether it does.
    pub(super) fn begin(&mut self, shared: &mut Shared, id: IkeSaId, live: bool) -> bool {
        let now = shared.now;
        let its_turn = !live || self.next.is_none_or(|next| next <= now);
        if self.agreeing.is_some() || !its_turn {
            return false;
        }
        let Some(answered) = self.waiting.pop_front() else { return false };
        let kind = RequestKind::Agree {
            group: answered.line.suite.group,
            private: answered.private.clone(),
            peer_public: answered.line.peer_public.clone(),
        };
        let ticket = shared.request(Waiter::Ike(id), kind);
        self.agreeing = Some((ticket, answered));
        self.next = Some(now + TURN);
        true
    }

    /// The response whose key exchange has this ticket.
    pub(super) fn finish(&mut self, ticket: Ticket) -> Option<Box<Answered>> {
        self.agreeing.take_if(|(own, _)| *own == ticket).map(|(_, answered)| answered)
    }

    /// When the next one has its turn while another one is live.
    pub(super) fn due(&self) -> Instant {
        let waits = !self.waiting.is_empty() && self.agreeing.is_none();
        self.next.filter(|_| waits).unwrap_or(Instant::NEVER)
    }
}
