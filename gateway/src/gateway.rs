//! The machine itself: what comes in, what goes out, and what passes between its parts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use hw_offload::Backend;
use ike::{Endpoint, input::Completion, output::RequestKind as IkeRequest};
use sa_store::{ChildId, Instant, TunnelId, change::Databases, live::LiveTable};

use crate::{
    command::CommandId,
    config::{GatewayConfig, Randomness},
    describe,
    event_log::EventLog,
    input::{CompletionResult, Input},
    installer::{Installer, Report},
    output::{Output, RequestKind, Ticket},
    read_model::{EventRecord, Status},
    reload::Policies,
    spis::NodeSpis,
    tunnel::Tunnel,
    waiting::Waiter,
};

/// Changes of the databases that are kept for readers. One may hold all policies.
const JOURNAL: usize = 256;

/// A whole gateway.
///
/// Four kinds of method only: [`Gateway::handle`]; then [`Gateway::poll_output`] until it returns
/// none; then wait until [`Gateway::poll_timeout`] or the next input; and read-only views.
pub struct Gateway {
    pub(crate) config: GatewayConfig,
    pub(crate) jitter: Box<dyn crypto::random::RandomSource + Send>,
    pub(crate) ike: Endpoint,
    pub(crate) installer: Installer,
    pub(crate) store: Databases,
    pub(crate) tunnels: BTreeMap<TunnelId, Tunnel>,
    /// Which tunnel a child belongs to.
    pub(crate) homes: BTreeMap<ChildId, TunnelId>,
    pub(crate) policies: Policies,
    pub(crate) waiters: Vec<(CommandId, Waiter)>,
    pub(crate) events: EventLog,
    /// The addresses of this machine; `None` while nobody told.
    pub(crate) addresses: Option<Vec<std::net::IpAddr>>,
    /// The peers have been told goodbye.
    pub(crate) stopping: bool,
    requests: BTreeMap<Ticket, Asked>,
    next_ticket: u64,
    pub(crate) next_tunnel: u32,
    pub(crate) next_child: u32,
    outputs: VecDeque<Output>,
    /// Tunnels something happened to since their deadlines were last computed.
    pub(crate) touched: BTreeSet<TunnelId>,
    deadlines: BTreeSet<(Instant, TunnelId)>,
    deadline_of: BTreeMap<TunnelId, Instant>,
}

/// Who asked for something slow.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Ike(ike::output::Ticket),
    Tunnel(TunnelId),
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
        let Randomness { ike, spis, jitter } = randomness;
        let spis = Box::new(NodeSpis::new(spis));
        Self {
            ike: Endpoint::new(config.ike.clone(), ike, spis).with_engines(config.engines.clone()),
            jitter,
            installer: Installer::new(backend, live),
            store: Databases::new(JOURNAL),
            tunnels: BTreeMap::new(),
            homes: BTreeMap::new(),
            policies: Policies::default(),
            waiters: Vec::new(),
            events: EventLog::new(config.events),
            addresses: None,
            stopping: false,
            requests: BTreeMap::new(),
            next_ticket: 1,
            next_tunnel: 1,
            next_child: 1,
            outputs: VecDeque::new(),
            touched: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            deadline_of: BTreeMap::new(),
            config,
        }
    }

    /// Something happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { path, payload } => {
                self.ike.handle(now, ike::input::Input::Datagram { path, payload });
            }
            Input::Command { id, command } => self.command(now, id, command),
            Input::Completion { ticket, result } => self.completion(now, ticket, result),
            Input::Wake => {}
        }
        if self.ike.poll_timeout().is_some_and(|due| due <= now) {
            self.ike.handle(now, ike::input::Input::Timeout);
        }
        while let Some((due, tunnel)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now)
        {
            self.deadlines.remove(&(due, tunnel));
            self.deadline_of.remove(&tunnel);
            self.due(now, tunnel);
            self.touched.insert(tunnel);
        }
        self.pump(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Wake`] is due even if nothing happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tunnels = self.deadlines.first().map(|(at, _)| *at);
        let waiters = self.waiters.iter().filter_map(|(_, waiter)| waiter.deadline()).min();
        let parts = [self.ike.poll_timeout(), self.installer.poll_timeout(), tunnels, waiters];
        parts.into_iter().chain([self.policies.due()]).flatten().min()
    }

    /// Everything there is to know, as of `now`.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        crate::status::status(self, now)
    }

    /// The kept events with a sequence above `since`, oldest first.
    #[must_use]
    pub fn events(&self, since: u64) -> Vec<EventRecord> {
        self.events.since(since)
    }

    /// The databases and their journal.
    #[must_use]
    pub const fn databases(&self) -> &Databases {
        &self.store
    }

    /// Lets the parts answer each other until all are quiet.
    fn pump(&mut self, now: Instant) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.ike.poll_output() {
                quiet = false;
                self.ike_output(now, output);
            }
            while let Some(report) = self.installer.poll(now, &mut self.store) {
                quiet = false;
                self.report(now, report);
            }
            if quiet && !self.settle(now) {
                break;
            }
        }
        for tunnel in std::mem::take(&mut self.touched) {
            self.set_deadline(tunnel);
        }
    }

    fn set_deadline(&mut self, tunnel: TunnelId) {
        if let Some(old) = self.deadline_of.remove(&tunnel) {
            self.deadlines.remove(&(old, tunnel));
        }
        if let Some(at) = self.tunnels.get(&tunnel).and_then(Tunnel::deadline) {
            self.deadline_of.insert(tunnel, at);
            self.deadlines.insert((at, tunnel));
        }
    }

    fn ike_output(&mut self, now: Instant, output: ike::output::Output) {
        match output {
            ike::output::Output::Transmit { path, payload, keepalive } => {
                self.emit(Output::Transmit { path, payload, keepalive });
            }
            ike::output::Output::Request { ticket, kind } => {
                let Some(kind) = self.installer.request(ticket, kind) else { return };
                let kind = match kind {
                    IkeRequest::GenerateKey { group } => RequestKind::GenerateKey { group },
                    IkeRequest::Agree { group, private, peer_public } => {
                        RequestKind::Agree { group, private, peer_public }
                    }
                    IkeRequest::GenerateAndAgree { group, peer_public, asker } => {
                        RequestKind::GenerateAndAgree { group, peer_public, asker }
                    }
                    // The installer has taken these.
                    IkeRequest::Install { .. }
                    | IkeRequest::Activate { .. }
                    | IkeRequest::UpdateAddresses { .. }
                    | IkeRequest::Remove { .. } => return,
                };
                self.ask(Asked::Ike(ticket), kind);
            }
            ike::output::Output::Event(event) => self.ike_event(now, event),
        }
    }

    fn ask(&mut self, who: Asked, kind: RequestKind) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.requests.insert(ticket, who);
        self.emit(Output::Request { ticket, kind });
        ticket
    }

    /// Asks the driver something about a tunnel.
    pub(crate) fn ask_for(&mut self, tunnel: TunnelId, kind: RequestKind) -> Ticket {
        self.ask(Asked::Tunnel(tunnel), kind)
    }

    fn completion(&mut self, now: Instant, ticket: Ticket, result: CompletionResult) {
        use ike::input::CompletionResult as Ike;
        // Late and doubled answers find nobody who asked.
        let Some(asked) = self.requests.remove(&ticket) else { return };
        match (asked, result) {
            (Asked::Ike(ticket), CompletionResult::KeyGenerated(key)) => {
                self.ike_completion(now, Completion { ticket, result: Ike::KeyGenerated(key) });
            }
            (Asked::Ike(ticket), CompletionResult::Agreed(agreed)) => {
                self.ike_completion(now, Completion { ticket, result: Ike::Agreed(agreed) });
            }
            (Asked::Tunnel(tunnel), CompletionResult::Resolved(result)) => {
                self.resolved(now, tunnel, ticket, result);
            }
            (Asked::Tunnel(tunnel), CompletionResult::Source(result)) => {
                self.located(now, tunnel, ticket, result);
            }
            // An answer to another question: the question is still open.
            (asked, _) => {
                self.requests.insert(ticket, asked);
            }
        }
    }

    fn ike_completion(&mut self, now: Instant, completion: Completion) {
        self.ike.handle(now, ike::input::Input::Completion(completion));
    }

    /// Tells IKE to do something.
    pub(crate) fn tell_ike(&mut self, now: Instant, command: ike::input::Command) {
        self.ike.handle(now, ike::input::Input::Command(command));
    }

    fn report(&mut self, now: Instant, report: Report) {
        match report {
            Report::Completion(completion) => self.ike_completion(now, completion),
            Report::Command(command) => self.tell_ike(now, command),
            Report::Gone { tunnel, child, pair, totals } => {
                self.pair_gone(now, tunnel, child, pair, &totals);
            }
            Report::Policies(result) => self.policies_answered(now, result),
            Report::Flushed => self.flushed(),
            Report::Acquire(child) => self.acquire(now, child),
            Report::Trouble { pair, message } => {
                let owner = self.installer.owner(pair);
                self.note(now, owner, "backend", None, message);
            }
        }
    }

    pub(crate) fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Records an event about a tunnel, or a child of it, and tells the driver.
    pub(crate) fn note(
        &mut self,
        now: Instant,
        about: Option<(TunnelId, ChildId)>,
        kind: &'static str,
        code: Option<String>,
        message: String,
    ) {
        let (tunnel, child) = about.unzip();
        self.note_tunnel(now, tunnel, child, kind, code, message);
    }

    /// As [`Self::note`], with the child apart.
    pub(crate) fn note_tunnel(
        &mut self,
        now: Instant,
        tunnel: Option<TunnelId>,
        child: Option<ChildId>,
        kind: &'static str,
        code: Option<String>,
        message: String,
    ) {
        let event = self.record(now, tunnel, child, kind, code, message);
        self.tell(event);
    }

    /// An event that was not told yet.
    pub(crate) fn record(
        &self,
        now: Instant,
        tunnel: Option<TunnelId>,
        child: Option<ChildId>,
        kind: &'static str,
        code: Option<String>,
        message: String,
    ) -> EventRecord {
        let known = tunnel.and_then(|id| self.tunnels.get(&id));
        let child = child
            .and_then(|child| known.and_then(|tunnel| tunnel.child(child)))
            .map(|child| child.spec.name.clone());
        let tunnel = known.map(|tunnel| tunnel.spec.name.clone());
        let message = describe::cut(message, describe::LONGEST);
        EventRecord { sequence: 0, at: now, tunnel, child, kind, code, stranger: false, message }
    }

    /// Keeps an event and tells the driver.
    pub(crate) fn tell(&mut self, event: EventRecord) {
        let event = self.events.push(event);
        self.emit(Output::Event(event));
    }
}
