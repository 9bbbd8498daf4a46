//! Two gateways, a wire and virtual time.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use crypto::{ke, random::RandomSource};
use gateway::{
    Gateway, GatewayConfig, Randomness,
    command::{Command, CommandId, Outcome, Target},
    input::{CompletionResult, Input},
    output::{Output, RequestKind},
    read_model::{ChildStatus, TunnelState, TunnelStatus},
    spec::{ChildSpec, ConnectionSpec, Origin, RemoteAddress, TunnelMode},
};
use ike::{
    config::{AuthMethod, EncapPolicy, Endpoints},
    input::{Agreement, GeneratedKey, KeFailure},
    negotiate::{parse_esp, parse_ike},
};
use sa_store::{Instant, Limits, OffloadIntent, SecretBytes};

use crate::backend::Memory;

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;

/// A predictable generator: tests need no secrets.
struct Counting(u64);

impl RandomSource for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *octet = self.0.to_be_bytes()[0];
        }
    }
}

pub(crate) struct Side {
    pub(crate) gateway: Gateway,
    pub(crate) backend: Memory,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) hosts: BTreeMap<String, Vec<IpAddr>>,
    outcomes: BTreeMap<CommandId, Outcome>,
    random: Counting,
}

pub(crate) struct World {
    pub(crate) sides: [Side; 2],
    pub(crate) now: Instant,
    /// Nothing arrives.
    pub(crate) cut: bool,
    wire: VecDeque<(Instant, Endpoints, Vec<u8>)>,
    next_command: u64,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The tunnel of one side: `net0` between 10.1.0.0/24 and 10.2.0.0/24, and so on.
pub(crate) fn spec(side: usize, children: usize) -> ConnectionSpec {
    let (us, them) = if side == A { ("a", "b") } else { ("b", "a") };
    let address = |name: &str| ip(if name == "a" { "192.0.2.1" } else { "192.0.2.2" });
    ConnectionSpec {
        name: "peer".into(),
        mode: TunnelMode::AlwaysOn,
        local: vec![address(us)],
        remote: vec![RemoteAddress::Address(address(them))],
        local_id: Some(format!("{us}.example").parse().unwrap()),
        remote_id: format!("{them}.example").parse().unwrap(),
        auth: psk("the right one"),
        proposals: vec![parse_ike("aes256gcm16-prfsha256-x25519").unwrap()],
        rekey: Some(Duration::from_secs(4 * 3600)),
        dpd: Some(Duration::from_secs(30)),
        encap: EncapPolicy::Auto,
        children: (0..children).map(|index| child(side, index)).collect(),
    }
}

pub(crate) fn psk(text: &str) -> AuthMethod {
    AuthMethod::Psk(SecretBytes::from_slice(text.as_bytes()))
}

pub(crate) fn child(side: usize, index: usize) -> ChildSpec {
    let network = |side: usize| vec![format!("10.{}.{index}.0/24", side + 1).parse().unwrap()];
    ChildSpec {
        name: format!("net{index}"),
        local: network(side),
        remote: network(1 - side),
        proposals: vec![parse_esp("aes256gcm16-esn").unwrap()],
        rekey: Limits { time: Some(Duration::from_secs(3600)), ..Limits::default() },
        life: Limits { time: Some(Duration::from_secs(4000)), ..Limits::default() },
        replay_window: 64,
        bypass: Vec::new(),
        offload: OffloadIntent::Auto,
    }
}

pub(crate) fn target(text: &str) -> Target {
    match text.split_once('/') {
        Some((tunnel, child)) => Target { tunnel: tunnel.into(), child: Some(child.into()) },
        None => Target { tunnel: text.into(), child: None },
    }
}

impl World {
    /// Two gateways that have been told nothing.
    pub(crate) fn empty() -> Self {
        let side = |side: u64, address: &str| {
            let backend = Memory::default();
            let random = |part| Counting(side * 100 + part);
            let randomness = Randomness {
                ike: Box::new(random(1)),
                spis: Box::new(random(2)),
                jitter: Box::new(random(3)),
            };
            let live = backend.live.clone();
            let boxed = Box::new(backend.clone());
            Side {
                gateway: Gateway::new(GatewayConfig::default(), boxed, live, randomness),
                backend,
                addresses: vec![ip(address)],
                hosts: BTreeMap::new(),
                outcomes: BTreeMap::new(),
                random: random(4),
            }
        };
        Self {
            sides: [side(1, "192.0.2.1"), side(2, "192.0.2.2")],
            now: Instant::from_nanos(1_000_000_000),
            cut: false,
            wire: VecDeque::new(),
            next_command: 1,
        }
    }

    /// Two gateways with these tunnels, up or as far as they got in a minute.
    pub(crate) fn with(a: ConnectionSpec, b: ConnectionSpec) -> Self {
        let mut world = Self::empty();
        for (side, spec) in [(B, b), (A, a)] {
            let outcome = world.apply(side, vec![spec]);
            assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        }
        world.run(60);
        world
    }

    /// Two gateways whose tunnel is up; only A calls.
    pub(crate) fn up(children: usize) -> Self {
        let passive = ConnectionSpec { mode: TunnelMode::Passive, ..spec(B, children) };
        let mut world = Self::with(spec(A, children), passive);
        world.expect_up();
        world
    }

    pub(crate) fn expect_up(&mut self) {
        for side in [A, B] {
            let tunnel = self.tunnel(side);
            assert_eq!(tunnel.state, TunnelState::Established, "{side}: {tunnel:#?}");
            assert!(tunnel.last_error.is_none(), "{:?}", tunnel.last_error);
        }
        let spis = |side: usize, world: &Self| -> Vec<_> {
            world.tunnel(side).children.into_iter().map(|c| (c.spi_in, c.spi_out)).collect()
        };
        let mirrored: Vec<_> = spis(B, self).into_iter().map(|(i, o)| (o, i)).collect();
        assert_eq!(spis(A, self), mirrored);
    }

    pub(crate) fn apply(&mut self, side: usize, connections: Vec<ConnectionSpec>) -> Outcome {
        self.command(side, Command::Apply { origin: Origin::File, connections })
    }

    /// Gives a command and waits for its outcome.
    pub(crate) fn command(&mut self, side: usize, command: Command) -> Outcome {
        let id = self.start(side, command);
        for _ in 0..600 {
            if let Some(outcome) = self.sides[side].outcomes.remove(&id) {
                return outcome;
            }
            self.run(1);
        }
        panic!("no outcome");
    }

    /// Gives a command.
    pub(crate) fn start(&mut self, side: usize, command: Command) -> CommandId {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        self.sides[side].gateway.handle(self.now, Input::Command { id, command });
        self.drain(side);
        id
    }

    pub(crate) fn outcome(&self, side: usize, id: CommandId) -> Option<&Outcome> {
        self.sides[side].outcomes.get(&id)
    }

    /// Lets `seconds` pass.
    pub(crate) fn run(&mut self, seconds: u64) {
        self.run_until(self.now + Duration::from_secs(seconds));
    }

    fn run_until(&mut self, end: Instant) {
        for side in [A, B] {
            self.input(side, Input::Wake);
        }
        self.pass_until(end);
    }

    /// Lets `seconds` pass in which nobody is woken without having asked for it.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.pass_until(self.now + Duration::from_secs(seconds));
    }

    fn pass_until(&mut self, end: Instant) {
        loop {
            let arrival = self.wire.front().map(|(at, ..)| *at);
            let due = [A, B].map(|side| self.sides[side].gateway.poll_timeout());
            let next = [arrival, due[A], due[B]].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, path, payload) = self.wire.pop_front().unwrap();
                let here = self.sides.iter().position(|s| s.addresses.contains(&path.local.ip()));
                if let Some(side) = here.filter(|_| !self.cut) {
                    self.input(side, Input::Datagram { path, payload: &payload });
                }
            } else {
                let side = if due[A].is_some_and(|at| at <= self.now) { A } else { B };
                self.input(side, Input::Wake);
            }
        }
        self.now = end;
    }

    /// A datagram that nobody of the two has sent arrives at a side.
    pub(crate) fn forge(&mut self, side: usize, path: Endpoints, payload: &[u8]) {
        self.input(side, Input::Datagram { path, payload });
    }

    /// Wakes both sides, and lets ten milliseconds pass.
    pub(crate) fn step(&mut self) {
        self.run_until(self.now + Duration::from_millis(10));
    }

    fn input(&mut self, side: usize, input: Input<'_>) {
        self.sides[side].gateway.handle(self.now, input);
        self.drain(side);
    }

    fn drain(&mut self, side: usize) {
        while let Some(output) = self.sides[side].gateway.poll_output() {
            match output {
                Output::Transmit { path, payload, keepalive } => {
                    let path = Endpoints { local: path.remote, remote: path.local };
                    if !keepalive {
                        self.wire.push_back((self.now + Duration::from_millis(5), path, payload));
                    }
                }
                Output::Request { ticket, kind } => {
                    let result = self.sides[side].answer(kind);
                    self.sides[side].gateway.handle(self.now, Input::Completion { ticket, result });
                }
                Output::Outcome { id, outcome } => {
                    self.sides[side].outcomes.insert(id, outcome);
                }
                Output::Event(_) => {}
            }
        }
    }

    pub(crate) fn tunnel(&self, side: usize) -> TunnelStatus {
        let mut tunnels = self.sides[side].gateway.status(self.now).tunnels;
        assert_eq!(tunnels.len(), 1);
        tunnels.remove(0)
    }

    pub(crate) fn child(&self, side: usize, name: &str) -> ChildStatus {
        self.tunnel(side).children.into_iter().find(|child| child.name == name).unwrap()
    }

    /// Kinds and codes of the events of a side.
    pub(crate) fn events(&self, side: usize) -> Vec<(&'static str, Option<String>)> {
        let events = self.sides[side].gateway.events(0);
        events.into_iter().map(|event| (event.kind, event.code)).collect()
    }
}

impl Side {
    fn answer(&mut self, kind: RequestKind) -> CompletionResult {
        match kind {
            RequestKind::GenerateKey { group } => {
                let pair = ke::generate(group, &mut self.random).unwrap();
                let key = GeneratedKey { public: pair.public, private: pair.private };
                CompletionResult::KeyGenerated(Ok(key))
            }
            RequestKind::Agree { private, peer_public, .. } => CompletionResult::Agreed(
                private
                    .agree(&peer_public)
                    .map(|shared| Agreement { public: None, shared })
                    .map_err(|_| KeFailure::InvalidPublicValue),
            ),
            RequestKind::GenerateAndAgree { group, peer_public, .. } => {
                let pair = ke::generate(group, &mut self.random).unwrap();
                let shared = pair.private.agree(&peer_public).unwrap();
                let agreement = Agreement { public: Some(pair.public), shared };
                CompletionResult::Agreed(Ok(agreement))
            }
            RequestKind::Resolve { host } => CompletionResult::Resolved(
                self.hosts.get(&host).cloned().ok_or_else(|| "no such host".to_owned()),
            ),
            RequestKind::SourceAddress { .. } => CompletionResult::Source(
                self.addresses.first().copied().ok_or_else(|| "no route".to_owned()),
            ),
        }
    }
}
