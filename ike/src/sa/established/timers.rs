//! What time brings: retransmission, rekeys, expiry, signs of life.

use alloc::{boxed::Box, vec::Vec};

use sa_store::Instant;

use super::{
    super::{
        IkeSa, Task,
        child::{ChildSa, Phase},
        window::Due,
    },
    Established, OwnExchange, Stage,
};
use crate::{
    event::{Event, Failure, FailureCode},
    exchange::informational,
    shared::Shared,
};

impl Established {
    pub(crate) fn on_timeout(mut self: Box<Self>, shared: &mut Shared) -> Option<IkeSa> {
        match self.channel.on_timeout(shared) {
            Due::Wait => {}
            Due::Again(tries) => shared.event(Event::Retransmitting {
                tunnel: self.peer.tunnel(),
                remote: self.channel.path.remote,
                tries,
            }),
            Due::GiveUp => {
                let reason = self.silence(shared);
                self.die(shared, &reason);
                return None;
            }
        }
        if self.life.expires_at <= shared.now && !self.is_closing() {
            let failure = Failure::new(
                FailureCode::Expired,
                "the hard lifetime of the IKE SA was reached before it could be rekeyed",
            );
            let now = shared.now;
            self.assign(shared, Task::DeleteIke(failure), now);
        }
        self.follow(shared);
        self.child_timers(shared);
        self.own_timers(shared);
        self.carry_on(shared, Ok(()))
    }

    /// What our unanswered request comes to.
    fn silence(&self, shared: &Shared) -> Failure {
        match &self.own {
            Some(OwnExchange::Delete(informational::Deleting::Ike(reason))) => reason.clone(),
            _ => Failure::new(
                FailureCode::PeerDead,
                alloc::format!(
                    "{} did not answer a request that was sent {} times",
                    self.channel.path.remote,
                    shared.config.retransmit_tries + 1
                ),
            ),
        }
    }

    fn child_timers(&mut self, shared: &mut Shared) {
        let now = shared.now;
        shared.carry_waiting(self.id);
        let due: Vec<_> = shared
            .children
            .of(self.id)
            .filter(|sa| sa.due() <= now)
            .map(|sa| (sa.pair, sa.phase, sa.expires_at <= now))
            .collect();
        for (pair, phase, expired) in due {
            match phase {
                Phase::Replaced { .. } => {
                    self.queue.push(Task::DeletePair(pair, informational::replaced()), now);
                    if let Some(sa) = shared.children.get_mut(pair) {
                        sa.phase = Phase::Replaced { until: Instant::NEVER };
                        sa.expires_at = Instant::NEVER;
                    }
                }
                Phase::Installed if !expired => {
                    if let Some(sa) = shared.children.get_mut(pair) {
                        sa.rekey_at = Instant::NEVER;
                    }
                    self.queue.push(Task::RekeyChild(pair), now);
                }
                _ => {
                    if let Some(sa) = shared.children.get_mut(pair) {
                        sa.expires_at = Instant::NEVER;
                    }
                    let failure = Failure::new(
                        FailureCode::Expired,
                        "the hard lifetime was reached before the child could be rekeyed",
                    );
                    self.queue.remove(|task| *task == Task::RekeyChild(pair));
                    self.queue.push(Task::DeletePair(pair, failure), now);
                }
            }
        }
    }

    fn own_timers(&mut self, shared: &mut Shared) {
        let now = shared.now;
        match self.stage {
            Stage::Active => {
                if self.life.rekey_at <= now {
                    self.life.rekey_at = Instant::NEVER;
                    self.queue.push(Task::RekeyIke, now);
                }
            }
            Stage::Superseded { until } if until <= now => {
                self.stage = Stage::Superseded { until: Instant::NEVER };
                self.queue.push(Task::DeleteIke(informational::replaced()), now);
            }
            Stage::Superseded { .. } | Stage::Parked => {}
        }
        if self.stage == Stage::Active && self.liveness.due() <= now {
            self.liveness.asked(now);
            self.queue.push(Task::Liveness, now);
        }
    }

    pub(crate) fn due(&self, shared: &Shared) -> Instant {
        let children = shared.children.of(self.id).map(ChildSa::due).min();
        let stage = match self.stage {
            Stage::Active => self.life.rekey_at.min(self.liveness.due()),
            Stage::Superseded { until } => until,
            Stage::Parked => Instant::NEVER,
        };
        let expiry = if self.is_closing() { Instant::NEVER } else { self.life.expires_at };
        let mut due = self.channel.due(shared).min(stage).min(expiry);
        due = due.min(children.unwrap_or(Instant::NEVER));
        if self.may_start() {
            due = due.min(self.queue.due(|task| self.stage.allows(task)));
        }
        due
    }
}
