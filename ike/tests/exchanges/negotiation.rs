//! Algorithms: other groups, and nothing in common.

use std::time::Duration;

use ike::{
    config::{EndpointConfig, Endpoints},
    event::{Event, FailureCode},
    input::Input,
    wire::{Header, Message, Notify, NotifyType, Payload, encode_message},
};
use sa_store::KeGroup;

use crate::common::{A, B, Fate, World, address, esp_proposal, ike_proposal};

#[test]
fn invalid_ke_payload_leads_to_the_wanted_group() {
    let mut world = World::with(1, EndpointConfig::default(), |node, it| {
        let text = if node == A {
            "aes256gcm16-prfsha256-x25519-ecp384-modp2048"
        } else {
            "aes256gcm16-prfsha256-modp2048"
        };
        it.proposals = vec![ike_proposal(text)];
    });
    world.establish();
    assert_eq!(world.ladder.len(), 6);
    let suite = world.nodes[B].endpoint.ike_sas()[0].suite.unwrap();
    assert_eq!(suite.to_string(), "aes256gcm16-prfsha256-modp2048");
}

#[test]
fn nothing_in_common_but_the_cipher_is_no_proposal() {
    let mut world = World::with(2, EndpointConfig::default(), |node, it| {
        let text =
            if node == A { "aes256gcm16-prfsha256-x25519" } else { "aes256gcm16-prfsha256-ecp256" };
        it.proposals = vec![ike_proposal(text)];
    });
    world.initiate(A);
    world.run_s(10);
    assert_eq!(world.failures(A), [FailureCode::NoProposalChosen]);
    assert!(world.nodes[A].endpoint.ike_sas().is_empty());
}

/// Tells A, in the name of B, that its last request should have had another group.
fn wants(world: &mut World, group: KeGroup) {
    let request = world.sent.iter().rfind(|it| it.from == A).unwrap();
    let (header, _) = Header::parse(&request.payload).unwrap();
    let header = Header { initiator: false, response: true, ..header };
    let response = encode_message(&header, &[Payload::Notify(Notify::invalid_ke(group))]).unwrap();
    let path = Endpoints { local: address(A), remote: address(B) };
    world.input(A, Input::Datagram { path, payload: &response });
}

/// The group of A's last request, and how many requests there were.
fn asked(world: &World) -> (KeGroup, usize) {
    let requests = world.sent.iter().filter(|it| it.from == A);
    let message = Message::parse(&requests.clone().next_back().unwrap().payload).unwrap();
    (message.clear.ke().unwrap().known_group().unwrap(), requests.count())
}

/// RFC 7296 §2.7, §3.4: the peer chooses among what was offered, and each method is tried once.
#[test]
fn a_group_that_was_not_offered_or_was_tried_is_not_followed() {
    let text = "aes256gcm16-prfsha256-x25519-ecp384";
    let mut world = World::with(7, EndpointConfig::default(), |_, it| {
        it.proposals = vec![ike_proposal(text)];
    });
    world.filter = Box::new(|_| Fate::Drop);
    world.initiate(A);
    assert_eq!(asked(&world), (KeGroup::Curve25519, 1));
    wants(&mut world, KeGroup::Ecp384);
    assert_eq!(asked(&world), (KeGroup::Ecp384, 2));
    for group in [KeGroup::Curve25519, KeGroup::Modp2048, KeGroup::Ecp256] {
        wants(&mut world, group);
        assert_eq!(asked(&world), (KeGroup::Ecp384, 2), "{group}");
    }
    // None of it was protected: a better answer is waited for, but not for long.
    world.run_ms(3100);
    assert_eq!(world.failures(A), [FailureCode::InvalidKe]);
}

/// The peer answers a request and its retransmission: what the second answer asks for is on its
/// way.
#[test]
fn a_doubled_wish_for_another_group_is_one_wish() {
    let mut world = World::with(8, EndpointConfig::default(), |node, it| {
        let text = if node == A {
            "aes256gcm16-prfsha256-x25519-ecp384"
        } else {
            "aes256gcm16-prfsha256-ecp384"
        };
        it.proposals = vec![ike_proposal(text)];
    });
    world.initiate(A);
    wants(&mut world, KeGroup::Ecp384);
    // The new request is lost, and what is sent for the first time again.
    let mut requests = 0;
    world.filter = Box::new(move |it| {
        requests += usize::from(it.from == A);
        if requests <= 2 { Fate::Drop } else { Fate::Deliver }
    });
    wants(&mut world, KeGroup::Ecp384);
    assert_eq!(asked(&world), (KeGroup::Ecp384, 2));
    world.run_s(20);
    assert!(world.failures(A).is_empty(), "{}", world.failure_text(A));
    world.assert_up(1);
}

#[test]
fn no_common_ike_proposal_says_what_differed() {
    let mut world = World::with(3, EndpointConfig::default(), |node, it| {
        let text =
            if node == A { "aes128gcm16-prfsha256-x25519" } else { "aes256gcm16-prfsha384-x25519" };
        it.proposals = vec![ike_proposal(text)];
    });
    world.initiate(A);
    world.run_s(10);
    for node in [A, B] {
        assert_eq!(world.failures(node)[0], FailureCode::NoProposalChosen);
        let text = world.failure_text(node);
        assert!(text.contains("aes128gcm16"), "{text}");
    }
    let text = world.failure_text(B);
    assert!(text.contains("encryption (ours aes256gcm16"), "{text}");
    assert!(text.contains("prf (ours prfsha384"), "{text}");
    world.assert_clean();
}

#[test]
fn no_common_esp_proposal_leaves_the_ike_sa_up() {
    let mut world = World::with(4, EndpointConfig::default(), |node, it| {
        let text = if node == A { "aes128gcm16" } else { "aes256gcm16" };
        it.children[0].proposals = vec![esp_proposal(text)];
    });
    world.initiate(A);
    world.run_s(1);
    world.assert_up(0);
    for node in [A, B] {
        assert_eq!(world.failures(node), [FailureCode::NoProposalChosen]);
        let text = world.failure_text(node);
        assert!(text.contains("aes128gcm16"), "{text}");
    }
    world.assert_clean();
}

#[test]
fn nobody_is_configured_for_the_peer() {
    let mut world = World::with(5, EndpointConfig::default(), |node, it| {
        if node == B {
            it.remote = vec![ike::config::RemoteMatch::Prefix("198.51.100.0/24".parse().unwrap())];
        }
    });
    world.initiate(A);
    world.run_s(10);
    assert_eq!(world.failures(B)[0], FailureCode::NoMatchingTunnel);
    assert_eq!(world.failures(A), [FailureCode::NoProposalChosen]);
}

#[test]
fn a_forged_refusal_does_not_stop_a_set_up() {
    let mut world = World::new(6);
    world.latency = Duration::from_millis(200);
    world.initiate(A);
    let request = world.sent[0].clone();
    let (header, _) = Header::parse(&request.payload).unwrap();
    let header = Header { initiator: false, response: true, ..header };
    let path = Endpoints { local: address(A), remote: address(B) };
    for kind in [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::INVALID_SYNTAX,
        NotifyType::AUTHENTICATION_FAILED,
        NotifyType::INVALID_MAJOR_VERSION,
    ] {
        let forged = encode_message(&header, &[Payload::Notify(Notify::new(kind))]).unwrap();
        world.input(A, Input::Datagram { path, payload: &forged });
    }
    world.run_s(2);
    world.assert_up(1);
    assert!(world.failures(A).is_empty());
    assert_eq!(world.count(A, |it| matches!(it, Event::IkeEstablished { .. })), 1);
}
