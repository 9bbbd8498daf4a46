//! IKE_SA_INIT and IKE_AUTH between two endpoints.

use crate::common::{A, B, Fate, World, esp_proposal, ike_proposal};
use ike::{
    config::EndpointConfig,
    event::{Event, FailureCode},
    view::IkeState,
};

#[test]
fn a_tunnel_comes_up_in_two_exchanges() {
    let mut world = World::new(1);
    world.establish();
    assert_eq!(
        world.ladder,
        ["A IKE_SA_INIT 0 ->", "B IKE_SA_INIT 0 <-", "A IKE_AUTH 1 ->", "B IKE_AUTH 1 <-"]
    );
    for node in [A, B] {
        assert_eq!(world.count(node, |it| matches!(it, Event::IkeEstablished { .. })), 1);
        assert_eq!(world.count(node, |it| matches!(it, Event::ChildInstalled { .. })), 1);
        assert!(world.failures(node).is_empty());
        let view = &world.nodes[node].endpoint.ike_sas()[0];
        assert_eq!(view.initiator, node == A);
        assert_eq!(view.state, IkeState::Established);
        assert!(!view.nat_local && !view.nat_remote);
    }
    let [a, b] = &world.nodes;
    let (a, b) = (a.pairs.values().next().unwrap(), b.pairs.values().next().unwrap());
    for (inbound, outbound) in [(&a.0, &b.1), (&b.0, &a.1)] {
        assert_eq!(inbound.spi, outbound.spi);
        assert_eq!(inbound.keys.encryption.expose(), outbound.keys.encryption.expose());
        assert_eq!(inbound.local_selectors, outbound.remote_selectors);
        assert_eq!(inbound.transform, outbound.transform);
    }
    world.start_traffic();
    world.run_s(1);
    world.assert_nothing_lost();
    world.assert_clean();
}

#[test]
fn every_algorithm_works() {
    let ciphers = [
        ("aes128gcm16", "aes128gcm16"),
        ("aes256gcm16", "aes256gcm16"),
        ("chacha20poly1305", "chacha20poly1305"),
        ("aes128-sha256", "aes128-sha256"),
        ("aes192-sha384", "aes192-sha384"),
        ("aes256-sha512", "aes256-sha512"),
    ];
    let prfs = ["prfsha256", "prfsha384", "prfsha512"];
    let groups = ["x25519", "ecp256", "ecp384", "modp2048", "modp3072"];
    for (at, (ike, esp)) in ciphers.into_iter().enumerate() {
        for (which, group) in groups.into_iter().enumerate() {
            let prf = prfs[(at + which) % 3];
            let esn = if which % 2 == 0 { "esn" } else { "noesn" };
            let proposal = format!("{ike}-{prf}-{group}");
            let mut world = World::with(7, EndpointConfig::default(), |_, it| {
                it.proposals = vec![ike_proposal(&proposal)];
                it.children[0].proposals = vec![esp_proposal(&format!("{esp}-{esn}"))];
            });
            world.establish();
            let view = &world.nodes[A].endpoint.ike_sas()[0];
            assert_eq!(view.suite.unwrap().to_string(), proposal);
        }
    }
}

#[test]
fn lost_messages_are_sent_again_octet_for_octet() {
    for lost in 0..4 {
        let mut world = World::new(lost);
        let mut count = 0;
        world.filter = Box::new(move |_| {
            count += 1;
            if count == lost + 1 { Fate::Drop } else { Fate::Deliver }
        });
        world.initiate(A);
        world.run_s(5);
        world.assert_up(1);
        let sent: Vec<_> = world.sent.iter().map(|it| (it.label(), it.payload.clone())).collect();
        for (label, payload) in &sent {
            let same = sent.iter().filter(|(other, _)| other == label);
            assert!(same.clone().all(|(_, other)| other == payload), "{label} differs");
        }
        assert_eq!(world.count(A, |it| matches!(it, Event::Retransmitting { .. })), 1);
    }
}

#[test]
fn doubled_messages_change_nothing() {
    let mut world = World::new(3);
    world.filter = Box::new(|_| Fate::Twice);
    world.initiate(A);
    world.run_s(3);
    world.assert_up(1);
    for node in [A, B] {
        assert_eq!(world.count(node, |it| matches!(it, Event::ChildInstalled { .. })), 1);
    }
    world.assert_clean();
}

#[test]
fn a_silent_peer_is_given_up_with_words() {
    let mut world = World::new(4);
    world.filter = Box::new(|_| Fate::Drop);
    world.initiate(A);
    world.run_s(300);
    assert_eq!(world.failures(A), [FailureCode::PeerUnreachable]);
    assert_eq!(world.ladder.len(), 6);
    assert!(world.nodes[A].endpoint.ike_sas().is_empty());
    assert!(world.nodes[A].endpoint.poll_timeout().is_none());
    world.assert_clean();
}

#[test]
fn a_responder_forgets_who_does_not_come_back() {
    let mut world = World::new(5);
    world.filter = Box::new(|sent| if sent.from == B { Fate::Drop } else { Fate::Deliver });
    world.initiate(A);
    world.run_s(1);
    assert_eq!(world.nodes[B].endpoint.ike_sas().len(), 1);
    world.run_s(300);
    assert!(world.nodes[B].endpoint.ike_sas().is_empty());
    assert!(world.nodes[B].endpoint.poll_timeout().is_none());
}
