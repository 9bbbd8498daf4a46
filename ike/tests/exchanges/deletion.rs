//! Deletes, from either side and crossing.

use std::time::Duration;

use ike::{
    config::{EndpointConfig, Endpoints},
    event::FailureCode,
    input::Command,
    output::RequestKind,
    view::IkeState,
};
use sa_store::ChildId;

use crate::common::{A, B, CHILD, Fate, TUNNEL, World, address, child, esp_proposal};

#[test]
fn a_tunnel_is_taken_down_from_either_side() {
    for side in [A, B] {
        let mut world = World::new(1);
        world.establish();
        world.ladder.clear();
        world.command(side, Command::Terminate { tunnel: TUNNEL });
        assert_eq!(world.nodes[side].endpoint.ike_sas()[0].state, IkeState::Deleting);
        world.run_s(1);
        assert_eq!(world.ladder.len(), 2);
        for node in [A, B] {
            let code = if node == side {
                FailureCode::DeletedByOperator
            } else {
                FailureCode::DeletedByPeer
            };
            assert_eq!(world.ike_down(node), [code]);
            assert_eq!(world.child_down(node), [code]);
            assert!(world.nodes[node].endpoint.ike_sas().is_empty());
        }
        world.assert_clean();
        world.run_s(60);
        assert!(world.nodes.iter().all(|it| it.endpoint.poll_timeout().is_none()));
        world.establish();
    }
}

#[test]
fn a_child_is_taken_down_and_comes_back() {
    for side in [A, B] {
        let mut world = World::new(2);
        world.establish();
        world.command(side, Command::TerminateChild { child: CHILD });
        world.run_s(1);
        world.assert_up(0);
        world.assert_clean();
        world.initiate(1 - side);
        world.run_s(1);
        world.assert_up(1);
    }
}

#[test]
fn an_attempt_is_taken_back() {
    let mut world = World::new(3);
    world.filter = Box::new(|_| Fate::Drop);
    world.initiate(A);
    world.run_s(1);
    world.command(A, Command::Terminate { tunnel: TUNNEL });
    assert_eq!(world.failures(A), [FailureCode::DeletedByOperator]);
    assert!(world.nodes[A].endpoint.ike_sas().is_empty());
    world.assert_clean();
}

#[test]
fn a_forgotten_tunnel_takes_nobody() {
    let mut world = World::new(4);
    world.establish();
    world.command(B, Command::Forget(TUNNEL));
    world.run_s(1);
    assert_eq!(world.ike_down(B), [FailureCode::DeletedByOperator]);
    world.initiate(A);
    world.run_s(10);
    assert_eq!(world.failures(A), [FailureCode::NoProposalChosen]);
    world.initiate(B);
    assert_eq!(world.failures(B).last(), Some(&FailureCode::NoMatchingTunnel));
    world.assert_clean();
}

#[test]
fn an_abandoned_ike_sa_tells_nobody() {
    let mut world = World::new(5);
    world.establish();
    world.ladder.clear();
    let ike = world.nodes[A].endpoint.ike_sas()[0].id;
    world.command(A, Command::Abandon { ike, reason: "192.0.2.1 is gone".to_owned() });
    world.run_s(1);
    assert!(world.ladder.is_empty());
    assert_eq!(world.ike_down(A), [FailureCode::LocalAddressLost]);
    assert_eq!(world.nodes[B].endpoint.ike_sas().len(), 1);
    // It comes back: the responder lets the old one go because of INITIAL_CONTACT.
    world.establish();
    assert_eq!(world.ike_down(B), [FailureCode::Replaced]);
}

#[test]
fn deleting_a_dead_peer_ends() {
    let mut world = World::new(6);
    world.establish();
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::Terminate { tunnel: TUNNEL });
    world.run_s(300);
    assert_eq!(world.ike_down(A), [FailureCode::DeletedByOperator]);
    assert!(world.nodes[A].pairs.is_empty());
}

#[test]
fn commands_for_what_does_not_exist_do_no_harm() {
    let mut world = World::new(7);
    let path = Endpoints { local: address(A), remote: address(B) };
    for _ in 0..2 {
        world.command(A, Command::Terminate { tunnel: TUNNEL });
        world.command(A, Command::TerminateChild { child: CHILD });
        world.command(A, Command::InboundSeen { pair: sa_store::PairId(77) });
        world.command(A, Command::SoftExpired { sa: sa_store::SaId(77) });
        let reason = String::new();
        world.command(A, Command::HardExpired { sa: sa_store::SaId(77), reason });
        let remote = address(B);
        world.command(A, Command::MappingChanged { sa: sa_store::SaId(77), remote });
        world.command(A, Command::CheckLiveness { tunnel: TUNNEL });
        let tunnel = sa_store::TunnelId(77);
        world.command(A, Command::Initiate { tunnel, path, children: Vec::new() });
        world.run_s(1);
    }
    assert_eq!(world.failures(A), [FailureCode::NoMatchingTunnel; 2]);
}

#[test]
fn a_child_is_taken_down_in_the_middle_of_its_rekey() {
    for (rekeying, deleting) in [(A, A), (A, B), (B, A), (B, B)] {
        for at in 0..60 {
            let mut world = World::new(8);
            world.establish();
            world.command(rekeying, Command::RekeyChild { child: CHILD });
            world.run_ms(at);
            world.command(deleting, Command::TerminateChild { child: CHILD });
            world.run_s(30);
            world.assert_up(0);
            world.assert_clean();
        }
    }
}

/// A rekey of the IKE SA that is under way must not carry the tunnel past its end, however long
/// the key exchange takes at either end.
#[test]
fn a_tunnel_is_taken_down_in_the_middle_of_an_ike_rekey() {
    let rekeying: [&[usize]; 3] = [&[A], &[B], &[A, B]];
    for (rekeying, deleting) in rekeying.into_iter().flat_map(|it| [(it, A), (it, B)]) {
        for slow in [None, Some(A), Some(B)] {
            for at in 0..50 {
                let context = format!("{rekeying:?} rekey, {deleting} deletes, {slow:?}, {at} ms");
                let mut world = World::new(10 + at);
                world.establish();
                if let Some(slow) = slow {
                    world.nodes[slow].hold = Some(|kind| {
                        matches!(
                            kind,
                            RequestKind::Agree { .. } | RequestKind::GenerateAndAgree { .. }
                        )
                    });
                }
                for node in rekeying {
                    world.command(*node, Command::RekeyIke { tunnel: TUNNEL });
                }
                world.run_ms(at);
                world.command(deleting, Command::Terminate { tunnel: TUNNEL });
                world.run_ms(100);
                if let Some(slow) = slow {
                    world.release(slow);
                }
                world.run_s(30);
                for node in [A, B] {
                    let left = world.nodes[node].endpoint.ike_sas();
                    assert_eq!(left.len(), 0, "{context}");
                    assert_eq!(world.ike_down(node).len(), 1, "{context}");
                }
                assert_eq!(world.ike_down(deleting), [FailureCode::DeletedByOperator], "{context}");
                world.assert_clean();
            }
        }
    }
}

/// The peer's delete of a child overtakes our key agreement, or even the response that made the
/// child: it must not be installed here alone, where its packets would go to nobody.
#[test]
fn a_child_that_is_deleted_before_it_is_installed_stays_away() {
    for overtakes_response in [false, true] {
        let mut world = World::with(9, EndpointConfig::default(), |node, it| {
            let (near, far) = ("10.5.0.0/16", "10.6.0.0/16");
            let (local, remote) = if node == A { (near, far) } else { (far, near) };
            let mut second = child(2, local, remote);
            second.proposals = vec![esp_proposal("aes256gcm16-esn-x25519")];
            it.children.push(second);
        });
        world.establish_children(2);
        let second = ChildId(12);
        world.command(A, Command::TerminateChild { child: second });
        world.run_s(1);
        world.assert_up(1);
        if overtakes_response {
            world.filter = Box::new(|sent| match sent.label().as_str() {
                label if label.starts_with("B CREATE_CHILD_SA") => {
                    Fate::Late(Duration::from_millis(100))
                }
                _ => Fate::Deliver,
            });
        } else {
            world.nodes[A].hold = Some(|kind| matches!(kind, RequestKind::Agree { .. }));
        }
        let path = Endpoints { local: address(A), remote: address(B) };
        world.command(A, Command::Initiate { tunnel: TUNNEL, path, children: vec![second] });
        world.run_ms(20);
        assert_eq!(world.nodes[B].pairs.len(), 2);
        world.command(B, Command::TerminateChild { child: second });
        world.run_ms(200);
        world.release(A);
        world.run_s(5);
        world.assert_up(1);
        assert!(world.failures(A).contains(&FailureCode::DeletedByPeer));
        world.run_s(20);
        world.assert_clean();
    }
}
