//! What IKE's events do to a tunnel.

use std::{net::SocketAddr, time::Duration};

use ike::{
    event::{Event, Failure, FailureCode},
    input::Command,
};
use sa_store::{ChildId, Instant, PairId, TrafficSelector, TunnelId};

use crate::{
    attempt, backoff,
    counters::Totals,
    describe,
    gateway::Gateway,
    narrowing,
    read_model::{EventRecord, LastError},
    spec::TunnelMode,
    translate,
    tunnel::{Cause, Child, Lives, Peer, Phase, Tunnel, Will},
};

/// A tunnel whose last IKE SA went is called again after at most this long.
const CALL_AGAIN: Duration = Duration::from_secs(1);

/// A child that its initiator has not set up by then is asked for by the responder.
const CHILD_GRACE: Duration = Duration::from_secs(20);

/// A peer counts as silent when a message to it has been sent again this often.
const SILENT: u32 = 3;

/// A child that was deleted is asked for again after about this long.
const CHILD_AGAIN: Duration = Duration::from_secs(1);

impl Gateway {
    /// Takes one event of IKE.
    pub(crate) fn ike_event(&mut self, now: Instant, mut event: Event) {
        let about = subject(&event);
        self.name_reason(&mut event);
        if let Some((held, remote)) = self.refused_for_hold(&event) {
            let message = format!("{remote} called; the tunnel is held down until `up`");
            self.note_tunnel(now, Some(held), None, "failed", Some("held".into()), message);
            return;
        }
        if !is_wanted_end(&event) {
            let (kind, code, message) = describe::describe(&event);
            let stranger = matches!(event, Event::Failed { stranger: true, .. });
            let record = self.record(now, about.0, about.1, kind, code, message);
            self.tell(EventRecord { stranger, ..record });
        }
        if let Some(tunnel) = about.0 {
            self.touched.insert(tunnel);
        }
        match event {
            Event::IkeEstablished { tunnel, ike, remote_id, remote, initiator, .. } => {
                let peer = Peer { remote, identity: remote_id };
                self.established(now, tunnel, ike, peer, initiator);
            }
            Event::IkeRekeyed { tunnel, old, new } => {
                if let Some(known) = self.tunnels.get_mut(&tunnel)
                    && let Some(peer) = known.ike_sas.remove(&old)
                {
                    known.ike_sas.insert(new, peer);
                    if let Phase::Deleting(deletion) = &mut known.phase
                        && deletion.doomed.contains(&old)
                    {
                        deletion.doomed.insert(new);
                    }
                }
                self.rekeyed_ike(tunnel);
                self.resolve(tunnel);
            }
            Event::IkeDown { tunnel, ike, reason } => self.ike_down(now, tunnel, ike, &reason),
            Event::ChildInstalled { tunnel, child, pair, local, remote, .. } => {
                self.note_narrowing(now, tunnel, child, (&local, &remote));
                self.withdraw_unwanted(tunnel, child);
                self.end_unwanted(now, tunnel, child);
                self.child_up(now, tunnel, child, None, pair);
                self.resolve(tunnel);
            }
            Event::ChildRekeyed { tunnel, child, old, new } => {
                self.withdraw_unwanted(tunnel, child);
                self.child_up(now, tunnel, child, Some(old), new);
                self.rekeyed_child(tunnel, child);
                self.resolve(tunnel);
            }
            Event::ChildDown { tunnel, child, pair, reason } => {
                self.child_gone(now, tunnel, child, pair);
                let missing = self.tunnels.get(&tunnel).is_some_and(|tunnel| {
                    tunnel.will != Will::Held && tunnel.child(child).is_some_and(Child::is_missing)
                });
                let ours = matches!(
                    reason.code,
                    FailureCode::DeletedByOperator | FailureCode::Reconfigured
                );
                if missing && !ours {
                    self.remember(now, tunnel, &reason);
                }
                let up = |known: &Tunnel| known.child(child).is_some_and(|it| !it.up.is_empty());
                if !self.tunnels.get(&tunnel).is_some_and(up) {
                    self.fail_rekeys(tunnel, Some(child), &reason);
                }
            }
            // No news about a tunnel that is up, nor about what is asked of its peer.
            Event::Failed { tunnel: Some(tunnel), failure, stranger: true, .. } => {
                if self.tunnels.get(&tunnel).is_some_and(|known| known.ike_sas.is_empty()) {
                    self.remember(now, tunnel, &failure);
                }
            }
            Event::Failed { tunnel: Some(tunnel), child, failure, .. } => {
                if failure.code != FailureCode::DeletedByOperator {
                    self.remember(now, tunnel, &failure);
                }
                match child {
                    Some(child) => self.child_failed(now, tunnel, child, &failure),
                    None => {
                        self.fail_rekeys(tunnel, None, &failure);
                        self.attempt_failed(now, tunnel);
                    }
                }
            }
            Event::Retransmitting { tunnel, remote, tries } => {
                self.unanswered(now, tunnel, remote, tries);
            }
            Event::Failed { tunnel: None, .. } => {}
            Event::PeerMoved { tunnel, old, new } => {
                // Another port is no other address.
                if let Some(known) = self.tunnels.get_mut(&tunnel) {
                    let before = known.peers();
                    for peer in known.ike_sas.values_mut().filter(|peer| peer.remote == old) {
                        peer.remote = new;
                    }
                    self.policies.stale |= known.peers() != before;
                }
            }
        }
    }

    /// Says what a new SA leaves out of what its child protects.
    fn note_narrowing(
        &mut self,
        now: Instant,
        tunnel: TunnelId,
        child: ChildId,
        negotiated: (&[TrafficSelector], &[TrafficSelector]),
    ) {
        let Some(known) = self.tunnels.get(&tunnel).and_then(|tunnel| tunnel.child(child)) else {
            return;
        };
        let spec = &known.spec;
        let local = sa_store::uncovered(&spec.local, negotiated.0);
        let remote = sa_store::uncovered(&spec.remote, negotiated.1);
        if let Some(message) = narrowing::sentence(&local, &remote, spec) {
            self.note(
                now,
                Some((tunnel, child)),
                "child-narrowed",
                Some("narrowed".into()),
                message,
            );
        }
    }

    /// A peer that has said nothing to several calls is named long before it is given up, unless
    /// something better is known.
    fn unanswered(&mut self, now: Instant, id: TunnelId, remote: SocketAddr, tries: u32) {
        let calls = |tunnel: &&Tunnel| matches!(tunnel.phase, Phase::Trying(_));
        let unexplained = |tunnel: &Tunnel| tunnel.last_error.is_none();
        if tries >= SILENT && self.tunnels.get(&id).filter(calls).is_some_and(unexplained) {
            let message = format!("{remote} has not answered {tries} messages so far");
            self.remember(now, id, &Failure::new(FailureCode::PeerUnreachable, message));
        }
    }

    /// IKE does not know why it was told to delete something, and an IKE SA that was given up
    /// because the peer did not confirm its delete was deleted by whoever wanted that.
    fn name_reason(&self, event: &mut Event) {
        let cause = |tunnel: TunnelId| match self.tunnels.get(&tunnel).map(|known| &known.phase) {
            Some(Phase::Deleting(deletion)) => Some(deletion.cause),
            _ => None,
        };
        let changed = |tunnel: TunnelId, child: ChildId| {
            let known = self.tunnels.get(&tunnel);
            known.is_some_and(|known| known.child(child).is_none_or(|child| child.changed))
        };
        let reconfigured = |what: &str| {
            Failure::new(
                FailureCode::Reconfigured,
                format!("the configuration of the {what} changed"),
            )
        };
        match event {
            Event::IkeDown { tunnel, reason, .. } => match cause(*tunnel) {
                Some(Cause::Operator) => reason.code = FailureCode::DeletedByOperator,
                Some(Cause::Configuration) => *reason = reconfigured("tunnel"),
                Some(Cause::Renewal) => *reason = attempt::renewed(),
                None => {}
            },
            Event::ChildDown { tunnel, child, reason, .. }
                if reason.code == FailureCode::DeletedByOperator =>
            {
                if cause(*tunnel) == Some(Cause::Configuration) {
                    *reason = reconfigured("tunnel");
                } else if changed(*tunnel, *child) {
                    *reason = reconfigured("child");
                }
            }
            _ => {}
        }
    }

    /// The held tunnel a refused peer wanted, probably: IKE does not know of it while it is held.
    fn refused_for_hold(&self, event: &Event) -> Option<(TunnelId, SocketAddr)> {
        let Event::Failed { tunnel: None, remote, failure, .. } = event else { return None };
        if failure.code != FailureCode::NoMatchingTunnel {
            return None;
        }
        let calls = |tunnel: &&Tunnel| {
            let mut from = tunnel.spec.remote.iter().map(translate::accepted);
            tunnel.will == Will::Held && from.any(|from| from.accepts(remote.ip()))
        };
        self.tunnels.values().find(calls).map(|tunnel| (tunnel.id, *remote))
    }

    fn established(
        &mut self,
        now: Instant,
        id: TunnelId,
        ike: ike::view::IkeSaId,
        peer: Peer,
        initiator: bool,
    ) {
        if !self.store.pad().authorizes(id, &peer.identity) {
            // The configuration changed while the peer authenticated.
            let reason = format!("{} is not this tunnel's peer any more", peer.identity);
            self.tell_ike(now, Command::Abandon { ike, reason });
            self.attempt_failed(now, id);
            return;
        }
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        self.policies.stale |= !tunnel.peers().contains(&peer.remote.ip());
        tunnel.ike_sas.insert(ike, peer);
        if tunnel.will == Will::Held {
            // It was on its way when the tunnel was taken down.
            tunnel.begin_deletion(Cause::Operator, false, now + self.config.delete_patience);
            self.tell_ike(now, Command::Terminate { tunnel: id });
            return;
        }
        tunnel.failures = 0;
        tunnel.lives.begin(now);
        if !matches!(tunnel.phase, Phase::Deleting(_)) {
            tunnel.phase = Phase::Up;
        }
        // The initiator sets up all children; should some not come, they are asked for later.
        let calls = tunnel.spec.mode == TunnelMode::AlwaysOn || tunnel.will == Will::Up;
        let grace = if initiator { self.config.backoff_longest } else { CHILD_GRACE };
        let at = now + grace + backoff::share(grace / 4, &mut self.jitter);
        for child in &mut tunnel.children {
            child.retry = (calls && child.is_missing()).then_some(at);
        }
        self.resolve(id);
    }

    fn ike_down(&mut self, now: Instant, id: TunnelId, ike: ike::view::IkeSaId, reason: &Failure) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        let Some(peer) = tunnel.ike_sas.remove(&ike) else { return };
        self.policies.stale |= !tunnel.peers().contains(&peer.remote.ip());
        if !tunnel.ike_sas.is_empty() {
            // One that came up meanwhile stays when those that had to go are gone.
            if let Phase::Deleting(deletion) = &tunnel.phase
                && !deletion.is_open(&tunnel.ike_sas)
                && matches!(tunnel.will, Will::Mode | Will::Up)
                && !self.stopping
            {
                tunnel.phase = Phase::Up;
            }
            return;
        }
        let ours = matches!(
            reason.code,
            FailureCode::DeletedByOperator | FailureCode::Reconfigured | FailureCode::Replaced
        );
        for child in &mut tunnel.children {
            child.retry = None;
            child.refused = false;
            child.lives = Lives::default();
        }
        tunnel.failures = tunnel.lives.end(now, self.config.backoff_longest);
        let again = match &tunnel.phase {
            Phase::Deleting(deletion) => deletion.again,
            Phase::Trying(_) => {
                self.fail_rekeys(id, None, reason);
                return;
            }
            _ => {
                if tunnel.will == Will::Up && tunnel.spec.mode == TunnelMode::Passive {
                    tunnel.will = Will::Mode;
                }
                false
            }
        };
        if again {
            self.start(now, id);
            return;
        }
        if tunnel.should_be_up() && !self.stopping {
            let pause = match tunnel.failures {
                0 => backoff::share(CALL_AGAIN, &mut self.jitter),
                failures => backoff::pause(&self.config, failures, &mut self.jitter),
            };
            tunnel.phase = Phase::Waiting(now + pause);
        } else {
            tunnel.phase = Phase::Idle;
        }
        if !ours {
            self.remember(now, id, reason);
        }
        self.fail_rekeys(id, None, reason);
    }

    /// A pair of something that was held down or removed while it was on its way lets nothing in.
    fn withdraw_unwanted(&mut self, id: TunnelId, child: ChildId) {
        let unwanted = self.tunnels.get(&id).is_none_or(|tunnel| {
            matches!(tunnel.will, Will::Held | Will::Removed)
                || tunnel.child(child).is_none_or(|child| child.held)
        });
        if unwanted {
            self.installer.withdraw(id, Some(child));
        }
    }

    /// A child that was held down or removed while its SA was on the way goes again.
    fn end_unwanted(&mut self, now: Instant, id: TunnelId, child: ChildId) {
        let Some(tunnel) = self.tunnels.get(&id) else { return };
        if tunnel.child(child).is_none_or(|child| child.held) {
            self.tell_ike(now, Command::TerminateChild { child });
        }
    }

    /// A pair of a child is up; it may replace another one.
    fn child_up(
        &mut self,
        now: Instant,
        id: TunnelId,
        child: ChildId,
        old: Option<PairId>,
        new: PairId,
    ) {
        let Some(child) = self.tunnels.get_mut(&id).and_then(|t| t.child_mut(child)) else {
            return;
        };
        if let Some(old) = old {
            child.up.remove(&old);
        }
        child.up.insert(new);
        child.refused = false;
        child.lives.begin(now);
        child.retry = None;
        child.failures = 0;
    }

    /// A pair is not up any more and nothing replaced it.
    fn child_gone(&mut self, now: Instant, id: TunnelId, child: ChildId, pair: PairId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        let (up, wanted) = (matches!(tunnel.phase, Phase::Up), tunnel.should_be_up());
        let Some(child) = tunnel.child_mut(child) else { return };
        if !child.up.remove(&pair) || !child.is_missing() || !up {
            return;
        }
        if std::mem::take(&mut child.changed) {
            child.retry = Some(now);
        } else if wanted {
            child.failures = child.lives.end(now, self.config.backoff_longest);
            let pause = match child.failures {
                0 => CHILD_AGAIN + backoff::share(CHILD_AGAIN, &mut self.jitter),
                failures => backoff::pause(&self.config, failures, &mut self.jitter),
            };
            child.retry = Some(now + pause);
        }
        self.touched.insert(id);
    }

    /// A pair is gone from its place.
    pub(crate) fn pair_gone(
        &mut self,
        now: Instant,
        id: TunnelId,
        child: ChildId,
        pair: PairId,
        totals: &Totals,
    ) {
        if let Some(child) = self.tunnels.get_mut(&id).and_then(|t| t.child_mut(child)) {
            child.retired.add(totals);
        }
        self.touched.insert(id);
        self.child_gone(now, id, child, pair);
    }

    fn child_failed(&mut self, now: Instant, id: TunnelId, child: ChildId, failure: &Failure) {
        self.fail_waiters(id, Some(child), failure);
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        let wanted = tunnel.should_be_up();
        let Some(child) = tunnel.child_mut(child) else { return };
        if !child.is_missing() {
            child.refused |= attempt::is_refusal(failure);
            return;
        }
        child.failures = child.failures.saturating_add(1);
        let pause = backoff::pause(&self.config, child.failures, &mut self.jitter);
        child.retry = wanted.then_some(now + pause);
        self.touched.insert(id);
        self.renew(now, id, failure);
    }

    /// A packet needs a child: an attempt that waits for its time starts now.
    pub(crate) fn acquire(&mut self, now: Instant, child: ChildId) {
        let Some(id) = self.homes.get(&child).copied() else { return };
        let Some(tunnel) = self.tunnels.get_mut(&id) else { return };
        let failures = tunnel.failures;
        let Some(child) = tunnel.child_mut(child) else { return };
        // After failures the back-off holds: traffic must not turn it into a flood of calls.
        if child.retry.is_some() && child.failures == 0 && child.is_missing() {
            child.retry = Some(now);
        }
        if failures == 0 && matches!(tunnel.phase, Phase::Waiting(_)) {
            tunnel.phase = Phase::Waiting(now);
        }
        self.touched.insert(id);
    }

    /// Something of ours failed before IKE was asked.
    pub(crate) fn failed(&mut self, now: Instant, id: TunnelId, failure: &Failure) {
        let code = Some(failure.code.as_str().to_owned());
        self.note_tunnel(now, Some(id), None, "failed", code, failure.message.clone());
        self.remember(now, id, failure);
    }

    /// The last failure stays visible until it is resolved.
    fn remember(&mut self, now: Instant, id: TunnelId, failure: &Failure) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.last_error = Some(LastError {
                code: failure.code.as_str().to_owned(),
                message: describe::cut(failure.message.clone(), describe::LONGEST),
                at: now,
            });
        }
    }

    /// A tunnel that is whole has no open failure.
    pub(crate) fn resolve(&mut self, id: TunnelId) {
        if let Some(tunnel) = self.tunnels.get_mut(&id).filter(|tunnel| tunnel.is_whole()) {
            tunnel.last_error = None;
        }
    }
}

/// An attempt that ended because an operator took its tunnel down: no failure, and the command
/// has been noted.
fn is_wanted_end(event: &Event) -> bool {
    matches!(event, Event::Failed { failure, .. } if failure.code == FailureCode::DeletedByOperator)
}

/// The tunnel and child an event is about.
fn subject(event: &Event) -> (Option<TunnelId>, Option<ChildId>) {
    match event {
        Event::IkeEstablished { tunnel, .. }
        | Event::IkeRekeyed { tunnel, .. }
        | Event::IkeDown { tunnel, .. }
        | Event::Retransmitting { tunnel, .. }
        | Event::PeerMoved { tunnel, .. } => (Some(*tunnel), None),
        Event::ChildInstalled { tunnel, child, .. }
        | Event::ChildRekeyed { tunnel, child, .. }
        | Event::ChildDown { tunnel, child, .. } => (Some(*tunnel), Some(*child)),
        Event::Failed { tunnel, child, .. } => (*tunnel, *child),
    }
}
