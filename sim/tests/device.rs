//! The simulated device keeps the contract of every backend, with and without its faults.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crypto::aead::Engines;
use hw_offload::{
    Backend,
    contract::{self, Driver},
    placement::Registry,
};
use sa_store::{Instant, live::LiveTable};
use sim::{
    device::{Device, Faults, Planted, Sent, Verdict},
    packet,
    random::Seeded,
};

struct World {
    device: Device,
    backend: Box<dyn Backend>,
    now: Instant,
}

impl Driver for World {
    fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    fn now(&mut self) -> Instant {
        self.now
    }

    fn wait(&mut self) {
        self.now = self.now + Duration::from_millis(100);
    }

    fn send(&mut self, source: IpAddr, destination: IpAddr, packets: u32, to: SocketAddr) -> u64 {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { return 0 };
        let inner = packet::numbered(source, destination, 1);
        let mut core = self.device.core();
        let left = |sent| matches!(sent, Sent::Sealed { destination, .. } if destination == to);
        (0..packets).filter(|_| left(core.send(self.now, &inner))).count() as u64
    }

    fn receive(&mut self, from: SocketAddr, esp: &[u8]) -> Option<Vec<u8>> {
        match self.device.core().receive(self.now, from, esp) {
            Verdict::Inner(inner) => Some(inner.get(28..)?.to_vec()),
            Verdict::UnknownSpi | Verdict::Dropped(_) => None,
        }
    }
}

fn judge(faults: &Faults, registry: bool) {
    let findings = findings(faults, registry);
    assert!(findings.is_empty(), "{findings:#?}");
}

fn findings(faults: &Faults, registry: bool) -> Vec<contract::Finding> {
    contract::run(&mut |capacity| {
        let faults = Faults { capacity: capacity.unwrap_or(faults.capacity), ..faults.clone() };
        let live = Arc::new(LiveTable::new());
        let device = Device::new(faults, Engines::portable(), live, Seeded::new(1, 1));
        let backend: Box<dyn Backend> = if registry {
            Box::new(Registry::new(vec![Box::new(device.clone())]))
        } else {
            Box::new(device.clone())
        };
        Box::new(World { device, backend, now: Instant::ZERO })
    })
}

#[test]
fn the_contract_holds_without_faults() {
    judge(&Faults::none(), false);
}

#[test]
fn the_contract_holds_when_slow_and_busy() {
    let slow = Faults {
        queue: 4,
        work: Duration::from_millis(300),
        answer: Duration::from_millis(200),
        ..Faults::none()
    };
    judge(&slow, false);
}

#[test]
fn the_registry_hides_doubled_notices() {
    judge(&Faults { twice: 60, answer: Duration::from_millis(50), ..Faults::none() }, true);
}

#[test]
fn the_contract_sees_devices_with_bugs() {
    let planted = |planted| Faults { planted: Some(planted), ..Faults::none() };
    for (faults, case) in [
        (Faults { twice: 100, ..Faults::none() }, "a batch is answered once"),
        (Faults { twice: 100, ..Faults::none() }, "the first and the last packet of the peer"),
        (planted(Planted::Loses(2)), "what the peer seals is opened"),
        (planted(Planted::TakesReplays), "replays are dropped"),
        (planted(Planted::KeepsRemoved), "what the peer seals is opened"),
        (planted(Planted::ActivatesEarly), "an outbound SA waits for its activation"),
    ] {
        let findings = findings(&faults, false);
        let found = findings.iter().any(|finding| finding.case.starts_with(case));
        assert!(found, "{:?}: {case}: {findings:#?}", faults.planted);
    }
}
