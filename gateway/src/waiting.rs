//! Commands, and who waits for their outcome.

use std::{collections::BTreeSet, net::IpAddr};

use ike::{event::Failure, input::Command as IkeCommand};
use sa_store::{ChildId, Instant, TunnelId};

use crate::{
    command::{Command, CommandId, Outcome, Target},
    gateway::Gateway,
    output::Output,
    spec::TunnelMode,
    tunnel::{Cause, Lives, Phase, Tunnel, Will},
};

/// What a command waits for.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A tunnel, or one child, to be up. `late`: it was asked for while a round of calls was under
    /// way already; what the peer answers to that one is not the outcome.
    Up { tunnel: TunnelId, child: Option<ChildId>, late: bool },
    /// A tunnel, or one child, to be gone.
    Down { tunnel: TunnelId, child: Option<ChildId> },
    /// Children to be rekeyed, and then the IKE SA.
    Rekey { tunnel: TunnelId, children: BTreeSet<ChildId>, ike: IkeStage },
    /// Everything to be gone.
    Shutdown { until: Instant, flushing: bool },
}

/// Where the IKE SA's part of a rekey is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum IkeStage {
    NotWanted,
    Later,
    Running,
}

/// What became of a wait.
enum Progress {
    /// It goes on.
    None,
    /// It goes on, and something was asked of another part.
    Acted,
    /// This is the outcome.
    Over(Outcome),
}

impl Waiter {
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Shutdown { until, .. } => Some(*until),
            _ => None,
        }
    }
}

impl Gateway {
    /// Takes one command.
    pub(crate) fn command(&mut self, now: Instant, id: CommandId, command: Command) {
        match command {
            Command::Apply { origin, connections } => self.apply(id, origin, connections),
            Command::Up(target) => match self.find(&target) {
                Ok((tunnel, child)) => self.up(now, id, tunnel, child),
                Err(outcome) => self.outcome(id, outcome),
            },
            Command::Down(target) => match self.find(&target) {
                Ok((tunnel, child)) => self.down(now, id, tunnel, child),
                Err(outcome) => self.outcome(id, outcome),
            },
            Command::Rekey(target) => match self.find(&target) {
                Ok((tunnel, child)) => self.rekey(now, id, tunnel, child),
                Err(outcome) => self.outcome(id, outcome),
            },
            Command::Shutdown => self.shutdown(now, id),
            Command::LocalAddresses(addresses) => {
                self.local_addresses(now, addresses);
                self.outcome(id, Outcome::Done("the local addresses are known".into()));
            }
        }
    }

    pub(crate) fn outcome(&mut self, id: CommandId, outcome: Outcome) {
        self.emit(Output::Outcome { id, outcome });
    }

    /// The tunnel and child with these names.
    fn find(&self, target: &Target) -> Result<(TunnelId, Option<ChildId>), Outcome> {
        let failed = |code: &str, what: &str, name: &str, known: Vec<&str>| Outcome::Failed {
            code: code.to_owned(),
            message: unknown(what, name, known),
        };
        let here = || self.tunnels.values().filter(|tunnel| tunnel.will != Will::Removed);
        let found = here()
            .filter(|tunnel| tunnel.spec.name == target.tunnel)
            .min_by_key(|tunnel| &tunnel.origin);
        let Some(tunnel) = found else {
            let known = here().map(|tunnel| &*tunnel.spec.name).collect();
            return Err(failed("unknown-tunnel", "tunnel", &target.tunnel, known));
        };
        let Some(name) = &target.child else { return Ok((tunnel.id, None)) };
        match tunnel.child_named(name) {
            Some(child) => Ok((tunnel.id, Some(child.id))),
            None => {
                let known = tunnel.children.iter().map(|child| &*child.spec.name).collect();
                Err(failed("unknown-child", "child", name, known))
            }
        }
    }

    fn up(&mut self, now: Instant, id: CommandId, tunnel: TunnelId, child: Option<ChildId>) {
        self.touched.insert(tunnel);
        let Some(known) = self.tunnels.get_mut(&tunnel) else { return };
        let late = matches!(known.phase, Phase::Trying(_));
        self.waiters.push((id, Waiter::Up { tunnel, child, late }));
        let passive = known.spec.mode == TunnelMode::Passive;
        let was_held = known.will == Will::Held;
        known.will = if passive { Will::Up } else { Will::Mode };
        known.failures = 0;
        known.lives = Lives::default();
        let mut lifted = was_held;
        for member in &mut known.children {
            if child.is_none_or(|child| child == member.id) {
                lifted |= std::mem::take(&mut member.held);
                member.failures = 0;
                member.lives = Lives::default();
                member.retry = member.is_missing().then_some(now);
            }
        }
        if lifted {
            self.configure(now, tunnel);
        }
        let Some(known) = self.tunnels.get_mut(&tunnel) else { return };
        match &mut known.phase {
            Phase::Idle | Phase::Waiting(_) => self.start(now, tunnel),
            Phase::Deleting(deletion) => deletion.again = true,
            Phase::Trying(_) | Phase::Up => {}
        }
    }

    fn down(&mut self, now: Instant, id: CommandId, tunnel: TunnelId, child: Option<ChildId>) {
        self.fail_waiters_with(tunnel, child, "held", "it was taken down by another command");
        self.waiters.push((id, Waiter::Down { tunnel, child }));
        self.touched.insert(tunnel);
        self.installer.withdraw(tunnel, child);
        let message = "taken down by an operator; held, and its destinations blocked, until `up`";
        self.note_tunnel(now, Some(tunnel), child, "down", None, message.into());
        let Some(known) = self.tunnels.get_mut(&tunnel) else { return };
        match child.map(|child| known.child_mut(child)) {
            None => {
                known.will = Will::Held;
                known.last_error = None;
                known.phase = Phase::Idle;
                if !known.ike_sas.is_empty() {
                    known.begin_deletion(Cause::Operator, false, now + self.config.delete_patience);
                }
                self.tell_ike(now, IkeCommand::Forget(tunnel));
            }
            Some(Some(member)) => {
                member.held = true;
                member.retry = None;
                let child = member.id;
                self.tell_ike(now, IkeCommand::TerminateChild { child });
                if self.tunnels.get(&tunnel).is_some_and(|known| known.will != Will::Held) {
                    self.configure(now, tunnel);
                    self.call_anew(now, tunnel);
                }
                self.resolve(tunnel);
            }
            Some(None) => {}
        }
    }

    fn rekey(&mut self, now: Instant, id: CommandId, tunnel: TunnelId, child: Option<ChildId>) {
        let Some(known) = self.tunnels.get(&tunnel) else { return };
        let up: BTreeSet<ChildId> = known
            .children
            .iter()
            .filter(|member| !member.up.is_empty() && child.is_none_or(|child| child == member.id))
            .map(|member| member.id)
            .collect();
        if known.ike_sas.is_empty() || (child.is_some() && up.is_empty()) {
            let message = "there is nothing to rekey: it is not up".to_owned();
            self.outcome(id, Outcome::Failed { code: "not-up".into(), message });
            return;
        }
        for child in &up {
            self.tell_ike(now, IkeCommand::RekeyChild { child: *child });
        }
        let ike = if child.is_none() { IkeStage::Later } else { IkeStage::NotWanted };
        self.waiters.push((id, Waiter::Rekey { tunnel, children: up, ike }));
    }

    fn shutdown(&mut self, now: Instant, id: CommandId) {
        self.stopping = true;
        let all: Vec<TunnelId> = self.tunnels.keys().copied().collect();
        for tunnel in all {
            if let Some(known) = self.tunnels.get_mut(&tunnel) {
                known.begin_deletion(Cause::Operator, false, Instant::NEVER);
            }
            self.touched.insert(tunnel);
            self.installer.withdraw(tunnel, None);
            self.tell_ike(now, IkeCommand::Forget(tunnel));
        }
        let until = now + self.config.shutdown_patience;
        self.waiters.push((id, Waiter::Shutdown { until, flushing: false }));
    }

    fn local_addresses(&mut self, now: Instant, addresses: Vec<IpAddr>) {
        for view in self.ike.ike_sas() {
            let local = view.path.local.ip();
            if !is_local(&addresses, local) {
                let reason = format!("{local} is not an address of this machine any more");
                self.tell_ike(now, IkeCommand::Abandon { ike: view.id, reason });
            }
        }
        let gone = |tunnel: &Tunnel| {
            tunnel.last_path.is_some_and(|path| !is_local(&addresses, path.local.ip()))
        };
        let mut again = Vec::new();
        for tunnel in self.tunnels.values() {
            match &tunnel.phase {
                Phase::Waiting(_) => again.push(tunnel.id),
                Phase::Trying(_) if gone(tunnel) => again.push(tunnel.id),
                _ => {}
            }
        }
        if self.addresses.as_ref() != Some(&addresses) {
            self.addresses = Some(addresses);
            for tunnel in again {
                self.start(now, tunnel);
            }
        }
    }

    /// Answers every command whose wait is over, and does what is due; whether anything was.
    pub(crate) fn settle(&mut self, now: Instant) -> bool {
        let mut busy = self.drive_policies(now);
        let mut waiters = std::mem::take(&mut self.waiters);
        waiters.retain_mut(|(id, waiter)| match self.advance(now, waiter) {
            Progress::Over(outcome) => {
                self.outcome(*id, outcome);
                busy = true;
                false
            }
            Progress::Acted => {
                busy = true;
                true
            }
            Progress::None => true,
        });
        waiters.append(&mut self.waiters);
        self.waiters = waiters;
        for tunnel in self.touched.clone() {
            self.forget_if_gone(tunnel);
        }
        busy
    }

    /// Does what is due for a command.
    fn advance(&mut self, now: Instant, waiter: &mut Waiter) -> Progress {
        let done = |text: String| Progress::Over(Outcome::Done(text));
        match waiter {
            Waiter::Up { tunnel, child, .. } => {
                let Some(known) = self.tunnels.get(tunnel) else { return Progress::None };
                let up = match child {
                    None => known.is_whole(),
                    Some(child) => known.child(*child).is_some_and(|c| !c.up.is_empty()),
                };
                if up { done(format!("{} is up", name(known, *child))) } else { Progress::None }
            }
            Waiter::Down { tunnel, child } => {
                let Some(known) = self.tunnels.get(tunnel) else { return Progress::None };
                let gone = (child.is_some() || known.ike_sas.is_empty())
                    && !self.installer.holds(*tunnel, *child);
                if gone { done(format!("{} is down", name(known, *child))) } else { Progress::None }
            }
            Waiter::Rekey { tunnel, children, ike } => {
                if !children.is_empty() {
                    return Progress::None;
                }
                match ike {
                    IkeStage::NotWanted => match self.tunnels.get(tunnel) {
                        Some(known) => done(format!("{} is rekeyed", known.spec.name)),
                        None => Progress::None,
                    },
                    IkeStage::Later => {
                        *ike = IkeStage::Running;
                        self.tell_ike(now, IkeCommand::RekeyIke { tunnel: *tunnel });
                        Progress::Acted
                    }
                    IkeStage::Running => Progress::None,
                }
            }
            Waiter::Shutdown { until, flushing } => {
                if *flushing {
                    return if *until <= now {
                        done("stopped; the backend did not confirm that every SA is gone".into())
                    } else {
                        Progress::None
                    };
                }
                let quiet = self.installer.is_empty()
                    && self.tunnels.values().all(|tunnel| tunnel.ike_sas.is_empty());
                if quiet || *until <= now {
                    *flushing = true;
                    *until = now + self.config.shutdown_patience;
                    self.installer.flush();
                    return Progress::Acted;
                }
                Progress::None
            }
        }
    }

    /// Every SA is gone: the end of a shutdown.
    pub(crate) fn flushed(&mut self) {
        let stop =
            |(_, waiter): &mut (CommandId, Waiter)| matches!(waiter, Waiter::Shutdown { .. });
        for (id, _) in self.waiters.extract_if(.., stop).collect::<Vec<_>>() {
            self.outcome(id, Outcome::Done("stopped; the peers were told".into()));
        }
    }

    /// A child was rekeyed.
    pub(crate) fn rekeyed_child(&mut self, id: TunnelId, child: ChildId) {
        for (_, waiter) in &mut self.waiters {
            if let Waiter::Rekey { tunnel, children, .. } = waiter
                && *tunnel == id
            {
                children.remove(&child);
            }
        }
    }

    /// The IKE SA of a tunnel was rekeyed.
    pub(crate) fn rekeyed_ike(&mut self, id: TunnelId) {
        for (_, waiter) in &mut self.waiters {
            if let Waiter::Rekey { tunnel, ike: ike @ IkeStage::Running, .. } = waiter
                && *tunnel == id
            {
                *ike = IkeStage::NotWanted;
            }
        }
    }

    /// The rekeys of a tunnel, or those of this child, come to nothing.
    pub(crate) fn fail_rekeys(&mut self, id: TunnelId, child: Option<ChildId>, failure: &Failure) {
        let hit = |waiter: &Waiter| match waiter {
            Waiter::Rekey { tunnel, children, .. } => {
                *tunnel == id && child.is_none_or(|child| children.contains(&child))
            }
            _ => false,
        };
        self.fail_where(hit, failure.code.as_str(), &failure.message);
    }

    /// Whoever waits for this tunnel, or this child of it, to come up or to be rekeyed, waits in
    /// vain.
    pub(crate) fn fail_waiters(
        &mut self,
        tunnel: TunnelId,
        child: Option<ChildId>,
        failure: &Failure,
    ) {
        self.fail_waiters_with(tunnel, child, failure.code.as_str(), &failure.message);
    }

    /// As [`Self::fail_waiters`], with any code.
    pub(crate) fn fail_waiters_with(
        &mut self,
        id: TunnelId,
        child: Option<ChildId>,
        code: &str,
        message: &str,
    ) {
        let hit = |waiter: &Waiter| match waiter {
            Waiter::Up { tunnel, child: wanted, .. } => {
                *tunnel == id && (child.is_none() || wanted.is_none() || *wanted == child)
            }
            Waiter::Rekey { tunnel, children, .. } => {
                *tunnel == id && child.is_none_or(|child| children.contains(&child))
            }
            Waiter::Down { .. } | Waiter::Shutdown { .. } => false,
        };
        self.fail_where(hit, code, message);
    }

    /// Whoever waits for this very child to come up or to be rekeyed waits in vain.
    pub(crate) fn fail_waiters_of(
        &mut self,
        id: TunnelId,
        gone: ChildId,
        code: &str,
        message: &str,
    ) {
        let hit = |waiter: &Waiter| match waiter {
            Waiter::Up { tunnel, child, .. } => *tunnel == id && *child == Some(gone),
            Waiter::Rekey { tunnel, children, .. } => *tunnel == id && children.contains(&gone),
            Waiter::Down { .. } | Waiter::Shutdown { .. } => false,
        };
        self.fail_where(hit, code, message);
    }

    /// The waiters for whom a failed round of calls began too early: they wait for the next one.
    pub(crate) fn take_late(&mut self, id: TunnelId) -> Vec<(CommandId, Waiter)> {
        let mut taken: Vec<_> = self
            .waiters
            .extract_if(.., |(_, waiter)| {
                matches!(waiter, Waiter::Up { tunnel, late: true, .. } if *tunnel == id)
            })
            .collect();
        for (_, waiter) in &mut taken {
            if let Waiter::Up { late, .. } = waiter {
                *late = false;
            }
        }
        taken
    }

    fn fail_where(&mut self, hit: impl Fn(&Waiter) -> bool, code: &str, message: &str) {
        let failed: Vec<_> = self.waiters.extract_if(.., |(_, waiter)| hit(waiter)).collect();
        for (id, _) in failed {
            let outcome = Outcome::Failed { code: code.to_owned(), message: message.to_owned() };
            self.outcome(id, outcome);
        }
    }
}

/// Whether an address is one of this machine's. Those of one link are not among the addresses a
/// gateway is told: they come and go with every interface. As long as nobody knows better, they
/// are there, and liveness checks tell when they are not.
pub(crate) fn is_local(addresses: &[IpAddr], address: IpAddr) -> bool {
    let one_link = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    one_link || addresses.contains(&address)
}

/// `TUNNEL` or `TUNNEL/CHILD`.
fn name(tunnel: &Tunnel, child: Option<ChildId>) -> String {
    match child.and_then(|child| tunnel.child(child)) {
        Some(child) => format!("{}/{}", tunnel.spec.name, child.spec.name),
        None => tunnel.spec.name.clone(),
    }
}

/// That there is no such name, and which there are: of many, those that begin most like it.
fn unknown(what: &str, name: &str, mut known: Vec<&str>) -> String {
    const SHOWN: usize = 8;
    let more = known.len().saturating_sub(SHOWN);
    if more > 0 {
        let alike =
            |other: &str| name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        known.sort_by_key(|other| std::cmp::Reverse(alike(other)));
        known.truncate(SHOWN);
    }
    match (known.join(", "), more) {
        (list, _) if list.is_empty() => format!("there is no {what} `{name}`: none is configured"),
        (list, 0) => format!("there is no {what} `{name}`; there are: {list}"),
        (list, more) => format!("there is no {what} `{name}`; there are: {list} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_the_likely_ones_are_shown() {
        let names: Vec<String> = (0..10_000).map(|number| format!("site-{number:04}")).collect();
        let known = names.iter().map(String::as_str).collect();
        assert_eq!(
            unknown("tunnel", "site-4711x", known),
            "there is no tunnel `site-4711x`; there are: site-4711, site-4710, site-4712, \
             site-4713, site-4714, site-4715, site-4716, site-4717 and 9992 more"
        );
        let few = vec!["b", "a"];
        assert_eq!(unknown("child", "c", few), "there is no child `c`; there are: b, a");
        assert_eq!(unknown("child", "c", Vec::new()), "there is no child `c`: none is configured");
    }
}
