//! How tunnels come up, stay up and come back.

use std::time::Duration;

use gateway::{
    command::{Command, Outcome},
    read_model::TunnelState,
    spec::{ConnectionSpec, RemoteAddress, TunnelMode},
};
use hw_offload::Notice;
use ike::view::IkeState;

use crate::world::{A, B, World, ip, psk, spec};

#[test]
fn two_gateways_that_both_call_end_with_one_ike_sa_and_one_pair_each() {
    let mut world = World::with(spec(A, 2), spec(B, 2));
    world.expect_up();
    for side in [A, B] {
        let tunnel = world.tunnel(side);
        assert_eq!(tunnel.ike_sas.len(), 1, "{:#?}", tunnel.ike_sas);
        assert_eq!(world.sides[side].backend.state().sas.len(), 4);
        let ike = &tunnel.ike_sas[0];
        assert_eq!(ike.proposal, "aes256gcm16-prfsha256-x25519");
        let child = &tunnel.children[1];
        assert_eq!((&*child.path, &*child.encap), ("inline", "none"));
        assert_eq!(child.proposal, "aes256gcm16-esn");
        assert_eq!(child.local, [format!("10.{}.1.0/24", side + 1)]);
        assert!(child.draining.is_empty() && child.expires_at.is_some());
    }
}

#[test]
fn an_always_on_tunnel_never_gives_up_and_its_error_stays_until_it_is_resolved() {
    let wrong = ConnectionSpec { auth: psk("the wrong one"), ..spec(A, 1) };
    let mut world = World::with(wrong, spec(B, 1));
    world.run(600);
    for side in [A, B] {
        let tunnel = world.tunnel(side);
        assert_eq!(tunnel.state, TunnelState::Connecting);
        assert_eq!(tunnel.last_error.unwrap().code, "authentication-failed");
        let failures = world.events(side).iter().filter(|(kind, _)| *kind == "failed").count();
        assert!(failures > 5, "{failures}");
    }
    world.apply(A, vec![spec(A, 1)]);
    world.run(90);
    world.expect_up();
}

#[test]
fn a_rekey_of_a_short_lifetime_outlives_lost_messages() {
    let short = ConnectionSpec { rekey: Some(Duration::from_secs(20)), ..spec(A, 1) };
    let mut world = World::with(short, spec(B, 1));
    world.run(12);
    world.expect_up();
    world.cut = true;
    world.run(14);
    // Its rekey is under way, and it is not being deleted.
    let state = world.tunnel(A).ike_sas[0].state;
    assert_ne!(state, IkeState::Deleting);
    world.cut = false;
    world.run(15);
    world.expect_up();
    assert!(world.events(A).iter().any(|(kind, _)| *kind == "ike-rekeyed"));
}

#[test]
fn a_dead_peer_is_noticed_and_called_until_it_is_back() {
    let mut world = World::up(1);
    world.cut = true;
    world.run(300);
    let tunnel = world.tunnel(A);
    assert_eq!(tunnel.state, TunnelState::Connecting);
    assert!(["peer-dead", "peer-unreachable"].contains(&&*tunnel.last_error.unwrap().code));
    assert!(world.sides[A].backend.state().sas.is_empty());
    // What the policy says is protected stays blocked.
    assert_eq!(world.sides[A].backend.state().policies.policies.len(), 1);
    world.run(3600);
    world.cut = false;
    world.run(200);
    world.expect_up();
}

#[test]
fn all_addresses_of_a_list_are_tried_names_are_resolved() {
    let remote = vec![
        RemoteAddress::Host("nowhere.example".into()),
        RemoteAddress::Address(ip("192.0.2.77")),
        RemoteAddress::Host("b.example".into()),
    ];
    let mut world = World::empty();
    world.sides[A].hosts.insert("b.example".into(), vec![ip("192.0.2.78"), ip("192.0.2.2")]);
    world.apply(B, vec![spec(B, 1)]);
    world.run(1);
    // B would call A, but does not reach it.
    world.cut = true;
    world.apply(A, vec![ConnectionSpec { remote, local: Vec::new(), ..spec(A, 1) }]);
    world.run(30);
    assert_eq!(world.tunnel(A).last_error.unwrap().code, "resolve-failed");
    world.cut = false;
    world.run(400);
    world.expect_up();
    assert_eq!(world.tunnel(A).remote_configured, "nowhere.example, 192.0.2.77, b.example");
}

#[test]
fn a_lost_local_address_re_establishes_from_another_one() {
    let mut world = World::empty();
    let from_any = ConnectionSpec { local: Vec::new(), ..spec(A, 1) };
    let to_any = ConnectionSpec { remote: vec![RemoteAddress::Any], ..spec(B, 1) };
    world.apply(B, vec![to_any]);
    world.apply(A, vec![from_any]);
    world.run(30);
    world.expect_up();
    let old = world.tunnel(A).ike_sas[0].id;
    world.sides[A].addresses = vec![ip("192.0.2.9")];
    world.command(A, Command::LocalAddresses(vec![ip("192.0.2.9")]));
    world.run(120);
    world.expect_up();
    let tunnel = world.tunnel(A);
    assert_ne!(tunnel.ike_sas[0].id, old);
    assert_eq!(tunnel.local.ip(), ip("192.0.2.9"));
    assert!(world.events(A).contains(&("ike-down", Some("local-address-lost".into()))));
    for side in [A, B] {
        assert_eq!(world.sides[side].backend.state().sas.len(), 2);
    }
}

/// Addresses of one link are not among those that are watched: interfaces come and go, and that
/// says nothing about the tunnels over others.
#[test]
fn a_tunnel_between_link_local_addresses_stays_when_others_change() {
    let between = |side, us: &str, them: &str| ConnectionSpec {
        local: vec![ip(us)],
        remote: vec![RemoteAddress::Address(ip(them))],
        ..spec(side, 1)
    };
    let mut world = World::empty();
    for (side, us) in [(A, "fe80::1"), (B, "fe80::2")] {
        world.sides[side].addresses.push(ip(us));
        world.command(side, Command::LocalAddresses(vec![ip("192.0.2.7")]));
    }
    let passive = |spec| ConnectionSpec { mode: TunnelMode::Passive, ..spec };
    world.apply(B, vec![passive(between(B, "fe80::2", "fe80::1"))]);
    world.apply(A, vec![between(A, "fe80::1", "fe80::2")]);
    world.run(30);
    world.expect_up();
    let first = world.tunnel(B).ike_sas[0].id;
    for side in [A, B] {
        world.command(side, Command::LocalAddresses(vec![ip("192.0.2.8")]));
    }
    world.run(30);
    world.expect_up();
    assert_eq!(world.tunnel(B).ike_sas[0].id, first);
    for side in [A, B] {
        assert!(world.events(side).iter().all(|(kind, _)| *kind != "ike-down"));
    }
}

#[test]
fn a_backend_that_refuses_is_named_and_tried_again() {
    let mut world = World::empty();
    world.sides[A].backend.state().refuse_installs = true;
    world.apply(B, vec![ConnectionSpec { remote: vec![RemoteAddress::Any], ..spec(B, 1) }]);
    world.apply(A, vec![spec(A, 1)]);
    world.run(60);
    let tunnel = world.tunnel(A);
    let error = tunnel.last_error.unwrap();
    assert_eq!(error.code, "install-failed");
    assert!(error.message.contains("table full"), "{}", error.message);
    world.sides[A].backend.state().refuse_installs = false;
    world.run(200);
    world.expect_up();
}

#[test]
fn a_packet_that_needs_a_tunnel_ends_a_pause_but_not_a_back_off() {
    let mut world = World::up(1);
    let child = *world.sides[A].backend.state().active.keys().next().unwrap();
    let acquire = || Notice::Acquire {
        child,
        source: (ip("10.1.0.1"), 1),
        destination: (ip("10.2.0.1"), 1),
        protocol: 17,
    };
    // The peer deletes; A would call again within a second.
    world.start(B, Command::Down(crate::world::target("peer")));
    while !world.sides[A].backend.state().sas.is_empty() {
        world.step();
    }
    assert_eq!(world.tunnel(A).state, TunnelState::Connecting);
    world.sides[A].backend.state().notices.push_back(acquire());
    world.step();
    assert_eq!(world.tunnel(A).next_attempt, None, "it is being called");
    // B refuses: from then on the back-off holds.
    world.run(100);
    let before = world.events(A).iter().filter(|(kind, _)| *kind == "failed").count();
    for _ in 0..50 {
        world.sides[A].backend.state().notices.push_back(acquire());
        world.run(1);
    }
    let after = world.events(A).iter().filter(|(kind, _)| *kind == "failed").count();
    assert!(after <= before + 3, "{before} then {after}");
}

#[test]
fn removals_are_repeated_until_the_sa_is_really_gone() {
    let mut world = World::up(1);
    world.sides[A].backend.state().refuse_removals = 3;
    world.sides[A].backend.state().busy = true;
    let outcome = world.command(A, Command::Rekey(crate::world::target("peer/net0")));
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    world.run(60);
    assert_eq!(world.sides[A].backend.state().sas.len(), 2);
    assert!(world.events(A).contains(&("backend", None)));
    world.expect_up();
}

#[test]
fn what_a_device_loses_or_stops_is_replaced() {
    let mut world = World::up(1);
    for round in 0..2 {
        let before = world.child(A, "net0").id;
        {
            let mut state = world.sides[A].backend.state();
            let sa = *state.active.values().next().unwrap();
            let reason = "the device was reset".to_owned();
            state.notices.push_back(if round == 0 {
                Notice::Lost { sa, next_sequence: None, reason }
            } else {
                Notice::HardExpired { sa, reason }
            });
        }
        world.run(60);
        assert_ne!(world.child(A, "net0").id, before);
        world.expect_up();
        assert_eq!(world.sides[A].backend.state().sas.len(), 2);
    }
    assert!(world.events(A).contains(&("failed", Some("expired".into()))));
}

#[test]
fn a_soft_limit_rekeys_in_time() {
    let mut world = World::up(1);
    let before = world.child(A, "net0").id;
    let sa = *world.sides[A].backend.state().active.values().next().unwrap();
    world.sides[A].backend.state().notices.push_back(Notice::SoftExpired(sa));
    world.run(60);
    assert_ne!(world.child(A, "net0").id, before);
    world.expect_up();
    assert!(!world.events(A).iter().any(|(kind, _)| *kind == "failed"));
}

#[test]
fn counters_go_on_across_rekeys_of_both_kinds() {
    let mut world = World::up(1);
    let mut last = 0;
    for round in 1..=6 {
        world.sides[A].backend.traffic(10);
        world.run(2);
        let target = crate::world::target(if round % 2 == 0 { "peer" } else { "peer/net0" });
        let outcome = world.command([A, B][round % 2], Command::Rekey(target));
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        let child = world.child(A, "net0");
        assert!(child.packets_out >= last + 10, "{} after {last}", child.packets_out);
        last = child.packets_out;
        world.run(30);
    }
    world.expect_up();
    assert_eq!(world.child(A, "net0").bytes_out, last * 100);
    assert_eq!(world.sides[A].backend.state().sas.len(), 2);
    let kinds: Vec<_> = world.events(A).into_iter().map(|(kind, _)| kind).collect();
    assert!(kinds.contains(&"ike-rekeyed") && kinds.contains(&"child-rekeyed"));
    assert!(!kinds.contains(&"child-down"));
}

#[test]
fn what_a_child_protects_and_its_sa_does_not_carry_is_said_on_both_sides() {
    let named = |side: usize, count: usize| -> Vec<sa_store::TrafficSelector> {
        let network = |n: usize| format!("10.{}.{}.0/25", 100 + side + n / 250 * 10, n % 250);
        (0..count).map(|n| network(n).parse().unwrap()).collect()
    };
    let with = |side: usize, local: usize, remote: usize| {
        let mut spec = spec(side, 1);
        spec.children[0].local = named(side, local);
        spec.children[0].remote = named(1 - side, remote);
        spec
    };
    let mut world = World::with(with(A, 1, 258), with(B, 258, 1));
    world.expect_up();
    for side in [A, B] {
        let child = world.child(side, "net0");
        let (negotiated, open) = match side {
            A => (child.remote, child.uncovered_remote),
            _ => (child.local, child.uncovered_local),
        };
        assert_eq!((negotiated.len(), open.len()), (255, 3), "{}", child.narrowed);
        assert!(
            child
                .narrowed
                .ends_with("and 2 more; a child negotiates 255 networks a side: split it"),
            "{}",
            child.narrowed
        );
        assert!(world.events(side).contains(&("child-narrowed", Some("narrowed".into()))));
        // Protected all the same.
        let policies = world.sides[side].backend.state().policies.clone();
        let selectors = |p: &hw_offload::Policy| p.local.len() + p.remote.len();
        assert_eq!(policies.policies.iter().map(selectors).sum::<usize>(), 259);
    }
    // Whole again.
    world.apply(A, vec![with(A, 1, 255)]);
    world.apply(B, vec![with(B, 255, 1)]);
    world.run(60);
    world.expect_up();
    for side in [A, B] {
        let child = world.child(side, "net0");
        assert_eq!(
            (&*child.narrowed, child.uncovered_local.len(), child.uncovered_remote.len()),
            ("", 0, 0)
        );
    }
}
