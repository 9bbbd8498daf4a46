//! The endpoint: all IKE SAs of one shard, and the drive loop.

mod actions;
mod commands;
mod recovery;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use crypto::{aead::Engines, random::RandomSource};
use sa_store::{IkeSpi, Instant, PairId, TunnelId};

use crate::{
    config::{EndpointConfig, Endpoints},
    exchange::{ike_sa_init, unprotected::reply},
    input::{Completion, CompletionResult, Input, SpiSource},
    output::Output,
    sa::{IkeSa, established::Closed},
    shared::{Shared, Waiter},
    view::{IkeSaId, IkeSaView},
    wire::{ExchangeType, Header, Notify, NotifyType, WireError},
};

/// IKE SAs of one peer that are over and only repeat their last response, at most.
const CLOSED: usize = 16;
/// The same of all peers of a tunnel, which may have as many identities as it takes.
const CLOSED_OF_ALL: usize = 64;

/// IKE SAs that began with the same `SPIi` of peers and are looked at.
const SAME_SPI: usize = 8;

/// All IKE SAs of a shard as one machine without I/O.
///
/// Drive it so: [`Endpoint::handle`] whatever happens, then take [`Endpoint::poll_output`] until
/// it is `None`, then sleep until [`Endpoint::poll_timeout`] or the next input. Time may not run
/// backwards; if it does, the latest time counts.
pub struct Endpoint {
    shared: Shared,
    sas: BTreeMap<IkeSaId, IkeSa>,
    /// The IKE SAs of each tunnel, in whatever state.
    tunnels: BTreeSet<(TunnelId, IkeSaId)>,
    /// Those that are over and only repeat their last response.
    closed: BTreeSet<(TunnelId, IkeSaId)>,
    timers: BTreeSet<(Instant, IkeSaId)>,
    due: BTreeMap<IkeSaId, Instant>,
    /// Set while a call is under way: if the next one finds it so, there was a panic.
    busy: bool,
    stepping: Option<recovery::Stepping>,
}

impl core::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Endpoint({} IKE SAs)", self.sas.len())
    }
}

impl Endpoint {
    /// An endpoint without tunnels. All randomness of it, keys and behaviour, comes from
    /// `random`; inbound ESP SPIs come from `spis`.
    #[must_use]
    pub fn new(
        config: EndpointConfig,
        random: Box<dyn RandomSource + Send>,
        spis: Box<dyn SpiSource>,
    ) -> Self {
        Self {
            shared: Shared::new(config, random, spis),
            sas: BTreeMap::new(),
            tunnels: BTreeSet::new(),
            closed: BTreeSet::new(),
            timers: BTreeSet::new(),
            due: BTreeMap::new(),
            busy: false,
            stepping: None,
        }
    }

    /// The same endpoint with other AEAD engines for its SK payloads (measured ones, or audited
    /// ones in tests). Holds for IKE SAs made from now on.
    #[must_use]
    pub fn with_engines(mut self, engines: Engines) -> Self {
        self.shared.engines = engines;
        self
    }

    /// Takes in one thing that happened at `now`.
    ///
    /// If it panics, which is an error of ours, and the driver catches that, the IKE SA that it
    /// was about ends with the next call; all others go on.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.shared.now = self.shared.now.max(now);
        if core::mem::replace(&mut self.busy, true) {
            self.recover();
        }
        match input {
            Input::Datagram { path, payload } => self.on_datagram(path, payload),
            Input::Command(command) => self.on_command(command),
            Input::Completion(completion) => self.on_completion(completion),
            Input::Timeout => {}
        }
        self.run_timers();
        self.run_actions();
        self.busy = false;
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.shared.next_output()
    }

    /// When [`Input::Timeout`] is due; `None` if nothing waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.busy {
            return Some(self.shared.now);
        }
        let sa = self.timers.first().map_or(Instant::NEVER, |(at, _)| *at);
        let next = sa.min(self.shared.children.next_timer());
        (next != Instant::NEVER).then_some(next)
    }

    /// Every IKE SA, oldest first.
    #[must_use]
    pub fn ike_sas(&self) -> Vec<IkeSaView> {
        self.sas.iter().filter_map(|(id, sa)| sa.view(*id, &self.shared)).collect()
    }

    /// The IKE SAs of one tunnel, oldest first.
    #[must_use]
    pub fn ike_sas_of(&self, tunnel: TunnelId) -> Vec<IkeSaView> {
        self.of_tunnel(tunnel)
            .into_iter()
            .filter_map(|ike| self.sas.get(&ike)?.view(ike, &self.shared))
            .collect()
    }

    /// Datagrams that changed nothing, by reason.
    #[must_use]
    pub fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.shared.counters.list()
    }

    fn on_datagram(&mut self, path: Endpoints, datagram: &[u8]) {
        let header = match Header::parse(datagram) {
            Ok((header, _)) => header,
            Err(error) => {
                self.on_strange_header(path, error, datagram.len());
                return;
            }
        };
        let first = header.exchange == ExchangeType::IKE_SA_INIT && !header.response;
        if first {
            self.on_first_request(path, &header, datagram);
            return;
        }
        let own_spi = if header.initiator { header.spi_r } else { header.spi_i };
        match self.shared.directory.find(own_spi) {
            Some(ike) => {
                let half_open = matches!(self.sas.get(&ike), Some(IkeSa::HalfOpen(_)));
                if half_open && self.is_up(path, header.spi_i) {
                    self.shared.counters.unexpected += 1;
                    return;
                }
                self.step(ike, |sa, shared| sa.on_datagram(shared, path, datagram));
            }
            None => self.shared.counters.unknown_spi += 1,
        }
    }

    fn on_strange_header(&mut self, path: Endpoints, error: WireError, length: usize) {
        let counters = &mut self.shared.counters;
        match error {
            WireError::IkeV1 => counters.ikev1 += 1,
            WireError::MajorVersion { header, major } => {
                counters.version += 1;
                // RFC 7296 §2.5: who would begin with a later version learns which one we speak.
                // Whatever else comes is noise as likely as not.
                if major > 2 && begins(&header) {
                    let notify = Notify::new(NotifyType::INVALID_MAJOR_VERSION);
                    reply(&mut self.shared, path, &header, notify, length);
                }
            }
            _ => counters.malformed += 1,
        }
    }

    fn on_first_request(&mut self, path: Endpoints, header: &Header, datagram: &[u8]) {
        // Our own message that came back, or somebody who plays us.
        let reflected = self.shared.directory.find(header.spi_i).is_some();
        if !begins(header) || reflected || self.is_up(path, header.spi_i) {
            self.shared.counters.unexpected += 1;
            return;
        }
        // RFC 7296 §2.1: the whole request tells a retransmission from another one.
        let began = |ike: &IkeSaId| match self.sas.get(ike) {
            Some(IkeSa::HalfOpen(sa)) => sa.began_with(path, datagram),
            _ => false,
        };
        let known = self.shared.directory.half_open(path.remote, header.spi_i).find(began);
        if let Some(ike) = known {
            self.step(ike, |sa, shared| sa.on_datagram(shared, path, datagram));
            return;
        }
        if let Some((ike, sa)) = ike_sa_init::on_first_request(&mut self.shared, path, datagram) {
            self.put(ike, sa);
        }
    }

    /// Whether the attempt that a peer began with this `SPIi` has come up. What comes of it later, a
    /// request that was sent again or its IKE_AUTH, is no other attempt: the peer follows several
    /// answers and would be left with one of ours that the other has replaced.
    fn is_up(&self, path: Endpoints, spi_i: IkeSpi) -> bool {
        // Peers may choose alike, but hardly behind one address.
        self.shared.directory.begun_by_peers(spi_i).take(SAME_SPI).any(|ike| {
            matches!(self.sas.get(&ike), Some(IkeSa::Established(sa))
                if sa.channel.path.remote.ip() == path.remote.ip())
        })
    }

    fn on_completion(&mut self, completion: Completion) {
        let Completion { ticket, result } = completion;
        match self.shared.claim(ticket) {
            Some(Waiter::Ike(ike)) => {
                self.step(ike, |sa, shared| sa.on_completion(shared, ticket, result));
            }
            Some(Waiter::Pair(pair)) => self.on_pair_completion(pair, result),
            None => {}
        }
    }

    fn on_pair_completion(&mut self, pair: PairId, result: CompletionResult) {
        let Some(owner) = self.shared.children.get(pair).map(|sa| sa.owner) else {
            self.shared.on_leaving_completion(pair, &result);
            return;
        };
        self.step(owner, |sa, shared| match sa {
            IkeSa::Established(sa) => sa.on_pair_completion(shared, pair, result),
            other => Some(other),
        });
    }

    /// Takes an IKE SA through one step.
    fn step(&mut self, ike: IkeSaId, step: impl FnOnce(IkeSa, &mut Shared) -> Option<IkeSa>) {
        let Some(sa) = self.sas.remove(&ike) else { return };
        let tunnel = sa.tunnel();
        self.stepping = Some(recovery::Stepping::new(ike, &sa));
        // Its own step does not count it among those that call or create.
        match &sa {
            IkeSa::Authenticating(attempt) => {
                self.shared.calling.remove(&(attempt.tunnel(), ike));
            }
            IkeSa::Established(sa) => {
                if let Some(child) = sa.creates() {
                    self.shared.creating.remove(&(child, ike, sa.peer.origin));
                }
            }
            IkeSa::Closed(sa) => {
                self.closed.remove(&(sa.peer.tunnel(), ike));
            }
            _ => {}
        }
        let was_closed = matches!(sa, IkeSa::Closed(_));
        let next = step(sa, &mut self.shared);
        if let Some(tunnel) = tunnel
            && next.as_ref().and_then(IkeSa::tunnel) != Some(tunnel)
        {
            self.tunnels.remove(&(tunnel, ike));
        }
        match next {
            Some(sa) => {
                if !was_closed && let IkeSa::Closed(sa) = &sa {
                    self.make_room_for(sa);
                }
                self.put(ike, sa);
            }
            None => self.set_timer(ike, Instant::NEVER),
        }
        self.stepping = None;
    }

    fn put(&mut self, ike: IkeSaId, sa: IkeSa) {
        let due = sa.due(&self.shared);
        self.tunnels.extend(sa.tunnel().map(|tunnel| (tunnel, ike)));
        match &sa {
            IkeSa::Authenticating(attempt) => {
                self.shared.calling.insert((attempt.tunnel(), ike));
            }
            IkeSa::Established(sa) => {
                let child = sa.creates().map(|child| (child, ike, sa.peer.origin));
                self.shared.creating.extend(child);
            }
            IkeSa::Closed(sa) => {
                self.closed.insert((sa.peer.tunnel(), ike));
            }
            _ => {}
        }
        self.sas.insert(ike, sa);
        self.set_timer(ike, due);
    }

    /// A peer has had so many IKE SAs that its oldest ones have to go, though it may ask once more
    /// for their last responses.
    fn make_room_for(&mut self, new: &Closed) {
        let tunnel = new.peer.tunnel();
        let (first, last) = ((tunnel, IkeSaId(0)), (tunnel, IkeSaId(u64::MAX)));
        let same = |ike: &IkeSaId| match self.sas.get(ike) {
            Some(IkeSa::Closed(sa)) => sa.peer.remote_id.same(&new.peer.remote_id),
            _ => false,
        };
        let mut all: Vec<IkeSaId> = self.closed.range(first..=last).map(|(_, ike)| *ike).collect();
        let mut old: Vec<IkeSaId> = all.iter().copied().filter(same).collect();
        old.truncate((old.len() + 1).saturating_sub(CLOSED));
        all.truncate((all.len() + 1).saturating_sub(CLOSED_OF_ALL));
        for ike in old.into_iter().chain(all) {
            self.step(ike, |sa, shared| {
                if let IkeSa::Closed(sa) = sa {
                    sa.end(shared);
                }
                None
            });
        }
    }

    /// The IKE SAs of a tunnel, in whatever state.
    fn of_tunnel(&self, tunnel: TunnelId) -> Vec<IkeSaId> {
        let (first, last) = ((tunnel, IkeSaId(0)), (tunnel, IkeSaId(u64::MAX)));
        self.tunnels.range(first..=last).map(|(_, ike)| *ike).collect()
    }

    fn set_timer(&mut self, ike: IkeSaId, at: Instant) {
        let old =
            if at == Instant::NEVER { self.due.remove(&ike) } else { self.due.insert(ike, at) };
        if old == Some(at) {
            return;
        }
        if let Some(old) = old {
            self.timers.remove(&(old, ike));
        }
        if at != Instant::NEVER {
            self.timers.insert((at, ike));
        }
    }

    fn run_timers(&mut self) {
        self.shared.remove_lingering();
        // Each IKE SA once: a timer that is due again at once waits for the next call.
        let now = self.shared.now;
        let due: Vec<IkeSaId> =
            self.timers.iter().take_while(|(at, _)| *at <= now).map(|(_, ike)| *ike).collect();
        for ike in due {
            self.step(ike, IkeSa::on_timeout);
        }
    }
}

/// Whether a message is the first one of an initiator.
fn begins(header: &Header) -> bool {
    header.initiator
        && !header.response
        && header.spi_r.is_zero()
        && !header.spi_i.is_zero()
        && header.message_id == 0
}
