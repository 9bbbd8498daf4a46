//! What the control thread does to the system around it: it steers what the policies say, and
//! follows what others change.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hw_offload::{PolicyAction, PolicySet};

use super::{Control, TICK};
use crate::{
    backend::locked,
    policy::{PolicyIndex, compile, covers_everything, left_clear},
    steer::{Changes, connected},
};

impl Control {
    /// Makes `set` what is protected, in the system and for the workers.
    pub(super) fn set_policies(&mut self, set: PolicySet) -> Result<(), String> {
        self.outer = self.ways_out(&set)?;
        let connected = connected(&self.addresses, &self.outer);
        let rules = compile(&set, &connected);
        let applied = self.steering.apply(&rules, &self.addresses);
        if !matches!(applied, Ok(false))
            && self.watch.as_ref().is_some_and(|watch| watch.own_loads(1))
        {
            // Somebody else was at the table too, before or behind us.
            self.steering.doubt();
        }
        let changed = applied.map_err(|error| error.to_string())?;
        self.steering.look(&rules, &self.addresses, &peers(&set));
        // A peer that comes from somewhere else is a change of policies as well, and no reason
        // to make anything anew.
        if changed || self.model.set.is_none() {
            self.model.policies = Arc::new(PolicyIndex::new(rules));
        }
        *locked(&self.outbox.clear) = left_clear(&set, &connected);
        self.model.set = Some(set);
        if self.missing().is_some() {
            self.settled(None);
        }
        self.report_warnings();
        Ok(())
    }

    /// The interfaces that lead to peers, if it matters.
    fn ways_out(&mut self, set: &PolicySet) -> Result<BTreeSet<u32>, String> {
        if !covers_everything(set) {
            return Ok(BTreeSet::new());
        }
        self.steering.outer(&peers(set)).map_err(|error| error.to_string())
    }

    /// Goes back to the policies before a batch that was refused. Before the first ones nothing
    /// may be taken away: what a process before left blocked stays so, and so does what the
    /// refused batch has blocked already.
    pub(super) fn undo_policies(&mut self, before: Option<PolicySet>) {
        let Some(set) = before else {
            self.model.set = None;
            self.model.policies = Arc::default();
            self.steering.doubt();
            return;
        };
        if let Err(reason) = self.set_policies(set) {
            tracing::error!(%reason, "the policies before a refused batch cannot return");
            self.settled(Some(reason));
        }
    }

    /// Follows what others changed in the system, and puts back what they took out. What cannot
    /// be put back is tried again until it can.
    pub(super) fn follow(&mut self, changes: Changes) {
        if changes.table {
            tracing::warn!("somebody changed the nftables table of steering; it is put back");
            self.steering.doubt();
        }
        let due = self.settle_at.is_some_and(|at| self.shared.now() >= at);
        if !due && changes == Changes::default() {
            return;
        }
        let result = self.settle(changes, due);
        // What was missing before may still be, until everything has been tried.
        if due || self.settle_at.is_none() || result.is_err() {
            self.settled(result.err());
        }
    }

    /// Puts into the system what `changes` took out of it, or `all` there is.
    fn settle(&mut self, changes: Changes, all: bool) -> Result<(), String> {
        let mut moved = false;
        if all || changes.addresses || changes.filters {
            self.steering.guard_links(changes.filters);
            self.report_warnings();
        }
        if all || changes.addresses {
            let addresses = self.steering.addresses().map_err(|error| error.to_string())?;
            moved = addresses != self.addresses;
            self.addresses = addresses;
        }
        if changes.ways
            && !all
            && let Some(set) = self.model.set.take()
        {
            let outer = self.ways_out(&set);
            self.model.set = Some(set);
            moved |= outer? != self.outer;
        }
        let mut result = Ok(());
        // First, since routes with a source address that is gone cannot return.
        if (all || moved || changes.table)
            && let Some(set) = self.model.set.clone()
        {
            result = self.set_policies(set);
            self.publish(Vec::new());
        }
        if changes.down {
            let raised = self.steering.raise().map_err(|error| error.to_string());
            result = result.and(raised);
        }
        if all || changes.routes {
            let mended = self.steering.mend().map_err(|error| error.to_string());
            result = result.and(mended);
        }
        result
    }

    /// Notes whether everything stands in the system.
    fn settled(&mut self, failure: Option<String>) {
        let failure = failure.or_else(|| self.missing());
        self.settle_at = failure.is_some().then(|| self.shared.now() + TICK);
        self.steering.set_unsettled(failure);
        self.report_warnings();
    }

    /// What is known not to stand in the system.
    fn missing(&self) -> Option<String> {
        if self.model.set.is_some() && !self.steering.stands() {
            return Some("somebody else changed its nftables table meanwhile".to_owned());
        }
        self.steering.missing().map(str::to_owned)
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
