//! Between IKE's requests about pairs and the backend's batches.
//!
//! A request becomes one batch; its answer becomes one completion. What is installed is written
//! into the databases, and what the backend says about SAs becomes a command to IKE.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use hw_offload::{Backend, Busy, Notice, Operation, Placement, PolicySet, SaCounters, Ticket};
use ike::{
    config::Endpoints,
    input::{Command, Completion, CompletionResult},
    output::RequestKind,
};
use sa_store::{
    ChildId, Instant, PairId, SaId, SaRecord, TunnelId,
    change::{Change, Databases},
    live::{LiveSa, LiveTable},
    sad::SadEntry,
};

use crate::counters::{self, Totals};

/// Pause before a refused removal is tried again.
const REMOVE_AGAIN: Duration = Duration::from_secs(1);

/// What the backend's answers and notices mean for the rest of the gateway.
#[derive(Debug)]
pub(crate) enum Report {
    /// An answer for IKE.
    Completion(Completion),
    /// Something IKE should know or do.
    Command(Command),
    /// A pair is gone from its place; these are its last counters.
    Gone { tunnel: TunnelId, child: ChildId, pair: PairId, totals: Totals },
    /// The policies are in place, or are not and why.
    Policies(Result<(), String>),
    /// Every SA is gone.
    Flushed,
    /// A packet needs this child.
    Acquire(ChildId),
    /// An SA could not run where it should, or is lost: for operators.
    Trouble { pair: PairId, message: String },
}

/// What a batch was for.
#[derive(Debug)]
enum Job {
    Install { ticket: ike::output::Ticket, entries: Box<[SadEntry; 2]>, activate: bool, stay: Stay },
    Activate { ticket: ike::output::Ticket, pair: PairId },
    Update { ticket: ike::output::Ticket, pair: PairId, path: Endpoints },
    Remove { ticket: ike::output::Ticket, pair: PairId },
    Withdraw { pair: PairId },
    Policies,
    Flush,
}

/// What becomes of a pair once it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stay {
    Wanted,
    /// Its child was given up while it was on its way.
    Withdrawn,
}

/// What is tried again after it was refused.
#[derive(Clone, Copy, Debug)]
enum Again {
    Remove(ike::output::Ticket),
    Withdraw,
}

/// A pair that stands.
#[derive(Debug)]
struct Pair {
    tunnel: TunnelId,
    child: ChildId,
    inbound: Half,
    outbound: Half,
}

/// One SA of a pair.
#[derive(Debug)]
struct Half {
    sa: SaId,
    live: Option<Arc<LiveSa>>,
    /// What the backend told last, for places whose SAs are not in the live registry.
    told: Option<SaCounters>,
    /// The place lost it.
    lost: bool,
    /// It was taken away before its pair went.
    withdrawn: bool,
}

impl Half {
    /// Whether what it carried is known to its place alone, and can be asked for.
    const fn is_silent(&self) -> bool {
        self.live.is_none() && !self.lost && !self.withdrawn
    }

    fn counters(&self) -> Option<SaCounters> {
        match &self.live {
            Some(live) => {
                let counters = live.counters();
                Some(SaCounters {
                    sa: self.sa,
                    packets: counters.packets,
                    bytes: counters.bytes,
                    sequence: 0,
                    dropped: counters::drops(&counters),
                })
            }
            None => self.told,
        }
    }
}

/// The gateway's side of the backend.
pub(crate) struct Installer {
    backend: Box<dyn Backend>,
    live: Arc<LiveTable>,
    jobs: BTreeMap<Ticket, Job>,
    backlog: VecDeque<(Ticket, Vec<Operation>)>,
    /// Removals that were refused.
    again: Vec<(Instant, PairId, Again)>,
    next_ticket: u64,
    pairs: BTreeMap<PairId, Pair>,
    owners: BTreeSet<(TunnelId, ChildId, PairId)>,
    sas: BTreeMap<SaId, PairId>,
    reports: VecDeque<Report>,
}

impl Installer {
    pub(crate) fn new(backend: Box<dyn Backend>, live: Arc<LiveTable>) -> Self {
        Self {
            backend,
            live,
            jobs: BTreeMap::new(),
            backlog: VecDeque::new(),
            again: Vec::new(),
            next_ticket: 1,
            pairs: BTreeMap::new(),
            owners: BTreeSet::new(),
            sas: BTreeMap::new(),
            reports: VecDeque::new(),
        }
    }

    /// Takes a request of IKE about a pair; gives back what is about something else.
    pub(crate) fn request(
        &mut self,
        ticket: ike::output::Ticket,
        kind: RequestKind,
    ) -> Option<RequestKind> {
        match kind {
            RequestKind::Install { inbound, outbound, activate } => {
                self.install(ticket, inbound, outbound, activate);
            }
            RequestKind::Activate { pair } => {
                let batch = self.outbound(pair).map(|sa| vec![Operation::Activate(sa)]);
                match batch {
                    Some(batch) => self.submit(Job::Activate { ticket, pair }, batch),
                    None => self.answer(ticket, CompletionResult::Activated(Err(gone(pair)))),
                }
            }
            RequestKind::UpdateAddresses { pair, path } => {
                let Some(known) = self.pairs.get(&pair) else {
                    self.answer(ticket, CompletionResult::Updated(Err(gone(pair))));
                    return None;
                };
                let (local, remote) = (path.local, path.remote);
                let halves = [&known.inbound, &known.outbound].into_iter();
                let batch = halves
                    .filter(|half| !half.withdrawn)
                    .map(|half| Operation::UpdateAddresses { sa: half.sa, local, remote })
                    .collect();
                self.submit(Job::Update { ticket, pair, path }, batch);
            }
            RequestKind::Remove { pair } => self.remove(ticket, pair, true),
            other => return Some(other),
        }
        None
    }

    fn install(
        &mut self,
        ticket: ike::output::Ticket,
        inbound: Box<SaRecord>,
        outbound: Box<SaRecord>,
        activate: bool,
    ) {
        // The path is filled in when the place is known.
        let path = self.backend.capabilities().path;
        let entries =
            Box::new([&inbound, &outbound].map(|record| SadEntry::of(record, path.clone())));
        let sa = outbound.id;
        let mut batch = vec![Operation::Install(inbound), Operation::Install(outbound)];
        if activate {
            batch.push(Operation::Activate(sa));
        }
        self.submit(Job::Install { ticket, entries, activate, stay: Stay::Wanted }, batch);
    }

    fn remove(&mut self, ticket: ike::output::Ticket, pair: PairId, query: bool) {
        let Some(known) = self.pairs.get(&pair) else {
            self.answer(ticket, CompletionResult::Removed);
            return;
        };
        let halves = [&known.outbound, &known.inbound];
        let silent = |half: &&&Half| query && half.is_silent();
        let mut batch: Vec<Operation> =
            halves.iter().filter(silent).map(|half| Operation::Query(half.sa)).collect();
        batch.extend(halves.iter().map(|half| Operation::Remove(half.sa)));
        self.submit(Job::Remove { ticket, pair }, batch);
    }

    /// Ends what comes in through a tunnel, or through one child of it, at once: the peer may take
    /// long to confirm that its pairs are gone, or never do so.
    pub(crate) fn withdraw(&mut self, tunnel: TunnelId, child: Option<ChildId>) {
        for job in self.jobs.values_mut() {
            if let Job::Install { entries, stay, .. } = job
                && let [inbound, _] = &**entries
                && inbound.tunnel == tunnel
                && child.is_none_or(|child| child == inbound.child)
            {
                *stay = Stay::Withdrawn;
            }
        }
        let pairs: Vec<PairId> = self.pairs_of(tunnel, child).collect();
        for pair in pairs {
            self.withdraw_pair(pair);
        }
    }

    fn withdraw_pair(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let half = &mut pair.inbound;
        let query = half.is_silent().then_some(Operation::Query(half.sa));
        if std::mem::replace(&mut half.withdrawn, true) {
            return;
        }
        let batch = query.into_iter().chain([Operation::Remove(half.sa)]).collect();
        self.submit(Job::Withdraw { pair: id }, batch);
    }

    /// Whether nothing comes in through a pair any more, although it is not gone.
    pub(crate) fn is_withdrawn(&self, pair: PairId) -> bool {
        self.pairs.get(&pair).is_some_and(|pair| pair.inbound.withdrawn)
    }

    /// Replaces all policies.
    pub(crate) fn set_policies(&mut self, policies: PolicySet) {
        self.submit(Job::Policies, vec![Operation::SetPolicies(policies)]);
    }

    /// Removes every SA.
    pub(crate) fn flush(&mut self) {
        self.submit(Job::Flush, vec![Operation::Flush]);
    }

    fn submit(&mut self, job: Job, batch: Vec<Operation>) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.jobs.insert(ticket, job);
        self.backlog.push_back((ticket, batch));
        self.drain_backlog();
    }

    /// Hands over what the backend was too busy for.
    fn drain_backlog(&mut self) {
        while let Some((ticket, batch)) = self.backlog.pop_front() {
            if let Err(Busy(batch)) = self.backend.submit(ticket, batch) {
                self.backlog.push_front((ticket, batch));
                return;
            }
        }
    }

    /// The next thing the backend has to say.
    pub(crate) fn poll(&mut self, now: Instant, store: &mut Databases) -> Option<Report> {
        loop {
            if let Some(report) = self.reports.pop_front() {
                return Some(report);
            }
            if let Some(due) = self.again.iter().position(|(at, ..)| *at <= now) {
                match self.again.swap_remove(due) {
                    (_, pair, Again::Remove(ticket)) => self.remove(ticket, pair, false),
                    (_, pair, Again::Withdraw) => {
                        if let Some(known) = self.pairs.get_mut(&pair) {
                            known.inbound.withdrawn = false;
                        }
                        self.withdraw_pair(pair);
                    }
                }
                continue;
            }
            self.drain_backlog();
            let notice = self.backend.poll(now)?;
            self.noticed(now, notice, store);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let again = self.again.iter().map(|(at, ..)| *at).min();
        [self.backend.poll_timeout(), again].into_iter().flatten().min()
    }

    fn noticed(&mut self, now: Instant, notice: Notice, store: &mut Databases) {
        match notice {
            Notice::Done(ticket) => {
                if let Some(job) = self.jobs.remove(&ticket) {
                    self.done(job, store);
                }
            }
            Notice::Refused { ticket, reason, .. } => {
                if let Some(job) = self.jobs.remove(&ticket) {
                    self.refused(now, &job, reason);
                }
            }
            Notice::SoftExpired(sa) => self.command(Command::SoftExpired { sa }),
            Notice::HardExpired { sa, reason } => {
                self.command(Command::HardExpired { sa, reason });
            }
            Notice::Lost { sa, reason, .. } => {
                let pair = self.sas.get(&sa).copied();
                if let Some(half) = self.half_mut(sa) {
                    half.lost = true;
                }
                if let Some(pair) = pair {
                    let message = format!("an SA is lost: {reason}");
                    self.reports.push_back(Report::Trouble { pair, message });
                }
                self.command(Command::HardExpired { sa, reason });
            }
            Notice::Acquire { child, .. } => self.reports.push_back(Report::Acquire(child)),
            Notice::Counters(counters) => {
                if let Some(half) = self.half_mut(counters.sa) {
                    half.told = Some(counters);
                }
            }
            Notice::FirstInbound(sa) | Notice::LastInbound { sa, .. } => {
                if let Some(pair) = self.sas.get(&sa) {
                    self.command(Command::InboundSeen { pair: *pair });
                }
            }
            Notice::MappingChanged { sa, remote } => {
                self.command(Command::MappingChanged { sa, remote });
            }
            Notice::CapabilityChanged(_) => {}
        }
    }

    fn done(&mut self, job: Job, store: &mut Databases) {
        match job {
            Job::Install { ticket, entries, activate, stay } => {
                let [inbound, _] = &*entries;
                let pair = inbound.pair;
                self.stands(*entries, activate, store);
                if stay == Stay::Withdrawn {
                    self.withdraw_pair(pair);
                }
                self.answer(ticket, CompletionResult::Installed(Ok(())));
            }
            Job::Activate { ticket, pair } => {
                if let Some(sa) = self.outbound(pair) {
                    store.apply(Change::SaActivated(sa));
                }
                self.answer(ticket, CompletionResult::Activated(Ok(())));
            }
            Job::Update { ticket, pair, path } => {
                if let Some(known) = self.pairs.get(&pair) {
                    let (local, remote) = (path.local, path.remote);
                    for sa in [known.inbound.sa, known.outbound.sa] {
                        store.apply(Change::SaMoved { sa, local, remote });
                    }
                }
                self.answer(ticket, CompletionResult::Updated(Ok(())));
            }
            Job::Remove { ticket, pair } => {
                self.gone(pair, store);
                self.answer(ticket, CompletionResult::Removed);
            }
            Job::Withdraw { .. } => {}
            Job::Policies => self.reports.push_back(Report::Policies(Ok(()))),
            Job::Flush => {
                let all: Vec<PairId> = self.pairs.keys().copied().collect();
                for pair in all {
                    self.gone(pair, store);
                }
                self.reports.push_back(Report::Flushed);
            }
        }
    }

    fn refused(&mut self, now: Instant, job: &Job, reason: String) {
        match job {
            Job::Install { ticket, .. } => {
                self.answer(*ticket, CompletionResult::Installed(Err(reason)));
            }
            Job::Activate { ticket, .. } => {
                self.answer(*ticket, CompletionResult::Activated(Err(reason)));
            }
            Job::Update { ticket, .. } => {
                self.answer(*ticket, CompletionResult::Updated(Err(reason)));
            }
            Job::Remove { ticket, pair } => {
                let message = format!("an SA could not be removed: {reason}");
                self.reports.push_back(Report::Trouble { pair: *pair, message });
                self.again.push((now + REMOVE_AGAIN, *pair, Again::Remove(*ticket)));
            }
            Job::Withdraw { pair } => {
                let message = format!("an SA could not be removed: {reason}");
                self.reports.push_back(Report::Trouble { pair: *pair, message });
                self.again.push((now + REMOVE_AGAIN, *pair, Again::Withdraw));
            }
            Job::Policies => self.reports.push_back(Report::Policies(Err(reason))),
            Job::Flush => self.reports.push_back(Report::Flushed),
        }
    }

    /// A pair stands from now on.
    fn stands(&mut self, entries: [SadEntry; 2], activate: bool, store: &mut Databases) {
        let [inbound, outbound] = entries.map(|mut entry| {
            entry.path = self.backend.placement(entry.id).path;
            entry
        });
        let half = |entry: &SadEntry| Half {
            sa: entry.id,
            live: self.live.get(entry.id),
            told: None,
            lost: false,
            withdrawn: false,
        };
        let pair = Pair {
            tunnel: inbound.tunnel,
            child: inbound.child,
            inbound: half(&inbound),
            outbound: half(&outbound),
        };
        let id = inbound.pair;
        self.sas.extend([(inbound.id, id), (outbound.id, id)]);
        self.owners.insert((pair.tunnel, pair.child, id));
        self.pairs.insert(id, pair);
        let active = outbound.id;
        store.apply(Change::SaInstalled(inbound));
        store.apply(Change::SaInstalled(outbound));
        if activate {
            store.apply(Change::SaActivated(active));
        }
    }

    /// A pair is gone.
    fn gone(&mut self, id: PairId, store: &mut Databases) {
        let Some(pair) = self.pairs.remove(&id) else { return };
        self.owners.remove(&(pair.tunnel, pair.child, id));
        for half in [&pair.inbound, &pair.outbound] {
            self.sas.remove(&half.sa);
            store.apply(Change::SaRemoved(half.sa));
        }
        self.reports.push_back(Report::Gone {
            tunnel: pair.tunnel,
            child: pair.child,
            pair: id,
            totals: pair.totals(),
        });
    }

    fn answer(&mut self, ticket: ike::output::Ticket, result: CompletionResult) {
        self.reports.push_back(Report::Completion(Completion { ticket, result }));
    }

    fn command(&mut self, command: Command) {
        self.reports.push_back(Report::Command(command));
    }

    fn outbound(&self, pair: PairId) -> Option<SaId> {
        self.pairs.get(&pair).map(|pair| pair.outbound.sa)
    }

    fn half_mut(&mut self, sa: SaId) -> Option<&mut Half> {
        let pair = self.pairs.get_mut(self.sas.get(&sa)?)?;
        [&mut pair.inbound, &mut pair.outbound].into_iter().find(|half| half.sa == sa)
    }

    /// The tunnel and child a pair belongs to.
    pub(crate) fn owner(&self, pair: PairId) -> Option<(TunnelId, ChildId)> {
        self.pairs.get(&pair).map(|pair| (pair.tunnel, pair.child))
    }

    /// Whether anything of a tunnel, or of one child of it, stands.
    pub(crate) fn holds(&self, tunnel: TunnelId, child: Option<ChildId>) -> bool {
        self.pairs_of(tunnel, child).next().is_some()
    }

    fn pairs_of(
        &self,
        tunnel: TunnelId,
        child: Option<ChildId>,
    ) -> impl Iterator<Item = PairId> + use<'_> {
        let (first, last) = child.map_or((u32::MIN, u32::MAX), |child| (child.0, child.0));
        let first = (tunnel, ChildId(first), PairId(u64::MIN));
        let last = (tunnel, ChildId(last), PairId(u64::MAX));
        self.owners.range(first..=last).map(|(_, _, pair)| *pair)
    }

    /// Whether nothing stands.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// What passed through the standing pairs, by child.
    pub(crate) fn totals(&self) -> BTreeMap<ChildId, Totals> {
        let mut all = BTreeMap::<ChildId, Totals>::new();
        for pair in self.pairs.values() {
            pair.add_to(all.entry(pair.child).or_default());
        }
        all
    }

    /// Where an SA runs and why nowhere better.
    pub(crate) fn placement(&self, sa: SaId) -> Placement {
        self.backend.placement(sa)
    }
}

impl Pair {
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.add_to(&mut totals);
        totals
    }

    fn add_to(&self, totals: &mut Totals) {
        if let Some(counters) = self.inbound.counters() {
            totals.add_inbound(&counters);
        }
        if let Some(counters) = self.outbound.counters() {
            totals.add_outbound(&counters);
        }
    }
}

fn gone(pair: PairId) -> String {
    format!("pair {pair} is not installed")
}
