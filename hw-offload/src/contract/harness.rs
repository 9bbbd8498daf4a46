//! What the cases are written with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sa_store::{
    ChildId, DfPolicy, Direction, DomainId, DscpPolicy, EcnPolicy, Encapsulation, Esn, EspCipher,
    EspSpi, EspSuite, EspTransform, KeyMaterial, Lifetime, Mode, OffloadIntent, PairId, Prefix,
    SaId, SaRecord, SecretBytes, TrafficSelector, TunnelId,
};

use super::Driver;
use crate::{Notice, Operation, Policy, PolicyAction, PolicySet, SaCounters, Ticket};

/// Waits for an answer at most this many times a tenth of a second.
const PATIENCE: u32 = 100;

/// The child all pairs of the suite belong to.
pub(super) const CHILD: ChildId = ChildId(7);

/// How a batch was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Done,
    Refused(usize),
}

/// A backend under test, and the notices that nobody has looked at.
pub(super) struct Harness<'a> {
    pub(super) driver: &'a mut dyn Driver,
    pub(super) seen: Vec<Notice>,
    next_ticket: u64,
}

impl<'a> Harness<'a> {
    pub(super) fn new(driver: &'a mut dyn Driver) -> Self {
        Self { driver, seen: Vec::new(), next_ticket: 1 }
    }

    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Takes every notice that is there.
    pub(super) fn drain(&mut self) {
        let now = self.driver.now();
        while let Some(notice) = self.driver.backend().poll(now) {
            self.seen.push(notice);
        }
    }

    /// Waits for the answer to a ticket.
    pub(super) fn answer(&mut self, ticket: Ticket) -> Result<Answer, String> {
        for _ in 0..PATIENCE {
            self.drain();
            if let Some(at) = self.seen.iter().position(|notice| answers(notice, ticket)) {
                return Ok(match self.seen.remove(at) {
                    Notice::Refused { operation, .. } => Answer::Refused(operation),
                    _ => Answer::Done,
                });
            }
            self.driver.wait();
        }
        Err(format!("batch {} was never answered", ticket.0))
    }

    /// Submits a batch, again while the backend is busy, and waits for the answer.
    pub(super) fn submit(&mut self, batch: Vec<Operation>) -> Result<Answer, String> {
        let ticket = self.ticket();
        let mut batch = batch;
        for _ in 0..PATIENCE {
            match self.driver.backend().submit(ticket, batch) {
                Ok(()) => return self.answer(ticket),
                Err(busy) => batch = busy.0,
            }
            self.drain();
            self.driver.wait();
        }
        Err("the backend stayed busy".into())
    }

    /// Submits a batch that must be done.
    pub(super) fn done(&mut self, batch: Vec<Operation>) -> Result<(), String> {
        let what = format!("{batch:?}");
        match self.submit(batch)? {
            Answer::Done => Ok(()),
            Answer::Refused(at) => Err(format!("operation {at} was refused in {what}")),
        }
    }

    /// Submits a batch whose operation `at` must be refused.
    pub(super) fn refused(&mut self, batch: Vec<Operation>, at: usize) -> Result<(), String> {
        match self.submit(batch)? {
            Answer::Refused(operation) if operation == at => Ok(()),
            other => Err(format!("expected a refusal of operation {at}, got {other:?}")),
        }
    }

    /// SAs the backend says it holds.
    pub(super) fn used(&mut self) -> u64 {
        self.driver.backend().capabilities().used_sas
    }

    pub(super) fn expect_used(&mut self, expected: u64) -> Result<(), String> {
        let used = self.used();
        expect(used == expected, || format!("{used} SAs are in use instead of {expected}"))
    }

    /// Offers clear packets of the child, of which some must leave for the peer.
    pub(super) fn expect_sent(&mut self, packets: u32, expected: u64) -> Result<(), String> {
        let (_, peer) = self.driver.addresses();
        self.expect_sent_to(peer, packets, expected)
    }

    /// The same, for the peer at another address.
    pub(super) fn expect_sent_to(
        &mut self,
        peer: SocketAddr,
        packets: u32,
        expected: u64,
    ) -> Result<(), String> {
        let (source, destination) = inner();
        let left = self.driver.send(source, destination, packets, peer);
        expect(left == expected, || {
            format!("of {packets} clear packets {left} left for {peer} instead of {expected}")
        })
    }

    /// Gives the backend time to say something, and takes it.
    pub(super) fn settle(&mut self) {
        for _ in 0..4 {
            self.driver.wait();
            self.drain();
        }
    }

    /// The counters of an SA, which must come before the query is done.
    pub(super) fn counters(&mut self, sa: SaId) -> Result<SaCounters, String> {
        self.done(vec![Operation::Query(sa)])?;
        let at = self
            .seen
            .iter()
            .position(|notice| matches!(notice, Notice::Counters(counters) if counters.sa == sa));
        match at.map(|at| self.seen.remove(at)) {
            Some(Notice::Counters(counters)) => Ok(counters),
            _ => Err("the query was done without counters".into()),
        }
    }

    /// How often a notice came, after giving the backend time to say it again.
    pub(super) fn count(&mut self, wanted: impl Fn(&Notice) -> bool) -> usize {
        for _ in 0..PATIENCE {
            self.drain();
            if self.seen.iter().any(&wanted) {
                break;
            }
            self.driver.wait();
        }
        self.settle();
        self.seen.iter().filter(|notice| wanted(notice)).count()
    }

    /// The two records of a pair of the child; ids and SPIs follow from `number`.
    pub(super) fn pair(&mut self, number: u64) -> (SaRecord, SaRecord) {
        let suite = self.driver.backend().capabilities().suites.first().copied();
        let (local, remote) = self.driver.addresses();
        let record = |direction| {
            let mut record = example_record(number, direction);
            (record.local, record.remote) = (local, remote);
            if let Some(suite) = suite {
                record.transform.suite = suite;
                record.keys = example_keys(suite, record.id);
            }
            record
        };
        (record(Direction::Inbound), record(Direction::Outbound))
    }

    /// Sets the child's policy.
    pub(super) fn protect(&mut self) -> Result<(), String> {
        let (_, remote) = self.driver.addresses();
        let (source, destination) = inner();
        let policy = Policy {
            domain: DomainId(0),
            action: PolicyAction::Protect {
                tunnel: TunnelId(1),
                child: CHILD,
                peers: vec![remote.ip()],
                offload: OffloadIntent::Auto,
            },
            local: vec![network(source)],
            remote: vec![network(destination)],
        };
        self.done(vec![Operation::SetPolicies(PolicySet { policies: vec![policy] })])
    }

    /// Installs a pair and moves the child's traffic to it.
    pub(super) fn install(&mut self, pair: &(SaRecord, SaRecord)) -> Result<(), String> {
        self.done(vec![install(&pair.0), install(&pair.1), Operation::Activate(pair.1.id)])
    }
}

pub(super) fn install(record: &SaRecord) -> Operation {
    Operation::Install(Box::new(record.clone()))
}

pub(super) fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

pub(super) fn answers(notice: &Notice, ticket: Ticket) -> bool {
    match notice {
        Notice::Done(done) => *done == ticket,
        Notice::Refused { ticket: refused, .. } => *refused == ticket,
        _ => false,
    }
}

/// A record of one direction of a pair, as the suite installs it: ESP in UDP with AES-GCM between
/// 192.0.2.1 and 192.0.2.2. The inbound SA has twice the number of the pair as its id, the
/// outbound SA one more.
#[must_use]
pub fn example_record(number: u64, direction: Direction) -> SaRecord {
    let id = SaId(number * 2 + u64::from(direction == Direction::Outbound));
    let (source, destination) = inner();
    let outer = |last| SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 4500));
    let low = u32::try_from(id.0 & 0xff_ffff).unwrap_or(0);
    let (Some(spi), Some(suite)) =
        (EspSpi::new(0x1000 + low), EspSuite::new(EspCipher::AesGcm16(128), None))
    else {
        unreachable!("both are constants in range");
    };
    SaRecord {
        id,
        pair: PairId(number),
        tunnel: TunnelId(1),
        child: CHILD,
        direction,
        spi,
        local: outer(1),
        remote: outer(2),
        encapsulation: Encapsulation::Udp,
        mode: Mode::Tunnel,
        transform: EspTransform { suite, esn: Esn::No },
        keys: example_keys(suite, id),
        replay_window: 64,
        replay_floor: 0,
        next_sequence: 1,
        local_selectors: vec![network(source)],
        remote_selectors: vec![network(destination)],
        lifetime: Lifetime::default(),
        dscp: DscpPolicy::default(),
        ecn: EcnPolicy::default(),
        df: DfPolicy::default(),
        domain: DomainId(0),
        mark: 0,
        interface_id: 0,
        offload: OffloadIntent::Auto,
    }
}

fn example_keys(suite: EspSuite, id: SaId) -> KeyMaterial {
    let fill = |length| SecretBytes::new(vec![id.0.to_le_bytes()[0] | 1; length]);
    let cipher = suite.cipher();
    KeyMaterial {
        encryption: fill(cipher.key_len() + cipher.salt_len()),
        integrity: fill(suite.integrity().map_or(0, |mac| mac.key_len())),
    }
}

/// Source and destination of the clear packets.
fn inner() -> (IpAddr, IpAddr) {
    (Ipv4Addr::new(10, 101, 0, 1).into(), Ipv4Addr::new(10, 102, 0, 1).into())
}

/// A clear packet of the child on its way in.
pub(super) fn from_peer(payload: &[u8]) -> Vec<u8> {
    udp([10, 102, 0, 1], [10, 101, 0, 1], payload)
}

/// An IPv4 packet with a UDP datagram from port 7 to port 7, without a checksum of its own.
pub(super) fn udp(source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let octets = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(octets(28 + payload.len()));
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    let sum: u32 =
        packet.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0, 7, 0, 7]);
    packet.extend(octets(8 + payload.len()));
    packet.extend([0, 0]);
    packet.extend_from_slice(payload);
    packet
}

fn network(address: IpAddr) -> TrafficSelector {
    Prefix::of(address, 16).map_or(TrafficSelector::host(address), TrafficSelector::prefix)
}
