//! One gateway of the world with its device and the driver around it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crypto::{aead::Engines, ke};
use gateway::{
    Gateway, Randomness,
    command::{Command, CommandId, Outcome},
    input::{CompletionResult, Input},
    output::RequestKind,
    read_model::{ChildStatus, EventRecord, Status, TunnelState},
    spec::Origin,
};
use hw_offload::{Backend, placement::Registry};
use ike::{
    input::{Agreement, GeneratedKey, KeFailure},
    view::{ChildState, IkeState},
};
use sa_store::{IkeSpi, Instant, change::Databases, live::LiveTable};

use crate::{
    device::Device,
    random::Seeded,
    scenario::{NAME_OF_B, NAT, Scenario},
    want::{Want, child_name},
};

/// More IKE SAs, or SAs for each child, than this are a leak.
const MANY: usize = 12;

/// A gateway, its device, and what was seen of it.
pub(crate) struct Node {
    pub(crate) gateway: Gateway,
    pub(crate) device: Device,
    pub(crate) side: usize,
    /// How often it was started.
    pub(crate) life: u64,
    /// False between a crash and the next start.
    pub(crate) powered: bool,
    /// What its operator wants.
    pub(crate) want: Want,
    /// Since when it reports the tunnel established with all children; `None` while it does not.
    pub(crate) up_since: Option<Instant>,
    /// Since when it reports each child up that it does.
    children_up: BTreeMap<String, Instant>,
    /// Children of which events say that they are up.
    announced: BTreeSet<String>,
    /// Outcomes of commands that have come.
    pub(crate) outcomes: BTreeMap<CommandId, Outcome>,
    /// What the gateway must not have shown: counters that went back, a journal with a gap.
    pub(crate) broken_promises: Vec<String>,
    random: Seeded,
    next_command: u64,
    replica: Databases,
    counters: BTreeMap<String, [u64; 9]>,
}

impl Node {
    /// A gateway that was started for the `life`th time. Lives have nothing in common, not even
    /// their randomness.
    pub(crate) fn new(
        scenario: &Scenario,
        side: usize,
        life: u64,
        want: Want,
        engines: &Engines,
    ) -> Self {
        let label = 100 + 10 * side as u64 + 1000 * life;
        let stream = |part: u64| Seeded::new(scenario.seed, label + part);
        let live = Arc::new(LiveTable::new());
        let faults = scenario.faults.get(side).cloned().unwrap_or_else(crate::device::Faults::none);
        let device = Device::new(faults, engines.clone(), Arc::clone(&live), stream(0));
        let registry: Box<dyn Backend> = Box::new(Registry::new(vec![Box::new(device.clone())]));
        let randomness = Randomness {
            ike: Box::new(stream(1)),
            spis: Box::new(stream(2)),
            jitter: Box::new(stream(3)),
        };
        Self {
            gateway: Gateway::new(scenario.gateway(engines), registry, live, randomness),
            device,
            side,
            life,
            powered: true,
            want,
            up_since: None,
            children_up: BTreeMap::new(),
            announced: BTreeSet::new(),
            outcomes: BTreeMap::new(),
            broken_promises: Vec::new(),
            random: stream(4),
            next_command: 1,
            replica: Databases::new(1),
            counters: BTreeMap::new(),
        }
    }

    /// Gives a command.
    pub(crate) fn command(&mut self, now: Instant, command: Command) -> CommandId {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        self.gateway.handle(now, Input::Command { id, command });
        id
    }

    /// The command that makes the gateway want what its operator wants.
    pub(crate) fn apply(&self, scenario: &Scenario) -> Command {
        let connections = vec![self.want.connection(scenario, self.side)];
        Command::Apply { origin: Origin::File, connections }
    }

    /// Looks at what the gateway reports.
    pub(crate) fn look(&mut self, now: Instant) -> Status {
        let status = self.gateway.status(now);
        let up = self.powered
            && !status.tunnels.is_empty()
            && status.tunnels.iter().all(|tunnel| {
                // An operator may hold a child down while the tunnel is up.
                tunnel.state == TunnelState::Established && tunnel.children.iter().all(carries)
            });
        self.up_since = up.then(|| self.up_since.unwrap_or(now));
        let all = status.tunnels.iter().flat_map(|it| it.children.iter().map(move |c| (it, c)));
        let reported = all.filter(|(tunnel, child)| {
            tunnel.state != TunnelState::Deleting
                && carries(child)
                && (up || self.is_still_up(&child.name))
        });
        let since = |name: &String| self.children_up.get(name).copied().unwrap_or(now);
        self.children_up =
            reported.map(|(_, child)| (child.name.clone(), since(&child.name))).collect();
        self.check_counters(&status);
        self.check_sizes(&status);
        self.follow_journal();
        status
    }

    fn check_counters(&mut self, status: &Status) {
        for child in status.tunnels.iter().flat_map(|tunnel| &tunnel.children) {
            let drops = &child.dropped;
            let new = [
                child.packets_in,
                child.bytes_in,
                child.packets_out,
                child.bytes_out,
                drops.replay,
                drops.auth,
                drops.policy,
                drops.malformed,
                drops.expired,
            ];
            let old = self.counters.insert(child.name.clone(), new).unwrap_or_default();
            if old.iter().zip(new).any(|(old, new)| new < *old) {
                let what = format!("counters of {} went back: {old:?} to {new:?}", child.name);
                self.broken_promises.push(what);
            }
        }
        let names = |name: &String| {
            status.tunnels.iter().flat_map(|t| &t.children).any(|child| child.name == *name)
        };
        self.counters.retain(|name, _| names(name));
    }

    fn check_sizes(&mut self, status: &Status) {
        for tunnel in &status.tunnels {
            let (ike, children) = (tunnel.ike_sas.len(), tunnel.children.len().max(1));
            let sas = self.gateway.databases().sad().iter().count();
            if ike > MANY || sas > 2 * MANY * children {
                self.broken_promises.push(format!("{ike} IKE SAs, {sas} SAs: they pile up"));
            }
        }
    }

    /// Whether a child that was up goes on while others come and go. Those of a tunnel that is
    /// being set up are not up before all are: each end may have its own of two crosswise ones.
    fn is_still_up(&self, child: &String) -> bool {
        self.children_up.contains_key(child) && self.announced.contains(child)
    }

    /// An event says whether a child is up.
    pub(crate) fn hear(&mut self, event: &EventRecord) {
        let Some(child) = &event.child else { return };
        match event.kind {
            "child-installed" | "child-rekeyed" => {
                self.announced.insert(child.clone());
            }
            "child-down" => {
                self.announced.remove(child);
            }
            _ => {}
        }
    }

    /// Does to the replica what the journal says.
    fn follow_journal(&mut self) {
        let databases = self.gateway.databases();
        match databases.changes(self.replica.written()) {
            Some(changes) => changes.cloned().for_each(|change| self.replica.apply(change)),
            None => self.broken_promises.push("the journal has a gap".into()),
        }
    }

    /// Whether whoever followed the journal has the same databases.
    pub(crate) fn replica_agrees(&self) -> bool {
        let (ours, theirs) = (self.gateway.databases(), &self.replica);
        (ours.sad(), ours.spd(), ours.pad()) == (theirs.sad(), theirs.spd(), theirs.pad())
    }

    /// Whether a child was reported down at some moment from `since` on.
    pub(crate) fn was_down(&self, since: Instant, child: usize) -> bool {
        !self.powered || self.children_up.get(&child_name(child)).is_none_or(|up| *up > since)
    }

    /// Whether it is replacing an IKE SA.
    pub(crate) fn rekeys_ike(&self, now: Instant, spi_i: IkeSpi, spi_r: IkeSpi) -> bool {
        let (spi_i, spi_r) = (spi_i.to_string(), spi_r.to_string());
        self.gateway
            .status(now)
            .tunnels
            .iter()
            .flat_map(|tunnel| &tunnel.ike_sas)
            .any(|sa| (&sa.spi_i, &sa.spi_r) == (&spi_i, &spi_r) && sa.state == IkeState::Rekeying)
    }

    /// Answers a request of the gateway, or says that it could not be done.
    pub(crate) fn answer(
        &mut self,
        scenario: &Scenario,
        kind: RequestKind,
        fails: bool,
    ) -> CompletionResult {
        let address = |side: usize| scenario.addresses.get(side).copied().unwrap_or(NAT);
        let (own, other) = (address(self.side), address(1 - self.side));
        match kind {
            RequestKind::GenerateKey { .. } if fails => {
                CompletionResult::KeyGenerated(Err(KeFailure::Internal))
            }
            RequestKind::Agree { .. } | RequestKind::GenerateAndAgree { .. } if fails => {
                CompletionResult::Agreed(Err(KeFailure::Internal))
            }
            RequestKind::GenerateKey { group } => CompletionResult::KeyGenerated(
                ke::generate(group, &mut self.random)
                    .map(|pair| GeneratedKey { public: pair.public, private: pair.private })
                    .map_err(failure),
            ),
            RequestKind::Agree { private, peer_public, .. } => CompletionResult::Agreed(
                private
                    .agree(&peer_public)
                    .map(|shared| Agreement { public: None, shared })
                    .map_err(failure),
            ),
            RequestKind::GenerateAndAgree { group, peer_public, .. } => CompletionResult::Agreed(
                ke::generate(group, &mut self.random)
                    .and_then(|pair| {
                        let shared = pair.private.agree(&peer_public)?;
                        Ok(Agreement { public: Some(pair.public), shared })
                    })
                    .map_err(failure),
            ),
            RequestKind::Resolve { host } if fails || host != NAME_OF_B => {
                CompletionResult::Resolved(Err(format!("nobody knows {host} now")))
            }
            RequestKind::Resolve { .. } => CompletionResult::Resolved(Ok(vec![other])),
            RequestKind::SourceAddress { .. } if fails => {
                CompletionResult::Source(Err("there is no route now".into()))
            }
            RequestKind::SourceAddress { .. } => CompletionResult::Source(Ok(own)),
        }
    }

    /// A second, different answer to a request that was answered: nobody may listen to it.
    pub(crate) fn contradict(&mut self, kind: &RequestKind) -> CompletionResult {
        match kind {
            RequestKind::GenerateKey { group } => CompletionResult::KeyGenerated(
                ke::generate(*group, &mut self.random)
                    .map(|pair| GeneratedKey { public: pair.public, private: pair.private })
                    .map_err(failure),
            ),
            RequestKind::Agree { .. } | RequestKind::GenerateAndAgree { .. } => {
                CompletionResult::Agreed(Err(KeFailure::InvalidPublicValue))
            }
            RequestKind::Resolve { .. } => CompletionResult::Resolved(Ok(vec![NAT])),
            RequestKind::SourceAddress { .. } => CompletionResult::Source(Ok(NAT)),
        }
    }
}

/// Whether a child lets packets in and out: not any more from the moment it is told to go.
fn carries(child: &ChildStatus) -> bool {
    child.state.is_some_and(|state| state != ChildState::Deleting)
}

const fn failure(error: ke::KeError) -> KeFailure {
    match error {
        ke::KeError::Internal => KeFailure::Internal,
        _ => KeFailure::InvalidPublicValue,
    }
}
