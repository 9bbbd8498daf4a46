//! A batch on its way through several places.

use std::collections::BTreeMap;

use sa_store::{SaId, SaRecord};

use crate::{Operation, PolicySet, Ticket};

/// The operations of a batch that go to one place.
#[derive(Debug)]
pub(super) struct Part {
    place: usize,
    /// With their index in the batch.
    operations: Vec<(usize, Operation)>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting,
    Done,
    Refused,
}

impl Part {
    pub(super) const fn new(place: usize) -> Self {
        Self { place, operations: Vec::new(), state: State::Waiting }
    }

    pub(super) fn push(&mut self, index: usize, operation: Operation) {
        self.operations.push((index, operation));
    }

    fn new_sas(&self) -> Vec<SaId> {
        self.operations
            .iter()
            .filter_map(|(_, operation)| match operation {
                Operation::Install(record) => Some(record.id),
                _ => None,
            })
            .collect()
    }
}

/// A part that a place refused: it had no effect there.
#[derive(Debug)]
pub(super) struct RefusedPart {
    pub(super) place: usize,
    /// Index of the operation in the batch.
    pub(super) index: usize,
    /// The SA it was about.
    pub(super) culprit: Option<SaId>,
    /// The SAs that the part installs.
    pub(super) new: Vec<SaId>,
    operations: Vec<(usize, Operation)>,
}

impl RefusedPart {
    pub(super) fn operations(&self) -> Vec<Operation> {
        self.operations.iter().map(|(_, operation)| operation.clone()).collect()
    }

    /// Splits the part anew: what is about new SAs goes where `place` says, the rest stays.
    pub(super) fn split(self, mut place: impl FnMut(&SaRecord) -> Option<usize>) -> Vec<Part> {
        let mut moved: BTreeMap<SaId, usize> = BTreeMap::new();
        let mut parts: BTreeMap<usize, Part> = BTreeMap::new();
        for (index, operation) in self.operations {
            if let Operation::Install(record) = &operation
                && let Some(to) = place(record)
            {
                moved.insert(record.id, to);
            }
            let to =
                subject(&operation).and_then(|sa| moved.get(&sa).copied()).unwrap_or(self.place);
            parts.entry(to).or_insert_with(|| Part::new(to)).push(index, operation);
        }
        parts.into_values().collect()
    }
}

/// The SA an operation is about.
fn subject(operation: &Operation) -> Option<SaId> {
    match operation {
        Operation::Install(record) => Some(record.id),
        Operation::Activate(sa)
        | Operation::UpdateAddresses { sa, .. }
        | Operation::Remove(sa)
        | Operation::Query(sa) => Some(*sa),
        Operation::SetPolicies(_) | Operation::Flush => None,
    }
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Job {
    ticket: Ticket,
    batch: Vec<Operation>,
    parts: Vec<Part>,
    /// Places that refused new SAs of this batch.
    pub(super) tried: Vec<usize>,
    failed: Option<(usize, String)>,
    undoing: bool,
}

/// How far a job is.
#[derive(Debug)]
pub(super) enum Settled {
    /// Parts are under way.
    Open,
    /// It failed: these parts undo what was done.
    Undo(Vec<Part>),
    /// It failed and nothing is left of it.
    Refused { ticket: Ticket, operation: usize, reason: String, new: Vec<SaId> },
    /// All of it is done.
    Done { ticket: Ticket, operations: Vec<Operation> },
}

impl Job {
    pub(super) const fn new(ticket: Ticket, batch: Vec<Operation>) -> Self {
        Self { ticket, batch, parts: Vec::new(), tried: Vec::new(), failed: None, undoing: false }
    }

    /// Adds parts; their numbers.
    pub(super) fn extend(&mut self, parts: Vec<Part>) -> std::ops::Range<usize> {
        let first = self.parts.len();
        self.parts.extend(parts);
        first..self.parts.len()
    }

    /// The place and the operations of a part.
    pub(super) fn part(&self, part: usize) -> Option<(usize, Vec<Operation>)> {
        let part = self.parts.get(part)?;
        Some((part.place, part.operations.iter().map(|(_, op)| op.clone()).collect()))
    }

    pub(super) fn done(&mut self, part: usize) {
        if let Some(part) = self.parts.get_mut(part) {
            part.state = State::Done;
        }
    }

    /// Takes a refused part out of the job.
    pub(super) fn refused(&mut self, part: usize, at: usize) -> RefusedPart {
        let (place, operations) = match self.parts.get_mut(part) {
            Some(part) => {
                part.state = State::Refused;
                (part.place, std::mem::take(&mut part.operations))
            }
            None => (usize::MAX, Vec::new()),
        };
        let gone = Part { place, operations, state: State::Refused };
        let culprit = gone.operations.get(at);
        RefusedPart {
            place,
            index: culprit.map_or(0, |(index, _)| *index),
            culprit: culprit.and_then(|(_, operation)| subject(operation)),
            new: gone.new_sas(),
            operations: gone.operations,
        }
    }

    pub(super) fn fail(&mut self, operation: usize, reason: String) {
        self.failed.get_or_insert((operation, reason));
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// How far the job is; `policies` are those before it.
    pub(super) fn settled(&mut self, policies: &PolicySet) -> Settled {
        if self.parts.iter().any(|part| part.state == State::Waiting) {
            return Settled::Open;
        }
        let Some((operation, reason)) = &self.failed else {
            return Settled::Done {
                ticket: self.ticket,
                operations: std::mem::take(&mut self.batch),
            };
        };
        if !self.undoing {
            self.undoing = true;
            let undo: Vec<Part> =
                self.parts.iter().filter_map(|part| undo(part, policies)).collect();
            return Settled::Undo(undo);
        }
        let new = self
            .batch
            .iter()
            .filter_map(|operation| match operation {
                Operation::Install(record) => Some(record.id),
                _ => None,
            })
            .collect();
        Settled::Refused { ticket: self.ticket, operation: *operation, reason: reason.clone(), new }
    }
}

/// What takes back a part that was done.
fn undo(part: &Part, policies: &PolicySet) -> Option<Part> {
    if part.state != State::Done {
        return None;
    }
    let mut back = Part::new(part.place);
    for (index, operation) in part.operations.iter().rev() {
        match operation {
            Operation::Install(record) => back.push(*index, Operation::Remove(record.id)),
            Operation::SetPolicies(_) => {
                back.push(*index, Operation::SetPolicies(policies.clone()));
            }
            _ => {}
        }
    }
    (!back.operations.is_empty()).then_some(back)
}
