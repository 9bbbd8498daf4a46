//! Selectors and several children.

use std::sync::Arc;

use ike::{
    config::{EndpointConfig, Endpoints},
    event::{Event, FailureCode},
    input::Command,
};
use sa_store::{ChildId, TrafficSelector};

use crate::common::{A, B, TUNNEL, World, address, child, connection, esp_proposal};

fn selectors(text: &str) -> Vec<TrafficSelector> {
    text.split(',').map(|it| it.parse().unwrap()).collect()
}

fn with_selectors(a: (&str, &str), b: (&str, &str)) -> World {
    let mut world = World::with(1, EndpointConfig::default(), |node, it| {
        let (local, remote) = if node == A { a } else { b };
        it.children = vec![child(1, local, remote)];
    });
    world.initiate(A);
    world.run_s(1);
    world
}

#[test]
fn selectors_are_narrowed_to_what_both_want() {
    let cases = [
        (
            ("10.1.0.0/16", "10.0.0.0/8"),
            ("10.2.0.0/16", "10.1.0.0/16"),
            "10.1.0.0/16",
            "10.2.0.0/16",
        ),
        (("10.1.0.0/16", "10.2.0.0/16"), ("0.0.0.0/0", "0.0.0.0/0"), "10.1.0.0/16", "10.2.0.0/16"),
        (
            ("10.1.0.0/16,2001:db8:1::/48", "10.2.0.0/16,2001:db8:2::/48"),
            ("10.2.0.0/24,2001:db8:2::/48", "10.1.0.0/16,2001:db8:1::/48"),
            "10.1.0.0/16,2001:db8:1::/48",
            "10.2.0.0/24,2001:db8:2::/48",
        ),
        (
            ("10.1.0.0/16[tcp]", "10.2.0.0/16[tcp]"),
            ("10.2.0.0/16[tcp/443]", "10.1.0.0/16"),
            "10.1.0.0/16[tcp]",
            "10.2.0.0/16[tcp/443]",
        ),
    ];
    for (a, b, local, remote) in cases {
        let world = with_selectors(a, b);
        world.assert_up(1);
        let views = world.nodes[A].endpoint.ike_sas();
        assert_eq!(views[0].children[0].local, selectors(local));
        assert_eq!(views[0].children[0].remote, selectors(remote));
        let views = world.nodes[B].endpoint.ike_sas();
        assert_eq!(views[0].children[0].remote, selectors(local));
        assert_eq!(views[0].children[0].local, selectors(remote));
    }
}

#[test]
fn selectors_without_anything_in_common_are_refused_with_both_lists() {
    let world = with_selectors(("10.1.0.0/16", "10.2.0.0/16"), ("10.3.0.0/16", "10.1.0.0/16"));
    world.assert_up(0);
    for node in [A, B] {
        assert_eq!(world.failures(node), [FailureCode::TsUnacceptable]);
        assert!(world.failure_text(node).contains("10.2.0.0/16"));
    }
    assert!(world.failure_text(B).contains("10.3.0.0/16"));
    world.assert_clean();
}

fn three() -> World {
    World::with(2, EndpointConfig::default(), |node, it| {
        it.children = (1..=3)
            .map(|number| {
                let (one, two) = (format!("10.1.{number}.0/24"), format!("10.2.{number}.0/24"));
                let (local, remote) = if node == A { (one, two) } else { (two, one) };
                child(number, &local, &remote)
            })
            .collect();
    })
}

#[test]
fn all_children_come_up_one_after_the_other() {
    for initiator in [A, B] {
        let mut world = three();
        world.initiate(initiator);
        world.run_s(1);
        world.assert_up(3);
        assert_eq!(world.ladder.iter().filter(|it| it.contains("CREATE_CHILD_SA")).count(), 4);
        for node in [A, B] {
            assert_eq!(world.count(node, |it| matches!(it, Event::ChildInstalled { .. })), 3);
        }
        world.start_traffic();
        world.run_s(1);
        world.assert_nothing_lost();
        world.assert_clean();
    }
}

#[test]
fn one_child_is_added_and_taken_away() {
    let mut world = three();
    let path = Endpoints { local: address(A), remote: address(B) };
    let one = |number| Command::Initiate { tunnel: TUNNEL, path, children: vec![ChildId(number)] };
    world.command(A, one(12));
    world.run_s(1);
    world.assert_up(1);
    world.command(A, one(11));
    world.run_s(1);
    world.assert_up(2);
    let path = Endpoints { local: address(B), remote: address(A) };
    world.command(B, Command::Initiate { tunnel: TUNNEL, path, children: Vec::new() });
    world.run_s(1);
    world.assert_up(3);
    world.start_traffic();
    world.command(B, Command::TerminateChild { child: ChildId(12) });
    world.run_s(1);
    world.assert_up(2);
    assert_eq!(world.child_down(A), [FailureCode::DeletedByPeer]);
    assert_eq!(world.child_down(B), [FailureCode::DeletedByOperator]);
    world.assert_clean();
}

/// An IKE SA stays when a reload adds children: what it was established with is no limit.
#[test]
fn children_that_a_reload_adds_come_up_on_the_ike_sa_that_is_there() {
    let configured = |node: usize, children: u32| {
        let mut connection = connection(node);
        connection.children = (1..=children)
            .map(|number| {
                let (one, two) = (format!("10.1.{number}.0/24"), format!("10.2.{number}.0/24"));
                let (local, remote) = if node == A { (one, two) } else { (two, one) };
                child(number, &local, &remote)
            })
            .collect();
        connection
    };
    let mut world = World::with(6, EndpointConfig::default(), |node, it| *it = configured(node, 1));
    world.establish();
    for node in [A, B] {
        world.command(node, Command::Configure(Arc::new(configured(node, 6))));
    }
    world.initiate(A);
    world.run_s(2);
    world.assert_up(6);
    for round in 1..=2 {
        for number in 1..=6 {
            world.command(A, Command::RekeyChild { child: ChildId(10 + number) });
        }
        world.run_s(2);
        assert_eq!(world.rekeyed(A), 6 * round);
    }
    assert_eq!(world.failures(A), []);
    world.run_s(20);
    world.assert_up(6);
    world.assert_clean();
}

#[test]
fn both_ends_ask_for_the_same_children_at_once() {
    let mut world = three();
    let path = Endpoints { local: address(A), remote: address(B) };
    world.command(A, Command::Initiate { tunnel: TUNNEL, path, children: vec![ChildId(11)] });
    world.run_s(1);
    world.assert_up(1);
    for node in [A, B] {
        world.initiate(node);
    }
    world.run_s(20);
    world.assert_up(3);
    assert!(world.failures(A).is_empty() && world.failures(B).is_empty());
    world.assert_clean();
}

#[test]
fn a_child_gets_its_own_key_exchange() {
    let mut world = World::with(3, EndpointConfig::default(), |node, it| {
        it.children = (1..=2)
            .map(|number| {
                let (one, two) = (format!("10.1.{number}.0/24"), format!("10.2.{number}.0/24"));
                let (local, remote) = if node == A { (one, two) } else { (two, one) };
                child(number, &local, &remote)
            })
            .collect();
        for it in &mut it.children {
            let text = if node == A { "aes256gcm16-x25519-ecp256" } else { "aes256gcm16-ecp256" };
            it.proposals = vec![esp_proposal(text)];
        }
    });
    world.establish_children(2);
    assert!(world.nodes[A].requests.contains(&"agree ecp256".to_owned()));
}

#[test]
fn a_full_backend_is_named_and_leaves_nothing_behind() {
    for refusing in [A, B] {
        let mut world = World::new(4);
        world.nodes[refusing].refuse_installs = 1;
        world.initiate(A);
        world.run_s(2);
        world.assert_up(0);
        assert_eq!(world.failures(refusing), [FailureCode::InstallFailed]);
        assert!(world.failure_text(refusing).contains("the table is full"));
        world.assert_clean();
    }
}

#[test]
fn no_spi_is_left() {
    for poor in [A, B] {
        let mut world = World::new(5);
        world.nodes[poor].spis.lock().unwrap().limit = 0;
        world.initiate(A);
        world.run_s(2);
        assert_eq!(world.failures(poor), [FailureCode::Internal]);
        world.assert_clean();
    }
}
