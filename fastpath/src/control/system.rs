//! What the control thread does to the system around it: it steers what the policies say, and
//! follows what others change.

use std::{net::IpAddr, sync::Arc};

use hw_offload::{PolicyAction, PolicySet};

use super::Control;
use crate::{
    backend::locked,
    policy::{PolicyIndex, compile},
    steer::{Changes, connected},
};

impl Control {
    /// Makes `set` what is protected, in the system and for the workers.
    pub(super) fn set_policies(&mut self, set: PolicySet) -> Result<(), String> {
        let rules = compile(&set, &connected(&self.addresses));
        let peers = peers(&set);
        self.steering.apply(&rules, &self.addresses, &peers).map_err(|error| error.to_string())?;
        self.model.policies = Arc::new(PolicyIndex::new(rules));
        self.model.set = Some(set);
        self.report_warnings();
        Ok(())
    }

    /// Goes back to the policies before a batch that was refused. Before the first ones nothing
    /// may be taken away: what a process before left blocked stays so, and so does what the
    /// refused batch has blocked already.
    pub(super) fn undo_policies(&mut self, before: Option<PolicySet>) {
        let Some(set) = before else {
            self.model.set = None;
            self.model.policies = Arc::default();
            return;
        };
        if let Err(reason) = self.set_policies(set) {
            tracing::error!(%reason, "the policies before a refused batch cannot return");
        }
    }

    /// Follows what others changed in the system, and puts back what they took out.
    pub(super) fn follow(&mut self, changes: Changes) {
        if changes.table {
            tracing::warn!("somebody removed the nftables table of steering; it is put back");
        }
        // Addresses first: routes with the source address of one that is gone cannot return.
        let addresses = changes.addresses.then(|| self.steering.addresses());
        let moved = addresses.filter(|addresses| *addresses != self.addresses);
        if moved.is_some() || changes.table {
            self.addresses = moved.unwrap_or_else(|| std::mem::take(&mut self.addresses));
            if let Some(set) = self.model.set.clone() {
                if let Err(reason) = self.set_policies(set) {
                    tracing::error!(%reason, "steering does not follow a change of the system");
                }
                self.publish(Vec::new());
            }
        }
        if changes.routes
            && let Err(error) = self.steering.mend()
        {
            tracing::error!(%error, "routes of protected destinations may be missing");
        }
    }

    /// Logs the warnings that were not there at the last look.
    pub(super) fn report_warnings(&mut self) {
        let obstacles = self.steering.obstacles();
        let warnings = obstacles.warnings();
        for warning in warnings.iter().filter(|warning| !self.warned.contains(warning)) {
            tracing::warn!("{warning}");
        }
        *locked(&self.outbox.obstacles) = obstacles.clone();
        self.warned = warnings;
    }
}

/// The addresses of peers that packets of the wire go to.
fn peers(set: &PolicySet) -> Vec<IpAddr> {
    set.policies
        .iter()
        .filter_map(|policy| match &policy.action {
            PolicyAction::Protect { peers, .. } => Some(peers),
            PolicyAction::Bypass | PolicyAction::Discard => None,
        })
        .flatten()
        .copied()
        .collect()
}
