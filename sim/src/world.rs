//! The world: two gateways, a network and virtual time.

pub(crate) mod crossing;
mod incidents;
mod traffic;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crypto::aead::Engines;
use gateway::{
    command::{Command, CommandId},
    input::{CompletionResult, Input},
    output::{Output, RequestKind, Ticket},
    read_model::EventRecord,
};
use ike::config::Endpoints;
use sa_store::Instant;

use self::incidents::Broken;
use crate::{
    audit::NonceAuditor,
    book::{Book, Tally},
    network::{Content, Copy, Datagram, Nat, Network},
    node::Node,
    random::Seeded,
    scenario::{Incident, NAT, Scenario},
    trace::{self, Trace, name},
    want::Want,
};

/// Violations after which a run is over: what follows is mostly the same again.
const ENOUGH: usize = 5;

/// Steps at one instant after which the world says that a gateway spins.
const SPIN: u32 = 20_000;

/// Outputs of one input after which the world says that a gateway babbles.
const BABBLE: u32 = 5_000;

/// Something that happens at a time. What belongs to a gateway names the life it was for.
pub(crate) enum Happening {
    Arrival(Copy),
    Completion {
        side: usize,
        life: u64,
        ticket: Ticket,
        result: CompletionResult,
    },
    Traffic {
        side: usize,
        child: usize,
        round: u64,
    },
    Operator,
    Incident(Incident),
    PowerOn(usize),
    Command {
        side: usize,
        life: u64,
        command: Command,
    },
    /// What a side wants changes.
    Want {
        side: usize,
        want: Want,
    },
}

/// The world.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    /// A and B.
    pub(crate) nodes: [Node; 2],
    /// Virtual time.
    pub(crate) now: Instant,
    /// What must not have happened.
    pub(crate) violations: Vec<String>,
    /// The auditor of every sealed packet and message.
    pub(crate) auditor: Arc<NonceAuditor>,
    /// Rekeys of children and of IKE SAs, as each side saw them, over all its lives.
    pub(crate) rekeys: [(u64, u64); 2],
    pub(crate) trace: Trace,
    engines: Engines,
    network: Network,
    random: Seeded,
    book: Book,
    queue: BTreeMap<(Instant, u64), Happening>,
    next: u64,
    traffic: traffic::Pace,
    crossing: crossing::Crossing,
    /// Until the storm is over.
    stormy: bool,
    spinning: (Instant, u32),
    /// What devices have lost.
    broken: Vec<Broken>,
    /// How long not both have reported everything up, and since when they do not now.
    down: (Duration, Option<Instant>),
    /// Both have been up once in a world where nothing may take them down.
    settled: bool,
}

impl World {
    /// Builds the world of a scenario and tells both gateways what they want.
    pub(crate) fn new(scenario: Scenario) -> Self {
        let seed = scenario.seed;
        let auditor = Arc::new(NonceAuditor::default());
        let audit: Arc<dyn crypto::aead::NonceAudit> = auditor.clone();
        let engines = Engines::portable().with_audit(audit);
        let [a, _] = scenario.addresses;
        let nat = scenario.nat.then(|| Nat::new(a, NAT));
        let weather = scenario.weather.clone();
        let want = Want::first(&scenario);
        let node = |side| Node::new(&scenario, side, 0, want.clone(), &engines);
        let mut world = Self {
            nodes: [node(0), node(1)],
            now: Instant::from_nanos(1_000_000_000),
            violations: Vec::new(),
            auditor,
            rekeys: [(0, 0); 2],
            trace: Trace::new(scenario.trace),
            network: Network::new(weather, scenario.attacker, nat, Seeded::new(seed, 1)),
            engines,
            random: Seeded::new(seed, 2),
            book: Book::default(),
            queue: BTreeMap::new(),
            next: 0,
            traffic: traffic::Pace::default(),
            crossing: crossing::Crossing::default(),
            stormy: true,
            spinning: (Instant::ZERO, 0),
            broken: Vec::new(),
            down: (Duration::ZERO, Some(Instant::from_nanos(1_000_000_000))),
            settled: false,
            scenario,
        };
        for side in 0..2 {
            world.start(side);
        }
        world.start_traffic();
        world.plan_operator();
        let start = world.now;
        for (after, incident) in world.scenario.incidents.clone() {
            world.at(start + after, Happening::Incident(incident));
        }
        world
    }

    pub(crate) fn at(&mut self, at: Instant, happening: Happening) {
        self.queue.insert((at, self.next), happening);
        self.next += 1;
    }

    /// Something that must not be.
    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        if self.violations.len() < 2 * ENOUGH {
            let what = format!("{:?} {}", self.now, what.into());
            self.trace.note(self.now, || format!("VIOLATION {what}"));
            self.violations.push(what);
        }
    }

    /// Gives a command to one side.
    pub(crate) fn command(&mut self, side: usize, command: Command) -> Option<CommandId> {
        let now = self.now;
        self.trace.detail(now, || format!("{} <- {command:?}", name(side)));
        let node = self.nodes.get_mut(side).filter(|node| node.powered)?;
        let id = node.command(now, command);
        self.drain(side);
        Some(id)
    }

    /// Runs until `end`.
    pub(crate) fn run_until(&mut self, end: Instant) {
        loop {
            let happening = self.queue.first_key_value().map(|((at, _), _)| *at);
            let due = |node: &Node| node.powered.then(|| node.gateway.poll_timeout()).flatten();
            let [a, b] = [0, 1].map(|side: usize| self.nodes.get(side).and_then(due));
            let Some(next) = [happening, a, b].into_iter().flatten().min() else { break };
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if self.spins() || self.violations.len() >= ENOUGH {
                return;
            }
            if happening.is_some_and(|at| at <= next) {
                if let Some((_, happening)) = self.queue.pop_first() {
                    self.happen(happening);
                }
            } else {
                let side = usize::from(a.is_none_or(|a| b.is_some_and(|b| b < a)));
                self.input(side, Input::Wake);
            }
        }
        self.now = self.now.max(end);
    }

    /// Whether the world is stuck at one instant.
    fn spins(&mut self) -> bool {
        let (at, steps) = &mut self.spinning;
        if *at == self.now {
            *steps += 1;
        } else {
            (*at, *steps) = (self.now, 0);
        }
        let spins = *steps > SPIN;
        if spins {
            self.violation("time stands still: a gateway wants to be woken at once for ever");
        }
        spins
    }

    fn input(&mut self, side: usize, input: Input<'_>) {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(side).filter(|node| node.powered) {
            node.gateway.handle(now, input);
        }
        self.drain(side);
    }

    /// Does what a gateway asks for.
    fn drain(&mut self, side: usize) {
        let (mut changed, mut outputs) = (false, 0);
        while let Some(node) = self.nodes.get_mut(side).filter(|node| node.powered) {
            let Some(output) = node.gateway.poll_output() else { break };
            outputs += 1;
            if outputs > BABBLE {
                self.violation(format!("{} does not stop talking", name(side)));
                break;
            }
            match output {
                Output::Transmit { path, payload, keepalive } => {
                    let content = if keepalive {
                        Content::Keepalive
                    } else {
                        self.stir();
                        Content::Ike(payload)
                    };
                    let (source, destination) = (path.local, path.remote);
                    self.transmit(side, Datagram { source, destination, content });
                }
                Output::Request { ticket, kind } => self.request(side, ticket, kind),
                Output::Outcome { id, outcome } => {
                    node.outcomes.insert(id, outcome);
                }
                Output::Event(event) => {
                    changed = true;
                    node.hear(&event);
                    self.event(side, event);
                }
            }
        }
        if changed {
            self.look(side);
        }
    }

    fn event(&mut self, side: usize, event: EventRecord) {
        let calm = self.scenario.is_calm() && self.settled;
        if let Some((children, ike)) = self.rekeys.get_mut(side) {
            match event.kind {
                "child-rekeyed" => *children += 1,
                "ike-rekeyed" => *ike += 1,
                _ => {}
            }
        }
        if calm && event.kind == "child-down" {
            self.violation(format!("{} in a calm world: {}", name(side), event.message));
        }
        self.trace.event(side, event);
    }

    /// Looks at what a gateway reports.
    pub(crate) fn look(&mut self, side: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(side) else { return };
        let was_up = node.up_since.is_some();
        node.look(now);
        let is_up = node.up_since.is_some();
        let broken = std::mem::take(&mut node.broken_promises);
        for what in broken {
            self.violation(format!("{}: {what}", name(side)));
        }
        if was_up != is_up {
            let word = if is_up { "up" } else { "down" };
            self.trace.detail(now, || format!("{} reports {word}", name(side)));
        }
        let all_up = self.nodes.iter().all(|node| node.up_since.is_some());
        match (&mut self.down, all_up) {
            ((time, since), true) => {
                *time += since.take().map_or(Duration::ZERO, |at| now.since(at))
            }
            ((_, since), false) => *since = since.or(Some(now)),
        }
        if self.scenario.is_calm() {
            if self.settled && was_up && !is_up {
                self.violation(format!("{} reports down in a calm world", name(side)));
            }
            self.settled |= all_up;
        }
    }

    fn request(&mut self, side: usize, ticket: Ticket, kind: RequestKind) {
        let Some(node) = self.nodes.get_mut(side) else { return };
        let life = node.life;
        let fails = self.stormy && self.random.chance(self.scenario.failing);
        let again = (self.stormy && self.random.chance(self.scenario.doubled))
            .then(|| node.contradict(&kind));
        let result = node.answer(&self.scenario, kind, fails);
        let nanos = u64::try_from(self.scenario.thinking.as_nanos()).unwrap_or(0);
        let at = self.now + Duration::from_nanos(self.random.below(nanos + 1));
        self.at(at, Happening::Completion { side, life, ticket, result });
        if let Some(result) = again {
            let later = at + Duration::from_nanos(self.random.below(nanos + 1));
            self.at(later, Happening::Completion { side, life, ticket, result });
        }
    }

    /// Sends a datagram; how many copies will arrive in time.
    fn transmit(&mut self, side: usize, datagram: Datagram) -> usize {
        let now = self.now;
        let ladder = match &datagram.content {
            Content::Ike(octets) if self.scenario.trace => Some(trace::message(octets)),
            _ => None,
        };
        if let Content::Ike(octets) = &datagram.content {
            let node = self.nodes.get(side);
            let for_ike = |spi_i, spi_r| node.is_some_and(|it| it.rekeys_ike(now, spi_i, spi_r));
            self.crossing.sent(now, side, octets, for_ike);
        }
        let copies = self.network.carry(now, datagram);
        let count = copies.iter().filter(|copy| copy.timely).count();
        if let Some(ladder) = ladder {
            let fate = match count {
                0 => " LOST",
                1 => "",
                _ => " TWICE",
            };
            self.trace.detail(now, || format!("{} -> {ladder}{fate}", name(side)));
        }
        for copy in copies {
            self.at(copy.at, Happening::Arrival(copy));
        }
        count
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrival(copy) => self.arrive(copy),
            Happening::Completion { side, life, ticket, result } => {
                if self.lives(side, life) {
                    self.input(side, Input::Completion { ticket, result });
                }
            }
            Happening::Traffic { side, child, round } => self.traffic(side, child, round),
            Happening::Operator => {
                if self.stormy {
                    self.operator();
                    self.plan_operator();
                }
            }
            Happening::Incident(incident) => {
                if self.stormy {
                    self.incident(incident);
                }
            }
            Happening::PowerOn(side) => self.power_on(side),
            Happening::Command { side, life, command } => {
                if self.lives(side, life) {
                    self.command(side, command);
                }
            }
            Happening::Want { side, want } => {
                if let Some(node) = self.nodes.get_mut(side) {
                    node.want = want;
                }
                self.reload(side);
            }
        }
    }

    fn lives(&self, side: usize, life: u64) -> bool {
        self.nodes.get(side).is_some_and(|node| node.life == life && node.powered)
    }

    fn arrive(&mut self, copy: Copy) {
        let Copy { datagram, timely, .. } = copy;
        let Datagram { source, destination, content } = datagram;
        let ours = |address: &std::net::IpAddr| *address == destination.ip();
        let Some(side) = self.scenario.addresses.iter().position(ours) else { return };
        match content {
            Content::Ike(payload) => {
                let now = self.now;
                self.trace.detail(now, || {
                    let how = if timely { "" } else { " (not genuine)" };
                    format!("    {} <= {}{how}", name(side), trace::message(&payload))
                });
                if timely {
                    self.crossing.arrived(now, side, &payload);
                }
                let path = Endpoints { local: destination, remote: source };
                self.input(side, Input::Datagram { path, payload: &payload });
            }
            Content::Keepalive => {}
            Content::EspInUdp(esp, number) | Content::RawEsp(esp, number) => {
                self.arrive_esp(side, source, &esp, number, timely);
            }
        }
    }

    /// The storm is over: nothing is lost, late or refused any more.
    pub(crate) fn calm(&mut self) {
        self.stormy = false;
        self.network.clear();
        for node in &self.nodes {
            node.device.core().heal();
        }
    }

    /// How often requests of both ends crossed on one IKE SA.
    pub(crate) const fn crossed(&self) -> crossing::Crossed {
        self.crossing.count
    }

    /// How long one of the two did not report everything up.
    pub(crate) fn down(&self) -> Duration {
        let (time, since) = self.down;
        time + since.map_or(Duration::ZERO, |at| self.now.since(at))
    }

    /// What became of all packets.
    pub(crate) const fn tally(&self) -> Tally {
        self.book.tally()
    }
}
