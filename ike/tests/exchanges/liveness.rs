//! Is the peer alive (RFC 7296 §2.4)?

use std::time::Duration;

use ike::{
    config::EndpointConfig,
    event::{Event, FailureCode},
    input::Command,
};

use crate::common::{A, B, Fate, TUNNEL, World};

fn world() -> World {
    let mut world = World::with(1, EndpointConfig::default(), |node, it| {
        it.dpd = (node == A).then_some(Duration::from_secs(30));
    });
    world.establish();
    world.ladder.clear();
    world
}

#[test]
fn a_quiet_peer_is_asked() {
    let mut world = world();
    world.run_s(29);
    assert!(world.ladder.is_empty());
    world.run_s(300);
    assert_eq!(world.ladder.len(), 20, "{:?}", world.ladder);
    assert!(world.ladder.iter().all(|it| it.contains("INFORMATIONAL")));
    world.assert_up(1);
}

#[test]
fn traffic_is_a_sign_of_life() {
    let mut world = world();
    world.start_traffic();
    world.run_s(300);
    assert!(world.ladder.is_empty());
}

#[test]
fn a_dead_peer_is_found_out() {
    let mut world = world();
    world.filter = Box::new(|_| Fate::Drop);
    world.run_s(250);
    assert_eq!(world.ike_down(A), [FailureCode::PeerDead]);
    assert_eq!(world.child_down(A), [FailureCode::PeerDead]);
    assert_eq!(world.count(A, |it| matches!(it, Event::Retransmitting { .. })), 5);
    assert!(world.nodes[A].pairs.is_empty());
    assert_eq!(world.nodes[B].endpoint.ike_sas().len(), 1, "B never asks");
}

#[test]
fn somebody_may_ask_now() {
    let mut world = world();
    world.command(A, Command::CheckLiveness { tunnel: TUNNEL });
    world.run_s(1);
    assert_eq!(world.ladder, ["A INFORMATIONAL 2 ->", "B INFORMATIONAL 2 <-"]);
}

#[test]
fn retransmissions_back_off_with_jitter() {
    let mut world = world();
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::CheckLiveness { tunnel: TUNNEL });
    let mut times = vec![world.now];
    let mut seen = 1;
    for _ in 0..2000 {
        world.run_ms(50);
        if world.sent.iter().filter(|it| it.from == A && it.label().contains("INFO")).count() > seen
        {
            seen += 1;
            times.push(world.now);
        }
    }
    assert_eq!(times.len(), 6);
    let mut expected = 2.0_f64;
    for pair in times.windows(2) {
        let waited = pair[1].since(pair[0]).as_secs_f64();
        assert!(waited <= expected + 0.1 && waited >= expected * 0.9 - 0.1, "{waited} {expected}");
        expected *= 1.8;
    }
}
