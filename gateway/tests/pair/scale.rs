//! Many tunnels at once.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use gateway::{
    command::{Command, Outcome},
    read_model::TunnelState,
    spec::{ConnectionSpec, RemoteAddress, TunnelMode},
};
use sa_store::TrafficSelector;

use crate::world::{A, B, World, ip, spec};

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

/// Processor time of this thread so far: what others do on this machine does not count.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Tunnels of which neither side knows the address of the other beforehand.
fn wandering(side: usize, number: u32) -> ConnectionSpec {
    let host = RemoteAddress::Host("b.example".into());
    let remote = if side == A { host } else { RemoteAddress::Any };
    ConnectionSpec { remote: vec![remote], ..numbered(side, number) }
}

/// What it costs to have this many tunnels: to bring them up, to keep them for ten minutes, to
/// look at them, to reload them, and to stop.
fn cost(tunnels: u32, numbered: fn(usize, u32) -> ConnectionSpec) -> Duration {
    let begin = spent();
    let mut world = World::empty();
    world.sides[A].hosts.insert("b.example".into(), vec![ip("192.0.2.2")]);
    for side in [B, A] {
        let specs = (0..tunnels).map(|number| numbered(side, number)).collect();
        assert!(matches!(world.apply(side, specs), Outcome::Done(_)));
    }
    world.run(600);
    let status = world.sides[A].gateway.status(world.now);
    assert!(status.tunnels.iter().all(|tunnel| tunnel.state == TunnelState::Established));
    let specs = (0..tunnels).map(|number| numbered(A, number)).collect();
    assert!(matches!(world.apply(A, specs), Outcome::Done(_)));
    assert!(matches!(world.command(A, Command::Shutdown), Outcome::Done(_)));
    for side in &world.sides {
        let state = side.backend.state();
        assert!(state.sas.is_empty());
        // That one peer after the other becomes known is no reason to set all policies each time.
        assert!(state.policies_set < 10, "{} times", state.policies_set);
    }
    spent().checked_sub(begin).unwrap()
}

#[test]
fn eight_times_the_tunnels_cost_about_eight_times_as_much() {
    // With a look through all tunnels for each message it was more than fifty times. The
    // processor's caches make some difference, so the best of a few tries counts.
    for kind in [numbered, wandering] {
        let ratio = |_| cost(1600, kind).as_secs_f64() / cost(200, kind).as_secs_f64();
        let best = (0..3).map(ratio).find(|ratio| *ratio < 20.0);
        assert!(best.is_some(), "1600 tunnels cost more than 20 times what 200 cost, three times");
    }
}
