//! Message IDs, retransmission and the response cache (RFC 7296 §2.1, §2.2, §2.3). The window is
//! one request in each direction: Postern neither sends SET_WINDOW_SIZE nor relies on the peer's.

use alloc::vec::Vec;
use core::time::Duration;

use sa_store::Instant;

use crate::{config::Endpoints, shared::Shared};

/// Message IDs of one IKE SA.
#[derive(Debug)]
pub(crate) struct Window {
    next: u32,
    in_flight: Option<InFlight>,
    expected: u32,
    last_response: Vec<Vec<u8>>,
}

/// Our request that has no response yet.
#[derive(Debug)]
struct InFlight {
    id: u32,
    datagrams: Vec<Vec<u8>>,
    resend: Resend,
}

/// When a message is sent again: back-off and jitter.
#[derive(Debug)]
pub(crate) struct Resend {
    sent_again: u32,
    wait: Duration,
    due: Instant,
}

/// What a timer of [`Resend`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    /// Not yet.
    Wait,
    /// Send the stored octets again, for the how-manieth time.
    Again(u32),
    /// Enough.
    GiveUp,
}

impl Resend {
    pub(crate) fn start(shared: &mut Shared) -> Self {
        let wait = shared.config.retransmit_timeout;
        let due = shared.now + shared.jittered(wait);
        Self { sent_again: 0, wait, due }
    }

    pub(crate) const fn due(&self) -> Instant {
        self.due
    }

    pub(crate) fn check(&mut self, shared: &mut Shared) -> Due {
        if shared.now < self.due {
            return Due::Wait;
        }
        if self.sent_again >= shared.config.retransmit_tries {
            return Due::GiveUp;
        }
        self.sent_again += 1;
        self.wait = self.wait.saturating_mul(shared.config.retransmit_base_percent) / 100;
        self.due = shared.now + shared.jittered(self.wait);
        Due::Again(self.sent_again)
    }
}

/// What a request's Message ID says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RequestId {
    /// The next one.
    New,
    /// The last one once more: its response is sent again.
    Repeated,
    /// Anything else: dropped.
    Outside,
}

impl Window {
    /// `next` is the Message ID of our first request, `expected` that of the peer's.
    pub(crate) const fn new(next: u32, expected: u32) -> Self {
        Self { next, in_flight: None, expected, last_response: Vec::new() }
    }

    /// Whether a request of ours may be sent.
    pub(crate) const fn is_free(&self) -> bool {
        self.in_flight.is_none()
    }

    /// The Message ID of our next request; `None` when all are used up.
    pub(crate) const fn next_id(&self) -> Option<u32> {
        if self.next == u32::MAX { None } else { Some(self.next) }
    }

    /// The request with [`Self::next_id`] is sent.
    pub(crate) fn sent(&mut self, datagrams: Vec<Vec<u8>>, resend: Resend) {
        self.in_flight = Some(InFlight { id: self.next, datagrams, resend });
        self.next = self.next.saturating_add(1);
    }

    /// Whether a response with this Message ID is waited for.
    pub(crate) fn awaits(&self, id: u32) -> bool {
        self.in_flight.as_ref().is_some_and(|request| request.id == id)
    }

    /// The response came, authentic and whole.
    pub(crate) fn answered(&mut self) {
        self.in_flight = None;
    }

    /// The Message ID of the request that is answered next.
    pub(crate) const fn expected(&self) -> u32 {
        self.expected
    }

    pub(crate) fn classify(&self, id: u32) -> RequestId {
        if id == self.expected {
            RequestId::New
        } else if id.checked_add(1) == Some(self.expected) {
            RequestId::Repeated
        } else {
            RequestId::Outside
        }
    }

    /// The response to the expected request is sent and kept.
    pub(crate) fn responded(&mut self, datagrams: Vec<Vec<u8>>) {
        self.expected = self.expected.saturating_add(1);
        self.last_response = datagrams;
    }

    /// The stored response, octet for octet.
    pub(crate) fn repeat_response(&self, shared: &mut Shared, path: Endpoints) {
        for datagram in &self.last_response {
            shared.transmit(path, datagram.clone());
        }
    }

    pub(crate) fn due(&self) -> Instant {
        self.in_flight.as_ref().map_or(Instant::NEVER, |request| request.resend.due())
    }

    /// Sends the request again if it is time.
    pub(crate) fn on_timeout(&mut self, shared: &mut Shared, path: Endpoints) -> Due {
        let Some(request) = &mut self.in_flight else { return Due::Wait };
        let due = request.resend.check(shared);
        if matches!(due, Due::Again(_)) {
            for datagram in &request.datagrams {
                shared.transmit(path, datagram.clone());
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resend() -> Resend {
        Resend { sent_again: 0, wait: Duration::ZERO, due: Instant::NEVER }
    }

    /// RFC 7296 §2.2: Message IDs do not wrap; the IKE SA ends before that.
    #[test]
    fn message_ids_end() {
        let mut window = Window::new(u32::MAX - 1, 0);
        assert_eq!(window.next_id(), Some(u32::MAX - 1));
        window.sent(Vec::new(), resend());
        assert!(window.awaits(u32::MAX - 1) && !window.is_free());
        window.answered();
        assert!(window.is_free());
        assert_eq!(window.next_id(), None);
    }

    #[test]
    fn a_request_is_new_once_and_repeated_until_the_next() {
        let mut window = Window::new(0, u32::MAX - 1);
        assert_eq!(window.classify(u32::MAX - 1), RequestId::New);
        window.responded(Vec::new());
        assert_eq!(window.classify(u32::MAX - 1), RequestId::Repeated);
        assert_eq!(window.classify(u32::MAX), RequestId::New);
        for outside in [0, 1, u32::MAX - 2] {
            assert_eq!(window.classify(outside), RequestId::Outside);
        }
        window.responded(Vec::new());
        // There is no next one.
        assert_ne!(window.classify(0), RequestId::New);
    }
}
