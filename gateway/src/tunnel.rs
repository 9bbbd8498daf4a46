//! What the gateway remembers of a tunnel and its children.
//!
//! ```text
//!            start                     no address is left
//!   Idle ----------> Trying ---------------------------------> Waiting (back-off)
//!    ^                 |  ^------------------------------------------'
//!    |  held, passive  | IKE established (by either side, from any phase)
//!    |                 v
//!    '------------- Up ----- the last IKE SA is gone ----> Waiting, when it should be up
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ike::{config::Endpoints, view::IkeSaId};
use sa_store::{ChildId, Identity, Instant, PairId, TunnelId};

use crate::{
    counters::Totals,
    output::Ticket,
    read_model::LastError,
    spec::{ChildSpec, ConnectionSpec, Origin, RemoteAddress, TunnelMode},
};

/// A tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) id: TunnelId,
    pub(crate) origin: Origin,
    /// Its place in the list of its origin.
    pub(crate) rank: usize,
    pub(crate) spec: ConnectionSpec,
    pub(crate) children: Vec<Child>,
    /// What an operator did to it.
    pub(crate) will: Will,
    pub(crate) phase: Phase,
    /// Rounds over all addresses that failed, in a row.
    pub(crate) failures: u32,
    /// How long it stays up.
    pub(crate) lives: Lives,
    /// IKE SAs that are up.
    pub(crate) ike_sas: BTreeMap<IkeSaId, Peer>,
    /// What the host names among the remote addresses last stood for.
    pub(crate) resolved: Vec<IpAddr>,
    /// Both ends of the newest attempt.
    pub(crate) last_path: Option<Endpoints>,
    pub(crate) last_error: Option<LastError>,
}

/// Whether something that comes up stays: a peer may accept and delete again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lives {
    began: Option<Instant>,
    /// Short ones, in a row.
    short: u32,
}

impl Lives {
    /// It is up, unless it was before.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.began.get_or_insert(now);
    }

    /// It is gone. How many failures that counts as: none after a life of at least `long`, nor after
    /// the first short one.
    pub(crate) fn end(&mut self, now: Instant, long: Duration) -> u32 {
        let short = self.began.take().is_some_and(|began| now.since(began) < long);
        self.short = if short { self.short.saturating_add(1) } else { 0 };
        self.short.saturating_sub(1)
    }
}

/// What an operator did to a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Will {
    /// Nothing: its mode decides.
    Mode,
    /// `up`: it is called although it is passive, until it goes down.
    Up,
    /// `down`: held until `up`.
    Held,
    /// It is configured no more; remembered until everything of it is gone.
    Removed,
}

/// The other end of an IKE SA.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) remote: SocketAddr,
    pub(crate) identity: Identity,
}

/// Where a tunnel is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Nothing is up and nothing is tried.
    Idle,
    /// The next attempt starts then.
    Waiting(Instant),
    /// An attempt runs.
    Trying(Attempt),
    /// At least one IKE SA is up.
    Up,
    /// It is being taken down; then it starts again or not.
    Deleting(Deletion),
}

/// Who wants SAs to be deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// A command.
    Operator,
    /// The configuration is another one.
    Configuration,
    /// A child has to begin anew with an IKE SA.
    Renewal,
}

/// IKE SAs that are being deleted.
#[derive(Debug)]
pub(crate) struct Deletion {
    /// Who wanted it.
    pub(crate) cause: Cause,
    /// Whether the tunnel is called again when they are gone.
    pub(crate) again: bool,
    /// When we go on without the peer's consent.
    pub(crate) until: Instant,
    /// The IKE SAs. One that comes up meanwhile is not among them.
    pub(crate) doomed: BTreeSet<IkeSaId>,
}

impl Deletion {
    /// Whether some of the IKE SAs are still there.
    pub(crate) fn is_open(&self, up: &BTreeMap<IkeSaId, Peer>) -> bool {
        self.doomed.iter().any(|ike| up.contains_key(ike))
    }
}

/// One round over the peer's addresses.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Configured addresses not yet looked at.
    pub(crate) entries: VecDeque<RemoteAddress>,
    /// Addresses of the current entry not yet tried.
    pub(crate) addresses: VecDeque<IpAddr>,
    pub(crate) step: Step,
}

/// What an attempt waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Nothing yet.
    Start,
    /// A host name.
    Resolving(Ticket),
    /// A local address for this remote one.
    Locating(Ticket, IpAddr),
    /// IKE.
    Calling,
}

impl Attempt {
    /// A round over all addresses that can be called; `None` if there is none.
    pub(crate) fn over(remote: &[RemoteAddress]) -> Option<Self> {
        let entries: VecDeque<_> = remote
            .iter()
            .filter(|entry| matches!(entry, RemoteAddress::Address(_) | RemoteAddress::Host(_)))
            .cloned()
            .collect();
        (!entries.is_empty()).then_some(Self {
            entries,
            addresses: VecDeque::new(),
            step: Step::Start,
        })
    }
}

/// A configured child.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: ChildId,
    pub(crate) spec: ChildSpec,
    /// Held down by an operator.
    pub(crate) held: bool,
    /// Pairs that are up (not those being replaced).
    pub(crate) up: BTreeSet<PairId>,
    /// When it is asked for again if it is still missing.
    pub(crate) retry: Option<Instant>,
    /// Set-ups that failed, in a row.
    pub(crate) failures: u32,
    /// How long it stays up.
    pub(crate) lives: Lives,
    /// Deleted because it changed: asked for again at once.
    pub(crate) changed: bool,
    /// A successor was refused for its proposal, by either end, and it has not come up since.
    pub(crate) refused: bool,
    /// Of pairs that are gone.
    pub(crate) retired: Totals,
}

impl Child {
    pub(crate) fn new(id: ChildId, spec: ChildSpec) -> Self {
        Self {
            id,
            spec,
            held: false,
            up: BTreeSet::new(),
            retry: None,
            failures: 0,
            lives: Lives::default(),
            changed: false,
            refused: false,
            retired: Totals::default(),
        }
    }

    /// Whether it should be up and is not.
    pub(crate) fn is_missing(&self) -> bool {
        !self.held && self.up.is_empty()
    }
}

impl Tunnel {
    pub(crate) fn child(&self, id: ChildId) -> Option<&Child> {
        self.children.iter().find(|child| child.id == id)
    }

    pub(crate) fn child_mut(&mut self, id: ChildId) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.id == id)
    }

    pub(crate) fn child_named(&self, name: &str) -> Option<&Child> {
        self.children.iter().find(|child| child.spec.name == name)
    }

    /// Whether it should be up without anybody calling us.
    pub(crate) fn should_be_up(&self) -> bool {
        match self.will {
            Will::Mode => self.spec.mode == TunnelMode::AlwaysOn,
            Will::Up => true,
            Will::Held | Will::Removed => false,
        }
    }

    /// Starts to take it down: all its IKE SAs must go.
    pub(crate) fn begin_deletion(&mut self, cause: Cause, again: bool, until: Instant) {
        let doomed = self.ike_sas.keys().copied().collect();
        self.phase = Phase::Deleting(Deletion { cause, again, until, doomed });
    }

    /// Whether there is something to bring up: a tunnel without children that may be up is not
    /// called.
    pub(crate) fn wants_children(&self) -> bool {
        self.children.iter().any(|child| !child.held)
    }

    /// Whether an IKE SA and all children that should be up are.
    pub(crate) fn is_whole(&self) -> bool {
        !self.ike_sas.is_empty() && !self.children.iter().any(Child::is_missing)
    }

    /// The peer's outer addresses now known, in order and each once.
    pub(crate) fn peers(&self) -> Vec<IpAddr> {
        let configured = self.spec.remote.iter().filter_map(|remote| match remote {
            RemoteAddress::Address(ip) => Some(*ip),
            _ => None,
        });
        let established = self.ike_sas.values().map(|peer| peer.remote.ip());
        let all: BTreeSet<IpAddr> =
            configured.chain(self.resolved.iter().copied()).chain(established).collect();
        all.into_iter().collect()
    }

    /// When the tunnel wants to be looked at.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Waiting(until) => Some(*until),
            Phase::Deleting(deletion) if deletion.is_open(&self.ike_sas) => Some(deletion.until),
            _ => None,
        };
        let children = self.children.iter().filter_map(|child| child.retry);
        phase.into_iter().chain(children).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lives_in_a_row_count_as_failures() {
        let long = Duration::from_secs(60);
        let mut now = Instant::ZERO;
        let mut lives = Lives::default();
        let mut live = |seconds: u64| {
            lives.begin(now);
            // Up already.
            lives.begin(now + Duration::from_secs(seconds / 2));
            now = now + Duration::from_secs(seconds);
            lives.end(now, long)
        };
        assert_eq!([1, 1, 59, 60, 1, 1].map(&mut live), [0, 1, 2, 0, 0, 1]);
        // What was not up did not live shortly.
        assert_eq!(lives.end(now, long), 0);
    }
}
