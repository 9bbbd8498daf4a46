//! Two sites with a gateway and a client each, and SAs installed by hand.
//!
//! ```text
//!   client a ── gateway a ══════ wire ══════ gateway b ── client b
//!   10.1.0.2    10.1.0.1 192.0.2.1  192.0.2.2 10.2.0.1    10.2.0.2
//!   fd01::2     fd01::1  2001:db8::1 2001:db8::2 fd02::1  fd02::2
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant as Clock},
};

use fastpath::{IkeDatagram, InlineBackend, InlineConfig, InlineHandle};
use hw_offload::{Backend, Notice, Operation, Policy, PolicyAction, PolicySet, Ticket};
use sa_store::{
    ChildId, DfPolicy, Direction, DomainId, DscpPolicy, EcnPolicy, Encapsulation, EspSpi, EspSuite,
    EspTransform, KeyMaterial, Lifetime, Mode, OffloadIntent, PairId, SaId, SaRecord, SecretBytes,
    TrafficSelector, TunnelId, live::LiveTable,
};
use sa_store::{Esn, EspCipher, Instant};

use super::{Namespace, wire};

/// One side.
pub(crate) struct Site {
    pub(crate) gateway: Namespace,
    pub(crate) client: Namespace,
    pub(crate) backend: Option<InlineBackend>,
    pub(crate) live: Arc<LiveTable>,
    tickets: u64,
    pub(crate) seen: Vec<Notice>,
    pub(crate) hold: Arc<Hold>,
    /// How much longer than their hard time limit SAs run.
    pub(crate) dead_man: Duration,
}

/// Holds a worker in the middle of a burst, as a machine with more work than cores does.
#[derive(Default)]
pub(crate) struct Hold {
    held: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Hold {
    fn enter(&self) {
        let mut held = self.held.lock().expect("nobody panics here");
        *held = Some(true);
        self.changed.notify_all();
        // A test that failed meanwhile ends the data plane, which waits for its workers.
        let limit = Duration::from_secs(60);
        let waited = self.changed.wait_timeout_while(held, limit, |held| *held == Some(true));
        drop(waited.expect("nobody panics here"));
    }

    /// Waits until a worker is held.
    pub(crate) fn wait(&self) {
        let held = self.held.lock().expect("nobody panics here");
        let limit = Duration::from_secs(20);
        let waited = self.changed.wait_timeout_while(held, limit, |held| *held != Some(true));
        assert!(!waited.expect("nobody panics here").1.timed_out(), "no worker came");
    }

    /// Lets it go on.
    pub(crate) fn release(&self) {
        *self.held.lock().expect("nobody panics here") = Some(false);
        self.changed.notify_all();
    }
}

/// Both sides.
pub(crate) struct Sites {
    pub(crate) a: Site,
    pub(crate) b: Site,
}

pub(crate) const CHILD: ChildId = ChildId(1);

/// What a pair of SAs is like.
#[derive(Clone)]
pub(crate) struct Pairing {
    pub(crate) encapsulation: Encapsulation,
    pub(crate) outer_v4: bool,
    /// Selectors of side a.
    pub(crate) a: Vec<TrafficSelector>,
    /// Selectors of side b.
    pub(crate) b: Vec<TrafficSelector>,
    pub(crate) suite: EspSuite,
    pub(crate) esn: Esn,
    /// Packets that the receivers' replay windows hold.
    pub(crate) window: u32,
    pub(crate) lifetime: Lifetime,
}

pub(crate) fn selectors(texts: &[&str]) -> Vec<TrafficSelector> {
    texts.iter().map(|text| text.parse().expect("a selector")).collect()
}

impl Pairing {
    pub(crate) fn new(a: &[&str], b: &[&str]) -> Self {
        Self {
            encapsulation: Encapsulation::Udp,
            outer_v4: true,
            a: selectors(a),
            b: selectors(b),
            suite: EspSuite::new(EspCipher::AesGcm16(256), None).expect("exists"),
            esn: Esn::Yes,
            window: 4096,
            lifetime: Lifetime::default(),
        }
    }

    pub(crate) fn nets() -> Self {
        Self::new(&["10.1.0.0/16", "fd01::/64"], &["10.2.0.0/16", "fd02::/64"])
    }

    fn outer(&self, a: bool) -> SocketAddr {
        let ip: IpAddr = match (self.outer_v4, a) {
            (true, true) => "192.0.2.1",
            (true, false) => "192.0.2.2",
            (false, true) => "2001:db8::1",
            (false, false) => "2001:db8::2",
        }
        .parse()
        .expect("an address");
        (ip, 4500).into()
    }

    /// The two records of one side; `number` tells pairs apart.
    fn records(&self, a: bool, number: u32) -> [SaRecord; 2] {
        let record = |direction: Direction| {
            let outbound = direction == Direction::Outbound;
            // a's outbound SA is b's inbound SA.
            let from_a = a == outbound;
            let spi = EspSpi::new(number * 0x100 + if from_a { 0x1001 } else { 0x2002 });
            let fill = if from_a { 0x11 } else { 0x22 };
            let secret = |len| SecretBytes::new(vec![fill ^ (number as u8); len]);
            let cipher = self.suite.cipher();
            let (mine, theirs) = if a { (&self.a, &self.b) } else { (&self.b, &self.a) };
            SaRecord {
                id: SaId(u64::from(number) * 2 + u64::from(outbound)),
                pair: PairId(number.into()),
                tunnel: TunnelId(1),
                child: CHILD,
                direction,
                spi: spi.expect("is not reserved"),
                local: self.outer(a),
                remote: self.outer(!a),
                encapsulation: self.encapsulation,
                mode: Mode::Tunnel,
                transform: EspTransform { suite: self.suite, esn: self.esn },
                keys: KeyMaterial {
                    encryption: secret(cipher.key_len() + cipher.salt_len()),
                    integrity: secret(self.suite.integrity().map_or(0, |mac| mac.key_len())),
                },
                replay_window: self.window,
                replay_floor: 0,
                next_sequence: 1,
                local_selectors: mine.clone(),
                remote_selectors: theirs.clone(),
                lifetime: self.lifetime,
                dscp: DscpPolicy::default(),
                ecn: EcnPolicy::default(),
                df: DfPolicy::default(),
                domain: DomainId(0),
                mark: 0,
                interface_id: 0,
                offload: OffloadIntent::Auto,
            }
        };
        [record(Direction::Inbound), record(Direction::Outbound)]
    }

    /// The policies of one side.
    pub(crate) fn policies(&self, a: bool) -> PolicySet {
        let (local, remote) = if a { (&self.a, &self.b) } else { (&self.b, &self.a) };
        let action = PolicyAction::Protect {
            tunnel: TunnelId(1),
            child: CHILD,
            peers: vec![self.outer(!a).ip()],
            offload: OffloadIntent::Auto,
        };
        let (local, remote) = (local.clone(), remote.clone());
        PolicySet { policies: vec![Policy { domain: DomainId(0), action, local, remote }] }
    }
}

pub(crate) fn bypass(local: &[&str], remote: &[&str]) -> Policy {
    Policy {
        domain: DomainId(0),
        action: PolicyAction::Bypass,
        local: selectors(local),
        remote: selectors(remote),
    }
}

/// An IKE message on which the worker that receives it panics.
pub(crate) const PLANTED: &[u8] = b"a message that meets a bug";

/// An IKE message that holds the worker that receives it; see [`Hold`].
pub(crate) const HELD: &[u8] = b"a message that takes long";

impl Site {
    fn new(net: u8) -> Self {
        let (gateway, client) = (Namespace::new(), Namespace::new());
        wire(&gateway, "lan", &client, "lan");
        gateway.ip(&format!("addr add 10.{net}.0.1/24 dev lan"));
        gateway.ip(&format!("addr add fd0{net}::1/64 dev lan nodad"));
        client.ip(&format!("addr add 10.{net}.0.2/24 dev lan"));
        client.ip(&format!("addr add fd0{net}::2/64 dev lan nodad"));
        client.ip(&format!("route add default via 10.{net}.0.1"));
        client.ip(&format!("-6 route add default via fd0{net}::1"));
        gateway.within(|| {
            for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{setting}"), "1").expect("root may");
            }
        });
        Self {
            gateway,
            client,
            backend: None,
            live: Arc::default(),
            tickets: 0,
            seen: Vec::new(),
            hold: Arc::default(),
            dead_man: Duration::from_secs(60),
        }
    }

    /// Starts the data plane.
    pub(crate) fn start(&mut self, workers: usize) {
        let live = Arc::new(LiveTable::new());
        self.live = Arc::clone(&live);
        let hold = Arc::clone(&self.hold);
        let dead_man = self.dead_man;
        let backend = self.gateway.within(move || {
            let workers = Some(workers);
            let config = InlineConfig { workers, dead_man, ..InlineConfig::default() };
            let sink = move |datagram: IkeDatagram| {
                assert!(datagram.message != PLANTED, "a planted panic of a worker");
                if datagram.message == HELD {
                    hold.enter();
                }
            };
            InlineBackend::start(config, live, Arc::new(sink)).expect("the data plane starts")
        });
        self.backend = Some(backend);
    }

    pub(crate) fn handle(&self) -> InlineHandle {
        self.backend.as_ref().expect("it runs").handle()
    }

    /// Removes everything from the system.
    pub(crate) fn release(&mut self) {
        self.backend = None;
        self.gateway
            .within(|| fastpath::release(&fastpath::SteeringConfig::default()))
            .expect("release works");
    }

    /// Submits a batch that must be done.
    pub(crate) fn done(&mut self, batch: Vec<Operation>) {
        let ticket = self.submit(batch);
        assert!(self.is_done(ticket, Duration::from_secs(20)), "a batch was not answered");
    }

    /// Submits a batch.
    pub(crate) fn submit(&mut self, batch: Vec<Operation>) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let backend = self.backend.as_mut().expect("it runs");
        backend.submit(ticket, batch).expect("the queue is not full");
        ticket
    }

    /// Whether a batch is done within some time.
    pub(crate) fn is_done(&mut self, ticket: Ticket, within: Duration) -> bool {
        let backend = self.backend.as_mut().expect("it runs");
        let until = Clock::now() + within;
        while Clock::now() < until {
            match backend.poll(Instant::ZERO) {
                Some(Notice::Done(done)) if done == ticket => return true,
                Some(Notice::Refused { reason, .. }) => panic!("refused: {reason}"),
                Some(other) => self.seen.push(other),
                None => std::thread::yield_now(),
            }
        }
        false
    }

    /// Takes every notice that is there.
    pub(crate) fn drain(&mut self) {
        let backend = self.backend.as_mut().expect("it runs");
        while let Some(notice) = backend.poll(Instant::ZERO) {
            self.seen.push(notice);
        }
    }

    pub(crate) fn install(&mut self, pairing: &Pairing, a: bool, number: u32) {
        let [inbound, outbound] = pairing.records(a, number);
        let id = outbound.id;
        self.done(vec![
            Operation::Install(Box::new(inbound)),
            Operation::Install(Box::new(outbound)),
            Operation::Activate(id),
        ]);
    }
}

impl Site {
    pub(crate) fn install_inbound(&mut self, pairing: &Pairing, a: bool, number: u32) {
        let [inbound, _] = pairing.records(a, number);
        self.done(vec![Operation::Install(Box::new(inbound))]);
    }

    pub(crate) fn install_outbound(&mut self, pairing: &Pairing, a: bool, number: u32) {
        let [_, outbound] = pairing.records(a, number);
        let id = outbound.id;
        self.done(vec![Operation::Install(Box::new(outbound)), Operation::Activate(id)]);
    }

    pub(crate) fn remove_pair(&mut self, number: u32) {
        let id = u64::from(number) * 2;
        self.done(vec![Operation::Remove(SaId(id + 1)), Operation::Remove(SaId(id))]);
    }
}

impl Sites {
    /// Both sites, their wire, and routes to each other in clear.
    pub(crate) fn new() -> Self {
        let (a, b) = (Site::new(1), Site::new(2));
        wire(&a.gateway, "wan", &b.gateway, "wan");
        for (site, mine, theirs, net) in [(&a, 1, 2, 2), (&b, 2, 1, 1)] {
            site.gateway.ip(&format!("addr add 192.0.2.{mine}/24 dev wan"));
            site.gateway.ip(&format!("addr add 2001:db8::{mine}/64 dev wan nodad"));
            // A more specific route than any policy: it must not win.
            site.gateway.ip(&format!("route add 10.{net}.0.0/24 via 192.0.2.{theirs}"));
            site.gateway.ip(&format!("route add default via 192.0.2.{theirs}"));
            site.gateway.ip(&format!("-6 route add fd0{net}::/64 via 2001:db8::{theirs}"));
        }
        Self { a, b }
    }

    /// Both data planes with policies and a pair of SAs.
    pub(crate) fn up(&mut self, pairing: &Pairing, workers: usize) {
        for (site, a) in [(&mut self.a, true), (&mut self.b, false)] {
            site.start(workers);
            site.done(vec![Operation::SetPolicies(pairing.policies(a))]);
            site.install(pairing, a, 1);
        }
    }
}
