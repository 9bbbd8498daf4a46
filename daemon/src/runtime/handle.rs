//! How management talks to the driver: questions with a place for the answer. Nothing is locked.

use gateway::{
    command::{Command, Outcome},
    read_model::{EventRecord, Status},
};
use sa_store::Instant;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Events kept for those who follow and are slow; who falls behind further asks again.
const FOLLOW_BUFFER: usize = 256;

/// An event with the time on the wall.
#[derive(Clone, Debug)]
pub struct TimedEvent {
    /// Milliseconds since 1970.
    pub unix_ms: i64,
    /// What happened.
    pub record: EventRecord,
}

/// The state of everything, and when that was.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The state.
    pub status: Status,
    /// The time its instants are to be compared with.
    pub now: Instant,
    /// Negotiations given up by an internal error.
    pub internal_errors: u64,
}

/// A question to the driver.
#[derive(Debug)]
pub enum Ask {
    /// What is the state of everything?
    Status(oneshot::Sender<Snapshot>),
    /// Do this, and say what became of it.
    Act(Command, oneshot::Sender<Outcome>),
    /// What happened after this event?
    Events(u64, oneshot::Sender<Vec<TimedEvent>>),
}

/// The driver is gone: the daemon is stopping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

/// A way to the driver; clones share it.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    events: broadcast::Sender<TimedEvent>,
}

/// The driver's end of a [`Handle`].
#[derive(Debug)]
pub struct Inbox {
    /// Questions.
    pub asks: mpsc::Receiver<Ask>,
    /// Where events are told.
    pub events: broadcast::Sender<TimedEvent>,
}

/// A handle and the driver's end of it.
#[must_use]
pub fn channel() -> (Handle, Inbox) {
    let (asks, receiver) = mpsc::channel(64);
    let (events, _) = broadcast::channel(FOLLOW_BUFFER);
    (Handle { asks, events: events.clone() }, Inbox { asks: receiver, events })
}

impl Handle {
    /// The state of everything.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn status(&self) -> Result<Snapshot, Gone> {
        self.ask(Ask::Status).await
    }

    /// Does something and waits for the outcome.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn act(&self, command: Command) -> Result<Outcome, Gone> {
        self.ask(|reply| Ask::Act(command, reply)).await
    }

    /// What happened after the event with this number.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn events(&self, since: u64) -> Result<Vec<TimedEvent>, Gone> {
        self.ask(|reply| Ask::Events(since, reply)).await
    }

    /// What happens from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<TimedEvent> {
        self.events.subscribe()
    }

    /// Resolves when the driver is gone.
    pub async fn gone(&self) {
        self.asks.closed().await;
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}
