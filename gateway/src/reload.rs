//! Desired state: what a reload changes, and the policies that follow.
//!
//! ```text
//!   Apply --> check --> policies to the backend --> taken: tunnels are created, changed, removed
//!                                               '-> refused: nothing has changed
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use hw_offload::PolicySet;
use ike::{event::FailureCode, input::Command};
use sa_store::{
    ChildId, Instant, TunnelId,
    change::Change,
    spd::{Spd, SpdEntry},
};

use crate::{
    bypass::Clear,
    command::{CommandId, Outcome},
    gateway::Gateway,
    policies::{self, ChildPlace},
    spec::{ChildSpec, ConnectionSpec, Origin, RemoteAddress},
    translate,
    tunnel::{Cause, Child, Lives, Phase, Tunnel, Will},
};

/// The backend learns at most this often that peers have other addresses than before. It only warns
/// with their help, and to set policies costs as much as all of them together.
const PEERS_PAUSE: Duration = Duration::from_secs(10);

/// The policies of the backend and what is on its way to it.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    /// The addresses of some peer have changed.
    pub(crate) stale: bool,
    /// When the backend was last told.
    told: Option<Instant>,
    /// What it has; `None` while that is what another process left behind, if anything.
    current: Option<PolicySet>,
    in_flight: Option<InFlight>,
    queue: VecDeque<Reload>,
}

impl Policies {
    /// When new addresses of peers are told.
    pub(crate) fn due(&self) -> Option<Instant> {
        let open = self.stale && self.in_flight.is_none();
        open.then(|| self.told.map_or(Instant::ZERO, |told| told + PEERS_PAUSE))
    }
}

#[derive(Debug)]
struct InFlight {
    set: PolicySet,
    /// What the policies follow from, if they are others than before.
    entries: Option<Vec<SpdEntry>>,
    plan: Option<Plan>,
}

/// A reload that waits for its turn.
#[derive(Debug)]
struct Reload {
    id: CommandId,
    origin: Origin,
    connections: Vec<ConnectionSpec>,
}

/// A reload with a handle for everything in it.
#[derive(Debug)]
struct Plan {
    id: CommandId,
    origin: Origin,
    tunnels: Vec<(TunnelId, Vec<ChildId>, ConnectionSpec)>,
}

/// What the sources of policies look like.
#[derive(Default)]
struct Sources {
    entries: Vec<SpdEntry>,
    children: BTreeMap<ChildId, ChildPlace>,
}

impl Sources {
    fn add(&mut self, tunnel: TunnelId, child: ChildId, spec: &ChildSpec, place: ChildPlace) {
        self.entries.extend(policies::entries(tunnel, child, spec));
        self.children.insert(child, place);
    }
}

impl Gateway {
    /// Takes a reload.
    pub(crate) fn apply(&mut self, id: CommandId, origin: Origin, specs: Vec<ConnectionSpec>) {
        match check(&specs) {
            Ok(()) => {
                self.policies.queue.push_back(Reload { id, origin, connections: specs });
            }
            Err(message) => {
                let code = "invalid-configuration".to_owned();
                self.outcome(id, Outcome::Failed { code, message });
            }
        }
    }

    /// Starts what is due about policies; whether anything was.
    pub(crate) fn drive_policies(&mut self, now: Instant) -> bool {
        if self.policies.in_flight.is_some() {
            return false;
        }
        let plan = match self.policies.queue.pop_front() {
            Some(reload) => Some(self.plan(reload)),
            None if self.policies.due().is_some_and(|due| due <= now) => None,
            None => return false,
        };
        self.policies.stale = false;
        let sources = self.sources(plan.as_ref());
        let spd = Spd::new(sources.entries.clone());
        let set = policies::set(&spd, &sources.children);
        if self.policies.current.as_ref() == Some(&set) {
            if let Some(plan) = plan {
                self.commit(now, plan);
            }
            return true;
        }
        self.installer.set_policies(set.clone());
        let entries = (spd != *self.store.spd()).then_some(sources.entries);
        self.policies.told = Some(now);
        self.policies.in_flight = Some(InFlight { set, entries, plan });
        true
    }

    /// Gives every connection of a reload its handle: the one it had, else a new one.
    fn plan(&mut self, reload: Reload) -> Plan {
        let Reload { id, origin, connections } = reload;
        let own = self.tunnels.values().filter(|tunnel| tunnel.origin == origin);
        let by_name: BTreeMap<&str, &Tunnel> = own
            .filter(|tunnel| tunnel.will != Will::Removed)
            .map(|tunnel| (&*tunnel.spec.name, tunnel))
            .collect();
        let mut tunnels = Vec::new();
        for spec in connections {
            let known = by_name.get(&*spec.name).copied();
            let old: BTreeMap<&str, ChildId> = known
                .into_iter()
                .flat_map(|tunnel| &tunnel.children)
                .map(|child| (&*child.spec.name, child.id))
                .collect();
            let mut children = Vec::new();
            for child in &spec.children {
                let old = old.get(&*child.name);
                children.push(old.map_or_else(|| fresh(&mut self.next_child), |old| old.0));
            }
            let tunnel = known.map_or_else(|| fresh(&mut self.next_tunnel), |known| known.id.0);
            let children = children.into_iter().map(ChildId).collect();
            tunnels.push((TunnelId(tunnel), children, spec));
        }
        Plan { id, origin, tunnels }
    }

    /// What the policies follow from: all tunnels, those of a planned origin as planned.
    fn sources(&self, plan: Option<&Plan>) -> Sources {
        let mut sources = Sources::default();
        let mut tunnels: Vec<&Tunnel> =
            self.tunnels.values().filter(|tunnel| tunnel.will != Will::Removed).collect();
        tunnels.sort_by_key(|tunnel| (&tunnel.origin, tunnel.rank));
        for tunnel in tunnels {
            if plan.is_some_and(|plan| plan.origin == tunnel.origin) {
                continue;
            }
            let peers = tunnel.peers();
            for child in &tunnel.children {
                let offload = child.spec.offload.clone();
                let place = ChildPlace { peers: peers.clone(), offload };
                sources.add(tunnel.id, child.id, &child.spec, place);
            }
        }
        for (tunnel, children, spec) in plan.iter().flat_map(|plan| &plan.tunnels) {
            let known = self.tunnels.get(tunnel).map(Tunnel::peers).unwrap_or_default();
            let configured = spec.remote.iter().filter_map(|remote| match remote {
                RemoteAddress::Address(ip) => Some(*ip),
                _ => None,
            });
            let peers: BTreeSet<_> = known.into_iter().chain(configured).collect();
            for (child, spec) in children.iter().zip(&spec.children) {
                let place = ChildPlace {
                    peers: peers.iter().copied().collect(),
                    offload: spec.offload.clone(),
                };
                sources.add(*tunnel, *child, spec, place);
            }
        }
        sources
    }

    /// The backend took the policies, or did not.
    pub(crate) fn policies_answered(&mut self, now: Instant, result: Result<(), String>) {
        let Some(InFlight { set, entries, plan }) = self.policies.in_flight.take() else { return };
        match (result, plan) {
            (Ok(()), plan) => {
                self.policies.current = Some(set);
                if let Some(entries) = entries {
                    self.store.apply(Change::PoliciesSet(entries));
                }
                if let Some(plan) = plan {
                    self.commit(now, plan);
                }
            }
            (Err(reason), Some(plan)) => {
                // New addresses of peers were refused with it.
                self.policies.stale = true;
                let message = format!("the policies were refused, nothing has changed: {reason}");
                let code = FailureCode::InstallFailed.as_str().to_owned();
                self.outcome(plan.id, Outcome::Failed { code, message });
            }
            (Err(reason), None) => {
                let message = format!("the policies could not be updated: {reason}");
                let code = Some(FailureCode::InstallFailed.as_str().to_owned());
                self.note(now, None, "failed", code, message);
            }
        }
    }

    /// Makes a plan true: the backend has its policies already.
    fn commit(&mut self, now: Instant, plan: Plan) {
        let Plan { id, origin, tunnels } = plan;
        let kept: BTreeSet<TunnelId> = tunnels.iter().map(|(tunnel, ..)| *tunnel).collect();
        let gone: Vec<TunnelId> = self
            .tunnels
            .values()
            .filter(|t| t.origin == origin && t.will != Will::Removed && !kept.contains(&t.id))
            .map(|tunnel| tunnel.id)
            .collect();
        for tunnel in &gone {
            self.remove(now, *tunnel);
        }
        let (mut new, mut changed, total) = (0, 0, tunnels.len());
        for (rank, (tunnel, children, spec)) in tunnels.into_iter().enumerate() {
            if self.tunnels.contains_key(&tunnel) {
                changed += usize::from(self.update(now, tunnel, rank, &children, spec));
            } else {
                new += 1;
                self.create(now, tunnel, &origin, rank, &children, spec);
            }
        }
        let message = format!(
            "{total} tunnels: {new} new, {changed} changed, {} unchanged; {} removed",
            total - new - changed,
            gone.len()
        );
        self.outcome(id, Outcome::Done(message));
    }

    fn create(
        &mut self,
        now: Instant,
        id: TunnelId,
        origin: &Origin,
        rank: usize,
        children: &[ChildId],
        mut spec: ConnectionSpec,
    ) {
        let specs = std::mem::take(&mut spec.children);
        let tunnel = Tunnel {
            id,
            origin: origin.clone(),
            rank,
            spec,
            children: children.iter().zip(specs).map(|(id, spec)| Child::new(*id, spec)).collect(),
            will: Will::Mode,
            phase: Phase::Idle,
            failures: 0,
            lives: Lives::default(),
            ike_sas: BTreeMap::new(),
            resolved: Vec::new(),
            last_path: None,
            last_error: None,
        };
        self.homes.extend(tunnel.children.iter().map(|child| (child.id, id)));
        self.tunnels.insert(id, tunnel);
        self.configure(now, id);
        self.start(now, id);
    }

    /// Tells IKE and the databases what a tunnel is now.
    pub(crate) fn configure(&mut self, now: Instant, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get(&id) else { return };
        let (connection, peer) = (translate::connection(tunnel), translate::peer(tunnel));
        self.store.apply(Change::PeerSet(peer));
        self.tell_ike(now, Command::Configure(connection));
    }

    fn remove(&mut self, now: Instant, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        tunnel.will = Will::Removed;
        tunnel.begin_deletion(Cause::Configuration, false, now + self.config.delete_patience);
        self.touched.insert(id);
        self.fail_waiters_with(id, None, "unknown-tunnel", "the tunnel was removed");
        self.store.apply(Change::PeerRemoved(id));
        self.installer.withdraw(id, None);
        self.tell_ike(now, Command::Forget(id));
    }

    /// Changes a tunnel to `spec`; whether anything was different.
    fn update(
        &mut self,
        now: Instant,
        id: TunnelId,
        rank: usize,
        ids: &[ChildId],
        mut spec: ConnectionSpec,
    ) -> bool {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return false };
        self.touched.insert(id);
        tunnel.rank = rank;
        let specs = std::mem::take(&mut spec.children);
        let same_ike = translate::same_ike(&tunnel.spec, &spec);
        let same_mode = tunnel.spec.mode == spec.mode;
        tunnel.spec = spec;
        for child in &tunnel.children {
            self.homes.remove(&child.id);
        }
        self.homes.extend(ids.iter().map(|child| (*child, id)));
        let children = replace_children(tunnel, ids, specs, now);
        let held = tunnel.will == Will::Held;
        if same_ike && same_mode && !children.any() {
            return false;
        }
        if !same_ike {
            tunnel.failures = 0;
            tunnel.lives = Lives::default();
            let again = tunnel.should_be_up();
            let busy = !tunnel.ike_sas.is_empty();
            // What the old ones let in was agreed on with a peer that may be another one now.
            self.installer.withdraw(id, None);
            if busy {
                tunnel.begin_deletion(
                    Cause::Configuration,
                    again,
                    now + self.config.delete_patience,
                );
            }
            if !held {
                self.configure(now, id);
                self.tell_ike(now, Command::Terminate { tunnel: id });
                if !busy {
                    self.start(now, id);
                }
            }
            return true;
        }
        if children.any() {
            for child in children.withdraw {
                self.installer.withdraw(id, Some(child));
            }
            for child in children.terminate {
                self.tell_ike(now, Command::TerminateChild { child });
            }
            for child in children.removed {
                self.fail_waiters_of(id, child, "unknown-child", "the child was removed");
            }
            if !held {
                self.configure(now, id);
                self.call_anew(now, id);
            }
        }
        if !same_mode && !held {
            self.mode_changed(now, id);
        }
        self.resolve(id);
        true
    }

    fn mode_changed(&mut self, now: Instant, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        match (&tunnel.phase, tunnel.should_be_up()) {
            (Phase::Idle, true) => self.start(now, id),
            (Phase::Waiting(_), false) => tunnel.phase = Phase::Idle,
            (Phase::Trying(_), false) => {
                tunnel.phase = Phase::Idle;
                self.tell_ike(now, Command::Terminate { tunnel: id });
            }
            (Phase::Up, true) => {
                for child in &mut tunnel.children {
                    child.retry = child.retry.or_else(|| child.is_missing().then_some(now));
                }
            }
            _ => {}
        }
    }

    /// Forgets a removed tunnel of which nothing is left.
    pub(crate) fn forget_if_gone(&mut self, id: TunnelId) {
        let gone = self.tunnels.get(&id).is_some_and(|tunnel| {
            tunnel.will == Will::Removed
                && tunnel.ike_sas.is_empty()
                && !self.installer.holds(id, None)
        });
        if gone && let Some(tunnel) = self.tunnels.remove(&id) {
            for child in &tunnel.children {
                self.homes.remove(&child.id);
            }
        }
    }
}

fn fresh(next: &mut u32) -> u32 {
    let id = *next;
    *next = next.wrapping_add(1);
    id
}

/// What became of a tunnel's children.
struct ChildChanges {
    /// Children whose pairs must go: removed ones and changed ones.
    terminate: Vec<ChildId>,
    /// Those of them whose pairs must let nothing in from now on: what they protect has changed.
    withdraw: Vec<ChildId>,
    removed: Vec<ChildId>,
    added: bool,
}

impl ChildChanges {
    fn any(&self) -> bool {
        self.added || !self.terminate.is_empty()
    }
}

/// Gives a tunnel its new children; those that stay the same are not touched.
fn replace_children(
    tunnel: &mut Tunnel,
    ids: &[ChildId],
    specs: Vec<ChildSpec>,
    now: Instant,
) -> ChildChanges {
    let mut old: BTreeMap<ChildId, Child> =
        std::mem::take(&mut tunnel.children).into_iter().map(|child| (child.id, child)).collect();
    let mut changes = ChildChanges {
        terminate: Vec::new(),
        withdraw: Vec::new(),
        removed: Vec::new(),
        added: false,
    };
    for (id, spec) in ids.iter().zip(specs) {
        let child = match old.remove(id) {
            Some(mut child) => {
                if !same_pair(&child.spec, &spec) {
                    changes.terminate.push(child.id);
                    if (&child.spec.local, &child.spec.remote) != (&spec.local, &spec.remote) {
                        changes.withdraw.push(child.id);
                    }
                    child.failures = 0;
                    child.lives = Lives::default();
                    // A pair that is up goes first; its end asks for the new one.
                    child.changed = !child.up.is_empty();
                    child.retry = (!child.changed).then_some(now);
                }
                child.spec = spec;
                child
            }
            None => {
                changes.added = true;
                let mut child = Child::new(*id, spec);
                child.retry = Some(now);
                child
            }
        };
        tunnel.children.push(child);
    }
    changes.withdraw.extend(old.keys());
    changes.removed.extend(old.keys());
    changes.terminate.extend(old.keys());
    changes
}

/// Whether two specs of a child give the same pair; `bypass` is a matter of policies alone.
fn same_pair(a: &ChildSpec, b: &ChildSpec) -> bool {
    let without_bypass = |spec: &ChildSpec| ChildSpec { bypass: Vec::new(), ..spec.clone() };
    without_bypass(a) == without_bypass(b)
}

/// What no front end should let through.
fn check(specs: &[ConnectionSpec]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for spec in specs {
        let name = &spec.name;
        if !names.insert(name) {
            return Err(format!("there are two tunnels with the name `{name}`"));
        }
        if spec.remote.is_empty() {
            return Err(format!("tunnel `{name}` has no remote address"));
        }
        if spec.proposals.is_empty() {
            return Err(format!("tunnel `{name}` has no IKE proposal"));
        }
        let mut children = BTreeSet::new();
        for child in &spec.children {
            let what = format!("child `{}` of tunnel `{name}`", child.name);
            if !children.insert(&child.name) {
                return Err(format!("there are two of {what}"));
            }
            if child.local.is_empty() || child.remote.is_empty() {
                return Err(format!("{what} needs selectors on both sides"));
            }
            let clear = Clear::of(&child.local, &child.remote, &child.bypass);
            if let Some(network) = clear.voided(&child.local, &child.remote).first() {
                return Err(format!("the bypass of {what} leaves nothing of {network} to protect"));
            }
            if child.proposals.is_empty() {
                return Err(format!("{what} has no ESP proposal"));
            }
            if child.replay_window != 0 && !(32..=4096).contains(&child.replay_window) {
                return Err(format!(
                    "{what}: a replay window has 32 to 4096 packets, or 0 for off"
                ));
            }
        }
    }
    Ok(())
}
