//! More IKE SAs with one peer than there should be: restarts and crosswise set-ups.

use std::{sync::Arc, time::Duration};

use ike::{
    config::{EndpointConfig, Endpoints},
    event::FailureCode,
    input::{Command, Input},
    output::RequestKind,
};
use sa_store::{IdentityPattern, TunnelId};

use crate::common::{A, B, Fate, Node, TUNNEL, World, address, child, connection};

fn three_children(node: usize, it: &mut ike::config::Connection) {
    it.children = (1..=3)
        .map(|number| {
            let (one, two) = (format!("10.1.{number}.0/24"), format!("10.2.{number}.0/24"));
            let (local, remote) = if node == A { (one, two) } else { (two, one) };
            child(number, &local, &remote)
        })
        .collect();
}

#[test]
fn a_restarted_peer_replaces_what_it_lost() {
    for restarted in [A, B] {
        let mut world = World::new(1);
        world.establish();
        let fresh = Node::new(restarted, 99, EndpointConfig::default());
        world.nodes[restarted] = fresh;
        let again = std::sync::Arc::new(connection(restarted));
        world.command(restarted, Command::Configure(again));
        world.run_s(5);
        world.initiate(restarted);
        world.run_s(1);
        world.assert_up(1);
        assert_eq!(world.ike_down(1 - restarted), [FailureCode::Replaced]);
        world.run_s(20);
        world.assert_clean();
    }
}

#[test]
fn both_ends_initiate_at_once() {
    for seed in 0..24 {
        for (offset, latency) in [(0, 10), (5, 10), (15, 10), (25, 10), (35, 10), (45, 10), (3, 1)]
        {
            let mut world = World::with(seed, EndpointConfig::default(), three_children);
            world.latency = Duration::from_millis(latency);
            world.initiate(A);
            world.run_ms(offset);
            world.initiate(B);
            world.run_s(10);
            world.start_traffic();
            world.run_s(60);
            world.assert_up(3);
            world.assert_nothing_lost();
            world.assert_clean();
            for node in [A, B] {
                assert!(world.failures(node).is_empty(), "{}", world.failure_text(node));
                assert!(world.ike_down(node).iter().all(|it| *it == FailureCode::Replaced));
            }
        }
    }
}

#[test]
fn traffic_has_a_way_while_a_duplicate_goes() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.initiate(A);
        world.initiate(B);
        // Both IKE SAs are up; from the first moment that both ends say so nothing is lost.
        world.run_ms(50);
        world.start_traffic();
        world.run_s(30);
        world.assert_nothing_lost();
        world.assert_up(1);
    }
}

#[test]
fn a_second_ike_sa_without_initial_contact_replaces_the_first_one() {
    let mut world = World::new(5);
    world.establish();
    // A is told to forget without telling, but still has another IKE SA with that peer: it does
    // not claim to be new.
    let ike = world.nodes[A].endpoint.ike_sas()[0].id;
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::Terminate { tunnel: TUNNEL });
    world.run_ms(10);
    world.filter = Box::new(|_| Fate::Deliver);
    world.initiate(A);
    world.run_s(60);
    let views = world.nodes[A].endpoint.ike_sas();
    assert!(views.iter().all(|it| it.id != ike));
    world.assert_up(1);
    world.assert_clean();
    assert_eq!(world.nodes[B].endpoint.ike_sas().len(), 1);
}

#[test]
fn both_ends_initiate_at_once_over_a_bad_network() {
    for seed in 0..60_u64 {
        let mut world = World::with(seed, EndpointConfig::default(), three_children);
        let mut dice = seed;
        world.filter = Box::new(move |_| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match (dice >> 33) % 10 {
                0..=2 => Fate::Drop,
                3 => Fate::Late(Duration::from_millis(900)),
                4 => Fate::Twice,
                _ => Fate::Deliver,
            }
        });
        world.initiate(A);
        world.run_ms(seed * 13 % 50);
        world.initiate(B);
        world.run_s(400);
        world.filter = Box::new(|_| Fate::Deliver);
        for node in [A, B] {
            // A set-up may have failed for good in such a network.
            if world.nodes[node].endpoint.ike_sas().is_empty() {
                world.initiate(node);
            }
        }
        world.run_s(100);
        world.assert_up(3);
        world.assert_clean();
    }
}

/// INITIAL_CONTACT is about identities, not about tunnels (RFC 7296 §2.4): who calls the same peer
/// as the same gateway in a second tunnel must not have the first one deleted.
#[test]
fn a_second_tunnel_between_the_same_identities_is_no_initial_contact() {
    let second = TunnelId(2);
    for at_once in [false, true] {
        let mut world = World::with(5, EndpointConfig::default(), |node, it| {
            if node == B {
                it.replace_duplicates = false;
                it.children.push(child(2, "10.6.0.0/16", "10.5.0.0/16"));
            }
        });
        let mut other = connection(A);
        other.tunnel = second;
        other.children = vec![child(2, "10.5.0.0/16", "10.6.0.0/16")];
        world.command(A, Command::Configure(Arc::new(other)));
        world.initiate(A);
        if !at_once {
            world.run_s(1);
            world.assert_up(1);
        }
        let path = Endpoints { local: address(A), remote: address(B) };
        world.command(A, Command::Initiate { tunnel: second, path, children: Vec::new() });
        world.run_s(30);
        for node in [A, B] {
            assert_eq!(world.ike_down(node), []);
            assert_eq!(world.nodes[node].endpoint.ike_sas().len(), 2);
        }
    }
}

/// Each goes in its own time, with a request and its repetitions: above a few, at once.
#[test]
fn a_peer_that_comes_again_and_again_leaves_few_ike_sas_behind() {
    for (unique, calls, most) in [(true, 12, 9), (false, 70, 65)] {
        let mut world = World::with(6, EndpointConfig::default(), |node, it| {
            if node == B {
                it.replace_duplicates = unique;
            }
        });
        world.initiate(A);
        world.run_ms(100);
        // Further tunnels with the same identities: none of them says INITIAL_CONTACT.
        for number in 2..=calls {
            let tunnel = TunnelId(number);
            let mut other = connection(A);
            other.tunnel = tunnel;
            other.children[0].child = sa_store::ChildId(100 + number);
            world.command(A, Command::Configure(Arc::new(other)));
            let path = Endpoints { local: address(A), remote: address(B) };
            world.command(A, Command::Initiate { tunnel, path, children: Vec::new() });
            world.run_ms(50);
        }
        let views = world.nodes[B].endpoint.ike_sas();
        assert_eq!(views.len(), most);
        let newest = views.last().unwrap();
        assert_eq!(newest.children.len(), 1, "{newest:#?}");
    }
}

/// Whoever has the key of a tunnel that takes any identity may be a new peer each time: what it
/// leaves behind is limited all the same.
#[test]
fn a_peer_of_many_names_leaves_few_ike_sas_behind() {
    for closing in [false, true] {
        let mut world = World::with(7, EndpointConfig::default(), |node, it| {
            if node == B {
                it.remote_id = IdentityPattern::Any;
            }
        });
        let calls = 80;
        let tunnel = |number: u32| TunnelId(100 + number);
        let mut deletes = Vec::new();
        for number in 0..calls {
            let mut other = connection(A);
            other.tunnel = tunnel(number);
            other.local_id = Some(format!("x{number}.example").parse().unwrap());
            other.children[0].child = sa_store::ChildId(100 + number);
            world.command(A, Command::Configure(Arc::new(other)));
            let path = Endpoints { local: address(A), remote: address(B) };
            let tunnel = tunnel(number);
            world.command(A, Command::Initiate { tunnel, path, children: Vec::new() });
            world.run_ms(100);
            if closing {
                let before = world.sent.len();
                world.command(A, Command::Terminate { tunnel });
                deletes.push(world.sent[before].clone());
                world.run_ms(50);
            }
        }
        let views = world.nodes[B].endpoint.ike_sas();
        if !closing {
            assert_eq!(views.len(), 65);
            assert_eq!(views.last().unwrap().children.len(), 1);
            continue;
        }
        assert!(views.is_empty());
        // Those that are over answer once more: the last ones, but not all.
        let answered = deletes.iter().filter(|delete| {
            let before = world.sent.len();
            let path = Endpoints { local: address(B), remote: address(A) };
            world.input(B, Input::Datagram { path, payload: &delete.payload });
            world.sent.len() > before
        });
        assert_eq!(answered.count(), 64);
    }
}

/// As the pairs do of IKE SAs that are gone while the backend does not let go of them.
#[test]
fn a_peer_of_many_names_leaves_few_pairs_behind() {
    let mut world = World::with(8, EndpointConfig::default(), |node, it| {
        if node == B {
            it.remote_id = IdentityPattern::Any;
        }
    });
    world.nodes[B].hold = Some(|kind| matches!(kind, RequestKind::Remove { .. }));
    for number in 0..400 {
        let tunnel = TunnelId(100 + number);
        let mut other = connection(A);
        other.tunnel = tunnel;
        other.local_id = Some(format!("x{number}.example").parse().unwrap());
        other.children[0].child = sa_store::ChildId(100 + number);
        world.command(A, Command::Configure(Arc::new(other)));
        let path = Endpoints { local: address(A), remote: address(B) };
        world.command(A, Command::Initiate { tunnel, path, children: Vec::new() });
        world.run_ms(50);
    }
    // Those that leave, and those of the IKE SAs that were there when no more were let in.
    assert_eq!(world.nodes[B].pairs.len(), 256 + 65);
    // There is room again for who comes next.
    world.release(B);
    world.command(A, Command::Terminate { tunnel: TunnelId(499) });
    world.run_s(1);
    let path = Endpoints { local: address(A), remote: address(B) };
    let tunnel = TunnelId(499);
    world.command(A, Command::Initiate { tunnel, path, children: Vec::new() });
    world.run_s(1);
    assert_eq!(world.nodes[B].endpoint.ike_sas().last().unwrap().children.len(), 1);
}

/// A's request reaches B once more when B is up already and its last answer is still on the way. A
/// would follow another answer, and B would replace the IKE SA that A comes up with.
#[test]
fn a_request_that_comes_again_behind_its_ike_auth_begins_nothing() {
    let mut world = World::new(1);
    world.filter = Box::new(|sent| match sent.label().as_str() {
        "B IKE_AUTH 1 <-" => Fate::Late(Duration::from_secs(2)),
        _ => Fate::Deliver,
    });
    world.initiate(A);
    world.run_ms(500);
    world.assert_established_at(B);
    let first = world.sent.iter().find(|sent| sent.label() == "A IKE_SA_INIT 0 ->").unwrap();
    let payload = first.payload.clone();
    let path = Endpoints { local: address(B), remote: address(A) };
    world.input(B, Input::Datagram { path, payload: &payload });
    world.run_s(20);
    world.assert_up(1);
    assert_eq!(world.ike_down(B), []);
    world.assert_clean();
}
