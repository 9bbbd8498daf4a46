//! Both ends at once (RFC 7296 §2.8.1, §2.8.2, §2.25), over many nonces and every order of
//! messages that two ends can see.

use std::{collections::BTreeSet, time::Duration};

use ike::{config::EndpointConfig, input::Command};

use crate::common::{A, B, CHILD, Fate, TUNNEL, World, child, esp_proposal};

const SEEDS: u64 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    RekeyChild,
    RekeyIke,
    DeleteChild,
    DeleteIke,
    CreateChild,
}

const ALL: [What; 5] =
    [What::RekeyChild, What::RekeyIke, What::DeleteChild, What::DeleteIke, What::CreateChild];

fn command(world: &mut World, node: usize, what: What) {
    let command = match what {
        What::RekeyChild => Command::RekeyChild { child: CHILD },
        What::RekeyIke => Command::RekeyIke { tunnel: TUNNEL },
        What::DeleteChild => Command::TerminateChild { child: CHILD },
        What::DeleteIke => Command::Terminate { tunnel: TUNNEL },
        What::CreateChild => {
            world.initiate(node);
            return;
        }
    };
    world.command(node, command);
}

fn world(seed: u64, esp: &str) -> World {
    let mut world = World::with(seed, EndpointConfig::default(), |node, it| {
        it.children = (1..=2)
            .map(|number| {
                let (one, two) = (format!("10.1.{number}.0/24"), format!("10.2.{number}.0/24"));
                let (local, remote) = if node == A { (one, two) } else { (two, one) };
                child(number, &local, &remote)
            })
            .collect();
        for it in &mut it.children {
            it.proposals = vec![esp_proposal(esp)];
        }
    });
    world.establish_children(2);
    world.start_traffic();
    world
}

/// How far B's command is behind A's, in milliseconds; a message takes 10.
const OFFSETS: [u64; 7] = [0, 3, 9, 11, 15, 21, 31];

#[test]
fn both_rekey_the_same_child() {
    for esp in ["aes256gcm16", "aes256gcm16-x25519"] {
        for seed in 0..SEEDS {
            for offset in OFFSETS {
                let mut world = world(seed, esp);
                command(&mut world, A, What::RekeyChild);
                world.run_ms(offset);
                command(&mut world, B, What::RekeyChild);
                world.run_s(40);
                world.assert_up(2);
                world.assert_nothing_lost();
                world.assert_clean();
                for node in [A, B] {
                    assert!(world.child_down(node).is_empty());
                    assert!((1..=2).contains(&world.rekeyed(node)), "seed {seed} +{offset}");
                }
                if offset == 0 {
                    assert_eq!(world.rekeyed(A), 1, "a real collision ends in one successor");
                }
            }
        }
    }
}

#[test]
fn the_lowest_nonce_loses_at_either_end() {
    let mut redundant = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut world = world(seed, "aes256gcm16");
        let before: Vec<_> = world.nodes[A].requests.clone();
        command(&mut world, A, What::RekeyChild);
        command(&mut world, B, What::RekeyChild);
        world.run_s(1);
        // The end whose successor is redundant never installs it: the other's alone is there.
        let installs =
            |node: usize| world.nodes[node].requests.iter().filter(|it| *it == "install").count();
        let base = before.iter().filter(|it| *it == "install").count();
        let (a, b) = (installs(A) - base, installs(B) - base);
        assert_eq!(a + b, 3, "one pair at both, the redundant one at its responder");
        redundant.insert(if a == 1 { A } else { B });
    }
    assert_eq!(redundant.len(), 2, "both outcomes were seen");
}

#[test]
fn both_rekey_the_ike_sa() {
    for seed in 0..SEEDS {
        for offset in OFFSETS {
            let mut world = world(seed, "aes256gcm16");
            command(&mut world, A, What::RekeyIke);
            world.run_ms(offset);
            command(&mut world, B, What::RekeyIke);
            world.run_s(60);
            world.assert_up(2);
            world.assert_nothing_lost();
            world.assert_clean();
            for node in [A, B] {
                assert!(world.ike_down(node).is_empty(), "seed {seed} +{offset}");
                assert!(world.child_down(node).is_empty());
                assert!((1..=2).contains(&world.ike_rekeyed(node)));
            }
            // It can still be used.
            command(&mut world, B, What::RekeyChild);
            command(&mut world, A, What::RekeyIke);
            world.run_s(60);
            world.assert_up(2);
            world.assert_nothing_lost();
        }
    }
}

/// What should be left after two commands.
fn expected(a: What, b: What) -> Option<usize> {
    let both = [a, b];
    if both.contains(&What::DeleteIke) {
        return None;
    }
    Some(if both.contains(&What::DeleteChild) { 1 } else { 2 })
}

#[test]
fn every_two_things_at_once() {
    for a in ALL {
        for b in ALL {
            for offset in [0, 3, 9, 11, 15, 21, 31, 45] {
                for seed in 0..3 {
                    two_at_once(seed, (a, b), offset, |_| Fate::Deliver);
                }
            }
        }
    }
}

#[test]
fn every_two_things_at_once_with_one_message_lost() {
    for a in ALL {
        for b in ALL {
            for lost in 0..8 {
                for seed in 0..3 {
                    let mut count = 0;
                    two_at_once(seed, (a, b), seed * 7, move |_| {
                        count += 1;
                        if count == lost + 1 { Fate::Drop } else { Fate::Deliver }
                    });
                }
            }
        }
    }
}

fn two_at_once(
    seed: u64,
    (a, b): (What, What),
    offset: u64,
    mut fate: impl FnMut(u32) -> Fate + 'static,
) {
    let context = format!("{a:?} at A, {b:?} at B, +{offset} ms, seed {seed}");
    let mut world = world(seed, "aes256gcm16-x25519");
    let mut sent = 0;
    world.filter = Box::new(move |_| {
        sent += 1;
        fate(sent)
    });
    if expected(a, b).is_none() || [a, b].contains(&What::DeleteChild) {
        // Packets to what is being deleted may be lost: nobody says otherwise.
        world.stop_traffic();
    }
    command(&mut world, A, a);
    world.run_ms(offset);
    command(&mut world, B, b);
    world.run_s(30);
    world.stop_traffic();
    world.run_s(100);
    match expected(a, b) {
        None => {
            // Whoever initiates after a delete gets a new one.
            let again = [a, b].contains(&What::CreateChild);
            for node in &world.nodes {
                assert!(again || node.endpoint.ike_sas().is_empty(), "{context}");
            }
        }
        Some(children) => {
            // A child that was asked for again behind its delete is there.
            let up = world.nodes[A].endpoint.ike_sas()[0]
                .children
                .iter()
                .filter(|it| it.state == ike::view::ChildState::Installed)
                .count();
            let again = [a, b].contains(&What::CreateChild);
            assert!(up == children || (again && up == 2), "{context}: {up} children");
            world.assert_up(up);
        }
    }
    assert!(world.lost.is_empty(), "{context}: lost {:?}", world.lost);
    world.assert_clean();
}

/// Loses, doubles and delays messages by `seed`.
fn bad_network(world: &mut World, seed: u64) {
    let mut dice = Dice::new(seed);
    world.filter = Box::new(move |_| match dice.roll(10) {
        0 => Fate::Drop,
        1 | 2 => Fate::Twice,
        3 => Fate::Late(Duration::from_millis(700)),
        _ => Fate::Deliver,
    });
}

struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn roll(&mut self, sides: u64) -> u64 {
        let Self(state) = self;
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % sides
    }
}

#[test]
fn storms_of_ike_rekeys_settle() {
    for seed in 0..60 {
        let mut world = world(seed, "aes256gcm16");
        let mut dice = Dice::new(seed + 1000);
        bad_network(&mut world, seed);
        for _ in 0..12 {
            let node = if dice.roll(2) == 0 { A } else { B };
            command(&mut world, node, What::RekeyIke);
            if dice.roll(2) == 0 {
                command(&mut world, 1 - node, What::RekeyIke);
            }
            world.run_ms(dice.roll(4000));
        }
        world.run_s(240);
        let down = (world.ike_down(A), world.ike_down(B));
        assert!(down.0.is_empty() && down.1.is_empty(), "seed {seed}: {down:?}");
        world.assert_up(2);
        world.assert_nothing_lost();
        world.run_s(30);
        world.assert_clean();
    }
}

#[test]
fn storms_of_rekeys_settle() {
    for seed in 0..40 {
        let mut world = world(seed, "aes256gcm16-x25519");
        let mut dice = Dice::new(seed + 2000);
        bad_network(&mut world, seed);
        for _ in 0..12 {
            let node = if dice.roll(2) == 0 { A } else { B };
            let what = if dice.roll(3) == 0 { What::RekeyIke } else { What::RekeyChild };
            command(&mut world, node, what);
            world.run_ms(dice.roll(4000));
        }
        world.run_s(240);
        let down = (world.ike_down(A), world.ike_down(B));
        assert!(down.0.is_empty() && down.1.is_empty(), "seed {seed}: {down:?}");
        world.assert_up(2);
        assert!(world.lost.is_empty(), "seed {seed}: {:?}", world.lost);
        world.run_s(30);
        world.assert_clean();
    }
}
