use alloc::{string::ToString, vec, vec::Vec};

use sa_store::{Esn, EspSpi, IkeSpi, KeGroup, TrafficSelector};

use super::{traffic_selector as ts, *};
use crate::{
    config::{EspProposal, IkeProposal},
    wire::{
        Attribute, KeyExchange, Proposal, ProtocolId, SecurityAssociation, Spi, Transform,
        TransformType,
    },
};

fn ike(texts: &[&str]) -> Vec<IkeProposal> {
    texts.iter().map(|text| parse_ike(text).unwrap()).collect()
}

fn esp(texts: &[&str]) -> Vec<EspProposal> {
    texts.iter().map(|text| parse_esp(text).unwrap()).collect()
}

fn spi() -> EspSpi {
    EspSpi::new(0xc001_0203).unwrap()
}

#[test]
fn reads_what_strongswan_writes() {
    for (text, shown) in [
        ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha384-ecp384"),
        ("aes128gcm128-prfsha256-curve25519", "aes128gcm16-prfsha256-x25519"),
        ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305-prfsha256-x25519"),
        ("aes256-sha256-modp2048", "aes256-sha256-prfsha256-modp2048"),
        ("aes-sha2_512-prfsha384-modp3072", "aes128-sha512-prfsha384-modp3072"),
        (
            "aes256-aes128-sha256-sha384-ecp256-x25519",
            "aes256-aes128-sha256-sha384-prfsha256-prfsha384-ecp256-x25519",
        ),
        ("AES256GCM16-PRFSHA512-ECP384", "aes256gcm16-prfsha512-ecp384"),
        ("aes256gcm16-sha384-ecp384", "aes256gcm16-prfsha384-ecp384"),
    ] {
        let proposal = parse_ike(text).unwrap();
        assert_eq!(proposal.to_string(), shown);
        assert_eq!(parse_ike(shown), Ok(proposal));
    }
    for (text, shown) in [
        ("aes256gcm16-esn", "aes256gcm16-esn"),
        ("aes256gcm16", "aes256gcm16"),
        ("aes256gcm16-noesn", "aes256gcm16"),
        ("aes128gcm16-aes256gcm16-x25519-esn-noesn", "aes128gcm16-aes256gcm16-x25519-esn-noesn"),
        ("aes256-sha256", "aes256-sha256"),
    ] {
        let proposal = parse_esp(text).unwrap();
        assert_eq!(proposal.to_string(), shown);
        assert_eq!(parse_esp(shown), Ok(proposal));
    }
}

#[test]
fn errors_name_the_keyword_and_the_nearest_one() {
    let message = |text: &str| parse_ike(text).unwrap_err().to_string();
    assert_eq!(
        message("aes256gmc16-prfsha384-ecp384"),
        "`aes256gmc16` is no algorithm; did you mean `aes256gcm16`?"
    );
    assert_eq!(
        message("aes256gcm16-prfsha348-ecp384"),
        "`prfsha348` is no algorithm; did you mean `prfsha384`?"
    );
    assert_eq!(message("rot13"), "`rot13` is no algorithm");
    assert!(message("3des-sha1-modp1024").starts_with("`3des` is too weak or not available"));
    assert!(message("aes256-sha1-modp2048").starts_with("`sha1` is too weak"));
    assert!(
        message("aes192gcm16-prfsha256-ecp256").starts_with("`aes192gcm16` is too weak or not")
    );
    assert_eq!(message(""), "the proposal is empty");
    assert_eq!(message("aes256gcm16--ecp384"), "`` is no algorithm");
    assert_eq!(
        message("aes256-modp2048"),
        "the proposal needs an integrity algorithm, for example `sha256`"
    );
    assert_eq!(message("aes256gcm16-ecp384"), "the proposal needs a PRF, for example `prfsha384`");
    assert!(message("aes256gcm16-prfsha256").contains("key exchange method"));
    assert!(message("prfsha256-ecp256").contains("needs a cipher"));
    assert_eq!(parse_ike("aes256-aes256gcm16-sha256-ecp256"), Err(ProposalError::MixedCiphers));
    assert!(message("aes256gcm16-prfsha256-sha256-ecp256").contains("leave out `sha256`"));
    assert!(message("aes256-aes256-sha256-ecp256").contains("stands twice"));
    assert!(message("aes256gcm16-prfsha256-ecp256-esn").contains("no meaning in IKE"));
    let message = |text: &str| parse_esp(text).unwrap_err().to_string();
    assert!(message("aes256gcm16-prfsha256").contains("no meaning in ESP"));
    assert!(message("aes256gcm16-sha256").contains("leave out `sha256`"));
    assert!(message("aes256").contains("integrity algorithm"));
    let long = "x".repeat(100_000);
    assert_eq!(
        parse_esp(&long),
        Err(ProposalError::Unknown { keyword: long.clone(), nearest: None })
    );
}

#[test]
fn defaults_are_what_their_text_says() {
    for proposal in default_ike_proposals() {
        assert_eq!(parse_ike(&proposal.to_string()), Ok(proposal));
    }
    for proposal in default_esp_proposals() {
        assert_eq!(parse_esp(&proposal.to_string()), Ok(proposal));
    }
}

#[test]
fn an_offer_has_numbers_and_keeps_aead_apart() {
    let mut mixed = ike(&["aes256gcm16-prfsha384-ecp384"]);
    mixed[0].ciphers.push(sa_store::EspCipher::AesCbc(256));
    mixed[0].integrity.push(sa_store::IntegrityAlgorithm::HmacSha256_128);
    let offer = ike_offer(&mixed, None);
    let ids = |proposal: &Proposal| -> Vec<(u8, u16)> {
        proposal.transforms.iter().map(|transform| (transform.kind.0, transform.id)).collect()
    };
    assert_eq!(offer.proposals.len(), 2);
    assert_eq!((offer.proposals[0].number, offer.proposals[1].number), (1, 2));
    assert_eq!(ids(&offer.proposals[0]), [(1, 20), (2, 6), (4, 20)]);
    assert_eq!(ids(&offer.proposals[1]), [(1, 12), (3, 12), (2, 6), (4, 20)]);
    let offer = esp_offer(&esp(&["aes256gcm16-ecp256-esn-noesn"]), spi(), Pfs::No);
    assert_eq!(ids(&offer.proposals[0]), [(1, 20), (5, 1), (5, 0)]);
    assert_eq!(offer.proposals[0].spi.esp(), Some(spi()));
    let offer = esp_offer(&esp(&["aes256gcm16-ecp256-esn-noesn"]), spi(), Pfs::Configured);
    assert_eq!(ids(&offer.proposals[0]), [(1, 20), (4, 19), (5, 1), (5, 0)]);
}

#[test]
fn our_order_decides_and_the_answer_is_accepted() {
    let ours = ike(&["aes256gcm16-prfsha384-ecp384-x25519", "aes256-sha256-modp2048"]);
    let theirs = ike(&[
        "aes128-aes256-sha256-modp2048",
        "aes128gcm16-aes256gcm16-prfsha256-prfsha384-x25519-ecp384",
    ]);
    let offer = ike_offer(&theirs, None);
    let choice = select_ike(&ours, &offer, false).unwrap();
    assert_eq!(choice.suite.to_string(), "aes256gcm16-prfsha384-ecp384");
    let answer = choice.answer(None);
    assert_eq!(answer.proposals[0].number, 2);
    assert_eq!(check_ike(&theirs, &answer, false).unwrap().suite, choice.suite);

    let wanted = ke_decision(Some(choice.suite.group), None);
    assert_eq!(wanted, KeDecision::Retry(KeGroup::Ecp384));
    let other = KeyExchange::new(KeGroup::Curve25519, vec![0; 32]);
    assert_eq!(
        ke_decision(Some(KeGroup::Ecp384), Some(&other)),
        KeDecision::Retry(KeGroup::Ecp384)
    );
    assert_eq!(
        ke_decision(Some(KeGroup::Curve25519), Some(&other)),
        KeDecision::Use(KeGroup::Curve25519)
    );
    assert_eq!(ke_decision(None, Some(&other)), KeDecision::None);
    assert_eq!(first_group(&theirs), Some(KeGroup::Modp2048));
    assert!(offers_group(&theirs, KeGroup::Ecp384) && !offers_group(&theirs, KeGroup::Ecp256));
}

#[test]
fn rekeys_carry_spis() {
    let ours = ike(&["aes256gcm16-prfsha384-ecp384"]);
    assert!(select_ike(&ours, &ike_offer(&ours, None), true).is_err());
    assert!(select_ike(&ours, &ike_offer(&ours, Some(IkeSpi::ZERO)), true).is_err());
    let choice = select_ike(&ours, &ike_offer(&ours, Some(IkeSpi(7))), true).unwrap();
    assert_eq!(choice.peer_spi, Some(IkeSpi(7)));
    let answered = check_ike(&ours, &choice.answer(Some(IkeSpi(9))), true).unwrap();
    assert_eq!(answered.peer_spi, Some(IkeSpi(9)));
    // Reserved ESP SPIs (0 to 255) cannot be chosen.
    let ours = esp(&["aes256gcm16"]);
    let mut offer = esp_offer(&ours, spi(), Pfs::No);
    offer.proposals[0].spi = Spi::Esp(255);
    let mismatch = select_esp(&ours, &offer, Pfs::No).unwrap_err();
    assert_eq!(mismatch.pairs[0].differences[0].what, "SPI");
}

#[test]
fn a_child_negotiates_esn_and_pfs() {
    let ours = esp(&["aes256gcm16-x25519-esn", "aes256gcm16-x25519"]);
    let theirs = esp(&["aes256gcm16-x25519"]);
    let choice = select_esp(&ours, &esp_offer(&theirs, spi(), Pfs::Configured), Pfs::Configured);
    let choice = choice.unwrap();
    assert_eq!((choice.transform.esn, choice.group), (Esn::No, Some(KeGroup::Curve25519)));
    assert_eq!(choice.peer_spi, spi());
    let answered = check_esp(&theirs, &choice.answer(spi()), Pfs::Configured).unwrap();
    assert_eq!((answered.transform, answered.group), (choice.transform, choice.group));
    // In IKE_AUTH groups do not count, not even those a peer sends there.
    let with_groups = esp_offer(&theirs, spi(), Pfs::Configured);
    let choice = select_esp(&esp(&["aes256gcm16"]), &with_groups, Pfs::No).unwrap();
    assert_eq!(choice.group, None);
    // PFS on one side only is a mismatch that says so.
    let mismatch = select_esp(&esp(&["aes256gcm16"]), &with_groups, Pfs::Configured).unwrap_err();
    assert_eq!(
        mismatch.to_string(),
        "no common proposal: ours 1 (aes256gcm16-noesn) and the peer's 1 differ in key exchange \
         (ours none, the peer's x25519)"
    );
    let mut optional = with_groups;
    optional.proposals[0].transforms.push(Transform::new(TransformType::KE, 0));
    let choice = select_esp(&esp(&["aes256gcm16"]), &optional, Pfs::Configured).unwrap();
    assert_eq!(choice.group, None);
    let answer = choice.answer(spi());
    assert!(answer.proposals[0].transforms.contains(&Transform::new(TransformType::KE, 0)));
    assert!(check_esp(&esp(&["aes256gcm16"]), &answer, Pfs::Configured).is_ok());
}

#[test]
fn integrity_none_beside_an_aead_is_allowed() {
    let ours = ike(&["aes256gcm16-prfsha384-ecp384"]);
    let mut offer = ike_offer(&ours, None);
    offer.proposals[0].transforms.push(Transform::new(TransformType::INTEG, 0));
    let choice = select_ike(&ours, &offer, false).unwrap();
    let answer = choice.answer(None);
    assert!(answer.proposals[0].transforms.contains(&Transform::new(TransformType::INTEG, 0)));
    offer.proposals[0].transforms.pop();
    offer.proposals[0].transforms.push(Transform::new(TransformType::INTEG, 12));
    assert!(select_ike(&ours, &offer, false).is_err());
}

#[test]
fn what_is_not_understood_is_skipped_where_the_rfc_says_so() {
    let ours = ike(&["aes256gcm16-prfsha384-ecp384"]);
    let good = ike_offer(&ours, None);
    // Unknown transform IDs and attributes: the transform is skipped.
    let mut offer = good.clone();
    let list = &mut offer.proposals[0].transforms;
    list.insert(0, Transform::new(TransformType::ENCR, 999));
    list.insert(
        0,
        Transform {
            kind: TransformType::ENCR,
            id: 20,
            attributes: vec![Attribute::KeyLength(256), Attribute::Short(77, 1)],
        },
    );
    assert!(select_ike(&ours, &offer, false).is_ok());
    list_without_key_length(&ours, &good);
    // Unknown transform types: the proposal is skipped, others count.
    let mut offer = good.clone();
    offer.proposals[0].transforms.push(Transform::new(TransformType(6), 35));
    assert!(select_ike(&ours, &offer, false).is_err());
    let mut second = good.proposals[0].clone();
    second.number = 2;
    offer.proposals.push(second);
    assert_eq!(select_ike(&ours, &offer, false).unwrap().answer(None).proposals[0].number, 2);
}

fn list_without_key_length(ours: &[IkeProposal], good: &SecurityAssociation) {
    let mut offer = good.clone();
    offer.proposals[0].transforms[0].attributes.clear();
    assert!(select_ike(ours, &offer, false).is_err(), "AES needs its key length");
}

/// libreswan: a proposal without KE; and every other subset of transforms.
#[test]
fn cve_2016_5391_every_subset_of_transform_types() {
    let ours = ike(&["aes256-sha256-prfsha256-ecp256"]);
    let full = ike_offer(&ours, None);
    let children = esp(&["aes256-sha256-esn"]);
    let full_esp = esp_offer(&children, spi(), Pfs::Configured);
    for mask in 0..16u32 {
        let keep = |list: &[Transform]| -> Vec<Transform> {
            list.iter()
                .enumerate()
                .filter(|(at, _)| mask & (1 << at) != 0)
                .map(|(_, transform)| transform.clone())
                .collect()
        };
        let mut offer = full.clone();
        offer.proposals[0].transforms = keep(&full.proposals[0].transforms);
        assert_eq!(select_ike(&ours, &offer, false).is_ok(), mask == 15, "{mask:b}");
        assert_eq!(check_ike(&ours, &offer, false).is_ok(), mask == 15, "{mask:b}");
        let mut offer = full_esp.clone();
        offer.proposals[0].transforms = keep(&full_esp.proposals[0].transforms);
        assert_eq!(select_esp(&children, &offer, Pfs::No).is_ok(), mask & 7 == 7, "{mask:b}");
    }
}

/// libreswan: bogus ESP combinations. Nothing but what is configured is ever chosen.
#[test]
fn cve_2024_3652_every_transform_id_in_every_proposal() {
    let ours = esp(&["aes256gcm16"]);
    for kind in 0..=12u8 {
        for id in (0..=64).chain([1024, 1025, u16::MAX]) {
            for bits in [None, Some(0), Some(128), Some(256), Some(u16::MAX)] {
                let mut offer = esp_offer(&ours, spi(), Pfs::No);
                let transform = Transform::with_key_length(TransformType(kind), id, bits);
                offer.proposals[0].transforms[0] = transform.clone();
                let selected = select_esp(&ours, &offer, Pfs::Configured);
                let is_it = kind == 1 && id == 20 && bits == Some(256);
                assert_eq!(selected.is_ok(), is_it, "{transform:?}");
                let said = selected.map_or_else(|mismatch| mismatch.to_string(), |_| "-".into());
                assert!(!said.is_empty());
            }
        }
    }
}

/// libreswan: SA payloads with every protocol.
#[test]
fn cve_2023_38710_every_protocol() {
    let ours = esp(&["aes256gcm16"]);
    for protocol in 0..=255u8 {
        let mut offer = esp_offer(&ours, spi(), Pfs::No);
        offer.proposals[0].protocol = ProtocolId(protocol);
        let selected = select_esp(&ours, &offer, Pfs::No);
        assert_eq!(selected.is_ok(), protocol == 3);
        if let Err(mismatch) = selected {
            assert!(mismatch.to_string().contains("differ in protocol (ours ESP"), "{mismatch}");
        }
    }
}

#[test]
fn answers_that_we_did_not_offer_are_refused() {
    let ours = ike(&["aes256gcm16-aes128gcm16-prfsha384-ecp384", "aes256-sha256-modp2048"]);
    let select = |texts: &[&str]| {
        select_ike(&ike(texts), &ike_offer(&ours, None), false).unwrap().answer(None)
    };
    let good = select(&["aes128gcm16-prfsha384-ecp384"]);
    assert!(check_ike(&ours, &good, false).is_ok());
    let mut wrong_number = good.clone();
    for number in [0, 2, 3, 255] {
        wrong_number.proposals[0].number = number;
        assert!(check_ike(&ours, &wrong_number, false).is_err(), "{number}");
    }
    let mut open = good.clone();
    open.proposals[0].transforms.push(Transform::new(TransformType::PRF, 5));
    let refusal = check_ike(&ours, &open, false).unwrap_err();
    assert!(refusal.to_string().contains("leaves a choice open"), "{refusal}");
    let mut two = good.clone();
    two.proposals.extend(good.proposals.clone());
    assert!(check_ike(&ours, &two, false).is_err());
    let mut other = good.clone();
    other.proposals[0].transforms[1].id = 5;
    let refusal = check_ike(&ours, &other, false).unwrap_err();
    assert!(
        refusal.to_string().contains("prf (ours prfsha384, the peer's prfsha256)"),
        "{refusal}"
    );
    let mut with_spi = good.clone();
    with_spi.proposals[0].spi = Spi::Ike(IkeSpi(1));
    assert!(check_ike(&ours, &with_spi, false).is_err());
    assert!(check_ike(&ours, &SecurityAssociation::default(), false).is_err());
}

#[test]
fn a_mismatch_names_every_difference_of_the_nearest_pair() {
    let ours = ike(&["aes256gcm16-prfsha384-ecp384", "aes256-sha256-modp3072"]);
    let theirs = SecurityAssociation {
        proposals: vec![
            Proposal {
                number: 1,
                protocol: ProtocolId::IKE,
                spi: Spi::None,
                transforms: vec![
                    Transform::with_key_length(TransformType::ENCR, 12, Some(128)),
                    Transform::new(TransformType::INTEG, 2),
                    Transform::new(TransformType::PRF, 2),
                    Transform::new(TransformType::KE, 2),
                ],
            },
            ike_offer(&ike(&["aes256-sha256-modp2048"]), None).proposals[0].clone(),
        ],
    };
    let mismatch = select_ike(&ours, &theirs, false).unwrap_err();
    assert_eq!(mismatch.pairs.len(), 4);
    assert_eq!(mismatch.nearest().count(), 2);
    let text = mismatch.to_string();
    assert!(
        text.contains(
            "ours 2 (aes256-sha256-prfsha256-modp3072) and the peer's 1 differ in key exchange \
             (ours modp3072, the peer's modp2048)"
        ),
        "{text}"
    );
    let weak = &mismatch.pairs[2];
    let said: Vec<_> = weak.differences.iter().map(|it| (it.what, it.theirs.as_str())).collect();
    assert_eq!(
        said,
        [
            ("encryption", "aes128"),
            ("prf", "prfsha1"),
            ("integrity", "sha1"),
            ("key exchange", "modp1024"),
        ]
    );
    assert_eq!(
        select_ike(&ours, &SecurityAssociation::default(), false).unwrap_err().to_string(),
        "the peer offers no proposal"
    );
}

fn selectors(texts: &[&str]) -> Vec<TrafficSelector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn narrowing_follows_the_rfc() {
    for (configured, offered, expected) in [
        // All of it, part of it, nothing of it.
        (&["10.1.0.0/16"][..], &["10.1.0.0/16"][..], &["10.1.0.0/16"][..]),
        (&["10.1.0.0/16"], &["0.0.0.0/0"], &["10.1.0.0/16"]),
        (&["0.0.0.0/0"], &["10.1.0.0/16"], &["10.1.0.0/16"]),
        (&["10.1.0.0/16"], &["10.2.0.0/16"], &[]),
        (&["10.1.0.0/16"], &["fd00::/8"], &[]),
        (&["10.1.0.0/16"], &[], &[]),
        // Several selectors and families; the order of the offer.
        (
            &["10.1.0.0/16", "10.2.0.0/16", "fd00:1::/32"],
            &["fd00::/8", "10.2.0.0/15", "192.0.2.0/24"],
            &["fd00:1::/32", "10.2.0.0/16"],
        ),
        // Overlaps become a part of both.
        (&["10.1.0.0..10.1.0.99"], &["10.1.0.50..10.1.0.200"], &["10.1.0.50..10.1.0.99"]),
        // Protocols and ports.
        (&["10.1.0.0/16[tcp/80-90]"], &["10.1.0.0/16[tcp/85-100]"], &["10.1.0.0/16[tcp/85-90]"]),
        (&["10.1.0.0/16[tcp]"], &["10.1.0.0/16"], &["10.1.0.0/16[tcp]"]),
        (&["10.1.0.0/16[tcp]"], &["10.1.0.0/16[udp]"], &[]),
        (&["10.1.0.0/16"], &["10.1.0.5/32[icmp/8]", "10.0.0.0/8"], &["10.1.0.0/16"]),
        // The packet's selector first, the rest of the policy refused: only the packet's stays.
        (&["10.1.0.5/32"], &["10.1.0.5/32[tcp/80]", "10.1.0.0/24"], &["10.1.0.5/32"]),
        (&["0.0.0.0/0[17/opaque]"], &["0.0.0.0/0"], &["0.0.0.0/0[udp/opaque]"]),
    ] {
        let (configured, offered) = (selectors(configured), selectors(offered));
        let result = ts::narrow(&configured, &offered);
        assert_eq!(result, selectors(expected), "{configured:?} {offered:?}");
        assert!(result.is_empty() || ts::is_subset(&result, &offered));
        assert!(result.is_empty() || ts::is_subset(&result, &configured));
    }
}

#[test]
fn offers_put_the_packet_first() {
    let configured = selectors(&["10.1.0.0/16", "10.2.0.0/16"]);
    let packet = selectors(&["10.2.0.7/32[tcp/443]"])[0];
    let offer = ts::offer(&configured, Some(packet));
    assert_eq!(offer, [packet, configured[0], configured[1]]);
    let foreign = selectors(&["192.0.2.1"])[0];
    assert_eq!(ts::offer(&configured, Some(foreign)), configured);
    assert!(!ts::is_narrowed(&configured, &configured));
    assert!(ts::is_narrowed(&configured, &configured[..1]));
}

#[test]
fn answers_outside_of_the_offer_are_refused() {
    let offered = selectors(&["10.1.0.0/16", "10.2.0.0/16[tcp]"]);
    for (answer, accepted) in [
        (&["10.1.2.0/24"][..], true),
        (&["10.1.0.0/16", "10.2.0.0/16[tcp/22]"], true),
        (&["10.2.0.0/16"], false),
        (&["10.0.0.0/8"], false),
        (&["10.1.0.0/16", "0.0.0.0/0"], false),
        (&["::/0"], false),
        (&[], false),
    ] {
        assert_eq!(ts::is_subset(&selectors(answer), &offered), accepted, "{answer:?}");
    }
}

#[test]
fn narrowing_is_bounded() {
    let many: Vec<TrafficSelector> = (0..10_000u32)
        .map(|at| TrafficSelector::host(core::net::Ipv4Addr::from(at * 2).into()))
        .collect();
    let all = selectors(&["0.0.0.0/0"]);
    assert_eq!(ts::narrow(&many, &all).len(), ts::MAX_SELECTORS);
    assert_eq!(ts::offer(&many, None).len(), ts::MAX_SELECTORS);
    let same = vec![all[0]; 10_000];
    assert_eq!(ts::narrow(&many, &same).len(), ts::MAX_SELECTORS);
}
