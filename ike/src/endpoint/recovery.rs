//! What is left of an IKE SA whose step ended in a panic that the driver caught.

use alloc::collections::BTreeSet;
use core::net::SocketAddr;

use sa_store::TunnelId;

use super::Endpoint;
use crate::{
    event::{Event, Failure, FailureCode},
    sa::{IkeSa, established::Stage},
    view::IkeSaId,
};

/// The IKE SA that a step is about: the step has it, nobody else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stepping {
    ike: IkeSaId,
    role: Role,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    /// Our attempt to bring up a tunnel.
    Attempt(TunnelId, SocketAddr),
    /// In use by a tunnel.
    InUse(TunnelId),
    /// Nothing that anybody has been told of.
    Unknown,
}

impl Stepping {
    pub(super) fn new(ike: IkeSaId, sa: &IkeSa) -> Self {
        let role = match sa {
            IkeSa::Initiating(attempt) => Role::Attempt(attempt.tunnel(), attempt.remote()),
            IkeSa::Authenticating(attempt) => Role::Attempt(attempt.tunnel(), attempt.remote()),
            IkeSa::Established(sa) if sa.stage == Stage::Active => Role::InUse(sa.peer.tunnel()),
            IkeSa::Established(_) | IkeSa::HalfOpen(_) | IkeSa::Closed(_) => Role::Unknown,
        };
        Self { ike, role }
    }
}

impl Endpoint {
    /// Ends what the last call has left half done: IKE SAs that others still point to, with
    /// their pairs. All others are whole, for a step changes one at a time.
    pub(super) fn recover(&mut self) {
        // New IKE SAs may still wait for being adopted.
        self.run_actions();
        let stepping = self.stepping.take();
        let sas = &self.sas;
        let mut lost = self.shared.directory.forget_all_but(|ike| sas.contains_key(&ike));
        lost.extend(self.shared.children.owners().filter(|ike| !sas.contains_key(ike)));
        lost.extend(self.due.keys().filter(|ike| !sas.contains_key(ike)));
        lost.extend(stepping.map(|it| it.ike).filter(|ike| !sas.contains_key(ike)));
        self.tunnels.retain(|(_, ike)| sas.contains_key(ike));
        let half_open = sas.iter().filter_map(|(ike, sa)| match sa {
            IkeSa::HalfOpen(sa) => Some((sa.source(), *ike, sa.held())),
            _ => None,
        });
        self.shared.admission.recount(half_open);
        self.end_lost(&lost, stepping);
    }

    fn end_lost(&mut self, lost: &BTreeSet<IkeSaId>, stepping: Option<Stepping>) {
        let reason = Failure::new(
            FailureCode::Internal,
            "an internal error ended the IKE SA; the log says more",
        );
        for ike in lost.iter().copied() {
            self.set_timer(ike, sa_store::Instant::NEVER);
            let entry = self.shared.directory.entry(ike);
            self.shared.directory.leave(ike);
            self.shared.end_pairs_of(ike, &reason);
            let role = stepping.filter(|it| it.ike == ike).map_or(Role::Unknown, |it| it.role);
            let (tunnel, in_use) = match (role, entry) {
                (Role::InUse(tunnel), _) => (tunnel, true),
                (_, Some(entry)) => (entry.tunnel, entry.active),
                (Role::Attempt(tunnel, remote), None) => {
                    self.shared.failed(Some(tunnel), None, remote, reason.clone());
                    continue;
                }
                (Role::Unknown, None) => continue,
            };
            if in_use {
                self.shared.event(Event::IkeDown { tunnel, ike, reason: reason.clone() });
            }
        }
    }
}
