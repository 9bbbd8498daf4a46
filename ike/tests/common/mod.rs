//! Two endpoints in a small world: a virtual clock, a network with latency that tests may bend,
//! key exchanges and backends that answer at once, and traffic that checks that no packet is
//! lost on the way from one pair to the next.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of the harness")]

pub mod node;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use ike::{
    config::{
        AuthMethod, ChildConfig, Connection, EncapPolicy, EndpointConfig, Endpoints, EspProposal,
        IkeProposal, RemoteMatch,
    },
    event::{Event, FailureCode},
    input::{Command, Input},
    negotiate::{parse_esp, parse_ike},
    view::{ChildState, IkeState},
    wire::Header,
};
pub use node::Node;
use sa_store::{
    ChildId, DfPolicy, DomainId, DscpPolicy, EcnPolicy, IdentityPattern, Instant, Limits,
    OffloadIntent, SecretBytes, TunnelId,
};

pub const A: usize = 0;
pub const B: usize = 1;
pub const TUNNEL: TunnelId = TunnelId(1);
pub const CHILD: ChildId = ChildId(11);

pub fn address(node: usize) -> SocketAddr {
    let text = if node == A { "192.0.2.1:500" } else { "192.0.2.2:500" };
    text.parse().unwrap()
}

pub fn ike_proposal(text: &str) -> IkeProposal {
    parse_ike(text).unwrap()
}

pub fn esp_proposal(text: &str) -> EspProposal {
    parse_esp(text).unwrap()
}

pub fn child(number: u32, local: &str, remote: &str) -> ChildConfig {
    let list = |text: &str| text.split(',').map(|it| it.parse().unwrap()).collect();
    ChildConfig {
        child: ChildId(10 + number),
        name: format!("net{number}"),
        local: list(local),
        remote: list(remote),
        proposals: vec![esp_proposal("aes256gcm16-esn")],
        rekey: Limits::default(),
        life: Limits::default(),
        replay_window: 64,
        dscp: DscpPolicy::default(),
        ecn: EcnPolicy::default(),
        df: DfPolicy::default(),
        domain: DomainId(0),
        mark: 0,
        interface_id: 0,
        offload: OffloadIntent::Auto,
    }
}

/// The connection of one end.
pub fn connection(node: usize) -> Connection {
    let (own, peer) = if node == A { ("a", "b") } else { ("b", "a") };
    let (local, remote) =
        if node == A { ("10.1.0.0/16", "10.2.0.0/16") } else { ("10.2.0.0/16", "10.1.0.0/16") };
    Connection {
        tunnel: TUNNEL,
        name: "tunnel".to_owned(),
        local: Vec::new(),
        remote: vec![RemoteMatch::Any],
        local_id: Some(format!("{own}.example").parse().unwrap()),
        remote_id: IdentityPattern::Exact(format!("{peer}.example").parse().unwrap()),
        auth: AuthMethod::Psk(SecretBytes::from_slice(b"a shared secret")),
        proposals: vec![ike_proposal("aes256gcm16-prfsha256-x25519")],
        rekey: None,
        over_time: Duration::from_secs(60),
        dpd: None,
        encap: EncapPolicy::Auto,
        replace_duplicates: true,
        children: vec![child(1, local, remote)],
    }
}

/// What a test does to a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Deliver,
    Drop,
    Twice,
    Late(Duration),
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Sent {
    pub from: usize,
    pub path: Endpoints,
    pub payload: Vec<u8>,
    pub keepalive: bool,
}

impl Sent {
    /// As `A IKE_AUTH 1 ->` for requests and `<-` for responses.
    pub fn label(&self) -> String {
        let name = if self.from == A { "A" } else { "B" };
        match Header::parse(&self.payload) {
            Ok((header, _)) => {
                let arrow = if header.response { "<-" } else { "->" };
                format!("{name} {} {} {arrow}", header.exchange, header.message_id)
            }
            Err(_) => format!("{name} keepalive"),
        }
    }
}

enum Flight {
    Ike { to: usize, path: Endpoints, payload: Vec<u8> },
    Esp { to: usize, spi: u32 },
}

type Filter = Box<dyn FnMut(&Sent) -> Fate>;
type Translate = Box<dyn FnMut(usize, Endpoints) -> Endpoints>;

pub struct World {
    pub now: Instant,
    pub nodes: [Node; 2],
    pub latency: Duration,
    pub ladder: Vec<String>,
    pub sent: Vec<Sent>,
    pub filter: Filter,
    /// What the receiver sees of a path: a NAT changes it.
    pub nat: Translate,
    /// Protected packets that arrived at no SA, while traffic runs.
    pub lost: Vec<(Instant, usize, u32)>,
    pub arrived: [u64; 2],
    traffic: Option<Instant>,
    flights: BTreeMap<(Instant, u64), Flight>,
    sequence: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, EndpointConfig::default(), |_, _| {})
    }

    /// Both ends configured, after `change` has had its way with each connection.
    pub fn with(
        seed: u64,
        config: EndpointConfig,
        mut change: impl FnMut(usize, &mut Connection),
    ) -> Self {
        let mut world = Self {
            now: Instant::from_nanos(1_000_000_000),
            nodes: [Node::new(A, seed, config.clone()), Node::new(B, seed, config)],
            latency: Duration::from_millis(10),
            ladder: Vec::new(),
            sent: Vec::new(),
            filter: Box::new(|_| Fate::Deliver),
            nat: Box::new(|_, path| Endpoints { local: path.remote, remote: path.local }),
            lost: Vec::new(),
            arrived: [0; 2],
            traffic: None,
            flights: BTreeMap::new(),
            sequence: 0,
        };
        for node in [A, B] {
            let mut connection = connection(node);
            change(node, &mut connection);
            world.command(node, Command::Configure(Arc::new(connection)));
        }
        world
    }

    pub fn command(&mut self, node: usize, command: Command) {
        self.input(node, Input::Command(command));
    }

    pub fn input(&mut self, node: usize, input: Input<'_>) {
        let now = self.now;
        self.nodes[node].handle(now, input);
        self.drain(node);
    }

    /// Answers held requests of a node, see [`Node::hold`].
    pub fn release(&mut self, node: usize) {
        self.nodes[node].hold = None;
        for (ticket, kind) in std::mem::take(&mut self.nodes[node].held) {
            let now = self.now;
            self.nodes[node].answer(now, ticket, kind);
        }
        self.drain(node);
    }

    fn drain(&mut self, node: usize) {
        let now = self.now;
        for sent in self.nodes[node].drain(now) {
            self.transmit(&sent);
        }
    }

    fn transmit(&mut self, sent: &Sent) {
        self.ladder.push(sent.label());
        let fate = (self.filter)(sent);
        self.sent.push(sent.clone());
        if sent.keepalive {
            return;
        }
        let to = 1 - sent.from;
        let path = (self.nat)(sent.from, sent.path);
        let (copies, extra) = match fate {
            Fate::Deliver => (1, Duration::ZERO),
            Fate::Drop => (0, Duration::ZERO),
            Fate::Twice => (2, Duration::ZERO),
            Fate::Late(extra) => (1, extra),
        };
        for _ in 0..copies {
            let payload = sent.payload.clone();
            self.launch(self.latency + extra, Flight::Ike { to, path, payload });
        }
    }

    fn launch(&mut self, after: Duration, flight: Flight) {
        self.sequence += 1;
        self.flights.insert((self.now + after, self.sequence), flight);
    }

    /// Protected packets go both ways every 5 ms from now on; none may be lost.
    pub fn start_traffic(&mut self) {
        self.traffic = Some(self.now);
    }

    pub fn stop_traffic(&mut self) {
        self.traffic = None;
    }

    fn send_traffic(&mut self) {
        for from in [A, B] {
            for spi in self.nodes[from].outbound_spis() {
                self.launch(self.latency, Flight::Esp { to: 1 - from, spi });
            }
        }
        self.traffic = Some(self.now + Duration::from_millis(5));
    }

    fn arrive(&mut self, flight: Flight) {
        match flight {
            Flight::Ike { to, path, payload } => {
                self.input(to, Input::Datagram { path, payload: &payload });
            }
            Flight::Esp { to, spi } => match self.nodes[to].inbound_pair(spi) {
                Some(pair) => {
                    self.arrived[to] += 1;
                    self.command(to, Command::InboundSeen { pair });
                }
                None => self.lost.push((self.now, to, spi)),
            },
        }
    }

    fn next(&self) -> Option<Instant> {
        let timers = self.nodes.iter().filter_map(|node| node.endpoint.poll_timeout());
        let flights = self.flights.keys().next().map(|(at, _)| *at);
        timers.chain(flights).chain(self.traffic).min()
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0;
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            steps += 1;
            assert!(steps < 3_000_000, "the world does not come to rest");
            if self.traffic.is_some_and(|at| at <= self.now) {
                self.send_traffic();
            }
            while let Some((key, _)) = self.flights.first_key_value() {
                if key.0 > self.now {
                    break;
                }
                if let Some((_, flight)) = self.flights.pop_first() {
                    self.arrive(flight);
                }
            }
            for node in [A, B] {
                if self.nodes[node].endpoint.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.input(node, Input::Timeout);
                }
            }
        }
        self.now = end;
    }

    pub fn run_ms(&mut self, milliseconds: u64) {
        self.run(Duration::from_millis(milliseconds));
    }

    pub fn run_s(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    pub fn initiate(&mut self, node: usize) {
        let path = Endpoints { local: address(node), remote: address(1 - node) };
        self.command(node, Command::Initiate { tunnel: TUNNEL, path, children: Vec::new() });
    }

    /// Up, from A.
    pub fn establish(&mut self) {
        self.initiate(A);
        self.run_ms(500);
        self.assert_up(1);
    }

    /// One IKE SA at each end, the same, with one pair for each of `children` children, and
    /// nothing left of what was before.
    #[track_caller]
    pub fn assert_up(&self, children: usize) {
        let mut ends = Vec::new();
        for node in &self.nodes {
            let views = node.endpoint.ike_sas();
            let [view] = views.as_slice() else {
                panic!("{} IKE SAs at {}: {views:#?}", views.len(), node.name())
            };
            assert_eq!(view.state, IkeState::Established, "{view:#?}");
            let up: Vec<_> =
                view.children.iter().filter(|it| it.state == ChildState::Installed).collect();
            assert_eq!(up.len(), children, "children at {}: {view:#?}", node.name());
            let draining = view.children.iter().filter(|it| it.state != ChildState::Installed);
            assert!(draining.clone().all(|it| it.state == ChildState::Draining), "{view:#?}");
            let mut spis: Vec<_> = up
                .iter()
                .map(|it| (it.child, it.spi_in.get(), it.spi_out.map(sa_store::EspSpi::get)))
                .collect();
            spis.sort_unstable();
            ends.push((view.spi_i, view.spi_r, spis));
            for it in &up {
                assert_eq!(node.active.get(&it.child), Some(&it.pair), "active at {}", node.name());
            }
        }
        let (a, b) = (&ends[A], &ends[B]);
        assert_eq!((a.0, a.1), (b.0, b.1), "the same IKE SA");
        let mut crossed: Vec<_> =
            a.2.iter()
                .map(|(child, spi_in, spi_out)| (*child, spi_out.unwrap(), Some(*spi_in)))
                .collect();
        crossed.sort_unstable();
        assert_eq!(crossed, b.2, "the same pairs");
    }

    /// After everything has drained: SPIs and installed pairs are those in use.
    #[track_caller]
    pub fn assert_clean(&self) {
        for node in &self.nodes {
            let views = node.endpoint.ike_sas();
            let mut wanted: Vec<_> =
                views.iter().flat_map(|it| &it.children).map(|it| it.spi_in.get()).collect();
            wanted.sort_unstable();
            let mut installed = node.inbound_spis();
            installed.sort_unstable();
            assert_eq!(installed, wanted, "installed at {}", node.name());
            let mut allocated: Vec<u32> = node.spis.lock().unwrap().used.iter().copied().collect();
            allocated.sort_unstable();
            assert_eq!(allocated, wanted, "allocated at {}", node.name());
        }
    }

    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        assert!(self.lost.is_empty(), "lost: {:?}", self.lost);
        assert!(self.arrived.iter().all(|it| *it > 0), "no traffic: {:?}", self.arrived);
    }

    pub fn events(&self, node: usize) -> &[(Instant, Event)] {
        &self.nodes[node].events
    }

    pub fn failures(&self, node: usize) -> Vec<FailureCode> {
        self.events(node)
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Failed { failure, .. } => Some(failure.code),
                _ => None,
            })
            .collect()
    }

    pub fn failure_text(&self, node: usize) -> String {
        self.events(node)
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Failed { failure, .. } => Some(failure.message.clone()),
                _ => None,
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub fn count(&self, node: usize, test: impl Fn(&Event) -> bool) -> usize {
        self.events(node).iter().filter(|(_, event)| test(event)).count()
    }

    pub fn rekeyed(&self, node: usize) -> usize {
        self.count(node, |event| matches!(event, Event::ChildRekeyed { .. }))
    }

    pub fn ike_rekeyed(&self, node: usize) -> usize {
        self.count(node, |event| matches!(event, Event::IkeRekeyed { .. }))
    }

    pub fn ike_down(&self, node: usize) -> Vec<FailureCode> {
        self.events(node)
            .iter()
            .filter_map(|(_, event)| match event {
                Event::IkeDown { reason, .. } => Some(reason.code),
                _ => None,
            })
            .collect()
    }

    pub fn child_down(&self, node: usize) -> Vec<FailureCode> {
        self.events(node)
            .iter()
            .filter_map(|(_, event)| match event {
                Event::ChildDown { reason, .. } => Some(reason.code),
                _ => None,
            })
            .collect()
    }
}

impl World {
    /// Up, from A, with so many children.
    #[track_caller]
    pub fn establish_children(&mut self, children: usize) {
        self.initiate(A);
        self.run_s(1);
        self.assert_up(children);
    }
}

impl World {
    /// There is an IKE SA, whatever its state.
    #[track_caller]
    pub fn assert_established_at(&self, node: usize) {
        assert_eq!(self.nodes[node].endpoint.ike_sas().len(), 1);
    }
}
