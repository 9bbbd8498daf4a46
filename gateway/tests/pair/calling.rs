//! What happens while a tunnel is being called, and how often it is.

use std::time::Duration;

use gateway::{
    command::{Command, Outcome},
    read_model::TunnelState,
    spec::{ConnectionSpec, TunnelMode},
};
use sa_store::Direction;

use crate::world::{A, B, World, child, spec, target};

fn passive(children: usize) -> ConnectionSpec {
    ConnectionSpec { mode: TunnelMode::Passive, ..spec(B, children) }
}

/// A calls, and nobody has answered yet.
fn calling() -> World {
    let mut world = World::empty();
    world.cut = true;
    world.apply(B, vec![passive(2)]);
    world.apply(A, vec![spec(A, 2)]);
    world.run(5);
    world
}

#[test]
fn a_child_that_is_held_meanwhile_stays_down() {
    let mut world = calling();
    let outcome = world.command(A, Command::Down(target("peer/net0")));
    assert_eq!(outcome, Outcome::Done("peer/net0 is down".into()));
    world.cut = false;
    world.run(120);
    assert_eq!(world.child(A, "net0").state, None);
    assert!(world.child(A, "net1").state.is_some());
    assert_eq!(world.sides[A].backend.state().sas.len(), 2);
    assert_eq!(world.tunnel(A).state, TunnelState::Established);
    world.command(A, Command::Up(target("peer/net0")));
    world.expect_up();
}

#[test]
fn a_child_that_is_removed_meanwhile_does_not_come() {
    let mut world = calling();
    let rest = ConnectionSpec { children: vec![child(A, 1)], ..spec(A, 0) };
    assert!(matches!(world.apply(A, vec![rest]), Outcome::Done(_)));
    world.cut = false;
    world.run(120);
    let names: Vec<_> = world.tunnel(A).children.into_iter().map(|child| child.name).collect();
    assert_eq!(names, ["net1"]);
    assert_eq!(world.sides[A].backend.state().sas.len(), 2);
    assert_eq!(world.tunnel(A).state, TunnelState::Established);
}

#[test]
fn a_child_that_is_changed_meanwhile_comes_as_it_is_now() {
    let mut world = calling();
    let narrow = vec!["10.2.0.0/25".parse().unwrap()];
    let mut changed = spec(A, 2);
    changed.children[0].remote.clone_from(&narrow);
    assert!(matches!(world.apply(A, vec![changed]), Outcome::Done(_)));
    world.cut = false;
    world.run(120);
    world.expect_up();
    let state = world.sides[A].backend.state();
    assert_eq!(state.sas.len(), 4);
    let mut inbound = state.sas.values().filter(|sa| sa.direction == Direction::Inbound);
    assert!(inbound.any(|sa| sa.remote_selectors == narrow), "{:?}", state.sas);
}

/// With its only child held there is nothing to call for.
#[test]
fn a_tunnel_whose_children_are_all_held_is_not_called() {
    let mut world = World::up(1);
    world.command(A, Command::Down(target("peer/net0")));
    world.cut = true;
    world.run(600);
    let tunnel = world.tunnel(A);
    assert_eq!((tunnel.state, tunnel.held), (TunnelState::Down, true));
    assert!(tunnel.last_error.is_none(), "{:?}", tunnel.last_error);
    world.cut = false;
    world.run(120);
    assert!(world.tunnel(A).ike_sas.is_empty());
    let failed = |(kind, code): &(&str, Option<String>)| {
        *kind == "failed" && code.as_deref() == Some("internal-error")
    };
    assert!(!world.events(A).iter().any(failed), "{:?}", world.events(A));
    let outcome = world.command(A, Command::Up(target("peer/net0")));
    assert_eq!(outcome, Outcome::Done("peer/net0 is up".into()));
    world.expect_up();
    // A new child is a reason to call as well.
    world.command(A, Command::Down(target("peer/net0")));
    world.cut = true;
    world.run(600);
    world.cut = false;
    world.apply(B, vec![passive(2)]);
    world.apply(A, vec![spec(A, 2)]);
    world.run(60);
    assert!(world.child(A, "net1").state.is_some());
    assert_eq!(world.child(A, "net0").state, None);
}

#[test]
fn a_tunnel_that_becomes_always_on_asks_for_what_is_missing() {
    let mode = TunnelMode::Passive;
    let mut world = World::with(ConnectionSpec { mode, ..spec(A, 2) }, spec(B, 2));
    world.command(B, Command::Down(target("peer/net1")));
    world.run(300);
    let refused =
        |world: &World| world.events(A).contains(&("failed", Some("ts-unacceptable".into())));
    assert!(!refused(&world) && world.child(A, "net1").state.is_none());
    world.apply(A, vec![spec(A, 2)]);
    world.run(5);
    assert!(refused(&world), "{:?}", world.events(A));
}

#[test]
fn what_nobody_wants_any_more_is_no_error() {
    // The peer knows one of both children.
    let refused = || {
        let world = World::with(spec(A, 2), passive(1));
        assert_eq!(world.tunnel(A).last_error.unwrap().code, "ts-unacceptable");
        world
    };
    let mut world = refused();
    world.apply(A, vec![spec(A, 1)]);
    assert!(world.tunnel(A).last_error.is_none());
    assert_eq!(world.tunnel(A).state, TunnelState::Established);
    let mut world = refused();
    world.command(A, Command::Down(target("peer/net1")));
    assert!(world.tunnel(A).last_error.is_none());
    assert_eq!(world.tunnel(A).state, TunnelState::Established);
}

#[test]
fn commands_for_what_goes_meanwhile_are_answered() {
    let code = |world: &World, id| match world.outcome(A, id) {
        Some(Outcome::Failed { code, .. }) => Some(code.clone()),
        Some(Outcome::Done(_)) => Some("done".into()),
        None => None,
    };
    // A child that the peer deletes instead of rekeying it.
    let mut world = World::up(2);
    let rekey = world.start(A, Command::Rekey(target("peer")));
    world.command(B, Command::Down(target("peer/net1")));
    world.run(30);
    assert_eq!(code(&world, rekey).as_deref(), Some("deleted-by-peer"));
    // A child that a reload removes.
    let mut world = calling();
    let up = world.start(A, Command::Up(target("peer/net1")));
    world.apply(A, vec![spec(A, 1)]);
    assert_eq!(code(&world, up).as_deref(), Some("unknown-child"));
}

/// What a command asks for leaves at once, not with the next thing that happens to happen.
#[test]
fn a_rekey_of_an_ike_sa_alone_begins_at_once() {
    let quiet = |side, mode| ConnectionSpec { mode, dpd: None, rekey: None, ..spec(side, 1) };
    let mut world = World::with(quiet(A, TunnelMode::AlwaysOn), quiet(B, TunnelMode::Passive));
    world.command(A, Command::Down(target("peer/net0")));
    world.run(60);
    let rekey = world.start(A, Command::Rekey(target("peer")));
    world.pass(5);
    assert!(matches!(world.outcome(A, rekey), Some(Outcome::Done(_))));
}

/// A peer that accepts and deletes is called less and less often, like one that refuses.
#[test]
fn a_peer_that_accepts_and_deletes_is_not_called_in_a_storm() {
    let mut world = World::up(2);
    let ups = |world: &World| {
        world.events(A).iter().filter(|(kind, _)| *kind == "ike-established").count()
    };
    let delete = |world: &mut World| {
        world.apply(B, Vec::new());
        world.apply(B, vec![passive(2)]);
    };
    let (before, end) = (ups(&world), world.now + Duration::from_secs(600));
    let mut seen = 0;
    while world.now < end {
        if ups(&world) > seen {
            seen = ups(&world);
            delete(&mut world);
        }
        world.step();
    }
    let calls = ups(&world) - before;
    assert!((5..=20).contains(&calls), "{calls} times in ten minutes");
    // One that stayed for a while is called again at once.
    world.run(200);
    world.expect_up();
    let before = ups(&world);
    delete(&mut world);
    world.run(2);
    assert_eq!(ups(&world), before + 1);
}
