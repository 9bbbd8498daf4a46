//! One run, from its seed to its report.

use std::{collections::BTreeSet, fmt, time::Duration};

use gateway::read_model::{Status, TunnelState};
use ike::view::{ChildState, IkeState};
use sa_store::Instant;

use crate::{
    book::Tally,
    scenario::Scenario,
    trace::name,
    want::child_name,
    world::{World, crossing::Crossed},
};

/// Rekeys that both sides of a run must have seen.
pub const REKEYS: u64 = 10;

/// Time for everything to come right after the storm.
const AFTERMATH: Duration = Duration::from_secs(600);

/// Packets that every child must carry each way at the end, all of them.
const LAST_PACKETS: u32 = 20;

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Its scenario.
    pub scenario: Scenario,
    /// What must not have happened.
    pub violations: Vec<String>,
    /// What became of all packets.
    pub tally: Tally,
    /// Rekeys of children and of IKE SAs, as the two sides saw them.
    pub rekeys: [(u64, u64); 2],
    /// How often CREATE_CHILD_SA requests of both ends crossed on one IKE SA.
    pub crossed: Crossed,
    /// Virtual time that passed.
    pub lasted: Duration,
    /// For how much of it one side did not report everything up.
    pub down: Duration,
    /// Packets and messages that the auditor saw sealed.
    pub sealed: u64,
    /// The newest events, or all of them and every message.
    pub story: Vec<String>,
}

impl Report {
    /// Whether nothing happened that must not.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.story.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        writeln!(f, "seed {}: {:?}", self.scenario.seed, self.tally)?;
        writeln!(
            f,
            "  rekeys {:?}, crossed {:?}, sealed {}",
            self.rekeys, self.crossed, self.sealed
        )?;
        writeln!(f, "  {:?}", self.scenario)?;
        self.violations.iter().try_for_each(|line| writeln!(f, "  VIOLATION {line}"))
    }
}

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: Scenario) -> Report {
    let storm = scenario.storm;
    let mut world = World::new(scenario);
    let start = world.now;
    world.run_until(start + storm);
    // A bad storm may leave little time for rekeys.
    for _ in 0..6 {
        if world.rekeys.iter().all(|(children, ike)| children + ike >= REKEYS) {
            break;
        }
        let end = world.now + storm / 2;
        world.run_until(end);
    }
    if world.violations.is_empty() {
        world.calm();
        let end = world.now + AFTERMATH;
        world.run_until(end);
        check_end(&mut world);
    }
    check_always(&mut world, start, start + storm);
    Report {
        violations: world.violations.clone(),
        tally: world.tally(),
        rekeys: world.rekeys,
        crossed: world.crossed(),
        lasted: world.now.since(start),
        down: world.down(),
        sealed: world.auditor.sealed(),
        story: if world.violations.is_empty() && !world.scenario.trace {
            Vec::new()
        } else {
            world.trace.lines()
        },
        scenario: world.scenario,
    }
}

/// What must hold however a run ended.
fn check_always(world: &mut World, start: Instant, until: Instant) {
    for (key, iv) in world.auditor.repeated().into_iter().take(3) {
        world.violation(format!("key {key:?} was used twice with nonce {iv:02x?}"));
    }
    if !world.violations.is_empty() {
        return;
    }
    if world.tally().delivered == 0 {
        world.violation("not a single packet arrived");
    }
    let (down, lasted) = (world.down(), world.now.since(start));
    if down > lasted / 3 {
        world.violation(format!("something was down for {down:?} of {lasted:?}"));
    }
    if world.now < until {
        world.violation("it was over too early");
    }
    for side in 0..2 {
        let (children, ike) = world.rekeys.get(side).copied().unwrap_or_default();
        if children + ike < REKEYS {
            world.violation(format!("{} saw only {} rekeys", name(side), children + ike));
        }
    }
}

/// What must hold at the end of every run: one IKE SA, one pair for each child, at both ends the
/// same, and packets that pass.
fn check_end(world: &mut World) {
    // A rekey may be under way at any moment: look again a little later.
    let mut problems = Vec::new();
    for _ in 0..20 {
        problems = end_state(world);
        if problems.is_empty() {
            break;
        }
        let later = world.now + Duration::from_secs(7);
        world.run_until(later);
    }
    for problem in problems {
        world.violation(problem);
    }
    let before = world.tally();
    let children = world.nodes[0].want.children.clone();
    for _ in 0..LAST_PACKETS {
        for (side, child) in children.iter().flat_map(|child| [(0, *child), (1, *child)]) {
            world.send(side, child);
        }
        let later = world.now + Duration::from_millis(50);
        world.run_until(later);
    }
    let later = world.now + world.scenario.lateness();
    world.run_until(later);
    let (after, wanted) = (world.tally(), u64::from(LAST_PACKETS) * 2 * children.len() as u64);
    if after.delivered - before.delivered < wanted || after.down != before.down {
        world.violation(format!("traffic does not pass at the end: {before:?}, {after:?}"));
    }
    for side in 0..2 {
        world.look(side);
        let Some(node) = world.nodes.get(side) else { continue };
        if !node.replica_agrees() {
            world.violation(format!("the journal of {} tells another story", name(side)));
        }
    }
}

/// What is not as it must be.
fn end_state(world: &mut World) -> Vec<String> {
    let mut problems = Vec::new();
    let now = world.now;
    let views = world.nodes.each_mut().map(|node| {
        let status = node.look(now);
        let wanted = &node.want.children;
        let mut own = side_state(&status, wanted);
        let installed: BTreeSet<_> = node.device.core().installed().into_iter().collect();
        let known: BTreeSet<_> =
            node.gateway.databases().sad().iter().map(|entry| entry.id).collect();
        if installed.len() != 2 * wanted.len() || installed != known {
            own.push(format!("the device holds {installed:?}, the gateway knows {known:?}"));
        }
        problems.extend(own.into_iter().map(|what| format!("{}: {what}", name(node.side))));
        View::of(&status)
    });
    let [a, b] = views;
    let mirrored = b.clone().mirrored();
    if a != mirrored {
        problems.push(format!("the SAs do not fit: A {a:?}, B {b:?}"));
    }
    problems
}

/// What is not as it must be on one side alone.
fn side_state(status: &Status, wanted: &[usize]) -> Vec<String> {
    let mut problems = Vec::new();
    let [tunnel] = &status.tunnels[..] else { return vec!["the tunnel is gone".into()] };
    if tunnel.state != TunnelState::Established {
        problems.push(format!("the tunnel is {:?}, {:?}", tunnel.state, tunnel.last_error));
    }
    match &tunnel.ike_sas[..] {
        [one] if one.state == IkeState::Established => {}
        other => problems.push(format!("IKE SAs: {other:?}")),
    }
    let names: Vec<_> = tunnel.children.iter().map(|child| child.name.clone()).collect();
    if names != wanted.iter().map(|child| child_name(*child)).collect::<Vec<_>>() {
        problems.push(format!("children are {names:?}"));
    }
    for child in &tunnel.children {
        if child.state != Some(ChildState::Installed) || !child.draining.is_empty() {
            let (name, state, draining) = (&child.name, child.state, &child.draining);
            problems.push(format!("child {name} is {state:?}, draining {draining:?}"));
        }
    }
    problems
}

/// What both ends must see the same.
#[derive(Clone, PartialEq, Eq, Debug)]
struct View {
    ike: Vec<(String, String)>,
    /// Name, SPI in, SPI out.
    children: Vec<(String, String, String)>,
}

impl View {
    fn of(status: &Status) -> Self {
        let tunnels = || status.tunnels.iter();
        let ike = tunnels().flat_map(|tunnel| &tunnel.ike_sas);
        let children = tunnels().flat_map(|tunnel| &tunnel.children);
        Self {
            ike: ike.map(|sa| (sa.spi_i.clone(), sa.spi_r.clone())).collect(),
            children: children
                .map(|child| (child.name.clone(), child.spi_in.clone(), child.spi_out.clone()))
                .collect(),
        }
    }

    fn mirrored(self) -> Self {
        let Self { ike, children } = self;
        let turn = |(name, spi_in, spi_out)| (name, spi_out, spi_in);
        Self { ike, children: children.into_iter().map(turn).collect() }
    }
}
