//! What is taken away lets nothing in from that moment on, also when the peer does not answer.

use std::time::Duration;

use gateway::{
    command::Command,
    spec::{ConnectionSpec, Origin},
};
use ike::view::ChildState;
use sa_store::Direction;

use crate::world::{A, World, psk, spec, target};

/// The children of A that packets come in through.
fn open(world: &World) -> Vec<String> {
    let state = world.sides[A].backend.state();
    let inbound = state.sas.values().filter(|record| record.direction == Direction::Inbound);
    let mut all: Vec<_> = inbound.map(|record| record.local_selectors[0].to_string()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn names(numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(|number| format!("10.1.{number}.0/24")).collect()
}

fn apply(change: impl FnOnce(&mut ConnectionSpec)) -> Command {
    let mut spec = spec(A, 2);
    change(&mut spec);
    Command::Apply { origin: Origin::File, connections: vec![spec] }
}

/// Gives a command to A whose peer is silent from now on, and lets some hundredths of a second pass.
fn command(world: &mut World, command: Command) {
    world.cut = true;
    world.start(A, command);
    (0..5).for_each(|_| world.step());
}

#[test]
fn what_is_taken_away_lets_nothing_in_although_the_peer_is_silent() {
    let nothing = Command::Apply { origin: Origin::File, connections: Vec::new() };
    for (what, given, left) in [
        ("down", Command::Down(target("peer")), &[][..]),
        ("down of a child", Command::Down(target("peer/net0")), &[1]),
        ("a tunnel is removed", nothing, &[]),
        ("a child is removed", apply(|spec| drop(spec.children.remove(0))), &[1]),
        (
            "other networks there",
            apply(|spec| spec.children[0].remote = vec!["10.2.0.0/25".parse().unwrap()]),
            &[1],
        ),
        (
            "other networks here",
            apply(|spec| spec.children[1].local = vec!["10.1.1.0/25".parse().unwrap()]),
            &[0],
        ),
        ("another key", apply(|spec| spec.auth = psk("another one")), &[]),
        ("another peer", apply(|spec| spec.remote_id = "c.example".parse().unwrap()), &[]),
        ("shutdown", Command::Shutdown, &[]),
    ] {
        let mut world = World::up(2);
        assert_eq!(open(&world), names(&[0, 1]), "control");
        command(&mut world, given);
        assert_eq!(open(&world), names(left), "{what}");
    }
}

#[test]
fn what_stays_the_same_goes_on_while_its_replacement_is_on_its_way() {
    for given in [
        apply(|spec| spec.children[0].rekey.time = Some(Duration::from_secs(1800))),
        apply(|spec| spec.children[0].bypass = vec!["10.2.0.0/28".parse().unwrap()]),
        apply(|spec| spec.children.push(crate::world::child(A, 2))),
    ] {
        let mut world = World::up(2);
        command(&mut world, given);
        assert_eq!(open(&world), names(&[0, 1]));
    }
}

#[test]
fn a_child_on_its_way_out_is_shown_as_that_and_comes_back() {
    let mut world = World::up(2);
    command(&mut world, Command::Down(target("peer/net0")));
    assert_eq!(world.child(A, "net0").state, Some(ChildState::Deleting));
    assert_eq!(world.child(A, "net1").state, Some(ChildState::Installed));
    world.cut = false;
    world.run(10);
    assert_eq!(world.child(A, "net0").state, None);
    world.command(A, Command::Up(target("peer/net0")));
    world.run(60);
    world.expect_up();
    assert_eq!(open(&world), names(&[0, 1]));
}

#[test]
fn a_pair_that_was_on_its_way_lets_nothing_in_either() {
    for what in ["peer", "peer/net0"] {
        for pause in 0..6 {
            let mut world = World::up(1);
            world.start(A, Command::Rekey(target("peer/net0")));
            (0..pause).for_each(|_| world.step());
            world.start(A, Command::Down(target(what)));
            // The peer takes part in the rekey still.
            (0..3).for_each(|_| world.step());
            world.cut = true;
            (0..5).for_each(|_| world.step());
            assert_eq!(open(&world), names(&[]), "{what}, {pause} steps after the rekey began");
        }
    }
}

#[test]
fn a_refused_removal_is_tried_again() {
    let mut world = World::up(1);
    world.sides[A].backend.state().refuse_removals = 2;
    command(&mut world, Command::Down(target("peer/net0")));
    assert_eq!(open(&world), names(&[0]), "control: the device hangs");
    world.run(3);
    assert_eq!(open(&world), names(&[]));
}
