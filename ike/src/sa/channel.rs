//! The protected channel of one IKE SA: who is who, where both are, keys, Message IDs.

use alloc::vec::Vec;
use core::net::SocketAddr;

use sa_store::{IkeSpi, Instant};

use super::{
    mobility::Mobility,
    nat::{self, NAT_PORT, Nat},
    window::{Due, RequestId, Resend, Window},
};
use crate::{
    config::{Endpoints, IkeSuite},
    fragment::{self, Progress, Reassembly},
    keys::{DerivationFailed, IkeKeys, OpenError, Opened, Opener, SealError, Sealer, SkD},
    shared::Shared,
    wire::{ExchangeType, Header, Message, Payload, WireError},
};

/// The role in the IKE_SA_INIT, or in the CREATE_CHILD_SA that made the IKE SA: it decides on
/// the flag I, the keys and the order of the SPIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// The two SPIs of an IKE SA and which one is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spis {
    pub(crate) role: Role,
    pub(crate) spi_i: IkeSpi,
    pub(crate) spi_r: IkeSpi,
}

impl Spis {
    pub(crate) const fn own(self) -> IkeSpi {
        match self.role {
            Role::Initiator => self.spi_i,
            Role::Responder => self.spi_r,
        }
    }

    /// Whether a message has these SPIs and comes from the other end.
    pub(crate) fn match_peer(self, header: &Header) -> bool {
        (header.spi_i, header.spi_r) == (self.spi_i, self.spi_r)
            && header.initiator == (self.role == Role::Responder)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) spis: Spis,
    pub(crate) suite: IkeSuite,
    pub(crate) path: Endpoints,
    pub(crate) nat: Nat,
    pub(crate) window: Window,
    /// Both ends do RFC 7383.
    pub(crate) fragmentation: bool,
    sealer: Sealer,
    opener: Opener,
    requests: Reassembly,
    responses: Reassembly,
    last_transmit: Instant,
    mobility: Mobility,
}

/// What a datagram is to its IKE SA.
#[derive(Debug)]
pub(crate) enum Received {
    /// A request that is new: it must be answered.
    Request(ExchangeType, Result<Opened, WireError>),
    /// The response to our request in flight.
    Response(ExchangeType, Result<Opened, WireError>),
    /// Dealt with, or nothing of interest.
    Nothing,
}

/// The keys of an IKE SA that the channel does not use itself.
#[derive(Debug)]
pub(crate) struct Secrets {
    pub(crate) sk_d: SkD,
    pub(crate) sk_pi: crate::keys::SkP,
    pub(crate) sk_pr: crate::keys::SkP,
}

/// Why there is no channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoChannel;

impl From<SealError> for NoChannel {
    fn from(_: SealError) -> Self {
        Self
    }
}

impl From<DerivationFailed> for NoChannel {
    fn from(_: DerivationFailed) -> Self {
        Self
    }
}

impl Channel {
    /// A channel with fresh keys.
    pub(crate) fn open_with(
        shared: &mut Shared,
        spis: Spis,
        suite: IkeSuite,
        keys: IkeKeys,
        (path, nat, fragmentation): (Endpoints, Nat, bool),
        window: Window,
    ) -> Result<(Self, Secrets), NoChannel> {
        let (ours, theirs) = match spis.role {
            Role::Initiator => (&keys.initiator, &keys.responder),
            Role::Responder => (&keys.responder, &keys.initiator),
        };
        let engines = &shared.engines;
        let sealer = Sealer::new(engines, suite.suite, ours, 0, &mut *shared.random)?;
        let opener = Opener::new(engines, suite.suite, theirs)?;
        let channel = Self {
            spis,
            suite,
            path,
            nat,
            window,
            fragmentation,
            sealer,
            opener,
            requests: Reassembly::default(),
            responses: Reassembly::default(),
            last_transmit: shared.now,
            mobility: Mobility::default(),
        };
        Ok((channel, Secrets { sk_d: keys.d, sk_pi: keys.pi, sk_pr: keys.pr }))
    }

    /// Opens a datagram for this IKE SA. Nothing changes unless it is authentic and in the
    /// window.
    pub(crate) fn receive(
        &mut self,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Received {
        let message = match Message::parse(datagram) {
            Ok(message) => message,
            Err(_) => {
                shared.counters.malformed += 1;
                return Received::Nothing;
            }
        };
        let header = message.header;
        let Some(protected) = message.protected else {
            shared.counters.unauthentic += 1;
            return Received::Nothing;
        };
        if !self.spis.match_peer(&header) {
            shared.counters.unknown_spi += 1;
            return Received::Nothing;
        }
        if protected.fragment.is_some() && !self.fragmentation {
            // RFC 7383 §2.3: only if both ends have said that they do it.
            shared.counters.unexpected += 1;
            return Received::Nothing;
        }
        let new = if header.response {
            self.window.awaits(header.message_id)
        } else {
            match self.window.classify(header.message_id) {
                RequestId::New => true,
                RequestId::Repeated => {
                    // Fragments: the first one alone asks for the response (RFC 7383 §2.6.1).
                    let asks = protected.fragment.is_none_or(|fragment| fragment.number == 1);
                    if asks && self.opener.open(&protected).is_ok() {
                        self.window.repeat_response(shared, path);
                    }
                    return Received::Nothing;
                }
                RequestId::Outside => false,
            }
        };
        if !new {
            shared.counters.window += 1;
            return Received::Nothing;
        }
        let reassembly = if header.response { &mut self.responses } else { &mut self.requests };
        let opened = match reassembly.add(&self.opener, header.message_id, &protected) {
            Ok(Progress::Complete(opened)) => Ok(opened),
            Ok(Progress::Incomplete) => return Received::Nothing,
            Ok(Progress::Ignored) => {
                shared.counters.window += 1;
                return Received::Nothing;
            }
            Err(OpenError::NotAuthentic) => {
                shared.counters.unauthentic += 1;
                return Received::Nothing;
            }
            // A cap on fragments may be hit before anything is verified.
            Err(OpenError::Malformed(_)) if protected.fragment.is_some() => {
                shared.counters.malformed += 1;
                return Received::Nothing;
            }
            Err(OpenError::Malformed(error)) => Err(error),
        };
        if header.response {
            self.window.answered();
            Received::Response(header.exchange, opened)
        } else {
            Received::Request(header.exchange, opened)
        }
    }

    /// How many octets a request of the peer in fragments may have from now on.
    pub(crate) const fn limit_requests(&mut self, octets: usize) {
        self.requests.limit(octets);
    }

    /// Octets of an unfinished request of the peer.
    pub(crate) fn held(&self) -> usize {
        self.requests.held()
    }

    /// Octets an IKE message may have before it is fragmented.
    fn max_len(&self, shared: &Shared) -> usize {
        if !self.fragmentation {
            return usize::MAX;
        }
        let ip = if self.path.remote.is_ipv4() { 20 } else { 40 };
        let marker = if self.path.local.port() == NAT_PORT { 4 } else { 0 };
        shared.config.fragment_size.saturating_sub(ip + 8 + marker)
    }

    fn seal(
        &mut self,
        shared: &Shared,
        (exchange, response, message_id): (ExchangeType, bool, u32),
        payloads: &[Payload<'_>],
    ) -> Result<Vec<Vec<u8>>, SealError> {
        let header = Header {
            spi_i: self.spis.spi_i,
            spi_r: self.spis.spi_r,
            exchange,
            initiator: self.spis.role == Role::Initiator,
            response,
            message_id,
        };
        let max_len = self.max_len(shared);
        fragment::seal(&mut self.sealer, &header, payloads, max_len)
    }

    /// Sends a request; the window must be free.
    pub(crate) fn request(
        &mut self,
        shared: &mut Shared,
        exchange: ExchangeType,
        payloads: &[Payload<'_>],
    ) -> Result<(), SealError> {
        let id = self.window.next_id().ok_or(SealError::Exhausted)?;
        let datagrams = self.seal(shared, (exchange, false, id), payloads)?;
        self.responses.clear();
        self.transmit(shared, self.path, &datagrams);
        let resend = Resend::start(shared);
        self.window.sent(datagrams, resend);
        Ok(())
    }

    /// Answers the request that [`Self::receive`] gave last, to where it came from.
    pub(crate) fn respond(
        &mut self,
        shared: &mut Shared,
        exchange: ExchangeType,
        payloads: &[Payload<'_>],
        path: Endpoints,
    ) -> Result<(), SealError> {
        let id = self.window.expected();
        let datagrams = self.seal(shared, (exchange, true, id), payloads)?;
        self.requests.clear();
        self.transmit(shared, path, &datagrams);
        self.window.responded(datagrams);
        Ok(())
    }

    fn transmit(&mut self, shared: &mut Shared, path: Endpoints, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            shared.transmit(path, datagram.clone());
        }
        self.last_transmit = shared.now;
    }

    /// Sends our request again if it is time, and a NAT keepalive if we were silent for long.
    pub(crate) fn on_timeout(&mut self, shared: &mut Shared) -> Due {
        let due = self.window.on_timeout(shared, self.path);
        if matches!(due, Due::Again(_)) {
            self.last_transmit = shared.now;
        }
        if self.keepalive_due(shared) <= shared.now {
            shared.keepalive(self.path);
            self.last_transmit = shared.now;
        }
        due
    }

    fn keepalive_due(&self, shared: &Shared) -> Instant {
        // Who forces UDP has a reason, such as a firewall that forgets.
        let wanted = self.nat.local || self.nat.forced;
        if wanted && self.path.local.port() == NAT_PORT {
            self.last_transmit + shared.config.nat_keepalive
        } else {
            Instant::NEVER
        }
    }

    pub(crate) fn due(&self, shared: &Shared) -> Instant {
        self.window.due().min(self.keepalive_due(shared)).min(self.mobility.due())
    }

    /// The peer sent something authentic and new from `path`: if it is behind a NAT it may have
    /// a new mapping (RFC 7296 §2.23), which [`Self::follow`] follows.
    pub(crate) fn seen_at(&mut self, path: Endpoints) {
        if self.nat.remote && !self.nat.local && path.local == self.path.local {
            self.mobility.seen(path, self.path);
        }
    }

    /// The peer has proved what it said of NATs and fragments: what was read in its name before
    /// does not count.
    pub(crate) fn settle(&mut self, nat: Nat, fragmentation: bool) {
        self.nat = nat;
        self.fragmentation = fragmentation;
        if nat.any() {
            self.path = nat::float(self.path);
        }
    }

    /// Follows a peer that has moved, if it is time. Returns the old address.
    pub(crate) fn follow(&mut self, now: Instant) -> Option<SocketAddr> {
        let path = self.mobility.follow(now)?;
        Some(core::mem::replace(&mut self.path, path).remote)
    }

    /// The IKE SA that this one replaces knows how the peer has moved.
    pub(crate) const fn moves_like(&mut self, old: &Self) {
        self.mobility = old.mobility;
    }
}
