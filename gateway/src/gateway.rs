//! The machine itself.

use std::{collections::VecDeque, sync::Arc};

use hw_offload::Backend;
use sa_store::{Instant, live::LiveTable};

use crate::{
    config::{GatewayConfig, Randomness},
    input::Input,
    output::Output,
    read_model::{EventRecord, Status},
};

/// A whole gateway.
///
/// Four kinds of method only: [`Gateway::handle`]; then [`Gateway::poll_output`] until it returns
/// none; then wait until [`Gateway::poll_timeout`] or the next input; and read-only views.
pub struct Gateway {
    config: GatewayConfig,
    randomness: Randomness,
    backend: Box<dyn Backend>,
    live: Arc<LiveTable>,
    outputs: VecDeque<Output>,
}

impl Gateway {
    /// A gateway with no connections, on `backend`; `live` is where the backend keeps the hot
    /// state of its SAs.
    #[must_use]
    pub fn new(
        config: GatewayConfig,
        backend: Box<dyn Backend>,
        live: Arc<LiveTable>,
        randomness: Randomness,
    ) -> Self {
        Self { config, randomness, backend, live, outputs: VecDeque::new() }
    }

    /// Something happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        let _ = (now, input);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Wake`] is due even if nothing happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.backend.poll_timeout()
    }

    /// Everything there is to know, as of `now`.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let _ = (now, &self.live, &self.config, &self.randomness);
        Status::default()
    }

    /// The kept events with a sequence above `since`, oldest first.
    #[must_use]
    pub fn events(&self, since: u64) -> Vec<EventRecord> {
        let _ = since;
        Vec::new()
    }
}
