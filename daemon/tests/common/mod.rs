//! A data plane that is none.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hw_offload::{Backend, Busy, Capabilities, Notice, Operation, Ticket, Waker};
use sa_store::Instant;

/// Takes everything and holds nothing; panics when told to.
pub(crate) struct Fragile {
    panics: Arc<AtomicBool>,
    notices: VecDeque<Notice>,
    waker: Option<Waker>,
}

impl Fragile {
    pub(crate) fn new(panics: Arc<AtomicBool>) -> Self {
        Self { panics, notices: VecDeque::new(), waker: None }
    }
}

impl Backend for Fragile {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            path: sa_store::Path::Inline,
            max_sas: 10,
            used_sas: 0,
            suites: Vec::new(),
            esn: true,
            udp_encapsulation: true,
            raw_esp: true,
            transport_mode: false,
            max_replay_window: 4096,
        }
    }

    fn submit(&mut self, ticket: Ticket, _: Vec<Operation>) -> Result<(), Busy> {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "planted");
        self.notices.push_back(Notice::Done(ticket));
        if let Some(waker) = &self.waker {
            waker();
        }
        Ok(())
    }

    fn poll(&mut self, _: Instant) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn set_waker(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }
}
