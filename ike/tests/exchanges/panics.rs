//! An error of ours that panics in the middle of a step, which the driver catches: one IKE SA
//! ends, nothing of it stays behind, and the tunnel can come up again.

use ike::{
    event::FailureCode,
    input::{Command, Input},
};

use crate::common::{A, B, CHILD, World};

/// The next allocation of an SPI at a node panics.
fn plant(world: &World, node: usize) {
    world.nodes[node].spis.lock().unwrap().panics = true;
}

#[track_caller]
fn assert_struck(world: &World, node: usize) {
    assert!(!world.nodes[node].spis.lock().unwrap().panics, "there was no panic");
    assert!(world.nodes[node].endpoint.ike_sas().is_empty());
    assert!(world.nodes[node].pairs.is_empty());
}

#[test]
fn a_panic_in_an_established_ike_sa_ends_it_alone() {
    let mut world = World::new(51);
    world.establish();
    plant(&world, B);
    world.command(A, Command::RekeyChild { child: CHILD });
    world.run_ms(50);
    assert_struck(&world, B);
    assert_eq!(world.ike_down(B), [FailureCode::Internal]);
    assert_eq!(world.child_down(B), [FailureCode::Internal]);
    assert_eq!(world.nodes[B].endpoint.poll_timeout(), None);
    // As the gateway does when an IKE SA goes down.
    world.initiate(B);
    world.run_s(300);
    world.assert_up(1);
    world.assert_clean();
}

#[test]
fn the_driver_is_woken_to_clear_up_after_a_panic() {
    let mut world = World::new(52);
    world.establish();
    plant(&world, A);
    let now = world.now;
    world.nodes[A].handle(now, Input::Command(Command::RekeyChild { child: CHILD }));
    assert_eq!(world.nodes[A].endpoint.poll_timeout(), Some(now));
    world.run_ms(1);
    assert_struck(&world, A);
    assert_eq!(world.ike_down(A), [FailureCode::Internal]);
}

#[test]
fn a_panic_in_an_attempt_fails_it() {
    let mut world = World::new(53);
    plant(&world, A);
    world.initiate(A);
    world.run_ms(500);
    assert_struck(&world, A);
    assert_eq!(world.failures(A), [FailureCode::Internal]);
    world.initiate(A);
    world.run_s(60);
    world.assert_up(1);
    world.assert_clean();
}

#[test]
fn a_panic_while_a_peer_is_let_in_keeps_nobody_out() {
    let config = ike::config::EndpointConfig {
        cookie_threshold: 1,
        half_open_limit: 1,
        ..ike::config::EndpointConfig::default()
    };
    let mut world = World::with(54, config, |_, _| {});
    plant(&world, B);
    world.initiate(A);
    world.run_ms(500);
    assert_struck(&world, B);
    assert_eq!(world.ike_down(B), [FailureCode::Internal]);
    world.run_s(200);
    assert_eq!(world.failures(A).len(), 1);
    world.initiate(A);
    world.run_s(1);
    world.assert_up(1);
    world.assert_clean();
    // Nothing counts as half open: no cookie was asked for.
    let inits = world.ladder.iter().filter(|it| *it == "A IKE_SA_INIT 0 ->").count();
    assert_eq!(inits, 2, "{:#?}", world.ladder);
}
