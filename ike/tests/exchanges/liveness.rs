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
fn a_dead_peer_is_found_out_within_its_time() {
    let mut world = world();
    world.filter = Box::new(|_| Fate::Drop);
    // Asked after 30 s, given up 30 s later.
    world.run_s(58);
    assert!(world.ike_down(A).is_empty());
    let again = world.count(A, |it| matches!(it, Event::Retransmitting { .. }));
    assert!((5..=9).contains(&again), "sent again {again} times");
    world.run_s(4);
    assert_eq!(world.ike_down(A), [FailureCode::PeerDead]);
    assert_eq!(world.child_down(A), [FailureCode::PeerDead]);
    assert!(world.nodes[A].pairs.is_empty());
    assert_eq!(world.nodes[B].endpoint.ike_sas().len(), 1, "B never asks");
}

/// The patience for a liveness check is the operator's choice, that for other requests is not.
#[test]
fn only_liveness_checks_end_early() {
    let mut world = World::with(1, EndpointConfig::default(), |_, it| {
        it.dpd = Some(Duration::from_secs(600));
        it.dpd_timeout = Duration::from_secs(4);
    });
    world.establish();
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::CheckLiveness { tunnel: TUNNEL });
    world.command(B, Command::RekeyIke { tunnel: TUNNEL });
    world.run_s(5);
    assert_eq!(world.ike_down(A), [FailureCode::PeerDead]);
    world.run_s(60);
    assert!(world.ike_down(B).is_empty(), "a rekey may take its time");
    world.run_s(30);
    assert_eq!(world.ike_down(B), [FailureCode::PeerDead]);
}

/// A request of another kind that is on its way when the peer has been silent for too long is the
/// question.
#[test]
fn a_request_under_way_is_a_question_as_well() {
    let mut world = world();
    world.run_s(25);
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::RekeyIke { tunnel: TUNNEL });
    world.run_s(37);
    assert_eq!(world.ike_down(A), [FailureCode::PeerDead], "{:?}", world.ladder);
}

fn busy(seconds: u64) -> World {
    let mut world = World::with(1, EndpointConfig::default(), |node, it| {
        it.dpd = (node == A).then_some(Duration::from_secs(30));
        it.idle = (node == A).then_some(Duration::from_secs(seconds));
    });
    world.establish();
    world.ladder.clear();
    world.start_traffic();
    world
}

/// A firewall may keep IKE and ESP apart, and forget IKE while ESP is busy.
#[test]
fn an_exchange_takes_place_under_traffic() {
    let mut world = busy(15);
    world.run_s(301);
    assert_eq!(world.ladder.len(), 40, "{:?}", world.ladder);
    world.assert_up(1);
}

/// ESP that still comes is a sign of life: the wire may be bad, or IKE alone be blocked.
#[test]
fn traffic_extends_the_wait_for_an_answer() {
    let mut world = busy(15);
    world.filter = Box::new(|_| Fate::Drop);
    world.run_s(75);
    assert!(world.ike_down(A).is_empty());
    // Up to the patience that any request has.
    world.run_s(30);
    assert_eq!(world.ike_down(A), [FailureCode::PeerDead]);
}

/// Once ESP stays away as well, the patience for liveness checks counts from the last of it.
#[test]
fn traffic_that_ends_extends_the_wait_no_more() {
    let mut world = busy(15);
    world.filter = Box::new(|_| Fate::Drop);
    world.run_s(20);
    world.stop_traffic();
    world.run_s(29);
    assert!(world.ike_down(A).is_empty());
    world.run_s(2);
    assert_eq!(world.ike_down(A), [FailureCode::PeerDead]);
}

#[test]
fn silence_is_told_and_its_end_as_well() {
    let mut world = world();
    world.command(A, Command::CheckLiveness { tunnel: TUNNEL });
    world.run_ms(500);
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::CheckLiveness { tunnel: TUNNEL });
    world.run_s(20);
    let waited = world.nodes[A].events.iter().rev().find_map(|(_, it)| match it {
        Event::Retransmitting { waited, .. } => Some(waited.as_secs()),
        _ => None,
    });
    assert!(waited.is_some_and(|waited| waited > 10), "{waited:?}");
    world.filter = Box::new(|_| Fate::Deliver);
    world.run_s(6);
    assert_eq!(world.count(A, |it| matches!(it, Event::Answering { .. })), 1);
    world.assert_up(1);
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
    let mut world = World::new(1);
    world.establish();
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::RekeyIke { tunnel: TUNNEL });
    let mut times = vec![world.now];
    let mut seen = 1;
    for _ in 0..2000 {
        world.run_ms(50);
        if world.sent.iter().filter(|it| it.from == A && it.label().contains("CREATE")).count()
            > seen
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
