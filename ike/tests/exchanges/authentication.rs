//! Who is who: shared keys, identities, the choice of the tunnel.

use std::sync::Arc;

use ike::{
    config::{AuthMethod, EndpointConfig, Endpoints},
    event::{Event, FailureCode},
    input::{Command, Input},
    wire::{self, Payload},
};
use sa_store::{ChildId, Identity, IdentityPattern, SecretBytes, TunnelId};

use crate::{
    common::{A, B, Fate, World, address, child, connection},
    interloper,
};

fn wrong_key(initiator: usize) -> World {
    let mut world = World::with(1, EndpointConfig::default(), |node, it| {
        if node == B {
            it.auth = AuthMethod::Psk(SecretBytes::from_slice(b"another secret"));
        }
    });
    world.initiate(initiator);
    world.run_s(60);
    world
}

#[test]
fn a_wrong_key_is_named_on_both_sides() {
    for initiator in [A, B] {
        let world = wrong_key(initiator);
        for node in [A, B] {
            assert_eq!(world.failures(node), [FailureCode::AuthenticationFailed]);
            let text = world.failure_text(node);
            assert!(text.contains("shared key"), "{text}");
            assert!(world.nodes[node].endpoint.ike_sas().is_empty());
            assert_eq!(world.count(node, |it| matches!(it, Event::IkeEstablished { .. })), 0);
        }
        world.assert_clean();
    }
}

/// The commonest mistake but a wrong key: the peer is set to certificates.
#[test]
fn another_way_to_authenticate_is_not_called_a_wrong_key() {
    for liar in [A, B] {
        let mut world = World::new(13);
        world.filter = Box::new(move |it| {
            let hers = it.from == liar && it.label().contains("AUTH");
            if hers { Fate::Drop } else { Fate::Deliver }
        });
        world.initiate(A);
        world.run_ms(100);
        let said = world.sent.iter().rfind(|it| it.from == liar).unwrap().payload.clone();
        let altered = interloper::altered(&world, &said, |payloads| {
            for payload in payloads {
                if let Payload::Auth(auth) = payload {
                    auth.method = wire::AuthMethod::DIGITAL_SIGNATURE;
                }
            }
        });
        let path = Endpoints { local: address(1 - liar), remote: address(liar) };
        world.input(1 - liar, Input::Datagram { path, payload: &altered });
        if liar == B {
            // A better answer might come.
            world.run_ms(900);
        }
        assert_eq!(world.failures(1 - liar), [FailureCode::AuthenticationFailed]);
        let text = world.failure_text(1 - liar);
        assert!(text.contains("another method (Digital Signature)"), "{text}");
        assert!(!text.contains("differ"), "{text}");
        // Who lied is told no more than who has a wrong key.
        if liar == A {
            let refusal = world.sent.last().unwrap().payload.len();
            let wrong = wrong_key(A);
            let told = wrong.sent.iter().find(|it| it.label() == "B IKE_AUTH 1 <-").unwrap();
            assert_eq!(refusal, told.payload.len());
        }
    }
}

#[test]
fn an_unknown_identity_gets_the_same_answer_as_a_wrong_key() {
    let mut world = World::with(2, EndpointConfig::default(), |node, it| {
        if node == A {
            it.local_id = Some("mallory.example".parse().unwrap());
        }
    });
    world.initiate(A);
    world.run_s(5);
    assert_eq!(world.failures(A), [FailureCode::AuthenticationFailed]);
    assert_eq!(world.failures(B), [FailureCode::IdentityMismatch]);
    assert!(world.failure_text(B).contains("mallory.example"));
    let wrong = wrong_key(A);
    let refusal = |world: &World| {
        world.sent.iter().find(|it| it.label() == "B IKE_AUTH 1 <-").unwrap().payload.len()
    };
    assert_eq!(refusal(&world), refusal(&wrong));
}

/// Whoever agrees on keys may say anything about itself: what operators read of it stays short.
#[test]
fn an_endless_identity_is_cut_in_what_people_read() {
    for end in [A, B] {
        let mut world = World::with(12, EndpointConfig::default(), |node, it| {
            if node == end {
                it.local_id = Some(Identity::KeyId(vec![0xe4; 20_000]));
            }
            if node != end {
                it.remote_id = IdentityPattern::Suffix("@.example".parse().unwrap());
            }
        });
        world.initiate(A);
        world.run_s(5);
        let text = world.failure_text(1 - end);
        assert!(text.contains("keyid:0xe4e4") && text.len() < 1000, "{} octets", text.len());
    }
}

#[test]
fn a_responder_with_another_name_is_refused() {
    let mut world = World::with(3, EndpointConfig::default(), |node, it| {
        if node == A {
            it.remote_id = IdentityPattern::Suffix("@.example".parse().unwrap());
        } else {
            it.local_id = Some("b.elsewhere".parse().unwrap());
        }
    });
    world.initiate(A);
    world.run_s(5);
    assert_eq!(world.failures(A), [FailureCode::IdentityMismatch]);
    assert!(world.failure_text(A).contains("b.elsewhere"));
    assert!(world.nodes[B].endpoint.ike_sas().is_empty(), "the responder was told");
    assert_eq!(world.ike_down(B), [FailureCode::AuthenticationFailed]);
    world.assert_clean();
}

#[test]
fn every_kind_of_identity_works() {
    let pairs = [
        ("192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::2"),
        ("a.example", "B.example"),
        ("a@example.org", "b@example.org"),
        ("asn1dn:0x300b3109300706035504030c0041", "asn1gn:0x8203612e62"),
        ("keyid:gateway-a", "@#00ff10"),
    ];
    for (own, peer) in pairs {
        let mut world = World::with(4, EndpointConfig::default(), |node, it| {
            let (own, peer) = if node == A { (own, peer) } else { (peer, own) };
            it.local_id = Some(own.parse().unwrap());
            it.remote_id = IdentityPattern::Exact(peer.to_lowercase().parse().unwrap());
        });
        world.establish();
    }
}

#[test]
fn our_address_is_our_identity_by_default() {
    let mut world = World::with(5, EndpointConfig::default(), |_, it| {
        it.local_id = None;
        it.remote_id = IdentityPattern::Any;
    });
    world.establish();
    let view = &world.nodes[A].endpoint.ike_sas()[0];
    assert_eq!(view.remote_id, Some("192.0.2.2".parse().unwrap()));
}

#[test]
fn the_identity_decides_between_tunnels() {
    let mut world = World::new(6);
    let mut other = connection(B);
    other.tunnel = TunnelId(2);
    other.remote_id = IdentityPattern::Any;
    other.auth = AuthMethod::Psk(SecretBytes::from_slice(b"for all others"));
    other.children = vec![child(9, "10.9.0.0/16", "10.1.0.0/16")];
    other.children[0].child = ChildId(99);
    world.command(B, Command::Configure(Arc::new(other)));
    world.establish();
    assert_eq!(world.nodes[B].endpoint.ike_sas()[0].tunnel, Some(TunnelId(1)));
    world.command(A, Command::Terminate { tunnel: TunnelId(1) });
    world.run_s(1);
    // The same with an identity that only the general tunnel takes.
    let mut changed = connection(A);
    changed.local_id = Some("z.example".parse().unwrap());
    changed.auth = AuthMethod::Psk(SecretBytes::from_slice(b"for all others"));
    changed.children = vec![child(1, "10.1.0.0/16", "10.9.0.0/16")];
    world.command(A, Command::Configure(Arc::new(changed)));
    world.initiate(A);
    world.run_s(1);
    assert_eq!(world.nodes[B].endpoint.ike_sas()[0].tunnel, Some(TunnelId(2)));
}

#[test]
fn the_responder_is_asked_for_by_name() {
    // B is two gateways in one; IDr says which of them A wants.
    let mut world = World::new(7);
    let mut second = connection(B);
    second.tunnel = TunnelId(2);
    second.local_id = Some("b2.example".parse().unwrap());
    world.command(B, Command::Configure(Arc::new(second)));
    let mut wants = connection(A);
    wants.remote_id = IdentityPattern::Exact("b2.example".parse().unwrap());
    world.command(A, Command::Configure(Arc::new(wants)));
    world.initiate(A);
    world.run_s(1);
    assert_eq!(world.nodes[B].endpoint.ike_sas()[0].tunnel, Some(TunnelId(2)));
}
