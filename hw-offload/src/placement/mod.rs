//! The placement registry: several places behind one [`Backend`].
//!
//! ```text
//!   batch --> split into parts, one a place --> Done from all --> Done
//!               |  a part with new SAs is refused: they go to the next place
//!               '  no place is left: what other parts did is undone --> Refused
//! ```
//!
//! Policies go to every place, so that whatever holds an SA of a child also knows what it
//! protects. Both SAs of a pair are always on one place. The UDP port of a local address has one
//! owner: a second place never gets an SA with ESP in UDP on that address.

mod choice;
mod job;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use sa_store::{ChildId, Instant, PairId, Path, SaId};

use crate::{Backend, Busy, Capabilities, Notice, Operation, Placement, PolicySet, Ticket, Waker};
use job::{Job, Part, Settled};
use table::Table;

/// Batches that may be under way before the registry says [`Busy`].
const MAX_JOBS: usize = 4096;

/// Acquires of one child are passed on at most this often.
const ACQUIRE_PAUSE: Duration = Duration::from_secs(1);

/// Several places behind one [`Backend`]: it chooses, spills, falls back and rolls back.
pub struct Registry {
    places: Vec<Place>,
    table: Table,
    jobs: BTreeMap<u64, Job>,
    next_job: u64,
    next_inner: u64,
    policies: PolicySet,
    notices: VecDeque<Notice>,
    /// When an acquire of a child was last passed on.
    acquired: BTreeMap<ChildId, Instant>,
}

/// One place, and what is on its way to it.
struct Place {
    backend: Box<dyn Backend>,
    path: Path,
    /// Which part of which job an inner ticket belongs to.
    sent: BTreeMap<Ticket, (u64, usize)>,
    /// Parts it was too busy for, oldest first.
    backlog: VecDeque<(Ticket, Vec<Operation>)>,
}

impl Place {
    /// Hands over a batch, or keeps it behind those that are waiting.
    fn submit(&mut self, ticket: Ticket, batch: Vec<Operation>) {
        self.backlog.push_back((ticket, batch));
        self.drain_backlog();
    }

    fn drain_backlog(&mut self) {
        while let Some((ticket, batch)) = self.backlog.pop_front() {
            if let Err(Busy(batch)) = self.backend.submit(ticket, batch) {
                self.backlog.push_front((ticket, batch));
                return;
            }
        }
    }
}

impl Registry {
    /// The places, best first: the order in which [`sa_store::OffloadIntent::Auto`] tries them.
    #[must_use]
    pub fn new(places: Vec<Box<dyn Backend>>) -> Self {
        let place = |backend: Box<dyn Backend>| Place {
            path: backend.capabilities().path,
            backend,
            sent: BTreeMap::new(),
            backlog: VecDeque::new(),
        };
        Self {
            places: places.into_iter().map(place).collect(),
            table: Table::default(),
            jobs: BTreeMap::new(),
            next_job: 0,
            next_inner: 0,
            policies: PolicySet::default(),
            notices: VecDeque::new(),
            acquired: BTreeMap::new(),
        }
    }

    /// Places the new SAs of a batch and splits it into one part a place.
    ///
    /// # Errors
    /// The operation that nobody can do, and why.
    fn split(&mut self, batch: &[Operation]) -> Result<Vec<Part>, (usize, String)> {
        let mut parts: BTreeMap<usize, Part> = BTreeMap::new();
        let mut add = |place: usize, index: usize, operation: Operation| {
            parts.entry(place).or_insert_with(|| Part::new(place)).push(index, operation);
        };
        for (index, operation) in batch.iter().enumerate() {
            let place = match operation {
                Operation::SetPolicies(_) | Operation::Flush => {
                    for place in 0..self.places.len() {
                        add(place, index, operation.clone());
                    }
                    continue;
                }
                Operation::Install(record) => {
                    if self.table.place_of(record.id).is_some() {
                        return Err((index, format!("SA {} is installed already", record.id)));
                    }
                    let place =
                        self.choose(record.pair, batch, &[]).map_err(|reason| (index, reason))?;
                    self.table.insert(record, place.index, place.passed_over);
                    place.index
                }
                Operation::Remove(sa) => match self.table.place_of(*sa) {
                    Some(place) => place,
                    None => continue,
                },
                Operation::UpdateAddresses { sa, local, .. } => {
                    self.table.may_move(*sa, local.ip()).map_err(|reason| (index, reason))?
                }
                Operation::Activate(sa) | Operation::Query(sa) => self
                    .table
                    .place_of(*sa)
                    .ok_or_else(|| (index, format!("there is no SA {sa}")))?,
            };
            add(place, index, operation.clone());
        }
        Ok(parts.into_values().collect())
    }

    /// The first place that can take all SAs of `pair` in `batch`, but none of `tried`.
    fn choose(&self, pair: PairId, batch: &[Operation], tried: &[usize]) -> Result<Chosen, String> {
        let records: Vec<_> = batch
            .iter()
            .filter_map(|operation| match operation {
                Operation::Install(record) if record.pair == pair => Some(&**record),
                _ => None,
            })
            .collect();
        let intent = records.first().map(|record| record.offload.clone()).unwrap_or_default();
        let paths: Vec<Path> = self.places.iter().map(|place| place.path.clone()).collect();
        let bound = self.table.bound_place(pair, &records);
        let mut passed_over = Vec::new();
        for index in choice::order(&intent, &paths) {
            let Some(place) = self.places.get(index).filter(|_| !tried.contains(&index)) else {
                continue;
            };
            match &bound {
                Some((owner, why)) if *owner != index => {
                    passed_over.push(format!("{} {why}", place.path));
                    continue;
                }
                _ => {}
            }
            // The second SA of a pair follows the first, whose choice counted both.
            if self.table.pair_place(pair) == Some(index) {
                return Ok(Chosen { index, passed_over: self.table.pair_passed_over(pair) });
            }
            match choice::fits(&place.backend.capabilities(), &records) {
                Ok(()) => return Ok(Chosen { index, passed_over }),
                Err(reason) => passed_over.push(reason),
            }
        }
        if passed_over.is_empty() && tried.is_empty() {
            return Err("there is no place where an SA could run".into());
        }
        Err(passed_over.join("; "))
    }

    /// Sends a part of a job to its place.
    fn send(&mut self, job: u64, part: usize) {
        let Some((place, operations)) = self.jobs.get(&job).and_then(|job| job.part(part)) else {
            return;
        };
        let ticket = Ticket(self.next_inner);
        self.next_inner += 1;
        if let Some(place) = self.places.get_mut(place) {
            place.sent.insert(ticket, (job, part));
            place.submit(ticket, operations);
        }
    }

    /// Adds parts to a job and sends them.
    fn send_all(&mut self, job: u64, parts: Vec<Part>) {
        let Some(running) = self.jobs.get_mut(&job) else { return };
        for part in running.extend(parts) {
            self.send(job, part);
        }
    }

    /// A place answered a part.
    fn answered(&mut self, place: usize, ticket: Ticket, refused: Option<(usize, String)>) {
        let Some((job, part)) = self.places.get_mut(place).and_then(|p| p.sent.remove(&ticket))
        else {
            return;
        };
        let Some(running) = self.jobs.get_mut(&job) else { return };
        match refused {
            None => running.done(part),
            Some((at, reason)) => {
                let refused = running.refused(part, at);
                self.fall_back(job, refused, reason);
            }
        }
        self.settle(job);
    }

    /// A part was refused: its new SAs go to the next place, the rest is tried again where it
    /// was. When nothing new was in the part, or no place is left, the job fails.
    fn fall_back(&mut self, job: u64, refused: job::RefusedPart, reason: String) {
        let place = refused.place;
        let path = self.places.get(place).map(|place| place.path.to_string()).unwrap_or_default();
        let why = if reason.starts_with(&path) { reason } else { format!("{path}: {reason}") };
        let culprit_is_new = refused.culprit.is_some_and(|sa| refused.new.contains(&sa));
        let Some(running) = self.jobs.get_mut(&job) else { return };
        if running.has_failed() || !culprit_is_new {
            running.fail(refused.index, why);
            return;
        }
        running.tried.push(place);
        let (tried, batch) = (running.tried.clone(), refused.operations());
        let mut pairs: Vec<PairId> =
            refused.new.iter().filter_map(|sa| self.table.pair_of(*sa)).collect();
        pairs.dedup();
        let mut moved = Vec::new();
        for pair in pairs {
            let mut passed_over = self.table.pair_passed_over(pair);
            passed_over.push(why.clone());
            self.table.forget_pair(pair);
            match self.choose(pair, &batch, &tried) {
                Ok(next) => {
                    passed_over.extend(next.passed_over);
                    moved.push((pair, next.index, passed_over));
                }
                Err(more) => {
                    if !more.is_empty() {
                        passed_over.push(more);
                    }
                    if let Some(running) = self.jobs.get_mut(&job) {
                        running.fail(refused.index, passed_over.join("; "));
                    }
                    return;
                }
            }
        }
        let parts = refused.split(|record| {
            let (_, index, passed_over) = moved.iter().find(|(pair, ..)| *pair == record.pair)?;
            self.table.insert(record, *index, passed_over.clone());
            Some(*index)
        });
        self.send_all(job, parts);
    }

    /// Finishes a job when all its parts are answered.
    fn settle(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match job.settled(&self.policies) {
            Settled::Open => {}
            Settled::Undo(parts) => {
                self.send_all(id, parts);
                self.settle(id);
            }
            Settled::Refused { ticket, operation, reason, new } => {
                for sa in new {
                    self.table.remove(sa);
                }
                self.jobs.remove(&id);
                self.notices.push_back(Notice::Refused { ticket, operation, reason });
            }
            Settled::Done { ticket, operations } => {
                for operation in operations {
                    match operation {
                        Operation::SetPolicies(policies) => self.policies = policies,
                        Operation::Remove(sa) => self.table.remove(sa),
                        Operation::Flush => self.table.clear(),
                        Operation::Install(record) => self.table.stands(record.id),
                        Operation::UpdateAddresses { sa, local, .. } => {
                            self.table.moved(sa, local.ip());
                        }
                        Operation::Activate(_) | Operation::Query(_) => {}
                    }
                }
                self.jobs.remove(&id);
                self.notices.push_back(Notice::Done(ticket));
            }
        }
    }

    /// Takes one notice of a place.
    fn noticed(&mut self, now: Instant, place: usize, notice: Notice) {
        match notice {
            Notice::Done(ticket) => self.answered(place, ticket, None),
            Notice::Refused { ticket, operation, reason } => {
                self.answered(place, ticket, Some((operation, reason)));
            }
            Notice::CapabilityChanged(_) => {
                self.notices.push_back(Notice::CapabilityChanged(Box::new(self.capabilities())));
            }
            Notice::Acquire { child, .. } => {
                // Several places may hold the policy and see the same packets.
                let due =
                    self.acquired.get(&child).is_none_or(|at| now.since(*at) >= ACQUIRE_PAUSE);
                if due {
                    self.acquired.insert(child, now);
                    self.notices.push_back(notice);
                }
            }
            Notice::SoftExpired(sa) => {
                if self.table.first_soft(sa, place) {
                    self.notices.push_back(notice);
                }
            }
            Notice::HardExpired { sa, .. } => {
                if self.table.first_hard(sa, place) {
                    self.notices.push_back(notice);
                }
            }
            Notice::Lost { sa, .. } => {
                if self.table.place_of(sa) == Some(place) {
                    self.table.remove(sa);
                    self.notices.push_back(notice);
                }
            }
            Notice::FirstInbound(sa)
            | Notice::LastInbound { sa, .. }
            | Notice::MappingChanged { sa, .. } => {
                if self.table.place_of(sa) == Some(place) {
                    self.notices.push_back(notice);
                }
            }
            Notice::Counters(counters) => {
                if self.table.place_of(counters.sa) == Some(place) {
                    self.notices.push_back(notice);
                }
            }
        }
    }
}

/// A place, and why none before it.
struct Chosen {
    index: usize,
    passed_over: Vec<String>,
}

impl Backend for Registry {
    /// The places together, under the path of the best one.
    fn capabilities(&self) -> Capabilities {
        let mut all: Option<Capabilities> = None;
        for place in &self.places {
            let one = place.backend.capabilities();
            all = Some(match all {
                None => one,
                Some(sum) => sum.and(one),
            });
        }
        all.unwrap_or_else(Capabilities::nothing)
    }

    fn submit(&mut self, ticket: Ticket, batch: Vec<Operation>) -> Result<(), Busy> {
        if self.jobs.len() >= MAX_JOBS {
            return Err(Busy(batch));
        }
        let job = self.next_job;
        self.next_job += 1;
        match self.split(&batch) {
            Ok(parts) => {
                self.jobs.insert(job, Job::new(ticket, batch));
                self.send_all(job, parts);
                self.settle(job);
            }
            Err((operation, reason)) => {
                self.table.forget_new(&batch);
                self.notices.push_back(Notice::Refused { ticket, operation, reason });
            }
        }
        Ok(())
    }

    fn poll(&mut self, now: Instant) -> Option<Notice> {
        for index in 0..self.places.len() {
            while let Some(place) = self.places.get_mut(index) {
                place.drain_backlog();
                let Some(notice) = place.backend.poll(now) else { break };
                self.noticed(now, index, notice);
            }
        }
        self.notices.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.notices.is_empty() {
            return Some(Instant::ZERO);
        }
        self.places.iter().filter_map(|place| place.backend.poll_timeout()).min()
    }

    fn set_waker(&mut self, waker: Waker) {
        for place in &mut self.places {
            place.backend.set_waker(Waker::clone(&waker));
        }
    }

    fn placement(&self, sa: SaId) -> Placement {
        self.table
            .placement(sa, |place| self.places.get(place).map(|place| place.path.clone()))
            .unwrap_or_else(|| Placement {
                path: self.capabilities().path,
                passed_over: Vec::new(),
            })
    }
}
