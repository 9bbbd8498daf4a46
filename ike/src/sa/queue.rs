//! What an IKE SA has to do and when it may: one own request at a time.

use alloc::{collections::VecDeque, vec::Vec};

use sa_store::{ChildId, EspSpi, Instant, PairId};

use super::Task;
use crate::event::Failure;

/// Tasks in order.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    list: VecDeque<Queued>,
}

/// A task that waits.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) task: Task,
    /// Not before.
    pub(crate) at: Instant,
    /// How often it has failed already.
    pub(crate) attempts: u32,
}

impl Queue {
    /// Adds a task, unless it is there already: then the earlier time counts.
    pub(crate) fn push(&mut self, task: Task, at: Instant) {
        self.push_again(task, at, 0);
    }

    pub(crate) fn push_again(&mut self, task: Task, at: Instant, attempts: u32) {
        match self.list.iter_mut().find(|queued| queued.task.same(&task)) {
            Some(queued) => queued.at = queued.at.min(at),
            None => self.list.push_back(Queued { task, at, attempts }),
        }
    }

    /// The next task that is due and allowed; deleting the IKE SA comes before everything, and
    /// deleting what only the peer has comes before the next try.
    pub(crate) fn pop(&mut self, now: Instant, allowed: impl Fn(&Task) -> bool) -> Option<Queued> {
        let due = |queued: &Queued| queued.at <= now && allowed(&queued.task);
        let urgent = self
            .list
            .iter()
            .position(|queued| matches!(queued.task, Task::DeleteIke(_)) && due(queued));
        let half = |queued: &Queued| matches!(queued.task, Task::DeleteSpi(_)) && due(queued);
        let at = urgent
            .or_else(|| self.list.iter().position(half))
            .or_else(|| self.list.iter().position(due))?;
        self.list.remove(at)
    }

    pub(crate) fn due(&self, allowed: impl Fn(&Task) -> bool) -> Instant {
        let times = self.list.iter().filter(|queued| allowed(&queued.task)).map(|queued| queued.at);
        times.min().unwrap_or(Instant::NEVER)
    }

    pub(crate) fn contains(&self, test: impl Fn(&Task) -> bool) -> bool {
        self.list.iter().any(|queued| test(&queued.task))
    }

    pub(crate) fn deletes(&self, pair: PairId) -> bool {
        self.contains(|task| matches!(task, Task::DeletePair(other, _) if *other == pair))
    }

    pub(crate) fn creates(&self, child: ChildId) -> bool {
        self.contains(|task| *task == Task::CreateChild(child))
    }

    pub(crate) fn remove(&mut self, test: impl Fn(&Task) -> bool) {
        self.list.retain(|queued| !test(&queued.task));
    }

    /// Takes the SPIs that were to be deleted at the peer.
    pub(crate) fn take_spis(&mut self) -> Vec<EspSpi> {
        self.list
            .drain(..)
            .filter_map(|queued| match queued.task {
                Task::DeleteSpi(spi) => Some(spi),
                _ => None,
            })
            .collect()
    }

    /// Takes the end of the IKE SA, if it is there for such a reason.
    pub(crate) fn take_delete_ike(&mut self, test: impl Fn(&Failure) -> bool) -> Option<Queued> {
        let ends = |queued: &Queued| matches!(&queued.task, Task::DeleteIke(it) if test(it));
        let at = self.list.iter().position(ends)?;
        self.list.remove(at)
    }

    /// Takes what a successor of the IKE SA has to do in its place.
    pub(crate) fn take_for_successor(&mut self) -> Vec<Queued> {
        let all = core::mem::take(&mut self.list);
        let (stay, go): (VecDeque<_>, VecDeque<_>) = all.into_iter().partition(|queued| {
            matches!(queued.task, Task::RekeyIke | Task::DeleteIke(_) | Task::Liveness)
        });
        self.list = stay;
        go.into()
    }
}

impl Task {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::DeletePair(a, _), Self::DeletePair(b, _)) => a == b,
            (Self::EndChild(a, _), Self::EndChild(b, _)) => a == b,
            (Self::DeleteIke(_), Self::DeleteIke(_)) => true,
            _ => self == other,
        }
    }
}
