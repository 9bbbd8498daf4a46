//! Key exchange in the rekey of a child (PFS): wanted by one side, by both or by none. IKE_AUTH
//! does not negotiate it (RFC 7296 §1.2), so the sides meet at the first rekey.

use std::time::Duration;

use ike::{
    config::EndpointConfig,
    event::FailureCode,
    input::Command,
    negotiate::{Pfs, default_esp_proposals, esp_offer, select_esp},
    wire::{
        KeyExchange, Notify, NotifyType, Payload, Proposal, SecurityAssociation, TrafficSelectors,
        Transform, TransformType,
    },
};
use sa_store::{EspSpi, KeGroup, Limits};

use crate::{
    common::{A, B, CHILD, World, esp_proposal, ike_proposal},
    strange_peer::{CREATE, child_request, ike_sas, pairs, rekey_request, world_with},
};

/// A has the defaults, B is a peer of its own mind.
fn against_defaults(theirs: &[&str]) -> World {
    let mut world = World::with(1, EndpointConfig::default(), |node, it| {
        it.proposals = vec![ike_proposal("aes256gcm16-prfsha256-x25519")];
        it.children[0].proposals = if node == A {
            default_esp_proposals()
        } else {
            theirs.iter().map(|text| esp_proposal(text)).collect()
        };
    });
    world.establish();
    world.start_traffic();
    world
}

/// The key exchanges for children: after those of the two IKE SAs at either end.
fn exchanges(world: &World, node: usize) -> Vec<String> {
    let all = world.nodes[node].requests.iter();
    let all: Vec<String> = all.filter(|it| it.contains("agree")).cloned().collect();
    all[1..].to_vec()
}

#[test]
fn the_defaults_outlive_the_first_rekey_with_every_peer() {
    for (theirs, exchange) in [
        (&["aes256gcm16-esn"][..], None),
        (&["aes256gcm16"], None),
        (&["aes128-sha256"], None),
        (&["aes256gcm16-ecp384"], Some("ecp384")),
        (&["aes256gcm16-modp2048-ecp256"], Some("modp2048")),
        (&["aes128-sha256-modp2048"], Some("modp2048")),
        (&["aes256gcm16-x25519", "aes256gcm16"], Some("x25519")),
        (&["aes256gcm16", "aes256gcm16-ecp384"], None),
    ] {
        for side in [A, B] {
            let mut world = against_defaults(theirs);
            for round in 1..=3 {
                world.command(side, Command::RekeyChild { child: CHILD });
                world.run_s(2);
                world.assert_up(1);
                let failures = world.failure_text(A) + &world.failure_text(B);
                assert_eq!(world.rekeyed(A), round, "{theirs:?} by {side}: {failures}");
            }
            world.run_s(20);
            world.assert_nothing_lost();
            world.assert_clean();
            let seen = exchanges(&world, side);
            match exchange {
                // What both allow without is had without or with, as the initiator prefers.
                None if theirs.len() > 1 => {}
                None => assert!(seen.is_empty(), "{theirs:?} by {side}: {seen:?}"),
                Some(group) => {
                    let about = |it: &String| it.ends_with(group);
                    assert_eq!(seen.iter().filter(|it| about(it)).count(), 3, "{seen:?}");
                }
            }
            assert!(world.failures(A).is_empty() && world.failures(B).is_empty());
        }
    }
}

/// The first request has a method that the peer is known to have: there is nothing to ask again.
#[test]
fn the_method_of_the_ike_sa_comes_first() {
    let mut world = World::with(2, EndpointConfig::default(), |node, it| {
        it.proposals = vec![ike_proposal("aes256gcm16-prfsha256-ecp384")];
        it.children[0].proposals = if node == A {
            default_esp_proposals()
        } else {
            vec![esp_proposal("aes256gcm16-ecp384")]
        };
    });
    world.establish();
    world.ladder.clear();
    world.command(A, Command::RekeyChild { child: CHILD });
    world.run_s(1);
    assert_eq!(world.rekeyed(A), 1);
    assert_eq!(world.ladder.len(), 4, "{:?}", world.ladder);
}

/// Cases (a) and (b): the sides differ, and that is said at once, with what to change.
#[test]
fn sides_that_differ_are_told_so_and_the_old_pair_lives_on() {
    for (ours, theirs) in [
        ("aes256gcm16-ecp384", "aes256gcm16"),
        ("aes256gcm16", "aes256gcm16-ecp384"),
        ("aes256gcm16-x25519", "aes256gcm16-ecp256"),
    ] {
        let mut world = World::with(3, EndpointConfig::default(), |node, it| {
            let child = &mut it.children[0];
            child.proposals = vec![esp_proposal(if node == A { ours } else { theirs })];
            if node == A {
                child.rekey = Limits { time: Some(Duration::from_secs(300)), ..Limits::default() };
                child.life = Limits { time: Some(Duration::from_secs(600)), ..Limits::default() };
            }
        });
        world.establish();
        world.start_traffic();
        world.command(A, Command::RekeyChild { child: CHILD });
        world.run_s(1);
        world.assert_up(1);
        for (node, allowed) in [(A, ours), (B, theirs)] {
            let text = world.failure_text(node);
            assert!(text.contains("in the key exchange (PFS)"), "{node}: {text}");
            assert!(text.contains("esp.proposals"), "{node}: {text}");
            let method = allowed.strip_prefix("aes256gcm16-").unwrap_or("none");
            assert!(text.contains(&format!("here allow {method}.")), "{node}: {text}");
        }
        let tries = |world: &World| {
            world.ladder.iter().filter(|it| it.starts_with("A CREATE_CHILD_SA")).count()
        };
        // Until the hard end it is tried again, and seldom.
        world.run_s(200);
        assert!((3..=12).contains(&tries(&world)), "{:?}", world.ladder);
        world.assert_up(1);
        world.assert_nothing_lost();
        world.stop_traffic();
        world.run_s(400);
        assert_eq!(world.child_down(A), [FailureCode::Expired]);
        assert!(tries(&world) < 25, "{:?}", world.ladder);
    }
}

/// Case (b), repaired: several methods on one side, one on the other.
#[test]
fn a_method_both_have_is_found() {
    for side in [A, B] {
        let mut world = World::with(4, EndpointConfig::default(), |node, it| {
            let text = if node == A { "aes256gcm16-x25519-ecp256" } else { "aes256gcm16-ecp256" };
            it.children[0].proposals = vec![esp_proposal(text)];
        });
        world.establish();
        world.command(side, Command::RekeyChild { child: CHILD });
        world.run_s(1);
        assert_eq!(world.rekeyed(side), 1, "{}", world.failure_text(side));
    }
}

fn ke(group: KeGroup) -> KeyExchange<'static> {
    let pair = crypto::ke::generate(group, &mut crate::common::node::Dice(9)).unwrap();
    KeyExchange::new(group, pair.public)
}

fn add(request: &mut [Payload<'static>], group: u16) {
    for payload in request {
        if let Payload::Sa(SecurityAssociation { proposals }) = payload {
            proposals[0].transforms.push(Transform::new(TransformType::KE, group));
        }
    }
}

/// Case (c): NONE and a method in one proposal are what either of them is.
#[test]
fn none_beside_a_method_is_a_choice() {
    for (ours, sends, answered) in [
        ("aes256gcm16-esn", Some(KeGroup::Ecp384), false),
        ("aes256gcm16-esn", None, false),
        ("aes256gcm16-ecp384-esn", Some(KeGroup::Ecp384), true),
    ] {
        let (mut world, mut peer) =
            world_with(|it| it.children[0].proposals = vec![esp_proposal(ours)]);
        let old = ike_sas(&world)[0].children[0].spi_out.unwrap().get();
        let mut request = rekey_request(old, 0x1100, "aes256gcm16-esn");
        add(&mut request, 0);
        add(&mut request, KeGroup::Ecp384.transform_id());
        request.extend(sends.map(|group| Payload::Ke(ke(group))));
        let (error, public) = peer.ask(&mut world, CREATE, &request, |it| {
            (it.error_notify().map(|notify| notify.kind), it.ke().is_some())
        });
        assert_eq!((error, public), (None, answered), "{ours}");
    }
}

/// Case (d): IKE_AUTH has no key exchange, whatever transforms the peer writes.
#[test]
fn key_exchange_transforms_in_the_first_exchange_do_not_count() {
    // A offers them in its proposal for ESP, alone and beside a clean one.
    for clean in [false, true] {
        let configured = esp_proposal("aes256gcm16-modp2048");
        let spi = EspSpi::new(0x1234).unwrap();
        let offer = |list: &[_]| esp_offer(list, spi, Pfs::Configured);
        let mut offered = offer(&[configured]);
        let own = [esp_proposal("aes256gcm16")];
        if clean {
            let more = offer(&own).proposals;
            offered.proposals.extend(more.into_iter().map(|it| Proposal { number: 2, ..it }));
        }
        let choice = select_esp(&own, &offered, Pfs::No).unwrap();
        assert_eq!(choice.group, None);
        let answer = choice.answer(spi);
        let kinds: Vec<_> = answer.proposals[0].transforms.iter().map(|it| it.kind).collect();
        assert_eq!(kinds, [TransformType::ENCR, TransformType::ESN]);
    }
}

/// The offer of IKE_AUTH is free of them, and says nothing twice.
#[test]
fn the_first_offer_has_no_key_exchange() {
    let spi = EspSpi::new(0x1234).unwrap();
    let offer = esp_offer(&default_esp_proposals(), spi, Pfs::No);
    assert_eq!(offer.proposals.len(), 2);
    let mut all = offer.proposals.iter().flat_map(|it| &it.transforms);
    assert!(all.all(|it| it.kind != TransformType::KE));
}

/// Case (e), and the wish for no key exchange at all.
#[test]
fn invalid_ke_payload_is_obeyed_within_what_is_allowed() {
    for (wish, follows) in [
        (KeGroup::Ecp384.transform_id(), Some(Some(KeGroup::Ecp384))),
        (0, Some(None)),
        (21, None),
        (KeGroup::Curve25519.transform_id(), None),
    ] {
        let (mut world, mut peer) =
            world_with(|it| it.children[0].proposals = default_esp_proposals());
        world.command(B, Command::RekeyChild { child: CHILD });
        let asked = |peer: &crate::strange_peer::Impostor, world: &World| {
            peer.asked(world, |it| it.ke().map(|ke| ke.known_group().unwrap()))
        };
        assert_eq!(asked(&peer, &world), Some(KeGroup::Curve25519));
        let sent = world.sent.len();
        let notify = Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, wish.to_be_bytes().to_vec());
        peer.answer(&mut world, &[Payload::Notify(notify)]);
        match follows {
            Some(method) => assert_eq!(asked(&peer, &world), method),
            None => {
                assert_eq!(world.sent.len(), sent, "{wish}");
                assert_eq!(world.failures(B), [FailureCode::InvalidKe]);
                let text = world.failure_text(B);
                assert!(text.contains("in the key exchange (PFS)"), "{text}");
            }
        }
        assert_eq!(pairs(&world), 1);
    }
}

/// Case (f): a public value without a key exchange is refused, and only the request.
#[test]
fn a_public_value_without_a_key_exchange_is_refused() {
    let (mut world, mut peer) = world_with(|_| {});
    let old = ike_sas(&world)[0].children[0].spi_out.unwrap().get();
    for none in [false, true] {
        for rekey in [false, true] {
            let mut request = if rekey {
                rekey_request(old, 0x1100, "aes256gcm16-esn")
            } else {
                child_request(0x1101, "aes256gcm16-esn")
            };
            if none {
                add(&mut request, 0);
            }
            request.push(Payload::Ke(ke(KeGroup::Ecp384)));
            let refused = peer.error(&mut world, CREATE, &request);
            assert_eq!(refused, Some(NotifyType::NO_PROPOSAL_CHOSEN));
            assert!(world.failure_text(B).contains("public value"), "{}", world.failure_text(B));
        }
    }
    assert_eq!(pairs(&world), 1);
    // In the answer to ours it would mean other keys at the other end.
    world.command(B, Command::RekeyChild { child: CHILD });
    let mut answer = child_request(0x1102, "aes256gcm16-esn");
    answer.push(Payload::Ke(ke(KeGroup::Ecp384)));
    // The selectors are the other way round for B.
    let ts = |text: &str| TrafficSelectors::new(vec![text.parse().unwrap()]);
    answer[2] = Payload::TsI(ts("10.2.0.0/16"));
    answer[3] = Payload::TsR(ts("10.1.0.0/16"));
    peer.answer(&mut world, &answer);
    assert_eq!(world.failures(B).last(), Some(&FailureCode::InvalidKe));
    assert_eq!(ike_sas(&world).len(), 1);
    assert_eq!(pairs(&world), 1);
}
