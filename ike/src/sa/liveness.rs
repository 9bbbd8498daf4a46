//! Is the peer alive (RFC 7296 §2.4)? It is asked when nothing protected came for a while, when
//! no IKE message passed for a while although ESP does, and when somebody who may be the peer
//! says that it has lost its SAs.
//!
//! A word without protection only makes us ask: what counts is whether the question is answered.

use core::time::Duration;

use sa_store::Instant;

use super::window::Pace;
use crate::config::{Connection, EndpointConfig};

/// How long an answer may take after a hint that the peer lost its SAs. In that time the question
/// is sent more often than in a longer one without a hint: forged hints gain nothing.
const HINTED: Duration = Duration::from_secs(8);
/// After a hint the next one is heard this much later.
const DEAF: Duration = Duration::from_secs(10);
/// Retransmissions after a hint: the first, and the longest time between two.
const HASTE: Pace = Pace { first: Duration::from_millis(500), longest: Duration::from_secs(1) };
/// The shortest time between two retransmissions of a question without a hint.
const LEAST: Duration = Duration::from_millis(500);

/// The last proofs of life, and the question that is open.
#[derive(Debug)]
pub(crate) struct Liveness {
    quiet: Option<Duration>,
    idle: Option<Duration>,
    timeout: Duration,
    /// The newest authentic message or packet.
    seen: Instant,
    /// The newest authentic IKE message.
    exchanged: Instant,
    question: Option<Question>,
    deaf_until: Instant,
}

/// Whether the peer lives is open, until a response comes or its time is over.
#[derive(Clone, Copy, Debug)]
struct Question {
    asked: Instant,
    patience: Duration,
    pace: Pace,
    /// Whether a hint has shortened it.
    hinted: bool,
    /// When it is over at the latest, even with ESP that still comes.
    end: Instant,
}

impl Liveness {
    /// As the tunnel wants it.
    pub(crate) const fn new(connection: &Connection, now: Instant) -> Self {
        Self {
            quiet: connection.dpd,
            idle: connection.idle,
            timeout: connection.dpd_timeout,
            seen: now,
            exchanged: now,
            question: None,
            deaf_until: Instant::ZERO,
        }
    }

    /// Authentic ESP came from the peer.
    pub(crate) fn seen(&mut self, now: Instant) {
        self.seen = self.seen.max(now);
    }

    /// An authentic IKE message came from the peer.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.seen(now);
        self.exchanged = self.exchanged.max(now);
    }

    /// A response came.
    pub(crate) const fn answered(&mut self) {
        self.question = None;
    }

    /// When to ask.
    pub(crate) fn due(&self) -> Instant {
        if self.question.is_some() {
            return Instant::NEVER;
        }
        let after = |since: Instant, pause: Option<Duration>| {
            pause.map_or(Instant::NEVER, |pause| since + pause)
        };
        after(self.seen, self.quiet).min(after(self.exchanged, self.idle))
    }

    /// We are asking, unless we have asked already.
    pub(crate) fn ask(&mut self, now: Instant, config: &EndpointConfig) {
        if self.question.is_some() {
            return;
        }
        let longest = (self.timeout / 6).max(LEAST);
        let pace = Pace { first: config.retransmit_timeout.min(longest), longest };
        let end = now + config.patience().max(self.timeout);
        self.question =
            Some(Question { asked: now, patience: self.timeout, pace, hinted: false, end });
    }

    /// Somebody says that the peer has lost its SAs: whether to ask, or to ask with more haste.
    pub(crate) fn hint(&mut self, now: Instant, config: &EndpointConfig) -> bool {
        if now < self.deaf_until || self.question.is_some_and(|open| open.hinted) {
            return false;
        }
        self.deaf_until = now + DEAF;
        self.ask(now, config);
        if let Some(open) = &mut self.question {
            let patience = open.patience.min(HINTED);
            *open = Question { asked: now, patience, pace: HASTE, hinted: true, ..*open };
        }
        true
    }

    /// How a request of ours is sent again while the question is open.
    pub(crate) fn pace(&self) -> Option<Pace> {
        self.question.map(|open| open.pace)
    }

    /// When a peer that has not answered what was sent first at `sent` counts as dead.
    pub(crate) fn over(&self, sent: Instant) -> Instant {
        self.question.map_or(Instant::NEVER, |open| {
            let since = open.asked.max(self.seen).max(sent);
            (since + open.patience).min(open.end.max(sent + open.patience))
        })
    }
}
