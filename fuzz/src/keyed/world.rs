//! The two endpoints, the datagrams between them, and what the harness does with those.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crypto::ke::{self, PrivateKey};
use ike::{
    Endpoint,
    config::{EndpointConfig, Endpoints},
    event::Event,
    input::{
        Agreement, Command, Completion, CompletionResult, GeneratedKey, Input, KeFailure, SpiSource,
    },
    negotiate::{parse_esp, parse_ike},
    output::{Output, RequestKind, Ticket},
    wire::{ExchangeType, FragmentNumber, Header, encode_message},
};
use sa_store::{ChildId, Direction, EspSpi, Instant, KeGroup};

use super::{
    script::Script,
    setup::{TUNNEL, assert_fits, connection, path},
    tracker::{Plain, Tracker, shared_secret},
};
use crate::{engine::Answer, random::Random, seed};

/// Outputs of one input at most: more is an endless loop.
const MAX_OUTPUTS: usize = 2_000;
/// Calls for deadlines of one moment: more is a driver that spins.
const MAX_WAKE_UPS: usize = 200;
/// Datagrams on the way at most; more are lost.
const MAX_ON_THE_WAY: usize = 64;
/// What stands in fragments for which the message is too short.
const ZEROS: &[u8] = &[0; 64];
/// Instructions and deliveries of one run.
const MAX_STEPS: usize = 160;

thread_local! {
    /// Private keys are opaque and never used here, so they go round.
    static KEYS: RefCell<Vec<PrivateKey>> = const { RefCell::new(Vec::new()) };
}

fn private_key() -> Option<PrivateKey> {
    KEYS.with_borrow_mut(Vec::pop).or_else(|| {
        ke::generate(KeGroup::Curve25519, &mut Random::new(1)).ok().map(|pair| pair.private)
    })
}

fn public_value(group: KeGroup) -> Vec<u8> {
    vec![2; group.public_len()]
}

/// Counts up.
struct Spis(u32);

impl SpiSource for Spis {
    fn allocate(&mut self) -> Option<EspSpi> {
        self.0 += 1;
        EspSpi::new(self.0)
    }

    fn release(&mut self, _: EspSpi) {}
}

struct Side {
    endpoint: Endpoint,
    path: Endpoints,
}

/// How far a run came: proof that inputs reach what they are meant to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reached {
    /// IKE SAs that came up, on both sides.
    pub established: usize,
    /// IKE SAs that were rekeyed.
    pub ike_rekeyed: usize,
    /// Pairs that were installed.
    pub installed: usize,
    /// Children that were rekeyed.
    pub child_rekeyed: usize,
    /// Attempts that failed.
    pub failed: usize,
    /// Messages of the harness's making that were sealed and handed in.
    pub forged: usize,
}

/// Both endpoints and everything between them.
pub struct World {
    now: Instant,
    sides: [Side; 2],
    /// Datagrams on the way: to which side, from where to where, what.
    wire: VecDeque<(usize, Endpoints, Vec<u8>)>,
    tracker: Tracker,
    /// Requests that fail from now on, one after the other.
    failures: u8,
    same_secret: bool,
    reached: Reached,
    /// What happened, and how often: the order does not count, or every script would be new.
    seen: BTreeMap<String, usize>,
}

const IKE: [&str; 4] = [
    "aes256gcm16-prfsha384-x25519",
    "aes128-sha256-ecp256-x25519",
    "chacha20poly1305-prfsha256-x25519-ecp256",
    "aes256-aes128-sha512-sha256-modp2048",
];
const ESP: [&str; 3] = ["aes256gcm16-esn-noesn", "aes256gcm16-x25519-esn", "aes128-sha256-ecp256"];

impl World {
    /// Two endpoints with a configuration that the first octets choose, and the first of them
    /// initiating.
    #[must_use]
    pub fn new(script: &mut Script<'_>) -> Option<Self> {
        let choice = script.octet();
        let flags = script.octet();
        let ike = vec![parse_ike(IKE[usize::from(choice % 4)]).ok()?];
        let esp = vec![parse_esp(ESP[usize::from(choice / 4 % 3)]).ok()?];
        let side = |at: usize| -> Option<Side> {
            let config = EndpointConfig {
                fragment_size: if flags & 2 == 0 { 1280 } else { 380 },
                cookie_threshold: if flags & 4 == 0 { 64 } else { 0 },
                ..EndpointConfig::default()
            };
            let random = Box::new(Random::new((u64::from(flags) << 8) + at as u64 + 1));
            let spis = Box::new(Spis(0xc000_0000 + 0x0100_0000 * at as u32));
            let mut endpoint = Endpoint::new(config, random, spis);
            let connection = connection(at, flags, ike.clone(), &esp)?;
            endpoint
                .handle(Instant::ZERO, Input::Command(Command::Configure(Arc::new(connection))));
            Some(Side { endpoint, path: path(at) })
        };
        let mut world = Self {
            now: Instant::from_nanos(1_000_000_000),
            sides: [side(0)?, side(1)?],
            wire: VecDeque::new(),
            tracker: Tracker::new(ike),
            failures: 0,
            same_secret: flags & 1 == 0,
            reached: Reached::default(),
            seen: BTreeMap::new(),
        };
        world.initiate(0);
        if flags & 8 != 0 {
            world.initiate(1);
        }
        Some(world)
    }

    /// Follows the script to its end, then lets both sides come to rest.
    #[must_use]
    pub fn run(mut self, script: &mut Script<'_>) -> (u64, Reached) {
        for _ in 0..MAX_STEPS {
            if script.is_done() {
                break;
            }
            self.instruction(script);
        }
        for _ in 0..MAX_STEPS {
            let Some((to, path, datagram)) = self.wire.pop_front() else {
                break;
            };
            self.deliver(to, path, &datagram);
        }
        for side in &self.sides {
            let views = side.endpoint.ike_sas();
            assert!(views.len() <= 64, "{} IKE SAs", views.len());
            assert!(!format!("{views:?}").is_empty());
            for view in &views {
                *self.seen.entry(format!("{:?}", view.state)).or_default() += 1;
            }
            for (name, count) in side.endpoint.dropped() {
                *self.seen.entry(name.to_owned()).or_default() +=
                    usize::try_from(count).unwrap_or(usize::MAX);
            }
        }
        let mut answer = Answer::default();
        for (name, count) in &self.seen {
            answer.add_text(name);
            answer.add_size(*count);
        }
        (answer.get(), self.reached)
    }

    fn instruction(&mut self, script: &mut Script<'_>) {
        let code = script.octet();
        match code % 22 {
            0..=4 => {
                for _ in 0..=code % 5 {
                    if let Some((to, path, datagram)) = self.wire.pop_front() {
                        self.deliver(to, path, &datagram);
                    }
                }
            }
            5 => drop(self.wire.pop_front()),
            6 => {
                if let Some((to, path, datagram)) = self.wire.front().cloned() {
                    self.deliver(to, path, &datagram);
                }
            }
            7 => {
                if let Some(front) = self.wire.pop_front() {
                    self.wire.push_back(front);
                }
            }
            8 => self.pass(Duration::from_millis(1 << (script.octet() % 24))),
            9 => self.command(script),
            10 => self.failures = script.octet() % 4,
            11 => self.altered_datagram(script),
            12 | 13 => self.altered_octets(script),
            14 => self.replaced(script),
            15..=17 => self.altered_payloads(script),
            18 | 19 => self.injected(script),
            _ => self.fragmented(script),
        }
    }

    /// Any octets of the datagram.
    fn altered_datagram(&mut self, script: &mut Script<'_>) {
        let Some((to, path, mut datagram)) = self.wire.pop_front() else {
            return;
        };
        for _ in 0..=script.octet() % 4 {
            let at = usize::from(script.number()) % datagram.len().max(1);
            let value = script.octet();
            if let Some(octet) = datagram.get_mut(at) {
                *octet = value;
            }
        }
        self.deliver(to, path, &datagram);
    }

    /// Takes the next datagram off the wire, opened. Clear ones are delivered as they are.
    fn take(&mut self) -> Option<(usize, Endpoints, Plain)> {
        let (to, path, datagram) = self.wire.pop_front()?;
        match self.tracker.open(&datagram) {
            Some(plain) => Some((to, path, plain)),
            None => {
                self.input(to, path, &datagram);
                None
            }
        }
    }

    /// Octets of the plaintext.
    fn altered_octets(&mut self, script: &mut Script<'_>) {
        let Some((to, path, mut plain)) = self.take() else {
            return;
        };
        let octets = &mut plain.opened.octets;
        for _ in 0..=script.octet() % 4 {
            let at = usize::from(script.number()) % octets.len().max(1);
            let value = script.octet();
            match (octets.get_mut(at), value % 8) {
                (Some(octet), 0..=5) => *octet ^= value,
                (Some(_), 6) => octets.truncate(at),
                _ => octets.extend_from_slice(&[value; 3]),
            }
        }
        let first = plain.opened.first.0;
        self.sealed(to, path, &plain.header, (first, None), &plain.opened.octets);
    }

    /// Another plaintext, from the script.
    fn replaced(&mut self, script: &mut Script<'_>) {
        let Some((to, path, plain)) = self.take() else {
            return;
        };
        let first = script.octet();
        self.sealed(to, path, &plain.header, (first, None), script.octets());
    }

    /// Payloads taken out, doubled, moved, or put in from the seeds.
    fn altered_payloads(&mut self, script: &mut Script<'_>) {
        let Some((to, path, plain)) = self.take() else {
            return;
        };
        let Ok(payloads) = plain.opened.payloads() else {
            return;
        };
        let mut list = payloads.as_slice().to_vec();
        for _ in 0..=script.octet() % 3 {
            let (what, at) = (script.octet(), usize::from(script.octet()));
            let place = at % list.len().max(1);
            match what % 4 {
                0 if !list.is_empty() => drop(list.remove(place)),
                1 if !list.is_empty() => list.insert(place, list[place].clone()),
                2 if !list.is_empty() => list.rotate_left(place),
                _ => {
                    let chains = seed::chains();
                    let chain = &chains[usize::from(what / 4) % chains.len()].1;
                    if let Some(payload) = chain.get(at % chain.len().max(1)) {
                        list.insert(place.min(list.len()), payload.clone());
                    }
                }
            }
        }
        if let Some(datagram) = self.tracker.seal_payloads(&plain.header, &list) {
            self.reached.forged += 1;
            self.input(to, path, &datagram);
        }
    }

    /// The message in fragments: some of any number and length, then all of them, the whole
    /// message, both or neither.
    fn fragmented(&mut self, script: &mut Script<'_>) {
        let Some((to, path, plain)) = self.take() else {
            return;
        };
        let Plain { header, opened } = plain;
        let first = opened.first.0;
        // More than an endpoint takes, and none at all.
        let total = u16::from(script.octet() % 80);
        let each = opened.octets.len().div_ceil(usize::from(total).max(1)).max(1);
        let parts: Vec<&[u8]> = opened.octets.chunks(each).collect();
        let send = |world: &mut Self, number: u16, part: &[u8]| {
            let first = if number == 1 { first } else { 0 };
            let fragment = Some(FragmentNumber { number, total });
            world.sealed(to, path, &header, (first, fragment), part);
        };
        for _ in 0..=script.octet() % 8 {
            let number = u16::from(script.octet()) % (total + 2);
            let part = parts.get(usize::from(number).saturating_sub(1)).unwrap_or(&ZEROS);
            // So often that limits are met.
            let times = usize::from(script.octet()).saturating_mul(2).max(1);
            send(self, number, &part.repeat(times));
        }
        let rest = script.octet();
        if rest & 1 != 0 {
            for number in 1..=total {
                send(self, number, parts.get(usize::from(number) - 1).unwrap_or(&ZEROS));
            }
        }
        if rest & 2 != 0 {
            self.sealed(to, path, &header, (first, None), &opened.octets);
        }
    }

    /// A message that nobody sent: any exchange, flags and Message ID, on a known IKE SA.
    fn injected(&mut self, script: &mut Script<'_>) {
        let kind = script.octet();
        let message_id = u32::from(script.octet() % 8);
        let to = usize::from(kind & 1);
        let exchange = match kind >> 4 {
            nibble @ 0..=7 => ExchangeType(34 + nibble % 4),
            nibble => ExchangeType(nibble * 16 + kind % 16),
        };
        let Some((spi_i, spi_r)) = self.tracker.header(usize::from(kind & 2 != 0)) else {
            return;
        };
        let header = Header {
            spi_i,
            spi_r,
            exchange,
            initiator: kind & 4 != 0,
            response: kind & 8 != 0,
            message_id,
        };
        let choice = script.octet();
        let path = path(to);
        if choice & 0x80 == 0 {
            let chains = seed::chains();
            let chain = &chains[usize::from(choice) % chains.len()].1;
            if let Some(datagram) = self.tracker.seal_payloads(&header, chain) {
                self.reached.forged += 1;
                self.input(to, path, &datagram);
            }
            // And without protection: nobody may believe it.
            if choice & 0x40 != 0
                && let Ok(datagram) = encode_message(&header, chain)
            {
                self.input(to, path, &datagram);
            }
        } else {
            let first = script.octet();
            self.sealed(to, path, &header, (first, None), script.octets());
        }
    }

    fn sealed(
        &mut self,
        to: usize,
        path: Endpoints,
        header: &Header,
        (first, fragment): (u8, Option<FragmentNumber>),
        octets: &[u8],
    ) {
        if let Some(datagram) = self.tracker.seal(header, first, fragment, octets) {
            self.reached.forged += 1;
            self.deliver(to, path, &datagram);
        }
    }

    fn deliver(&mut self, to: usize, path: Endpoints, datagram: &[u8]) {
        // Learns keys from what arrives.
        let _ = self.tracker.open(datagram);
        self.input(to, path, datagram);
    }

    fn input(&mut self, to: usize, path: Endpoints, payload: &[u8]) {
        self.handle(to, Input::Datagram { path, payload });
    }

    fn initiate(&mut self, side: usize) {
        let command =
            Command::Initiate { tunnel: TUNNEL, path: self.sides[side].path, children: vec![] };
        self.handle(side, Input::Command(command));
    }

    fn command(&mut self, script: &mut Script<'_>) {
        let choice = script.octet();
        let side = usize::from(choice & 1);
        let child = ChildId(1 + u32::from(choice >> 6 & 1));
        let command = match choice >> 1 & 7 {
            0 => return self.initiate(side),
            1 => Command::RekeyIke { tunnel: TUNNEL },
            2 | 3 => Command::RekeyChild { child },
            4 => Command::Terminate { tunnel: TUNNEL },
            5 => Command::TerminateChild { child },
            6 => Command::CheckLiveness { tunnel: TUNNEL },
            _ => Command::Forget(TUNNEL),
        };
        self.handle(side, Input::Command(command));
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for side in 0..2 {
            self.wake(side);
        }
    }

    /// Calls as a driver does until no deadline is in the past; that must end.
    fn wake(&mut self, side: usize) {
        for _ in 0..MAX_WAKE_UPS {
            self.handle(side, Input::Timeout);
            let next = self.sides[side].endpoint.poll_timeout();
            if next.is_none_or(|at| at > self.now) {
                return;
            }
        }
        unreachable!("{MAX_WAKE_UPS} calls do not meet the deadlines of one moment");
    }

    fn handle(&mut self, side: usize, input: Input<'_>) {
        self.sides[side].endpoint.handle(self.now, input);
        self.drain(side);
    }

    fn drain(&mut self, side: usize) {
        for _ in 0..MAX_OUTPUTS {
            let Some(output) = self.sides[side].endpoint.poll_output() else {
                return;
            };
            match output {
                Output::Transmit { path, payload, keepalive } => {
                    if keepalive || self.wire.len() >= MAX_ON_THE_WAY {
                        continue;
                    }
                    let turned = Endpoints { local: path.remote, remote: path.local };
                    self.wire.push_back((1 - side, turned, payload));
                }
                Output::Request { ticket, kind } => self.complete(side, ticket, kind),
                Output::Event(event) => self.note(&event),
            }
        }
        unreachable!("one input has more than {MAX_OUTPUTS} outputs");
    }

    fn complete(&mut self, side: usize, ticket: Ticket, kind: RequestKind) {
        let fails = self.failures > 0;
        self.failures = self.failures.saturating_sub(1);
        let agreed = |group: KeGroup, public| {
            CompletionResult::Agreed(if fails {
                Err(KeFailure::InvalidPublicValue)
            } else {
                Ok(Agreement { public, shared: shared_secret(group) })
            })
        };
        let failed = || {
            if fails { Err("planted".to_owned()) } else { Ok(()) }
        };
        let result = match kind {
            RequestKind::GenerateKey { group } => match private_key() {
                Some(private) if !fails => {
                    let public = public_value(group);
                    CompletionResult::KeyGenerated(Ok(GeneratedKey { public, private }))
                }
                _ => CompletionResult::KeyGenerated(Err(KeFailure::Internal)),
            },
            RequestKind::Agree { group, private, .. } => {
                KEYS.with_borrow_mut(|keys| keys.push(private));
                agreed(group, None)
            }
            RequestKind::GenerateAndAgree { group, .. } => agreed(group, Some(public_value(group))),
            RequestKind::Install { inbound, outbound, .. } => {
                assert_fits(&inbound, Direction::Inbound);
                assert_fits(&outbound, Direction::Outbound);
                assert_eq!(inbound.pair, outbound.pair);
                assert!(self.same_secret, "an SA without a peer that proved its identity");
                CompletionResult::Installed(failed())
            }
            RequestKind::Activate { .. } => CompletionResult::Activated(failed()),
            RequestKind::UpdateAddresses { .. } => CompletionResult::Updated(failed()),
            RequestKind::Remove { .. } => CompletionResult::Removed,
        };
        let completion = Input::Completion(Completion { ticket, result });
        self.sides[side].endpoint.handle(self.now, completion);
    }

    fn note(&mut self, event: &Event) {
        let shown = format!("{event:?}");
        let name = shown.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let detail = match event {
            Event::Failed { failure, .. }
            | Event::IkeDown { reason: failure, .. }
            | Event::ChildDown { reason: failure, .. } => failure.code.as_str(),
            _ => "",
        };
        *self.seen.entry(format!("{name} {detail}")).or_default() += 1;
        let reached = &mut self.reached;
        match event {
            Event::Failed { .. } => reached.failed += 1,
            Event::IkeEstablished { .. } => {
                reached.established += 1;
                assert!(self.same_secret, "established without the shared secret");
            }
            Event::IkeRekeyed { .. } => reached.ike_rekeyed += 1,
            Event::ChildRekeyed { .. } => reached.child_rekeyed += 1,
            Event::ChildInstalled { .. } => reached.installed += 1,
            _ => {}
        }
    }
}
