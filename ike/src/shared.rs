//! What every IKE SA of an endpoint works with: time, randomness, limits, tunnels, children, and
//! the queues of what is to be done.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};
use core::{net::SocketAddr, time::Duration};

use crypto::{aead::Engines, random::RandomSource};
use sa_store::{ChildId, IkeSpi, Instant, PairId, SaId, TunnelId};

use crate::{
    admission::Admission,
    complaints::Complaints,
    config::{EndpointConfig, Endpoints},
    connections::Connections,
    counters::Counters,
    event::{Event, Failure},
    input::SpiSource,
    output::{Output, RequestKind, Ticket},
    sa::{
        Task, child_table::Children, directory::Directory, established::Established, queue::Queued,
    },
    view::IkeSaId,
};

/// Octets of our nonces: the longest PRF key half (RFC 7296 §2.10 asks for half the PRF's key).
const NONCE_LEN: usize = 32;

/// Who gets the answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waiter {
    /// An IKE SA: key exchanges.
    Ike(IkeSaId),
    /// The owner of a pair: installing, activating, moving.
    Pair(PairId),
}

/// What one IKE SA wants to happen to others; done when its own step is over.
#[derive(Debug)]
pub(crate) enum Action {
    /// A rekey made a new IKE SA.
    Adopt(Box<Established>),
    /// An IKE SA of a tunnel is established: what it replaces must go.
    Settle {
        /// The new one.
        ike: IkeSaId,
        /// When its negotiation began here.
        begun: Instant,
        /// The peer says that it has no other IKE SA with us.
        initial_contact: bool,
    },
    /// Gives an IKE SA something to do, not before a time.
    Assign(IkeSaId, Task, Instant),
    /// The successor of a rekey is in use, and has to do what was left to do.
    Promote(IkeSaId, Vec<Queued>),
    /// A half-open IKE SA has to make room.
    Evict(IkeSaId),
    /// A tunnel's children changed: crosswise duplicates may be ready to go.
    Deduplicate(TunnelId),
}

/// Counts that never go back.
#[derive(Debug)]
struct Ids {
    shard: u64,
    ike: u64,
    pair: u64,
    sa: u64,
    ticket: u64,
}

/// Unauthenticated failures an operator hears of in a second.
const HINTS_PER_SECOND: u32 = 10;

/// Limits how many events strangers can cause.
#[derive(Debug, Default)]
struct HintLimit {
    second: u64,
    count: u32,
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) now: Instant,
    pub(crate) config: EndpointConfig,
    pub(crate) random: Box<dyn RandomSource + Send>,
    pub(crate) engines: Engines,
    pub(crate) spis: Box<dyn SpiSource>,
    pub(crate) connections: Connections,
    pub(crate) children: Children,
    pub(crate) directory: Directory,
    pub(crate) admission: Admission,
    pub(crate) counters: Counters,
    /// Our own attempts that have sent IKE_AUTH.
    pub(crate) calling: BTreeSet<(TunnelId, IkeSaId)>,
    /// New children that we are asking for, each with its IKE SA and the origin of that.
    pub(crate) creating: BTreeSet<(ChildId, IkeSaId, IkeSpi)>,
    actions: VecDeque<Action>,
    outputs: VecDeque<Output>,
    waiting: BTreeMap<Ticket, Waiter>,
    ids: Ids,
    hints: HintLimit,
    complaints: BTreeMap<TunnelId, Complaints>,
}

impl Shared {
    pub(crate) fn new(
        config: EndpointConfig,
        mut random: Box<dyn RandomSource + Send>,
        spis: Box<dyn SpiSource>,
    ) -> Self {
        let shard = u64::from(config.shard) << 56;
        let admission = Admission::new(&mut *random);
        Self {
            now: Instant::ZERO,
            config,
            random,
            engines: Engines::portable(),
            spis,
            connections: Connections::default(),
            children: Children::default(),
            directory: Directory::default(),
            admission,
            counters: Counters::default(),
            calling: BTreeSet::new(),
            creating: BTreeSet::new(),
            actions: VecDeque::new(),
            outputs: VecDeque::new(),
            waiting: BTreeMap::new(),
            ids: Ids { shard, ike: 0, pair: 0, sa: 0, ticket: 0 },
            hints: HintLimit::default(),
            complaints: BTreeMap::new(),
        }
    }

    pub(crate) fn next_ike_id(&mut self) -> IkeSaId {
        self.ids.ike += 1;
        IkeSaId(self.ids.shard | self.ids.ike)
    }

    pub(crate) fn next_pair_id(&mut self) -> PairId {
        self.ids.pair += 1;
        PairId(self.ids.shard | self.ids.pair)
    }

    pub(crate) fn next_sa_id(&mut self) -> SaId {
        self.ids.sa += 1;
        SaId(self.ids.shard | self.ids.sa)
    }

    /// A fresh IKE SPI of ours: the shard in the upper 8 bits, never zero, not in use.
    pub(crate) fn next_ike_spi(&mut self) -> IkeSpi {
        loop {
            let random = self.random.next_u64() & (u64::MAX >> 8);
            let spi = IkeSpi(self.ids.shard | random);
            if random != 0 && self.directory.find(spi).is_none() {
                return spi;
            }
        }
    }

    /// Whether we are about to have an IKE SA of our own with the tunnel's peer.
    pub(crate) fn is_calling(&self, tunnel: TunnelId) -> bool {
        let (first, last) = (IkeSaId(0), IkeSaId(u64::MAX));
        self.calling.range((tunnel, first)..=(tunnel, last)).next().is_some()
    }

    /// The origins of the IKE SAs on which we are asking for a new child.
    pub(crate) fn creators(&self, child: ChildId) -> impl Iterator<Item = IkeSpi> {
        let first = (child, IkeSaId(0), IkeSpi(0));
        let last = (child, IkeSaId(u64::MAX), IkeSpi(u64::MAX));
        self.creating.range(first..=last).map(|(.., origin)| *origin)
    }

    pub(crate) fn nonce(&mut self) -> Vec<u8> {
        let mut nonce = alloc::vec![0; NONCE_LEN];
        self.random.fill(&mut nonce);
        nonce
    }

    /// `base` shortened by a random part of the configured jitter: no timer comes late, and two
    /// ends with the same configuration do not meet.
    pub(crate) fn jittered(&mut self, base: Duration) -> Duration {
        let percent = self.config.jitter_percent.min(100);
        let span = base.saturating_mul(percent) / 100;
        base.saturating_sub(self.random_below(span))
    }

    /// A random duration below `span`.
    pub(crate) fn random_below(&mut self, span: Duration) -> Duration {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        if nanos == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.random.next_u64() % nanos)
    }

    pub(crate) fn transmit(&mut self, path: Endpoints, payload: Vec<u8>) {
        self.outputs.push_back(Output::Transmit { path, payload, keepalive: false });
    }

    pub(crate) fn keepalive(&mut self, path: Endpoints) {
        self.outputs.push_back(Output::Transmit {
            path,
            payload: alloc::vec![0xff],
            keepalive: true,
        });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// A failure of a tunnel that an operator should know.
    pub(crate) fn failed(
        &mut self,
        tunnel: Option<TunnelId>,
        child: Option<ChildId>,
        remote: SocketAddr,
        failure: Failure,
    ) {
        self.event(Event::Failed { tunnel, child, remote, failure, stranger: false });
    }

    /// As [`Self::failed`], for what the peer of a tunnel can cause at will with its requests.
    pub(crate) fn failed_request(
        &mut self,
        tunnel: TunnelId,
        child: Option<ChildId>,
        remote: SocketAddr,
        failure: Failure,
    ) {
        let complaints = self.complaints.entry(tunnel).or_default();
        if let Some(failure) = complaints.tell(self.now, failure) {
            self.failed(Some(tunnel), child, remote, failure);
        }
    }

    /// There is no such tunnel any more.
    pub(crate) fn forget(&mut self, tunnel: TunnelId) {
        self.connections.remove(tunnel);
        self.complaints.remove(&tunnel);
    }

    /// Whether [`Self::hint`] would be heard now: if not, its words need not be found.
    pub(crate) fn hears_hints(&mut self) -> bool {
        let second = self.now.as_nanos() / 1_000_000_000;
        if second != self.hints.second {
            self.hints = HintLimit { second, count: 0 };
        }
        self.hints.count < HINTS_PER_SECOND
    }

    /// As [`Self::failed`], for what a stranger can cause at will: a few a second at most.
    pub(crate) fn hint(&mut self, tunnel: Option<TunnelId>, remote: SocketAddr, failure: Failure) {
        if self.hears_hints() {
            self.hints.count += 1;
            self.event(Event::Failed { tunnel, child: None, remote, failure, stranger: true });
        }
    }

    /// Asks the driver for something slow.
    pub(crate) fn request(&mut self, waiter: Waiter, kind: RequestKind) -> Ticket {
        self.ids.ticket += 1;
        let ticket = Ticket(self.ids.shard | self.ids.ticket);
        self.waiting.insert(ticket, waiter);
        self.outputs.push_back(Output::Request { ticket, kind });
        ticket
    }

    /// Takes the waiter of a ticket: a second answer finds nobody.
    pub(crate) fn claim(&mut self, ticket: Ticket) -> Option<Waiter> {
        self.waiting.remove(&ticket)
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}
