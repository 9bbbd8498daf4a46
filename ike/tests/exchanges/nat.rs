//! NAT traversal (RFC 7296 §2.23).

use std::net::SocketAddr;

use ike::{
    config::{EncapPolicy, EndpointConfig, Endpoints},
    event::Event,
    input::Command,
    output::RequestKind,
};
use sa_store::Encapsulation;

use crate::common::{A, B, World, address};

/// A is behind a NAT at 198.51.100.7 that maps its ports to others.
fn natted(seed: u64, policy: EncapPolicy) -> World {
    let mut world = World::with(seed, EndpointConfig::default(), |_, it| it.encap = policy);
    set_nat(&mut world, 30_000);
    world
}

fn set_nat(world: &mut World, offset: u16) {
    world.nat = Box::new(move |from, path| {
        if from == A {
            let outside =
                SocketAddr::new("198.51.100.7".parse().unwrap(), offset + path.local.port() % 1000);
            Endpoints { local: path.remote, remote: outside }
        } else {
            let port = match path.remote.port() - offset {
                500 => {
                    if path.local.port() == 4500 {
                        4500
                    } else {
                        500
                    }
                }
                other => other,
            };
            Endpoints { local: SocketAddr::new(address(A).ip(), port), remote: path.local }
        }
    });
}

#[test]
fn a_nat_is_found_and_both_move_to_port_4500() {
    let mut world = natted(1, EncapPolicy::Auto);
    world.establish();
    let auth = world.sent.iter().find(|it| it.label().contains("IKE_AUTH")).unwrap();
    assert_eq!((auth.path.local.port(), auth.path.remote.port()), (4500, 4500));
    let (a, b) = (world.nodes[A].endpoint.ike_sas(), world.nodes[B].endpoint.ike_sas());
    assert!(a[0].nat_local && !a[0].nat_remote);
    assert!(!b[0].nat_local && b[0].nat_remote);
    for node in &world.nodes {
        let (inbound, outbound) = node.pairs.values().next().unwrap();
        for record in [inbound, outbound] {
            assert_eq!(record.encapsulation, Encapsulation::Udp);
            assert_eq!(record.local.port(), 4500);
        }
    }
    let seen = world.nodes[B].pairs.values().next().unwrap().1.remote;
    assert_eq!(seen.to_string(), "198.51.100.7:30500");
}

#[test]
fn who_is_behind_the_nat_keeps_it_open() {
    let mut world = natted(2, EncapPolicy::Auto);
    world.establish();
    world.run_s(100);
    let keepalives: Vec<_> = world.sent.iter().filter(|it| it.keepalive).collect();
    assert_eq!(keepalives.len(), 5);
    assert!(keepalives.iter().all(|it| it.from == A && it.payload == [0xff]));
    assert!(keepalives.iter().all(|it| it.path.local.port() == 4500));
}

#[test]
fn a_new_mapping_is_followed() {
    let mut world = natted(3, EncapPolicy::Auto);
    world.establish();
    set_nat(&mut world, 40_000);
    let tunnel = crate::common::TUNNEL;
    world.command(A, Command::CheckLiveness { tunnel });
    world.run_s(2);
    let moved = |it: &Event| matches!(it, Event::PeerMoved { .. });
    assert_eq!(world.count(B, moved), 1);
    let record = &world.nodes[B].pairs.values().next().unwrap().1;
    assert_eq!(record.remote.to_string(), "198.51.100.7:40500");
    // ESP may notice first.
    let sa = record.id;
    let remote = "198.51.100.7:41500".parse().unwrap();
    world.command(B, Command::MappingChanged { sa, remote });
    assert_eq!(world.count(B, moved), 2);
    assert_eq!(world.nodes[B].endpoint.ike_sas()[0].path.remote, remote);
    // Who is not behind a NAT does not move.
    let sa = world.nodes[A].pairs.values().next().unwrap().0.id;
    world.command(A, Command::MappingChanged { sa, remote });
    assert_eq!(world.count(A, moved), 0);
}

/// Who forces UDP is not behind a NAT for that: a peer that is can still move.
#[test]
fn a_new_mapping_is_followed_by_who_forces_udp() {
    let mut world = World::with(7, EndpointConfig::default(), |node, it| {
        it.encap = if node == B { EncapPolicy::Always } else { EncapPolicy::Auto };
    });
    set_nat(&mut world, 30_000);
    world.establish();
    set_nat(&mut world, 40_000);
    world.command(A, Command::CheckLiveness { tunnel: crate::common::TUNNEL });
    world.run_s(1);
    assert_eq!(world.count(B, |it| matches!(it, Event::PeerMoved { .. })), 1);
    let record = &world.nodes[B].pairs.values().next().unwrap().1;
    assert_eq!(record.remote.to_string(), "198.51.100.7:40500");
}

#[test]
fn a_pair_that_is_being_installed_follows_a_new_mapping() {
    let mut world = natted(8, EncapPolicy::Auto);
    world.establish();
    world.nodes[B].hold = Some(|kind| matches!(kind, RequestKind::Install { .. }));
    world.command(A, Command::RekeyChild { child: crate::common::CHILD });
    world.run_ms(100);
    assert_eq!(world.nodes[B].held.len(), 1);
    let sa = world.nodes[B].pairs.values().next().unwrap().0.id;
    let remote = "198.51.100.7:40500".parse().unwrap();
    world.command(B, Command::MappingChanged { sa, remote });
    world.release(B);
    assert_eq!(world.nodes[B].pairs.len(), 2);
    for (inbound, outbound) in world.nodes[B].pairs.values() {
        assert_eq!((inbound.remote, outbound.remote), (remote, remote));
    }
}

#[test]
fn encapsulation_can_be_forced_by_either_side() {
    for forcing in [A, B] {
        let mut world = World::with(4, EndpointConfig::default(), |node, it| {
            it.encap = if node == forcing { EncapPolicy::Always } else { EncapPolicy::Auto };
        });
        world.establish();
        for node in &world.nodes {
            let record = &node.pairs.values().next().unwrap().0;
            assert_eq!(record.encapsulation, Encapsulation::Udp);
            assert_eq!((record.local.port(), record.remote.port()), (4500, 4500));
        }
        world.start_traffic();
        world.command(forcing, Command::RekeyIke { tunnel: crate::common::TUNNEL });
        world.command(1 - forcing, Command::RekeyChild { child: crate::common::CHILD });
        world.run_s(20);
        world.assert_up(1);
        world.assert_nothing_lost();
    }
}

#[test]
fn encapsulation_can_be_forbidden() {
    for forbidding in [A, B] {
        let mut world = natted(5, EncapPolicy::Auto);
        let mut plain = crate::common::connection(forbidding);
        plain.encap = EncapPolicy::Never;
        world.command(forbidding, Command::Configure(std::sync::Arc::new(plain)));
        world.establish();
        for node in &world.nodes {
            let record = &node.pairs.values().next().unwrap().0;
            assert_eq!(record.encapsulation, Encapsulation::None);
        }
    }
}

#[test]
fn a_set_up_may_begin_on_port_4500() {
    let mut world = World::new(6);
    let on_4500 = |mut it: SocketAddr| {
        it.set_port(4500);
        it
    };
    let path = Endpoints { local: on_4500(address(A)), remote: on_4500(address(B)) };
    let tunnel = crate::common::TUNNEL;
    world.command(A, Command::Initiate { tunnel, path, children: Vec::new() });
    world.run_s(1);
    world.assert_up(1);
    assert_eq!(world.nodes[A].endpoint.ike_sas()[0].path, path);
}

fn update_requests(world: &World) -> usize {
    world.nodes[B].requests.iter().filter(|it| *it == "update").count()
}

/// A peer that claims to be behind a NAT may move as often as it likes: it is followed once a
/// second, to where it was last.
#[test]
fn a_peer_that_hops_is_followed_once_a_second() {
    let mut world = natted(9, EncapPolicy::Auto);
    world.establish();
    let moved = |it: &Event| matches!(it, Event::PeerMoved { .. });
    for hop in 0..200 {
        let offset = if hop % 2 == 0 { 40_000 } else { 50_000 };
        set_nat(&mut world, offset);
        world.command(A, Command::CheckLiveness { tunnel: crate::common::TUNNEL });
        world.run_ms(50);
        let sa = world.nodes[B].pairs.values().next().unwrap().1.id;
        let remote = format!("198.51.100.7:{}", 2000 + hop).parse().unwrap();
        world.command(B, Command::MappingChanged { sa, remote });
    }
    assert!((9..=12).contains(&world.count(B, moved)), "{}", world.count(B, moved));
    assert!((9..=12).contains(&update_requests(&world)), "{}", update_requests(&world));
    // It stays where it is: there it is found, though it says nothing more.
    world.run_s(1);
    assert_eq!(world.nodes[B].endpoint.ike_sas()[0].path.remote.port(), 2199);
    assert_eq!(world.nodes[B].pairs.values().next().unwrap().1.remote.port(), 2199);
    assert!(world.nodes[B].endpoint.poll_timeout().is_none());
}

/// Two new mappings in a row: the second one is followed a moment later, also over a rekey.
#[test]
fn the_newest_of_two_mappings_is_not_lost() {
    for rekey in [false, true] {
        let mut world = natted(10, EncapPolicy::Auto);
        world.establish();
        let sa = world.nodes[B].pairs.values().next().unwrap().1.id;
        let at = |port: u16| SocketAddr::new("198.51.100.7".parse().unwrap(), port);
        for port in [40_500, 50_500] {
            world.command(B, Command::MappingChanged { sa, remote: at(port) });
        }
        let path = |world: &World| world.nodes[B].endpoint.ike_sas().last().unwrap().path.remote;
        assert_eq!(path(&world), at(40_500));
        if rekey {
            set_nat(&mut world, 50_000);
            world.command(A, Command::RekeyIke { tunnel: crate::common::TUNNEL });
            world.run_ms(500);
        }
        world.run_s(1);
        assert_eq!(path(&world), at(50_500));
        assert_eq!(world.nodes[B].pairs.values().next().unwrap().1.remote, at(50_500));
        // A packet from where it was that comes late changes nothing for long.
        world.run_s(5);
        for port in [40_500, 50_500] {
            world.command(B, Command::MappingChanged { sa, remote: at(port) });
        }
        world.run_s(1);
        assert_eq!(path(&world), at(50_500));
    }
}

/// A backend that is busy gets the newest address when it has done the one before.
#[test]
fn one_change_of_addresses_of_a_pair_is_under_way() {
    let mut world = natted(11, EncapPolicy::Auto);
    world.establish();
    world.nodes[B].hold = Some(|kind| matches!(kind, RequestKind::UpdateAddresses { .. }));
    let sa = world.nodes[B].pairs.values().next().unwrap().1.id;
    for port in 40_500..40_510 {
        let remote = SocketAddr::new("198.51.100.7".parse().unwrap(), port);
        world.command(B, Command::MappingChanged { sa, remote });
        world.run_s(2);
    }
    assert_eq!(world.nodes[B].held.len(), 1);
    world.release(B);
    assert_eq!(update_requests(&world), 2);
    let (inbound, outbound) = world.nodes[B].pairs.values().next().unwrap();
    assert_eq!((inbound.remote.port(), outbound.remote.port()), (40_509, 40_509));
}
