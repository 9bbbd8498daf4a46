//! What there is to do: one exchange of our own at a time, in order.

use alloc::{boxed::Box, vec::Vec};

use sa_store::{ChildId, Instant};

use super::{
    super::{IkeSa, Task, child::Phase, lifetime, queue::Queued},
    Answer, Established, OwnExchange, Step,
};
use crate::{
    event::Failure,
    exchange::{create_child_sa, informational, rekey_child_sa, rekey_ike_sa},
    shared::Shared,
};

impl Established {
    /// Adds something to do.
    pub(crate) fn assign(&mut self, shared: &mut Shared, task: Task, at: Instant) {
        if let Task::DeletePair(pair, _) = &task {
            self.queue.remove(|other| *other == Task::RekeyChild(*pair));
        }
        let closes = matches!(task, Task::DeleteIke(_)) && at <= shared.now;
        self.queue.push(task, at);
        if closes {
            shared.directory.set_active(self.id, false);
        }
    }

    /// After every step: ends the IKE SA if it must, else starts what is next.
    pub(crate) fn carry_on(mut self: Box<Self>, shared: &mut Shared, step: Step) -> Option<IkeSa> {
        if let Err(reason) = step.and_then(|()| self.run_queue(shared)) {
            self.die(shared, &reason);
            return None;
        }
        Some(IkeSa::Established(self))
    }

    /// Whether a request of ours may begin. While the peer's rekey of the IKE SA is answered
    /// nothing does: it goes to the successor.
    pub(super) fn may_start(&self) -> bool {
        self.own.is_none()
            && self.channel.window.is_free()
            && !matches!(self.answer, Some(Answer::RekeyIke(_)))
    }

    /// What was not sent yet does not keep a delete waiting.
    fn cancel_unsent(&mut self, shared: &mut Shared) {
        let now = shared.now;
        let delete = |task: &Task| matches!(task, Task::DeleteIke(_));
        if self.queue.due(delete) > now || !self.channel.window.is_free() {
            return;
        }
        match self.own.take() {
            Some(OwnExchange::Child(create_child_sa::Creating::Key(state))) => {
                rekey_child_sa::not_rekeying(self, shared, &state.plan);
            }
            Some(OwnExchange::RekeyIke(state)) if state.is_unsent() => {}
            own => self.own = own,
        }
    }

    fn run_queue(&mut self, shared: &mut Shared) -> Step {
        self.cancel_unsent(shared);
        while self.may_start() {
            let stage = self.stage;
            let next = self.queue.pop(shared.now, |task| stage.allows(task));
            let Some(queued) = next else { return Ok(()) };
            self.start(shared, queued)?;
        }
        Ok(())
    }

    fn start(&mut self, shared: &mut Shared, queued: Queued) -> Step {
        let attempts = queued.attempts;
        match queued.task {
            Task::CreateChild(child) => create_child_sa::start(self, shared, child, attempts),
            Task::RekeyChild(pair) => create_child_sa::start_rekey(self, shared, pair, attempts),
            Task::RekeyIke => rekey_ike_sa::start(self, shared, attempts),
            Task::EndChild(child, reason) => {
                self.end_child(shared, child, &reason);
                Ok(())
            }
            Task::DeletePair(pair, reason) => {
                informational::start_delete(self, shared, pair, reason)
            }
            Task::DeleteSpi(spi) => informational::start_delete_spi(self, shared, spi),
            Task::DeleteIke(reason) => informational::start_delete_ike(self, shared, reason),
            Task::Liveness => informational::start_liveness(self, shared),
        }
    }

    /// Deletes what there is of a child. What the peer is replacing just now is waited for.
    fn end_child(&mut self, shared: &mut Shared, child: ChildId, reason: &Failure) {
        if self.answer.is_some() {
            self.retry_soon(shared, Task::EndChild(child, reason.clone()), 0);
            return;
        }
        self.queue.remove(|task| *task == Task::CreateChild(child));
        let now = shared.now;
        let pairs: Vec<_> = shared
            .children
            .of(self.id)
            .filter(|sa| sa.child == child && sa.phase != Phase::Deleting)
            .map(|sa| (sa.pair, matches!(sa.phase, Phase::Replaced { .. })))
            .collect();
        for (pair, replaced) in pairs {
            // Who replaced it deletes it; if not, we do.
            let at = if replaced { now + shared.config.drain_time } else { now };
            self.assign(shared, Task::DeletePair(pair, reason.clone()), at);
        }
    }

    /// When to try something again that failed, see [`lifetime::retry_at`].
    pub(crate) fn retry(&mut self, shared: &mut Shared, task: Task, attempts: u32) {
        let at = lifetime::retry_at(shared, attempts);
        self.queue.push_again(task, at, attempts + 1);
    }

    /// Comes back to something that has not been tried yet.
    pub(crate) fn again_soon(&mut self, shared: &mut Shared, task: Task, attempts: u32) {
        let at = lifetime::soon(shared);
        self.queue.push_again(task, at, attempts);
    }

    /// When to try something again that the peer had no time for.
    pub(crate) fn retry_soon(&mut self, shared: &mut Shared, task: Task, attempts: u32) {
        let at = lifetime::soon(shared);
        self.queue.push_again(task, at, attempts + 1);
    }
}
