//! How a tunnel is called: one round over the peer's addresses, then a pause.

use std::net::{IpAddr, SocketAddr};

use ike::{
    config::Endpoints,
    event::{Failure, FailureCode},
    input::Command,
    view::IkeState,
};
use sa_store::{ChildId, Instant, TunnelId};

use crate::{
    backoff,
    gateway::Gateway,
    output::{RequestKind, Ticket},
    spec::RemoteAddress,
    tunnel::{Attempt, Cause, Phase, Step, Tunnel, Will},
    waiting::is_local,
};

/// Whether the proposal of a child was refused.
pub(crate) const fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.code, FailureCode::NoProposalChosen | FailureCode::InvalidKe)
}

/// Why an IKE SA goes whose child has to begin anew.
pub(crate) fn renewed() -> Failure {
    let message = "set up anew: the peer refuses further SAs of a child, and takes the first one";
    Failure::new(FailureCode::Expired, message)
}

impl Gateway {
    /// Something a tunnel waited for is due.
    pub(crate) fn due(&mut self, now: Instant, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        if let Phase::Waiting(until) = tunnel.phase
            && until <= now
        {
            self.start(now, id);
            return;
        }
        if let Phase::Deleting(deletion) = &tunnel.phase
            && deletion.until <= now
        {
            let reason = "the peer did not confirm the delete";
            for ike in deletion.doomed.clone() {
                self.tell_ike(now, Command::Abandon { ike, reason: reason.into() });
            }
            return;
        }
        let mut missing = Vec::new();
        for child in &mut tunnel.children {
            if child.retry.is_some_and(|at| at <= now) {
                child.retry = None;
                if child.is_missing() {
                    missing.push(child.id);
                }
            }
        }
        if !missing.is_empty() && matches!(tunnel.phase, Phase::Up) {
            self.create_children(now, id, missing);
        }
    }

    /// Asks for children on the IKE SA that is up, and again later if they do not come.
    fn create_children(&mut self, now: Instant, id: TunnelId, children: Vec<ChildId>) {
        let views = self.ike.ike_sas_of(id);
        let established =
            views.iter().rev().find(|view| view.established.is_some()).map(|view| view.path);
        let again = now + self.config.backoff_longest;
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        for child in &children {
            if let Some(child) = tunnel.child_mut(*child) {
                child.retry = Some(again);
            }
        }
        if let Some(path) = established {
            self.tell_ike(now, Command::Initiate { tunnel: id, path, children });
        }
    }

    /// The peer takes no more SAs of a child, and takes the first one, which comes with IKE_AUTH
    /// and has no key exchange of its own (RFC 7296 §1.2). With nothing else up the IKE SA begins
    /// anew, once in the lifetime of the child.
    pub(crate) fn renew(&mut self, now: Instant, id: TunnelId, failure: &Failure) {
        let until = now + self.config.delete_patience;
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        let alone = tunnel.children.iter().all(|child| child.up.is_empty())
            && tunnel.children.iter().any(|child| child.refused && child.is_missing());
        if is_refusal(failure)
            && alone
            && matches!(tunnel.phase, Phase::Up)
            && tunnel.should_be_up()
        {
            tunnel.begin_deletion(Cause::Renewal, true, until);
            self.tell_ike(now, Command::Terminate { tunnel: id });
        }
    }

    /// Starts a round over the peer's addresses.
    pub(crate) fn start(&mut self, now: Instant, id: TunnelId) {
        let stopping = self.stopping;
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        self.touched.insert(id);
        if stopping || !tunnel.should_be_up() {
            tunnel.phase = Phase::Idle;
            return;
        }
        if !tunnel.wants_children() {
            tunnel.phase = Phase::Idle;
            tunnel.last_error = None;
            self.fail_waiters_with(id, None, "held", "all its children are held down");
            return;
        }
        let Some(attempt) = Attempt::over(&tunnel.spec.remote) else {
            tunnel.phase = Phase::Idle;
            if tunnel.will == Will::Up {
                let reason = "the peer has no address that could be called: wait for it to call";
                let failure = Failure::new(FailureCode::PeerUnreachable, reason);
                self.fail_waiters(id, None, &failure);
            }
            return;
        };
        tunnel.phase = Phase::Trying(attempt);
        self.next_address(now, id);
    }

    /// The children of a tunnel are others now: an attempt that is under way would still bring
    /// those of before, so it is given up for a new one.
    pub(crate) fn call_anew(&mut self, now: Instant, id: TunnelId) {
        match self.tunnels.get(&id).map(|tunnel| &tunnel.phase) {
            Some(Phase::Trying(_)) => {
                self.tell_ike(now, Command::Terminate { tunnel: id });
                self.start(now, id);
            }
            Some(Phase::Idle) => self.start(now, id),
            Some(Phase::Waiting(_) | Phase::Up | Phase::Deleting(_)) | None => {}
        }
    }

    /// Goes on with the next address of the round, or ends it.
    fn next_address(&mut self, now: Instant, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        self.touched.insert(id);
        let Phase::Trying(attempt) = &mut tunnel.phase else { return };
        attempt.step = Step::Start;
        if let Some(address) = attempt.addresses.pop_front() {
            self.call(now, id, address);
            return;
        }
        match attempt.entries.pop_front() {
            Some(RemoteAddress::Address(address)) => self.call(now, id, address),
            Some(RemoteAddress::Host(host)) => {
                let ticket = self.ask_for(id, RequestKind::Resolve { host });
                self.set_step(id, Step::Resolving(ticket));
            }
            Some(RemoteAddress::Prefix(_) | RemoteAddress::Any) => self.next_address(now, id),
            None => self.pause(now, id),
        }
    }

    fn set_step(&mut self, id: TunnelId, step: Step) {
        if let Some(Tunnel { phase: Phase::Trying(attempt), .. }) = self.tunnels.get_mut(&id) {
            attempt.step = step;
        }
    }

    /// The step of the attempt that runs, if one does.
    fn step(&self, id: TunnelId) -> Option<Step> {
        match self.tunnels.get(&id).map(|tunnel| &tunnel.phase) {
            Some(Phase::Trying(attempt)) => Some(attempt.step),
            _ => None,
        }
    }

    /// The round failed: the next one comes after a pause.
    fn pause(&mut self, now: Instant, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        tunnel.failures = tunnel.failures.saturating_add(1);
        let until = now + backoff::pause(&self.config, tunnel.failures, &mut self.jitter);
        tunnel.phase = Phase::Waiting(until);
        self.touched.insert(id);
        let failure = tunnel.last_error.as_ref().map(|error| error.message.clone());
        let code = tunnel.last_error.as_ref().map(|error| error.code.clone());
        // Silence lasts beyond the moment of a command; an answer may have been given before it.
        let answered = code.as_deref().is_some_and(|code| {
            ![FailureCode::PeerUnreachable, FailureCode::Timeout]
                .map(FailureCode::as_str)
                .contains(&code)
        });
        let late = if answered { self.take_late(id) } else { Vec::new() };
        if let (Some(message), Some(code)) = (failure, code) {
            self.fail_waiters_with(id, None, &code, &message);
        }
        if !late.is_empty() {
            self.waiters.extend(late);
            if let Some(tunnel) = self.tunnels.get_mut(&id) {
                tunnel.phase = Phase::Waiting(now);
            }
            return;
        }
        // A tunnel that only an operator wanted is not tried for ever.
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        if tunnel.will == Will::Up && tunnel.spec.mode == crate::spec::TunnelMode::Passive {
            tunnel.will = Will::Mode;
            tunnel.phase = Phase::Idle;
        }
    }

    /// A name was resolved.
    pub(crate) fn resolved(
        &mut self,
        now: Instant,
        id: TunnelId,
        ticket: Ticket,
        result: Result<Vec<IpAddr>, String>,
    ) {
        if self.step(id) != Some(Step::Resolving(ticket)) {
            return;
        }
        match result {
            Ok(addresses) if !addresses.is_empty() => {
                let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
                let before = tunnel.peers();
                for address in &addresses {
                    if !tunnel.resolved.contains(address) {
                        tunnel.resolved.push(*address);
                    }
                }
                // A name that wanders does not grow the list for ever.
                let surplus = tunnel.resolved.len().saturating_sub(64);
                tunnel.resolved.drain(..surplus);
                let others = tunnel.peers() != before;
                self.policies.stale |= others;
                if let Phase::Trying(attempt) = &mut tunnel.phase {
                    attempt.addresses = addresses.into();
                }
                if others {
                    self.configure(now, id);
                }
                self.next_address(now, id);
            }
            other => {
                let why = other.err().unwrap_or_else(|| "it has no addresses".into());
                let message = format!("the peer's host name cannot be used: {why}");
                self.failed(now, id, &Failure::new(FailureCode::ResolveFailed, message));
                self.next_address(now, id);
            }
        }
    }

    /// Calls an address, once it is known from where.
    fn call(&mut self, now: Instant, id: TunnelId, remote: IpAddr) {
        let Some(tunnel) = self.tunnels.get(&id) else { return };
        if tunnel.spec.local.is_empty() {
            let ticket = self.ask_for(id, RequestKind::SourceAddress { remote });
            self.set_step(id, Step::Locating(ticket, remote));
            return;
        }
        let here = |address: &IpAddr| {
            address.is_ipv4() == remote.is_ipv4()
                && self.addresses.as_ref().is_none_or(|mine| is_local(mine, *address))
        };
        match tunnel.spec.local.iter().copied().find(here) {
            Some(local) => self.initiate(now, id, local, remote),
            None => {
                let list: Vec<String> = tunnel.spec.local.iter().map(ToString::to_string).collect();
                let message = format!(
                    "none of the tunnel's local addresses ({}) is on this machine and can reach {remote}; \
                     give one to an interface, or change `local` of the tunnel",
                    list.join(", ")
                );
                self.failed(now, id, &Failure::new(FailureCode::NoLocalAddress, message));
                self.next_address(now, id);
            }
        }
    }

    /// The local address towards a peer was found.
    pub(crate) fn located(
        &mut self,
        now: Instant,
        id: TunnelId,
        ticket: Ticket,
        result: Result<IpAddr, String>,
    ) {
        let Some(Step::Locating(open, remote)) = self.step(id) else { return };
        if open != ticket {
            return;
        }
        match result {
            Ok(local) => self.initiate(now, id, local, remote),
            Err(why) => {
                let message = format!("{remote} cannot be reached from here: {why}");
                self.failed(now, id, &Failure::new(FailureCode::NoLocalAddress, message));
                self.next_address(now, id);
            }
        }
    }

    fn initiate(&mut self, now: Instant, id: TunnelId, local: IpAddr, remote: IpAddr) {
        let port = self.config.ike_port;
        let path = Endpoints {
            local: SocketAddr::new(local, port),
            remote: SocketAddr::new(remote, port),
        };
        self.set_step(id, Step::Calling);
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.last_path = Some(path);
        }
        self.tell_ike(now, Command::Initiate { tunnel: id, path, children: Vec::new() });
    }

    /// An IKE SA of ours could not be set up.
    pub(crate) fn attempt_failed(&mut self, now: Instant, id: TunnelId) {
        // The peer may call and fail while our own attempt is still under way.
        let ours = self
            .ike
            .ike_sas_of(id)
            .iter()
            .any(|view| view.initiator && view.state == IkeState::Connecting);
        if !ours && self.step(id) == Some(Step::Calling) {
            self.next_address(now, id);
        }
    }
}
