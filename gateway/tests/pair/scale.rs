//! Many tunnels at once.

use std::net::{IpAddr, Ipv4Addr};

use gateway::{
    command::Outcome,
    read_model::TunnelState,
    spec::{ConnectionSpec, TunnelMode},
};
use sa_store::TrafficSelector;

use crate::world::{A, B, World, spec};

/// Tunnel `number` of a side: identities, children and addresses of its own.
fn numbered(side: usize, number: u32) -> ConnectionSpec {
    let mut spec = spec(side, 1);
    let (us, them) = if side == A { ("a", "b") } else { ("b", "a") };
    spec.name = format!("t{number}");
    spec.local_id = Some(format!("{us}{number}.example").parse().unwrap());
    spec.remote_id = format!("{them}{number}.example").parse().unwrap();
    let network = |side: usize| {
        let host = Ipv4Addr::from_bits(0x0a00_0000 + ((side as u32) << 20) + number);
        vec![TrafficSelector::host(IpAddr::V4(host))]
    };
    spec.children[0].local = network(side);
    spec.children[0].remote = network(1 - side);
    if side == B {
        spec.mode = TunnelMode::Passive;
    }
    spec
}

#[test]
fn hundreds_of_tunnels_between_two_addresses_come_up() {
    const TUNNELS: u32 = 300;
    let mut world = World::empty();
    for side in [B, A] {
        let specs = (0..TUNNELS).map(|number| numbered(side, number)).collect();
        assert!(matches!(world.apply(side, specs), Outcome::Done(_)));
    }
    world.run(60);
    for side in [A, B] {
        let status = world.sides[side].gateway.status(world.now);
        let up = status.tunnels.iter().filter(|t| t.state == TunnelState::Established).count();
        assert_eq!(up, TUNNELS as usize);
        assert_eq!(world.sides[side].backend.state().sas.len(), 2 * TUNNELS as usize);
    }
}
