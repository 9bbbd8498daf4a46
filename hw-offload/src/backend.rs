//! The trait.

use core::fmt;
use std::sync::Arc;

use sa_store::{Instant, Path, SaId};

use crate::{Capabilities, Notice, Operation};

/// Names a submitted batch until it is done; chosen by the submitter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// The backend's queue is full: submit the same batch again after the next notice.
#[derive(Debug)]
pub struct Busy(pub Vec<Operation>);

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the backend's queue is full ({} operations were not taken)", self.0.len())
    }
}

/// Called by a backend, from any thread, when `poll` has something new.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Where an SA runs, and why nowhere better.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// The place.
    pub path: Path,
    /// What was tried or considered before, each with the reason why it is not there; for people.
    pub passed_over: Vec<String>,
}

/// A place an SA can run.
///
/// Operations of one batch happen in order; a batch is answered by exactly one
/// [`Notice::Done`] or [`Notice::Refused`] with its ticket. A refused batch has no effect that
/// lasts: what its earlier operations installed is removed again. Nothing here blocks; slow
/// backends work on threads of their own and call the waker.
pub trait Backend: Send {
    /// What the backend can hold and do now.
    fn capabilities(&self) -> Capabilities;

    /// Hands over a batch.
    ///
    /// # Errors
    /// [`Busy`] gives the batch back when the queue is full.
    fn submit(&mut self, ticket: Ticket, batch: Vec<Operation>) -> Result<(), Busy>;

    /// The next notice; `None` when there is none now.
    fn poll(&mut self, now: Instant) -> Option<Notice>;

    /// When `poll` should be called again even if the waker was not.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Sets the waker; the last one counts.
    fn set_waker(&mut self, waker: Waker);

    /// Where an installed SA runs. A backend that is one place need not answer itself.
    fn placement(&self, sa: SaId) -> Placement {
        let _ = sa;
        Placement { path: self.capabilities().path, passed_over: Vec::new() }
    }
}
