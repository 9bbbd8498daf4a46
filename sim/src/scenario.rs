//! What a seed stands for.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crypto::aead::Engines;
use gateway::GatewayConfig;
use ike::config::EndpointConfig;
use sa_store::{Esn, EspCipher, EspSuite, IntegrityAlgorithm, KeGroup, PrfAlgorithm};

use crate::{device::Faults, network::Weather, random::Seeded};

/// The outside of the NAT in front of A.
pub(crate) const NAT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// The name that A knows B under, where it has one.
pub(crate) const NAME_OF_B: &str = "b.sim";

/// Something that goes wrong, or that somebody does, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incident {
    /// A side loses its power: all state is gone; it is back after so many seconds.
    Crash(usize, u64),
    /// Both do.
    CrashBoth,
    /// A side is stopped properly and started again.
    Restart(usize),
    /// A side's device loses an SA.
    LoseSa(usize),
    /// The NAT forgets its mappings.
    Rebind,
    /// The same configuration is applied again: nothing may happen.
    ReloadSame(usize),
    /// A configuration with a mistake is applied: nothing may happen.
    ReloadBroken(usize),
    /// A child's lifetime changes at one side.
    ReloadLifetime(usize),
    /// The IKE part changes at one side.
    ReloadIke(usize),
    /// One more child, at both sides, a few seconds apart; later it goes again.
    ReloadChild(usize),
    /// An operator takes a tunnel down and up again after so many seconds.
    Hold(usize, u64),
    /// The same with one child.
    HoldChild(usize, u64),
}

impl Incident {
    /// Whether traffic must go on without a gap.
    #[must_use]
    pub const fn is_harmless(self) -> bool {
        matches!(self, Self::ReloadSame(_) | Self::ReloadBroken(_))
    }
}

/// Everything about a run that follows from its seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// How long the network is bad.
    pub storm: Duration,
    /// How bad.
    pub weather: Weather,
    /// Percent of datagrams that somebody keeps and sends again up to a minute later, and percent
    /// of datagrams of which somebody sends a damaged copy.
    pub attacker: (u64, u64),
    /// The outer addresses of A and B.
    pub addresses: [IpAddr; 2],
    /// Whether A is behind a NAT.
    pub nat: bool,
    /// Whether A knows B's name only, and has to ask for its own address.
    pub named: bool,
    /// Whether B calls, too: at the same instant.
    pub both_call: bool,
    /// Children of the tunnel.
    pub children: usize,
    /// The devices of A and B.
    pub faults: [Faults; 2],
    /// Longest time key agreement and the like take.
    pub thinking: Duration,
    /// Percent of requests that are answered with a failure.
    pub failing: u64,
    /// Percent of requests that are answered twice.
    pub doubled: u64,
    /// Soft lifetime of children and of IKE SAs.
    pub lifetimes: (Duration, Duration),
    /// Soft limit of packets of a Child SA.
    pub packets: Option<u64>,
    /// Jitter of all timers of IKE in percent: at 0 both sides rekey at the same time.
    pub jitter: u32,
    /// Mean time between rekeys that operators ask for.
    pub operators: Duration,
    /// Cipher and MAC of everything.
    pub suite: EspSuite,
    /// PRF.
    pub prf: PrfAlgorithm,
    /// Key exchange.
    pub group: KeGroup,
    /// Extended sequence numbers.
    pub esn: Esn,
    /// A fresh key exchange in each Child SA rekey.
    pub pfs: bool,
    /// What happens, and when.
    pub incidents: Vec<(Duration, Incident)>,
    /// Whether every datagram is noted.
    pub trace: bool,
}

impl Scenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Seeded::new(seed, 0);
        let r = &mut random;
        let storm = Duration::from_secs(3600);
        let nat = r.chance(25);
        let v6 = !nat && r.chance(30);
        let children = usize::try_from(r.between(1, 3)).unwrap_or(1);
        let faults = [(); 2].map(|()| faults(r, children));
        let child = r.between(180, 400);
        let ike = if r.chance(15) { child } else { r.between(400, 1500) };
        Self {
            seed,
            storm,
            weather: weather(r),
            attacker: if r.chance(60) { (0, 0) } else { (r.below(10), r.below(10)) },
            addresses: addresses(v6),
            nat,
            named: r.chance(25),
            both_call: !nat && r.chance(50),
            children,
            faults,
            thinking: millis(r, 0, 100),
            failing: if r.chance(80) { 0 } else { r.between(1, 5) },
            doubled: if r.chance(50) { 0 } else { 20 },
            lifetimes: (Duration::from_secs(child), Duration::from_secs(ike)),
            packets: r.chance(20).then(|| r.between(300, 1500)),
            jitter: if r.chance(40) { 0 } else { 10 },
            operators: Duration::from_secs(r.between(120, 600)),
            suite: suite(r),
            prf: match r.below(3) {
                0 => PrfAlgorithm::HmacSha256,
                1 => PrfAlgorithm::HmacSha384,
                _ => PrfAlgorithm::HmacSha512,
            },
            group: if r.chance(10) { KeGroup::Ecp256 } else { KeGroup::Curve25519 },
            esn: if r.chance(50) { Esn::Yes } else { Esn::No },
            pfs: r.chance(40),
            incidents: incidents(r, storm, nat),
            trace: false,
        }
    }

    /// Whether nothing happens to the tunnel that could take it down: once it is up, it stays.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.weather.loss == 0
            && self.failing == 0
            && self.faults.iter().all(|faults| faults.refuses == 0 && faults.capacity >= 24)
            && self.incidents.iter().all(|(_, incident)| incident.is_harmless())
    }

    /// How late a datagram can be without anybody's ill will.
    #[must_use]
    pub fn lateness(&self) -> Duration {
        self.weather.delay + self.weather.jitter + Duration::from_millis(1)
    }

    /// What holds for a gateway of this world.
    #[must_use]
    pub(crate) fn gateway(&self, engines: &Engines) -> GatewayConfig {
        GatewayConfig {
            ike: EndpointConfig { jitter_percent: self.jitter, ..EndpointConfig::default() },
            engines: engines.clone(),
            ..GatewayConfig::default()
        }
    }
}

fn millis(random: &mut Seeded, low: u64, high: u64) -> Duration {
    Duration::from_millis(random.between(low, high))
}

fn addresses(v6: bool) -> [IpAddr; 2] {
    if v6 {
        let at = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
        [at(1), at(2)]
    } else {
        let at = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        [at(1), at(2)]
    }
}

fn weather(random: &mut Seeded) -> Weather {
    Weather {
        loss: if random.chance(30) { 0 } else { random.between(1, 40) },
        twice: if random.chance(50) { 0 } else { random.between(1, 20) },
        delay: millis(random, 1, 120),
        jitter: match random.below(10) {
            0..3 => Duration::ZERO,
            // Later than the first retransmission.
            3 => millis(random, 500, 3000),
            _ => millis(random, 1, 200),
        },
    }
}

fn faults(random: &mut Seeded, children: usize) -> Faults {
    let steady = 2 * children as u64;
    Faults {
        // Sometimes there is room for hardly more than a rekey of everything.
        capacity: if random.chance(10) { 2 * steady + 4 } else { random.between(24, 64) },
        queue: usize::try_from(random.between(1, 16)).unwrap_or(1),
        work: millis(random, 0, 80),
        answer: millis(random, 0, 80),
        twice: if random.chance(50) { 0 } else { 20 },
        refuses: if random.chance(75) { 0 } else { 3 },
        ..Faults::none()
    }
}

fn suite(random: &mut Seeded) -> EspSuite {
    let (cipher, mac) = match random.below(5) {
        0 => (EspCipher::AesGcm16(128), None),
        1 => (EspCipher::AesGcm16(256), None),
        2 => (EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha256_128)),
        _ => (EspCipher::ChaCha20Poly1305, None),
    };
    EspSuite::new(cipher, mac)
        .or_else(|| EspSuite::new(EspCipher::AesGcm16(128), None))
        .unwrap_or_else(|| unreachable!("AES-GCM-128 is a suite"))
}

/// None in half of the worlds, up to three in the others.
fn incidents(random: &mut Seeded, storm: Duration, nat: bool) -> Vec<(Duration, Incident)> {
    let count = if random.chance(50) { 0 } else { random.between(1, 3) };
    (0..count)
        .map(|_| {
            let at = Duration::from_secs(random.between(120, storm.as_secs() - 200));
            let side = usize::from(random.chance(50));
            let incident = match random.below(13) {
                0 => Incident::Crash(side, random.between(0, 3)),
                1 => Incident::Crash(side, random.between(20, 200)),
                2 => Incident::CrashBoth,
                3 => Incident::Restart(side),
                4 => Incident::LoseSa(side),
                5 if nat => Incident::Rebind,
                5 | 6 => Incident::ReloadSame(side),
                7 => Incident::ReloadBroken(side),
                8 => Incident::ReloadLifetime(side),
                9 => Incident::ReloadIke(side),
                10 => Incident::ReloadChild(side),
                11 => Incident::Hold(side, random.between(5, 120)),
                _ => Incident::HoldChild(side, random.between(5, 120)),
            };
            (at, incident)
        })
        .collect()
}
