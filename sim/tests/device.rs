//! The simulated device keeps the contract of every backend, with and without its faults.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crypto::aead::Engines;
use hw_offload::{
    Backend,
    contract::{self, Driver},
    placement::Registry,
};
use sa_store::{Instant, live::LiveTable};
use sim::{
    device::{Device, Faults, Sent},
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

    fn send(&mut self, source: IpAddr, destination: IpAddr, packets: u32) -> u64 {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { return 0 };
        let inner = packet::numbered(source, destination, 1);
        let mut core = self.device.core();
        (0..packets).filter(|_| matches!(core.send(self.now, &inner), Sent::Sealed { .. })).count()
            as u64
    }
}

fn judge(faults: &Faults, registry: bool) {
    let findings = contract::run(&mut |capacity| {
        let faults = Faults { capacity: capacity.unwrap_or(faults.capacity), ..faults.clone() };
        let live = Arc::new(LiveTable::new());
        let device = Device::new(faults, Engines::portable(), live, Seeded::new(1, 1));
        let backend: Box<dyn Backend> = if registry {
            Box::new(Registry::new(vec![Box::new(device.clone())]))
        } else {
            Box::new(device.clone())
        };
        Box::new(World { device, backend, now: Instant::ZERO })
    });
    assert!(findings.is_empty(), "{findings:#?}");
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
fn the_contract_sees_a_device_that_says_everything_twice() {
    let twice = Faults { twice: 100, ..Faults::none() };
    let result = std::panic::catch_unwind(|| judge(&twice, false));
    assert!(result.is_err());
}
