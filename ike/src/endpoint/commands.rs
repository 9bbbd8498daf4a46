//! What the gateway wants.

use alloc::{string::String, vec::Vec};
use core::net::SocketAddr;

use sa_store::{ChildId, PairId, SaId, TunnelId};

use super::Endpoint;
use crate::{
    config::Endpoints,
    event::{Failure, FailureCode},
    exchange::ike_sa_init::{self, Target},
    input::Command,
    sa::{
        IkeSa, Task,
        child::Phase,
        established::{OwnExchange, Stage},
    },
};

impl Endpoint {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Configure(connection) => {
                self.shared.connections.insert(connection);
            }
            Command::Forget(tunnel) => {
                self.terminate(tunnel);
                self.shared.forget(tunnel);
            }
            Command::Initiate { tunnel, path, children } => self.initiate(tunnel, path, children),
            Command::Terminate { tunnel } => self.terminate(tunnel),
            Command::TerminateChild { child } => self.terminate_child(child),
            Command::RekeyIke { tunnel } => self.assign_to_newest(tunnel, &Task::RekeyIke),
            Command::RekeyChild { child } => self.rekey_child(child),
            Command::InboundSeen { pair } => self.inbound_seen(pair),
            Command::SoftExpired { sa } => self.soft_expired(sa),
            Command::HardExpired { sa, reason } => self.hard_expired(sa, reason),
            Command::MappingChanged { sa, remote } => self.mapping_changed(sa, remote),
            Command::CheckLiveness { tunnel } => self.check_liveness(tunnel),
            Command::Abandon { ike, reason } => {
                let reason = Failure::new(FailureCode::LocalAddressLost, reason);
                self.step(ike, |sa, shared| {
                    sa.abandon(shared, &reason);
                    None
                });
            }
        }
    }

    fn initiate(&mut self, tunnel: TunnelId, path: Endpoints, children: Vec<ChildId>) {
        let Some(connection) = self.shared.connections.get(tunnel).cloned() else {
            let failure = Failure::new(FailureCode::NoMatchingTunnel, "no such tunnel");
            self.shared.failed(Some(tunnel), None, path.remote, failure);
            return;
        };
        let children = if children.is_empty() {
            connection.children.iter().map(|config| config.child).collect()
        } else {
            children
        };
        let newest = self.shared.directory.active(tunnel).last();
        if let Some((ike, _)) = newest {
            let now = self.shared.now;
            self.with_established(ike, |sa, shared| {
                for child in children {
                    if !shared.children.has(ike, child) {
                        sa.queue.push(Task::CreateChild(child), now);
                    }
                }
            });
            return;
        }
        if self.join_attempt(tunnel, &children) {
            return;
        }
        let id = self.shared.next_ike_id();
        let begun = self.shared.now;
        let target = Target { id, connection, path, children, begun };
        if let Some(sa) = ike_sa_init::start(&mut self.shared, target) {
            self.put(id, sa);
        }
    }

    /// An attempt that is under way brings these children as well.
    fn join_attempt(&mut self, tunnel: TunnelId, children: &[ChildId]) -> bool {
        for ike in self.of_tunnel(tunnel) {
            let wanted = match self.sas.get_mut(&ike) {
                Some(IkeSa::Initiating(attempt)) => attempt.children_mut(),
                Some(IkeSa::Authenticating(attempt)) => attempt.children_mut(),
                _ => continue,
            };
            for child in children {
                if !wanted.contains(child) {
                    wanted.push(*child);
                }
            }
            return true;
        }
        false
    }

    fn terminate(&mut self, tunnel: TunnelId) {
        let reason = Failure::new(FailureCode::DeletedByOperator, "the tunnel was taken down");
        for ike in self.of_tunnel(tunnel) {
            let now = self.shared.now;
            self.step(ike, |sa, shared| match sa {
                // Who rekeyed deletes it. The peer may not have our answer yet: a delete of ours
                // would end all that it has.
                IkeSa::Established(sa) if matches!(sa.stage, Stage::Superseded { .. }) => {
                    Some(IkeSa::Established(sa))
                }
                IkeSa::Established(mut sa) => {
                    sa.queue.remove(|_| true);
                    sa.assign(shared, Task::DeleteIke(reason.clone()), now);
                    sa.carry_on(shared, Ok(()))
                }
                other => {
                    other.abandon(shared, &reason);
                    None
                }
            });
        }
    }

    fn terminate_child(&mut self, child: ChildId) {
        let reason = Failure::new(FailureCode::DeletedByOperator, "the child was taken down");
        let now = self.shared.now;
        let ikes = match self.shared.connections.home(child) {
            Some(tunnel) => self.of_tunnel(tunnel),
            None => self.sas.keys().copied().collect(),
        };
        for ike in ikes {
            let reason = reason.clone();
            self.with_established(ike, |sa, shared| {
                let asked = matches!(&sa.own, Some(OwnExchange::Child(own))
                    if own.plan().config.child == child);
                sa.queue.remove(|task| *task == Task::CreateChild(child));
                if asked || shared.children.of(ike).any(|it| it.child == child) {
                    sa.assign(shared, Task::EndChild(child, reason), now);
                }
            });
        }
    }

    fn rekey_child(&mut self, child: ChildId) {
        let current = self.shared.children.current(child).map(|sa| (sa.owner, sa.pair));
        let now = self.shared.now;
        match current {
            Some((owner, pair)) => self.with_established(owner, |sa, _| {
                sa.queue.push(Task::RekeyChild(pair), now);
            }),
            None => self.nothing_there(None, Some(child)),
        }
    }

    fn assign_to_newest(&mut self, tunnel: TunnelId, task: &Task) {
        let newest = self.shared.directory.active(tunnel).last();
        let now = self.shared.now;
        match newest {
            Some((ike, _)) => {
                self.with_established(ike, |sa, shared| sa.assign(shared, task.clone(), now));
            }
            None => self.nothing_there(Some(tunnel), None),
        }
    }

    fn nothing_there(&mut self, tunnel: Option<TunnelId>, child: Option<ChildId>) {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let failure = Failure::new(FailureCode::ChildSaNotFound, "it is not up");
        let tunnel = tunnel.or_else(|| self.shared.connections.home(child?));
        self.shared.failed(tunnel, child, nowhere, failure);
    }

    fn check_liveness(&mut self, tunnel: TunnelId) {
        let active: Vec<_> = self.shared.directory.active(tunnel).map(|(ike, _)| ike).collect();
        let now = self.shared.now;
        for ike in active {
            self.with_established(ike, |sa, shared| sa.assign(shared, Task::Liveness, now));
        }
    }

    fn inbound_seen(&mut self, pair: PairId) {
        let Some(owner) = self.shared.children.get(pair).map(|sa| sa.owner) else { return };
        let now = self.shared.now;
        self.with_established(owner, |sa, shared| {
            sa.liveness.seen(now);
            shared.activate_pair(pair);
        });
    }

    fn soft_expired(&mut self, id: SaId) {
        let found = self.shared.children.by_sa(id).map(|sa| (sa.owner, sa.pair, sa.phase));
        let Some((owner, pair, Phase::Installed)) = found else { return };
        let now = self.shared.now;
        self.with_established(owner, |sa, _| sa.queue.push(Task::RekeyChild(pair), now));
    }

    fn hard_expired(&mut self, id: SaId, reason: String) {
        let Some((owner, pair)) = self.shared.children.by_sa(id).map(|sa| (sa.owner, sa.pair))
        else {
            return;
        };
        self.with_established(owner, |sa, shared| sa.replace_broken(shared, pair, reason));
    }

    fn mapping_changed(&mut self, id: SaId, remote: SocketAddr) {
        let Some(owner) = self.shared.children.by_sa(id).map(|sa| sa.owner) else { return };
        self.with_established(owner, |sa, shared| {
            let path = Endpoints { local: sa.channel.path.local, remote };
            sa.seen_at(shared, path);
        });
    }
}
