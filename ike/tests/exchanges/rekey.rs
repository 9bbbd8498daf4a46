//! Rekeys from either side, with and without a key exchange, with traffic that must not suffer.

use std::time::Duration;

use ike::{
    config::EndpointConfig,
    event::{Event, FailureCode},
    input::{Command, Completion, CompletionResult, Input, KeFailure},
    output::RequestKind,
    view::ChildState,
};
use sa_store::Limits;

use crate::common::{A, B, CHILD, Fate, TUNNEL, World, esp_proposal};

fn world(esp: &str) -> World {
    let mut world = World::with(1, EndpointConfig::default(), |_, it| {
        it.children[0].proposals = vec![esp_proposal(esp)];
    });
    world.establish();
    world.start_traffic();
    world
}

#[test]
fn a_child_is_rekeyed_twenty_times_from_each_side() {
    for esp in ["aes256gcm16", "aes256gcm16-x25519"] {
        for side in [A, B] {
            let mut world = world(esp);
            for round in 1..=20 {
                world.command(side, Command::RekeyChild { child: CHILD });
                world.run_s(2);
                world.assert_up(1);
                assert_eq!(world.rekeyed(A), round);
                assert_eq!(world.rekeyed(B), round);
            }
            world.run_s(20);
            world.assert_up(1);
            world.assert_nothing_lost();
            world.assert_clean();
            assert_eq!(world.nodes[A].pairs.len(), 1);
            assert!(world.child_down(A).is_empty() && world.child_down(B).is_empty());
        }
    }
}

#[test]
fn the_ladder_of_a_child_rekey() {
    let mut world = world("aes256gcm16");
    world.ladder.clear();
    world.command(B, Command::RekeyChild { child: CHILD });
    world.run_s(1);
    assert_eq!(
        world.ladder,
        [
            "B CREATE_CHILD_SA 0 ->",
            "A CREATE_CHILD_SA 0 <-",
            "B INFORMATIONAL 1 ->",
            "A INFORMATIONAL 1 <-"
        ]
    );
}

#[test]
fn the_ike_sa_is_rekeyed_twenty_times_from_each_side() {
    for side in [A, B] {
        let mut world = world("aes256gcm16");
        for round in 1..=20 {
            world.command(side, Command::RekeyIke { tunnel: TUNNEL });
            world.run_s(2);
            world.assert_up(1);
            assert_eq!(world.ike_rekeyed(A), round);
            assert_eq!(world.ike_rekeyed(B), round);
        }
        world.assert_nothing_lost();
        world.assert_clean();
        assert!(world.ike_down(A).is_empty() && world.ike_down(B).is_empty());
        // The children still work: they are rekeyed on the last of them.
        world.command(A, Command::RekeyChild { child: CHILD });
        world.run_s(2);
        assert_eq!(world.rekeyed(B), 1);
    }
}

#[test]
fn lifetimes_rekey_by_themselves() {
    let mut world = World::with(2, EndpointConfig::default(), |_, it| {
        it.rekey = Some(Duration::from_secs(300));
        it.children[0].rekey = Limits { time: Some(Duration::from_secs(60)), ..Limits::default() };
        it.children[0].life = Limits { time: Some(Duration::from_secs(70)), ..Limits::default() };
    });
    world.establish();
    world.start_traffic();
    for _ in 0..36 {
        world.run_s(100);
        assert_eq!(world.nodes[A].endpoint.ike_sas().len(), 1);
    }
    world.stop_traffic();
    world.assert_nothing_lost();
    for node in [A, B] {
        assert!(world.rekeyed(node) >= 55, "{}", world.rekeyed(node));
        assert!(world.ike_rekeyed(node) >= 11);
        assert!(world.ike_down(node).is_empty());
        assert!(world.child_down(node).is_empty());
        assert!(world.failures(node).is_empty(), "{}", world.failure_text(node));
    }
}

#[test]
fn backends_ask_for_rekeys_too() {
    let mut world = world("aes256gcm16");
    let sa = world.nodes[A].pairs.values().next().unwrap().1.id;
    world.command(A, Command::SoftExpired { sa });
    world.run_s(1);
    assert_eq!(world.rekeyed(A), 1);
    let sa = world.nodes[B].pairs.values().last().unwrap().0.id;
    world.command(B, Command::HardExpired { sa, reason: "no sequence numbers".to_owned() });
    world.run_s(1);
    assert_eq!(world.rekeyed(A), 2);
    assert!(world.failure_text(B).contains("no sequence numbers"));
    world.run_s(60);
    world.assert_up(1);
    world.assert_clean();
}

#[test]
fn every_message_of_a_rekey_may_be_lost() {
    for side in [A, B] {
        for ike in [false, true] {
            for lost in 0..4 {
                let mut world = world("aes256gcm16-x25519");
                let mut count = 0;
                world.filter = Box::new(move |_| {
                    count += 1;
                    if count == lost + 1 { Fate::Drop } else { Fate::Deliver }
                });
                world.command(
                    side,
                    if ike {
                        Command::RekeyIke { tunnel: TUNNEL }
                    } else {
                        Command::RekeyChild { child: CHILD }
                    },
                );
                world.run_s(40);
                world.assert_up(1);
                world.assert_nothing_lost();
                let rekeyed = if ike { World::ike_rekeyed } else { World::rekeyed };
                assert_eq!((rekeyed(&world, A), rekeyed(&world, B)), (1, 1));
                world.assert_clean();
            }
        }
    }
}

#[test]
fn another_group_is_asked_for_in_a_rekey() {
    let mut world = World::with(3, EndpointConfig::default(), |node, it| {
        let text = if node == A { "aes256gcm16-x25519-ecp384" } else { "aes256gcm16-ecp384" };
        it.children[0].proposals = vec![esp_proposal(text)];
    });
    world.establish();
    world.ladder.clear();
    world.command(A, Command::RekeyChild { child: CHILD });
    world.run_s(1);
    assert_eq!(world.rekeyed(A), 1);
    assert_eq!(world.ladder.len(), 6, "{:?}", world.ladder);
    // The next one knows.
    world.ladder.clear();
    world.command(A, Command::RekeyChild { child: CHILD });
    world.run_s(1);
    assert_eq!(world.ladder.len(), 4, "{:?}", world.ladder);
}

#[test]
fn a_failed_rekey_is_tried_again_and_the_old_pair_stays() {
    for refusing in [A, B] {
        let mut world = world("aes256gcm16");
        world.nodes[refusing].refuse_installs = 2;
        world.command(A, Command::RekeyChild { child: CHILD });
        world.run_s(1);
        world.assert_up(1);
        assert_eq!(world.rekeyed(A), 0);
        world.run_s(60);
        assert_eq!(world.rekeyed(A), 1);
        world.assert_up(1);
        assert!(world.failures(refusing).contains(&FailureCode::InstallFailed));
        world.assert_nothing_lost();
        world.assert_clean();
    }
}

#[test]
fn slow_key_exchanges_and_backends_only_delay() {
    for holding in [A, B] {
        let mut world = world("aes256gcm16-x25519");
        world.nodes[holding].hold = Some(|kind| {
            matches!(
                kind,
                RequestKind::Agree { .. }
                    | RequestKind::GenerateAndAgree { .. }
                    | RequestKind::GenerateKey { .. }
            )
        });
        world.command(A, Command::RekeyChild { child: CHILD });
        world.run_s(4);
        world.nodes[holding].hold = Some(|kind| matches!(kind, RequestKind::Install { .. }));
        let held = std::mem::take(&mut world.nodes[holding].held);
        for (ticket, kind) in held {
            let now = world.now;
            world.nodes[holding].answer(now, ticket, kind);
        }
        world.input(holding, Input::Timeout);
        world.run_s(4);
        world.release(holding);
        world.run_s(4);
        // One of the stages may have been held again in between.
        world.release(holding);
        world.run_s(30);
        world.assert_up(1);
        assert_eq!(world.rekeyed(A), 1);
        world.assert_nothing_lost();
        world.assert_clean();
    }
}

#[test]
fn a_rekey_of_nothing_fails() {
    let mut world = World::new(5);
    world.command(A, Command::RekeyChild { child: CHILD });
    world.command(A, Command::RekeyIke { tunnel: TUNNEL });
    assert_eq!(world.failures(A).len(), 2);
    let about = |event: &Event| matches!(event, Event::Failed { tunnel: Some(TUNNEL), .. });
    assert_eq!(world.count(A, about), 2);
}

#[test]
fn an_ike_sa_that_cannot_be_rekeyed_expires() {
    let mut world = World::with(6, EndpointConfig::default(), |node, it| {
        if node == A {
            it.rekey = Some(Duration::from_secs(100));
            it.over_time = Duration::from_secs(20);
        }
    });
    world.establish();
    world.nodes[A].hold = Some(|kind| matches!(kind, RequestKind::GenerateKey { .. }));
    world.run_s(119);
    world.assert_established_at(A);
    world.run_s(10);
    assert_eq!(world.ike_down(A), [FailureCode::Expired]);
    assert_eq!(world.ike_down(B), [FailureCode::DeletedByPeer]);
}

/// The data plane drops from its hard limit on, whatever IKE is doing just then.
#[test]
fn a_hard_limit_that_is_reached_during_a_rekey_counts() {
    let mut world = World::new(41);
    world.establish();
    // B cannot install a successor, time and again.
    world.nodes[B].refuse_installs = u32::MAX;
    let view = world.nodes[A].endpoint.ike_sas()[0].children[0].clone();
    world.command(A, Command::RekeyChild { child: CHILD });
    assert_eq!(world.nodes[A].endpoint.ike_sas()[0].children[0].state, ChildState::Rekeying);
    for sa in [view.sa_out, view.sa_in] {
        let reason = "no octets left".to_owned();
        world.command(A, Command::HardExpired { sa, reason });
    }
    assert_eq!(world.failures(A), [FailureCode::Expired], "told once");
    world.run_s(60);
    assert_eq!(world.child_down(A), [FailureCode::Expired]);
    assert_eq!(world.child_down(B), [FailureCode::DeletedByPeer]);
    assert!(world.nodes[A].pairs.is_empty());
}

/// The peer uses the new IKE SA already, which we cannot have: there is nothing to try again.
#[test]
fn an_ike_sa_whose_new_keys_we_cannot_have_is_given_up() {
    let mut world = World::new(42);
    world.establish();
    world.nodes[A].hold = Some(|kind| matches!(kind, RequestKind::Agree { .. }));
    world.command(A, Command::RekeyIke { tunnel: TUNNEL });
    world.run_ms(100);
    let (ticket, _) = world.nodes[A].held.remove(0);
    let result = CompletionResult::Agreed(Err(KeFailure::InvalidPublicValue));
    world.input(A, Input::Completion(Completion { ticket, result }));
    world.run_s(1);
    assert_eq!(world.ike_down(A), [FailureCode::InvalidKe]);
    let reason = world.events(A).iter().find_map(|(_, event)| match event {
        Event::IkeDown { reason, .. } => Some(reason.message.clone()),
        _ => None,
    });
    assert_eq!(reason.unwrap(), "the peer's public value is not valid");
    world.nodes[A].hold = None;
    world.initiate(A);
    world.run_s(20);
    world.assert_up(1);
    world.assert_clean();
}

#[test]
fn whose_fault_a_failed_key_exchange_is_stands_in_the_reason() {
    for (failure, code) in [
        (KeFailure::InvalidPublicValue, FailureCode::InvalidKe),
        (KeFailure::Internal, FailureCode::Internal),
    ] {
        let mut world = world("aes256gcm16-x25519");
        world.nodes[A].hold = Some(|kind| matches!(kind, RequestKind::Agree { .. }));
        world.command(A, Command::RekeyChild { child: CHILD });
        world.run_ms(100);
        let (ticket, _) = world.nodes[A].held.remove(0);
        let result = CompletionResult::Agreed(Err(failure));
        world.input(A, Input::Completion(Completion { ticket, result }));
        assert_eq!(world.failures(A), [code]);
    }
}
