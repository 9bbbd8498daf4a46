//! The registry over places of memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use crypto::aead::Engines;
use sa_store::{
    ChildId, Direction, Encapsulation, EspCipher, EspSuite, Instant, OffloadIntent, Path, SaId,
    SaRecord, replay::ReplayWindow,
};

use super::*;
use crate::{
    DropCounters, PolicyAction, SaCounters,
    contract::{self, Driver},
};

/// What a place holds; shared with the test.
#[derive(Default)]
struct State {
    sas: BTreeMap<SaId, (SaRecord, SaCounters)>,
    active: BTreeMap<ChildId, SaId>,
    policies: PolicySet,
    notices: VecDeque<Notice>,
    acquired: BTreeSet<ChildId>,
    /// What came for inbound SAs: the window, and when it was last told.
    heard: BTreeMap<SaId, (ReplayWindow, Option<Instant>)>,
    refuses_installs: bool,
    queue: usize,
}

/// A place that counts clear packets instead of sealing them.
#[derive(Clone)]
struct Memory {
    path: Path,
    capacity: u64,
    state: Arc<Mutex<State>>,
}

impl Memory {
    fn new(path: Path, capacity: u64) -> Self {
        Self { path, capacity, state: Arc::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn apply(&self, operation: &Operation) -> Result<(), String> {
        let mut state = self.state();
        let known = |state: &State, sa: &SaId| match state.sas.contains_key(sa) {
            true => Ok(()),
            false => Err(format!("there is no SA {sa}")),
        };
        match operation {
            Operation::SetPolicies(policies) => state.policies = policies.clone(),
            Operation::Install(_) if state.refuses_installs => return Err("out of order".into()),
            Operation::Install(record) => {
                if state.sas.len() as u64 >= self.capacity || state.sas.contains_key(&record.id) {
                    return Err("it does not fit".into());
                }
                let counters = SaCounters {
                    sa: record.id,
                    packets: 0,
                    bytes: 0,
                    sequence: record.next_sequence,
                    dropped: DropCounters::default(),
                };
                state.sas.insert(record.id, (SaRecord::clone(record), counters));
            }
            Operation::Activate(sa) => {
                known(&state, sa)?;
                let child = state.sas[sa].0.child;
                state.active.insert(child, *sa);
            }
            Operation::UpdateAddresses { sa, local, remote } => {
                known(&state, sa)?;
                let record = &mut state.sas.get_mut(sa).unwrap().0;
                (record.local, record.remote) = (*local, *remote);
            }
            Operation::Remove(sa) => {
                state.sas.remove(sa);
                state.active.retain(|_, active| active != sa);
            }
            Operation::Query(sa) => {
                known(&state, sa)?;
                let counters = state.sas[sa].1;
                state.notices.push_back(Notice::Counters(counters));
            }
            Operation::Flush => {
                state.sas.clear();
                state.active.clear();
            }
        }
        Ok(())
    }

    /// Clear packets; how many left for `to`.
    fn send(&self, source: IpAddr, destination: IpAddr, packets: u32, to: SocketAddr) -> u64 {
        let mut state = self.state();
        let child = state.policies.policies.iter().find_map(|policy| match policy.action {
            PolicyAction::Protect { child, .. }
                if policy.local.iter().any(|ts| ts.contains_address(source))
                    && policy.remote.iter().any(|ts| ts.contains_address(destination)) =>
            {
                Some(child)
            }
            _ => None,
        });
        let Some(child) = child else { return 0 };
        let Some(sa) = state.active.get(&child).copied() else {
            if state.acquired.insert(child) {
                let (source, destination) = ((source, 9), (destination, 9));
                state.notices.push_back(Notice::Acquire {
                    child,
                    source,
                    destination,
                    protocol: 17,
                });
            }
            return 0;
        };
        let State { sas, notices, .. } = &mut *state;
        let (record, counters) = sas.get_mut(&sa).unwrap();
        let (soft, hard) = (record.lifetime.soft.packets, record.lifetime.hard.packets);
        let mut left = 0;
        for _ in 0..packets {
            if hard.is_some_and(|hard| counters.packets >= hard) {
                counters.dropped.expired += 1;
                if counters.dropped.expired == 1 {
                    notices.push_back(Notice::HardExpired { sa, reason: "packets".into() });
                }
                continue;
            }
            left += 1;
            counters.packets += 1;
            counters.bytes += 100;
            counters.sequence += 1;
            if soft == Some(counters.packets) {
                notices.push_back(Notice::SoftExpired(sa));
            }
        }
        if record.remote == to { left } else { 0 }
    }

    /// An ESP packet of the peer; what came out of it.
    fn receive(&self, now: Instant, from: SocketAddr, esp: &[u8]) -> Option<Vec<u8>> {
        let mut state = self.state();
        let State { sas, heard, notices, .. } = &mut *state;
        let (header, sealed) = esp.split_first_chunk::<8>()?;
        let [spi, sequence] = [0, 4].map(|at| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        });
        let (record, counters) = sas.values_mut().find(|(record, _)| {
            record.direction == Direction::Inbound && record.spi.get() == spi
        })?;
        let sa = record.id;
        let (window, told) =
            heard.entry(sa).or_insert_with(|| (ReplayWindow::new(record.replay_window, 0), None));
        let sequence = u64::from(sequence);
        if window.check(sequence).is_err() {
            counters.dropped.replay += 1;
            return None;
        }
        let key = Engines::portable().key(record.transform.suite, &record.keys).unwrap();
        let mut sealed = sealed.to_vec();
        let Ok(inner) = key.open(header, &mut sealed) else {
            counters.dropped.auth += 1;
            return None;
        };
        let newest = sequence > window.highest();
        window.accept(sequence).unwrap();
        counters.sequence = window.highest();
        let source: [u8; 4] = inner[12..16].try_into().unwrap();
        if !record.remote_selectors.iter().any(|ts| ts.contains_address(source.into())) {
            counters.dropped.policy += 1;
            return None;
        }
        counters.packets += 1;
        counters.bytes += inner.len() as u64;
        match told {
            None => notices.push_back(Notice::FirstInbound(sa)),
            Some(at) if now.since(*at) < Duration::from_secs(1) => {}
            Some(_) => notices.push_back(Notice::LastInbound { sa, at: now }),
        }
        if told.is_none_or(|at| now.since(at) >= Duration::from_secs(1)) {
            *told = Some(now);
        }
        if newest && record.remote != from {
            notices.push_back(Notice::MappingChanged { sa, remote: from });
        }
        let total = usize::from(u16::from_be_bytes([inner[2], inner[3]]));
        Some(inner[28..total].to_vec())
    }
}

impl Backend for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            path: self.path.clone(),
            max_sas: self.capacity,
            used_sas: self.state().sas.len() as u64,
            suites: vec![EspSuite::new(EspCipher::AesGcm16(128), None).unwrap()],
            esn: true,
            udp_encapsulation: true,
            raw_esp: true,
            transport_mode: false,
            max_replay_window: 4096,
        }
    }

    fn submit(&mut self, ticket: Ticket, batch: Vec<Operation>) -> Result<(), Busy> {
        if self.state().queue >= 8 {
            return Err(Busy(batch));
        }
        self.state().queue += 1;
        let before = {
            let state = self.state();
            (state.sas.clone(), state.active.clone(), state.policies.clone())
        };
        for (operation, what) in batch.iter().enumerate() {
            if let Err(reason) = self.apply(what) {
                let mut state = self.state();
                (state.sas, state.active, state.policies) = before;
                state.notices.push_back(Notice::Refused { ticket, operation, reason });
                return Ok(());
            }
        }
        self.state().notices.push_back(Notice::Done(ticket));
        Ok(())
    }

    fn poll(&mut self, _now: Instant) -> Option<Notice> {
        let mut state = self.state();
        state.queue = 0;
        state.notices.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn set_waker(&mut self, _waker: Waker) {}
}

/// A registry over places that the test still reaches.
struct World {
    registry: Registry,
    places: Vec<Memory>,
    now: Instant,
}

impl World {
    fn new(places: &[(Path, u64)]) -> Self {
        let places: Vec<Memory> =
            places.iter().map(|(path, size)| Memory::new(path.clone(), *size)).collect();
        let boxed = places.iter().map(|place| Box::new(place.clone()) as Box<dyn Backend>);
        Self { registry: Registry::new(boxed.collect()), places, now: Instant::ZERO }
    }

    fn submit(&mut self, batch: Vec<Operation>) -> Result<(), String> {
        self.registry.submit(Ticket(1), batch).unwrap();
        loop {
            match self.registry.poll(Instant::ZERO) {
                Some(Notice::Done(_)) => return Ok(()),
                Some(Notice::Refused { reason, .. }) => return Err(reason),
                Some(_) => {}
                None => panic!("no answer"),
            }
        }
    }

    fn install(&mut self, number: u64, change: impl Fn(&mut SaRecord)) -> Result<(), String> {
        let batch = pair(number, change).map(|record| Operation::Install(Box::new(record)));
        self.submit(batch.to_vec())
    }

    fn used(&self) -> Vec<usize> {
        self.places.iter().map(|place| place.state().sas.len()).collect()
    }
}

fn pair(number: u64, change: impl Fn(&mut SaRecord)) -> [SaRecord; 2] {
    [Direction::Inbound, Direction::Outbound].map(|direction| {
        let mut record = crate::contract::example_record(number, direction);
        change(&mut record);
        record
    })
}

fn raw(record: &mut SaRecord) {
    record.encapsulation = Encapsulation::None;
}

impl Driver for World {
    fn backend(&mut self) -> &mut dyn Backend {
        &mut self.registry
    }

    fn now(&mut self) -> Instant {
        self.now
    }

    fn wait(&mut self) {
        self.now = self.now + Duration::from_millis(100);
    }

    fn send(&mut self, source: IpAddr, destination: IpAddr, packets: u32, to: SocketAddr) -> u64 {
        self.places.iter().map(|place| place.send(source, destination, packets, to)).sum()
    }

    fn receive(&mut self, from: SocketAddr, esp: &[u8]) -> Option<Vec<u8>> {
        self.places.iter().find_map(|place| place.receive(self.now, from, esp))
    }
}

const NIC: fn() -> Path = || Path::Packet("nic0".into());

#[test]
fn the_contract_holds_for_one_place_and_for_a_full_first_one() {
    for places in [vec![(Path::Inline, None)], vec![(NIC(), Some(0)), (Path::Inline, None)]] {
        let findings = contract::run(&mut |capacity| {
            let sized: Vec<_> = places
                .iter()
                .map(|(path, size)| (path.clone(), size.or(capacity).unwrap_or(1000)))
                .collect();
            Box::new(World::new(&sized))
        });
        assert!(findings.is_empty(), "{findings:#?}");
    }
}

#[test]
fn the_contract_notices_a_backend_that_lets_packets_through() {
    struct Careless(World);
    impl Driver for Careless {
        fn backend(&mut self) -> &mut dyn Backend {
            &mut self.0.registry
        }
        fn now(&mut self) -> Instant {
            self.0.now()
        }
        fn wait(&mut self) {
            self.0.wait();
        }
        // Sends in clear what has no SA.
        fn send(
            &mut self,
            source: IpAddr,
            destination: IpAddr,
            packets: u32,
            to: SocketAddr,
        ) -> u64 {
            self.0.send(source, destination, packets, to).max(1)
        }
        fn receive(&mut self, from: SocketAddr, esp: &[u8]) -> Option<Vec<u8>> {
            self.0.receive(from, esp)
        }
    }
    let findings = contract::run(&mut |capacity| {
        Box::new(Careless(World::new(&[(Path::Inline, capacity.unwrap_or(1000))])))
    });
    assert!(findings.len() >= 4, "{findings:#?}");
}

#[test]
fn pairs_spill_when_the_first_place_is_full_and_say_so() {
    let mut world = World::new(&[(NIC(), 3), (Path::Inline, 100)]);
    for number in 1..=3 {
        world.install(number, raw).unwrap();
    }
    assert_eq!(world.used(), [2, 4]);
    let placement = world.registry.placement(SaId(4));
    assert_eq!(placement.path, Path::Inline);
    assert_eq!(placement.passed_over, ["packet:nic0 is full: 1 of its 3 SAs are free"]);
    assert_eq!(world.registry.placement(SaId(2)).path, NIC());
}

#[test]
fn a_refusing_place_is_passed_over_and_a_wish_comes_first() {
    let mut world = World::new(&[(NIC(), 100), (Path::Inline, 100)]);
    world.places[0].state().refuses_installs = true;
    world.install(1, raw).unwrap();
    assert_eq!(world.used(), [0, 2]);
    assert_eq!(world.registry.placement(SaId(3)).passed_over, ["packet:nic0: out of order"]);
    world.places[0].state().refuses_installs = false;
    world
        .install(2, |record| {
            raw(record);
            record.offload = OffloadIntent::Inline;
        })
        .unwrap();
    assert_eq!(world.used(), [0, 4]);
    world.places[1].state().refuses_installs = true;
    world.places[0].state().refuses_installs = true;
    let reason = world.install(3, raw).unwrap_err();
    assert_eq!(reason, "packet:nic0: out of order; inline: out of order");
    assert_eq!(world.used(), [0, 4]);
    world.places[0].state().refuses_installs = false;
    world.install(3, raw).unwrap();
    assert_eq!(world.used(), [2, 4]);
}

#[test]
fn udp_of_one_address_never_runs_at_two_places() {
    let mut world = World::new(&[(NIC(), 2), (Path::Inline, 100)]);
    let udp = |record: &mut SaRecord| record.encapsulation = Encapsulation::Udp;
    let elsewhere = |record: &mut SaRecord| {
        udp(record);
        record.local.set_ip(IpAddr::from([192, 0, 2, 77]));
    };
    world.install(1, udp).unwrap();
    let reason = world.install(2, udp).unwrap_err();
    assert!(reason.contains("inline does not own the UDP port of 192.0.2.1"), "{reason}");
    world.install(2, raw).unwrap();
    world.install(3, elsewhere).unwrap();
    assert_eq!(world.used(), [2, 4]);
    let moved = Operation::UpdateAddresses {
        sa: SaId(6),
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: "192.0.2.2:4500".parse().unwrap(),
    };
    assert!(world.submit(vec![moved]).unwrap_err().contains("owned by another place"));
    world.submit(vec![Operation::Remove(SaId(2)), Operation::Remove(SaId(3))]).unwrap();
    world.submit(vec![Operation::Remove(SaId(6)), Operation::Remove(SaId(7))]).unwrap();
    world.install(4, udp).unwrap();
    assert_eq!(world.used(), [2, 2]);
}

#[test]
fn a_batch_over_two_places_is_undone_at_both() {
    let mut world = World::new(&[(NIC(), 2), (Path::Inline, 100)]);
    world.install(1, |_| ()).unwrap();
    let [inbound, outbound] =
        pair(2, |record| record.encapsulation = Encapsulation::None).map(Box::new);
    let policies = PolicySet { policies: Vec::new() };
    let batch = vec![
        Operation::SetPolicies(policies),
        Operation::Install(inbound),
        Operation::Install(outbound),
        Operation::Activate(SaId(3)),
        Operation::Activate(SaId(77)),
    ];
    assert!(world.submit(batch).unwrap_err().contains("no SA 77"));
    assert_eq!(world.used(), [2, 0]);
}

#[test]
fn doubled_and_foreign_notices_do_not_pass() {
    let mut world = World::new(&[(NIC(), 100), (Path::Inline, 100)]);
    world.install(1, |_| ()).unwrap();
    for place in &world.places {
        for _ in 0..2 {
            let mut state = place.state();
            state.notices.push_back(Notice::SoftExpired(SaId(2)));
            state.notices.push_back(Notice::Done(Ticket(0)));
            state.notices.push_back(Notice::FirstInbound(SaId(99)));
        }
    }
    let mut seen = Vec::new();
    while let Some(notice) = world.registry.poll(Instant::ZERO) {
        seen.push(notice);
    }
    assert!(matches!(seen[..], [Notice::SoftExpired(SaId(2))]), "{seen:?}");
    let lost = Notice::Lost { sa: SaId(2), next_sequence: None, reason: "unplugged".into() };
    world.places[0].state().notices.push_back(lost);
    assert!(matches!(world.registry.poll(Instant::ZERO), Some(Notice::Lost { .. })));
}
