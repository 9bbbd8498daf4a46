//! A device that runs ESP in memory, slowly and unreliably: the data plane of simulated gateways.
//!
//! It works on batches after a delay, answers later still, says some things twice, refuses some
//! installations, is busy, has few places, and loses SAs, as its [`Faults`] say. Between the
//! faults it keeps the contract of `hw_offload`, which its tests hold it to.

mod core;
mod faults;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crypto::aead::Engines;
use hw_offload::{Backend, Busy, Capabilities, Notice, Operation, Ticket, Waker};
use sa_store::{Instant, live::LiveTable};

pub use self::{
    core::{Core, Sent, Verdict},
    faults::{Faults, Planted},
};
use crate::random::Seeded;

/// A handle on a device: the gateway has one as its backend, the world another one to put
/// packets through it.
#[derive(Clone)]
pub struct Device(Arc<Mutex<Core>>);

impl Device {
    /// A device that keeps the hot state of its SAs in `live`.
    #[must_use]
    pub fn new(faults: Faults, engines: Engines, live: Arc<LiveTable>, random: Seeded) -> Self {
        Self(Arc::new(Mutex::new(Core::new(faults, engines, live, random))))
    }

    /// The device itself.
    pub fn core(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Device {
    fn capabilities(&self) -> Capabilities {
        self.core().capabilities()
    }

    fn submit(&mut self, ticket: Ticket, batch: Vec<Operation>) -> Result<(), Busy> {
        self.core().submit(ticket, batch)
    }

    fn poll(&mut self, now: Instant) -> Option<Notice> {
        self.core().poll(now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.core().poll_timeout()
    }

    fn set_waker(&mut self, waker: Waker) {
        self.core().set_waker(waker);
    }
}
