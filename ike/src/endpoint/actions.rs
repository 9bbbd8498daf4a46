//! What one IKE SA's step means for others: successors, replaced ones, crosswise duplicates.
//!
//! When both ends initiate at once, two IKE SAs of one tunnel come up. Both ends keep the one
//! with the lower `SPIi`; the end that initiated the other one moves its children over and then
//! deletes it, so that traffic always has a way.

use alloc::vec::Vec;
use core::time::Duration;

use sa_store::{ChildId, Instant, TunnelId};

use super::Endpoint;
use crate::{
    event::{Failure, FailureCode},
    sa::{IkeSa, Task, child::Phase, directory::Entry, established::Stage},
    shared::Action,
    view::IkeSaId,
};

/// How long the initiator of a redundant IKE SA may take to delete it before we do.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a responder waits for the peer to create a child that it wants as well.
const COURTESY: Duration = Duration::from_secs(3);

/// IKE SAs that a peer may have besides its newest where that replaces them.
const LEAVING: usize = 8;
/// The same where it does not, and for all peers of a tunnel together: who may have any identity
/// can have another one each time.
const DUPLICATES: usize = 64;

impl Endpoint {
    pub(super) fn run_actions(&mut self) {
        while let Some(action) = self.shared.next_action() {
            match action {
                Action::Adopt(sa) => self.put(sa.id, IkeSa::Established(sa)),
                Action::Promote(ike, tasks) => self.with_established(ike, |sa, shared| {
                    for queued in tasks {
                        sa.queue.push_again(queued.task, queued.at, queued.attempts);
                    }
                    sa.set_stage(shared, Stage::Active);
                }),
                Action::Assign(ike, task, at) => {
                    self.with_established(ike, |sa, shared| sa.assign(shared, task, at));
                }
                Action::Settle { ike, begun, initial_contact } => {
                    self.settle(ike, begun, initial_contact);
                }
                Action::Deduplicate(tunnel) => self.deduplicate(tunnel),
                Action::Evict(ike) => self.step(ike, |sa, shared| match sa {
                    IkeSa::HalfOpen(sa) => {
                        sa.drop_silently(shared);
                        None
                    }
                    other => Some(other),
                }),
            }
        }
    }

    /// Changes an established IKE SA and lets it go on.
    pub(super) fn with_established(
        &mut self,
        ike: IkeSaId,
        change: impl FnOnce(&mut crate::sa::established::Established, &mut crate::shared::Shared),
    ) {
        self.step(ike, |sa, shared| match sa {
            IkeSa::Established(mut sa) => {
                change(&mut sa, shared);
                sa.carry_on(shared, Ok(()))
            }
            other => Some(other),
        });
    }

    /// An IKE SA is established: which others does it replace?
    fn settle(&mut self, new: IkeSaId, begun: Instant, initial_contact: bool) {
        let Some(entry) = self.shared.directory.entry(new) else { return };
        let others: Vec<(IkeSaId, Entry)> = self
            .shared
            .directory
            .active(entry.tunnel)
            .filter(|(ike, _)| *ike != new && self.same_peer(*ike, new))
            .collect();
        for (old, other) in others {
            // INITIAL_CONTACT is as old as the peer's IKE_AUTH: it cannot know of what we
            // established since its negotiation began.
            let crosswise = entry.ours != other.ours && (entry.ours || other.since >= begun);
            if !crosswise {
                self.replace(old, new, initial_contact);
            }
        }
        self.shed(entry.tunnel, new);
        if !entry.ours {
            self.take_over_attempts(entry.tunnel, new);
        }
        self.deduplicate(entry.tunnel);
    }

    fn same_peer(&self, a: IkeSaId, b: IkeSaId) -> bool {
        match (self.sas.get(&a), self.sas.get(&b)) {
            (Some(IkeSa::Established(a)), Some(IkeSa::Established(b))) => {
                a.peer.remote_id.same(&b.peer.remote_id)
            }
            _ => false,
        }
    }

    /// A peer that comes again and again leaves IKE SAs behind, each of which takes its time to go:
    /// above a few the oldest go at once.
    fn shed(&mut self, tunnel: TunnelId, new: IkeSaId) {
        let most = match self.sas.get(&new) {
            Some(IkeSa::Established(sa)) if !sa.peer.connection.replace_duplicates => DUPLICATES,
            _ => LEAVING,
        };
        let all = |this: &Self| -> Vec<IkeSaId> {
            this.shared.directory.of_tunnel(tunnel).filter(|ike| *ike != new).collect()
        };
        let mut same = all(self);
        same.retain(|ike| self.same_peer(*ike, new));
        self.abandon_oldest(same, most, "the same peer has too many IKE SAs");
        self.abandon_oldest(all(self), DUPLICATES, "the tunnel has too many IKE SAs");
    }

    /// Ends the first ones without a word until no more than `most` are left.
    fn abandon_oldest(&mut self, ikes: Vec<IkeSaId>, most: usize, why: &str) {
        let excess = ikes.len().saturating_sub(most);
        let reason = Failure::new(FailureCode::Replaced, why);
        for old in ikes.into_iter().take(excess) {
            self.step(old, |sa, shared| {
                sa.abandon(shared, &reason);
                None
            });
        }
    }

    fn replace(&mut self, old: IkeSaId, new: IkeSaId, initial_contact: bool) {
        let now = self.shared.now;
        let unique = match self.sas.get(&new) {
            Some(IkeSa::Established(sa)) => sa.peer.connection.replace_duplicates,
            _ => false,
        };
        if initial_contact {
            // RFC 7296 §2.4: the peer has lost it, there is nobody to tell.
            let reason = Failure::new(
                FailureCode::Replaced,
                "the peer came back without its earlier IKE SA (INITIAL_CONTACT)",
            );
            self.step(old, |sa, shared| {
                sa.abandon(shared, &reason);
                None
            });
        } else if unique {
            let reason =
                Failure::new(FailureCode::Replaced, "the same peer established a newer IKE SA");
            let at = now + self.shared.config.drain_time;
            self.with_established(old, |sa, shared| {
                sa.assign(shared, Task::DeleteIke(reason), at);
            });
        }
    }

    /// The peer's IKE SA is up first: our attempts that it cannot know of yet are not needed.
    fn take_over_attempts(&mut self, tunnel: TunnelId, new: IkeSaId) {
        let mut attempts = self.of_tunnel(tunnel);
        attempts.retain(|ike| matches!(self.sas.get(ike), Some(IkeSa::Initiating(_))));
        let mut children: Vec<ChildId> = Vec::new();
        for ike in attempts {
            self.step(ike, |sa, shared| {
                if let IkeSa::Initiating(attempt) = sa {
                    children.extend(attempt.children());
                    attempt.drop_silently(shared);
                }
                None
            });
        }
        let at = self.shared.now + COURTESY;
        self.with_established(new, |sa, _| {
            for child in children {
                sa.queue.push(Task::CreateChild(child), at);
            }
        });
    }

    /// Of two IKE SAs that came up crosswise, the one with the higher origin goes as soon as the
    /// other has its children.
    fn deduplicate(&mut self, tunnel: TunnelId) {
        let active: Vec<(IkeSaId, Entry)> = self.shared.directory.active(tunnel).collect();
        for (loser, losing) in &active {
            let winner = active.iter().find(|(winner, winning)| {
                winning.ours != losing.ours
                    && winning.origin < losing.origin
                    && self.same_peer(*winner, *loser)
            });
            let Some((winner, _)) = winner else { continue };
            if losing.ours {
                self.vacate(*loser, *winner);
            } else {
                let (at, reason) = (self.shared.now + PATIENCE, redundant());
                self.with_established(*loser, |sa, shared| {
                    sa.assign(shared, Task::DeleteIke(reason), at);
                });
            }
        }
    }

    /// Moves what a redundant IKE SA of ours has, or is about to have, to the other one, and
    /// deletes it when there is nothing left to move.
    fn vacate(&mut self, loser: IkeSaId, winner: IkeSaId) {
        let Some(IkeSa::Established(sa)) = self.sas.get(&loser) else { return };
        let children = sa.peer.connection.children.iter().map(|config| config.child);
        let planned: Vec<ChildId> = children.filter(|child| sa.queue.creates(*child)).collect();
        let present: Vec<ChildId> = self
            .shared
            .children
            .of(loser)
            .filter(|it| !matches!(it.phase, Phase::Replaced { .. } | Phase::Deleting))
            .map(|it| it.child)
            .collect();
        let busy = sa.own.is_some();
        let stands = |child: &ChildId| {
            self.shared.children.of(winner).any(|it| {
                it.child == *child
                    && !it.standby
                    && matches!(it.phase, Phase::Installed | Phase::Rekeying)
            })
        };
        let missing: Vec<ChildId> =
            present.iter().chain(&planned).filter(|child| !stands(child)).copied().collect();
        let now = self.shared.now;
        self.with_established(loser, |sa, _| {
            sa.queue.remove(|task| matches!(task, Task::CreateChild(_)));
        });
        let ready = missing.is_empty() && !busy;
        // The loser's end at the peer may come long before we hear of it.
        let carriers: Vec<_> = self
            .shared
            .children
            .of(winner)
            .filter(|it| !it.standby && matches!(it.phase, Phase::Installed | Phase::Rekeying))
            .map(|it| it.pair)
            .collect();
        if !missing.is_empty() {
            self.with_established(winner, |sa, _| {
                for child in missing {
                    sa.queue.push(Task::CreateChild(child), now + COURTESY / 3);
                }
            });
        }
        if ready {
            for pair in carriers {
                self.shared.carry(pair);
            }
            self.with_established(loser, |sa, shared| {
                sa.assign(shared, Task::DeleteIke(redundant()), now);
            });
        }
    }
}

fn redundant() -> Failure {
    Failure::new(FailureCode::Replaced, "both ends initiated at once: the other IKE SA is kept")
}
