//! What operators do, and what goes wrong.

use std::time::Duration;

use gateway::{
    command::{Command, Target},
    spec::Origin,
};
use sa_store::{Direction, EspSpi, Instant};

use super::{Happening, World};
use crate::{
    node::Node,
    scenario::Incident,
    trace::name,
    want::{self, TUNNEL, Want, child_name},
};

/// How long it may take until an SA that a device lost is replaced: a rekey in bad weather, or
/// the set-up after one that failed.
const REPAIR: Duration = Duration::from_secs(300);

/// An SA that a device has lost: packets of its child are missing in its direction until its
/// successor carries them.
#[derive(Debug)]
pub(super) struct Broken {
    side: usize,
    child: usize,
    /// Of an inbound SA; packets to it name it.
    spi: Option<EspSpi>,
    until: Instant,
}

/// How long a gateway gets to say goodbye.
const GOODBYE: Duration = Duration::from_secs(4);

impl World {
    /// Tells a gateway that has just been started what it should want.
    pub(super) fn start(&mut self, side: usize) {
        let Some(node) = self.nodes.get(side) else { return };
        let apply = node.apply(&self.scenario);
        let addresses = self.scenario.addresses.get(side).copied().into_iter().collect();
        self.command(side, Command::LocalAddresses(addresses));
        self.command(side, apply);
    }

    pub(super) fn plan_operator(&mut self) {
        let mean = self.scenario.operators.as_secs();
        let at = self.now + Duration::from_secs(self.random.between(mean / 2, mean * 3 / 2));
        self.at(at, Happening::Operator);
    }

    /// An operator rekeys something: often at both ends at the same time, and not always the
    /// same thing.
    pub(super) fn operator(&mut self) {
        let first = usize::from(self.random.chance(50));
        let target = self.something();
        let other = if self.random.chance(70) { target.clone() } else { self.something() };
        self.command(first, Command::Rekey(target));
        if self.random.chance(60) {
            self.command(1 - first, Command::Rekey(other));
        }
    }

    fn something(&mut self) -> Target {
        let child = self.random.chance(70).then(|| {
            let index = self.random.below(self.scenario.children as u64);
            child_name(usize::try_from(index).unwrap_or(0))
        });
        Target { tunnel: TUNNEL.into(), child }
    }

    pub(super) fn incident(&mut self, incident: Incident) {
        let now = self.now;
        self.trace.note(now, || format!("{incident:?}"));
        match incident {
            Incident::Crash(side, seconds) => self.crash(side, Duration::from_secs(seconds)),
            Incident::CrashBoth => {
                self.crash(0, Duration::from_secs(1));
                self.crash(1, Duration::from_secs(1));
            }
            Incident::Restart(side) => {
                let life = self.nodes.get(side).map_or(0, |node| node.life);
                self.command(side, Command::Shutdown);
                self.at(now + GOODBYE, Happening::Incident(Incident::Crash(side, 0)));
                debug_assert!(self.lives(side, life) || self.nodes.iter().any(|n| !n.powered));
            }
            Incident::LoseSa(side) => self.lose(side),
            Incident::Rebind => {
                if let Some(nat) = self.network.nat() {
                    nat.rebind();
                }
            }
            Incident::ReloadSame(side) => self.reload(side),
            Incident::ReloadBroken(side) => {
                let Some(node) = self.nodes.get(side) else { return };
                let mut broken = node.want.connection(&self.scenario, side);
                broken.children.extend(broken.children.clone());
                let connections = vec![broken];
                self.command(side, Command::Apply { origin: Origin::File, connections });
            }
            Incident::ReloadLifetime(side) => self.change(side, |want| {
                want.lifetimes.0 += Duration::from_secs(7);
            }),
            Incident::ReloadIke(side) => self.change(side, |want| {
                want.dpd += Duration::from_secs(3);
            }),
            Incident::ReloadChild(side) => self.one_more_child(side),
            Incident::Hold(side, seconds) => self.hold(side, None, seconds),
            Incident::HoldChild(side, seconds) => {
                self.hold(side, Some(child_name(0)), seconds);
            }
        }
    }

    /// All state of a side is gone.
    fn crash(&mut self, side: usize, dark: Duration) {
        let Some(node) = self.nodes.get_mut(side).filter(|node| node.powered) else { return };
        node.powered = false;
        node.up_since = None;
        self.at(self.now + dark, Happening::PowerOn(side));
    }

    pub(super) fn power_on(&mut self, side: usize) {
        let Some(node) = self.nodes.get_mut(side).filter(|node| !node.powered) else { return };
        let (life, want) = (node.life + 1, node.want.clone());
        *node = Node::new(&self.scenario, side, life, want, &self.engines);
        if !self.stormy {
            node.device.core().heal();
        }
        self.trace.note(self.now, || format!("{} starts for the {life}. time", name(side)));
        self.start(side);
    }

    fn change(&mut self, side: usize, change: impl FnOnce(&mut Want)) {
        let Some(node) = self.nodes.get_mut(side) else { return };
        change(&mut node.want);
        self.reload(side);
    }

    /// Applies what a side wants.
    pub(super) fn reload(&mut self, side: usize) {
        let Some(node) = self.nodes.get(side) else { return };
        let apply = node.apply(&self.scenario);
        self.command(side, apply);
    }

    /// One more child for a while; the other side follows a little later.
    fn one_more_child(&mut self, first: usize) {
        let extra = self.scenario.children;
        let (mut at, stay): (Instant, u64) = (self.now, self.random.between(60, 600));
        for side in [first, 1 - first] {
            let Some(node) = self.nodes.get(side) else { continue };
            let (mut more, mut less) = (node.want.clone(), node.want.clone());
            less.children.retain(|child| *child != extra);
            more.children.clone_from(&less.children);
            more.children.push(extra);
            self.at(at, Happening::Want { side, want: more });
            self.at(at + Duration::from_secs(stay), Happening::Want { side, want: less });
            at = at + Duration::from_secs(self.random.between(0, 5));
        }
    }

    fn hold(&mut self, side: usize, child: Option<String>, seconds: u64) {
        let Some(life) = self.nodes.get(side).map(|node| node.life) else { return };
        let target = Target { tunnel: TUNNEL.into(), child };
        self.command(side, Command::Down(target.clone()));
        let at = self.now + Duration::from_secs(seconds);
        self.at(at, Happening::Command { side, life, command: Command::Up(target) });
    }

    /// A device loses one of its SAs: packets are missing until IKE has replaced it.
    fn lose(&mut self, side: usize) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(side) else { return };
        let installed = node.device.core().installed();
        let victim = self.random.below(installed.len() as u64);
        let Some(sa) = installed.get(usize::try_from(victim).unwrap_or(0)) else { return };
        let Some(record) = node.device.core().lose(now, *sa) else { return };
        let spi = (record.direction == Direction::Inbound).then_some(record.spi);
        let child = (0..self.lanes()).find(|child| {
            let host = want::host(side, *child).into();
            record.local_selectors.iter().any(|selector| selector.contains_address(host))
        });
        let until = now + REPAIR;
        self.broken.extend(child.map(|child| Broken { side, child, spi, until }));
    }

    /// Whether a side that cannot send a packet through a child has lost the SA for it.
    pub(super) fn cannot_send(&self, side: usize, child: usize) -> bool {
        self.broken.iter().any(|it| {
            it.spi.is_none() && (it.side, it.child) == (side, child) && it.until > self.now
        })
    }

    /// Whether a side has lost the SA that a packet was for.
    pub(super) fn cannot_receive(&self, side: usize, spi: Option<EspSpi>) -> bool {
        let same = |it: &Broken| it.spi.is_some() && it.spi == spi;
        self.broken.iter().any(|it| it.side == side && same(it) && it.until > self.now)
    }

    /// A side sends through a child: what it had lost is replaced.
    pub(super) fn sends_again(&mut self, side: usize, child: usize) {
        self.broken.retain(|it| it.spi.is_some() || (it.side, it.child) != (side, child));
    }
}
