//! What must hold for every input, and the parsing errors others had.

use alloc::{format, vec, vec::Vec};

use proptest::prelude::*;
use sa_store::{EspSpi, Identity, IkeSpi, KeGroup, PortRange, TrafficSelector};

use super::{sa::Attribute, *};

fn header() -> Header {
    Header {
        spi_i: IkeSpi(0x0102_0304_0506_0708),
        spi_r: IkeSpi(0x1112_1314_1516_1718),
        exchange: ExchangeType::CREATE_CHILD_SA,
        initiator: true,
        response: true,
        message_id: 3,
    }
}

/// One payload of every kind.
fn every_payload() -> Vec<Payload<'static>> {
    let selectors = ["10.1.0.0/16", "fd00::/8[tcp/22-80]", "192.0.2.1/32[icmp/8]"];
    let selectors: Vec<TrafficSelector> =
        selectors.iter().map(|text| text.parse().unwrap()).collect();
    let identity: Identity = "gw.example".parse().unwrap();
    let spi = EspSpi::new(0xc000_0001).unwrap();
    let transforms = vec![
        Transform::with_key_length(TransformType::ENCR, 20, Some(256)),
        Transform {
            kind: TransformType(9),
            id: 77,
            attributes: vec![Attribute::Long(5, vec![1, 2, 3]), Attribute::Short(6, 7)],
        },
        Transform::new(TransformType::ESN, 1),
    ];
    let proposal = |number| Proposal {
        number,
        protocol: ProtocolId::ESP,
        spi: spi.into(),
        transforms: transforms.clone(),
    };
    vec![
        Payload::Sa(SecurityAssociation { proposals: vec![proposal(1), proposal(2)] }),
        Payload::Ke(KeyExchange::new(KeGroup::Curve25519, vec![7; 32])),
        Payload::IdI(Identification::new(&identity)),
        Payload::IdR(Identification { id_type: 9, reserved: [1, 2, 3], data: vec![5; 9].into() }),
        Payload::Cert(Certificate { encoding: 4, data: vec![1; 40].into() }),
        Payload::CertReq(Certificate { encoding: 4, data: vec![2; 20].into() }),
        Payload::Auth(Authentication {
            method: AuthMethod::SHARED_KEY_MIC,
            data: vec![3; 32].into(),
        }),
        Payload::Nonce(Nonce(vec![4; 32].into())),
        Payload::Notify(Notify::about_esp(NotifyType::REKEY_SA, spi)),
        Payload::Notify(Notify::invalid_ke(KeGroup::Ecp384)),
        Payload::Delete(Delete::esp([spi, EspSpi::new(0xc000_0002).unwrap()])),
        Payload::Delete(Delete::ike()),
        Payload::VendorId(vec![9; 16].into()),
        Payload::TsI(TrafficSelectors::new(selectors.clone())),
        Payload::TsR(TrafficSelectors::new(vec![selectors[0].with_protocol(6, PortRange::OPAQUE)])),
        Payload::Cp(Configuration {
            kind: ConfigType::CFG_REQUEST,
            attributes: vec![
                ConfigAttribute { kind: 1, value: vec![].into() },
                ConfigAttribute { kind: 8, value: vec![0; 17].into() },
            ],
        }),
        Payload::Eap(vec![1, 2, 0, 4].into()),
    ]
}

fn reads(datagram: &[u8]) -> bool {
    Message::parse(datagram).is_ok()
}

#[test]
fn every_payload_comes_back_as_it_was_written() {
    let payloads = every_payload();
    let datagram = encode_message(&header(), &payloads).unwrap();
    let message = Message::parse(&datagram).unwrap();
    assert_eq!(message.header, header());
    assert_eq!(message.clear.as_slice(), payloads);
    assert_eq!(message.protected, None);
    assert_eq!(encode_message(&message.header, message.clear.as_slice()), Ok(datagram.clone()));
    assert_eq!(message.clear.require_ke().unwrap().known_group(), Some(KeGroup::Curve25519));
    assert_eq!(message.clear.notifies().count(), 2);
    assert_eq!(message.clear.error_notify().and_then(Notify::data_u16), Some(20));
    assert_eq!(message.clear.deletes().flat_map(Delete::esp_spis).count(), 2);
}

/// libreswan: a packet shorter than its version field. No prefix of a message is a message, and
/// none is more than an error.
#[test]
fn cve_2013_4564_every_prefix_is_refused() {
    let datagram = encode_message(&header(), &every_payload()).unwrap();
    for length in 0..datagram.len() {
        let prefix = &datagram[..length];
        assert!(!reads(prefix), "{length}");
        // The same with a length in the header that agrees.
        if length >= HEADER_LEN {
            let mut shorter = prefix.to_vec();
            shorter[24..28].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            assert!(!reads(&shorter), "{length}");
        }
    }
    let mut longer = datagram.clone();
    longer.push(0);
    assert!(matches!(Message::parse(&longer), Err(WireError::MessageLength { .. })));
    longer[24..28].copy_from_slice(&u32::try_from(datagram.len() + 1).unwrap().to_be_bytes());
    assert_eq!(Message::parse(&longer), Err(WireError::TrailingOctets));
}

#[test]
fn versions() {
    let datagram = encode_message(&header(), &[]).unwrap();
    assert_eq!(Header::parse(&datagram), Ok((header(), PayloadType::NONE)));
    for version in 0..=255u8 {
        let mut other = datagram.clone();
        other[17] = version;
        let parsed = Header::parse(&other);
        match version >> 4 {
            2 => assert!(parsed.is_ok(), "minor versions are ignored"),
            1 => assert_eq!(parsed, Err(WireError::IkeV1)),
            major => {
                let error = WireError::MajorVersion { header: header(), major };
                assert_eq!(parsed, Err(error));
            }
        }
    }
    // IKEv1 is recognised whatever follows, and however short it is.
    let mut v1 = [0u8; 18];
    v1[17] = 0x10;
    assert_eq!(Header::parse(&v1), Err(WireError::IkeV1));
    // Reserved flags and flag V mean nothing.
    let mut flags = datagram;
    flags[19] |= 0b1101_0111;
    assert_eq!(Header::parse(&flags), Ok((header(), PayloadType::NONE)));
}

/// A datagram with one payload of octets of our choice.
fn raw(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    chain(&[(kind, flags, body.to_vec())])
}

fn chain(payloads: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = encode_message(&header(), &[]).unwrap();
    out[16] = payloads.first().map_or(0, |(kind, ..)| *kind);
    for (at, (_, flags, body)) in payloads.iter().enumerate() {
        let next = payloads.get(at + 1).map_or(0, |(kind, ..)| *kind);
        out.extend_from_slice(&[next, *flags]);
        out.extend_from_slice(&u16::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(body);
    }
    let length = u32::try_from(out.len()).unwrap();
    out[24..28].copy_from_slice(&length.to_be_bytes());
    out
}

/// strongSwan: payloads of the other IKE version. Every type, critical and not, empty and filled.
#[test]
fn cve_2015_3991_every_payload_type() {
    for kind in 1..=255u8 {
        for body in [vec![], vec![0; 4], vec![0xff; 64]] {
            let known = PayloadType(kind).is_known();
            let plain = Message::parse(&raw(kind, 0, &body)).map(|message| message.clear.unknown());
            let critical = Message::parse(&raw(kind, 0x80, &body)).map(|_| ());
            if known {
                assert_eq!(plain.map(|_| ()), critical, "the bit means nothing in known payloads");
            } else {
                assert_eq!(plain, Ok(1));
                let error = WireError::UnsupportedCritical(PayloadType(kind));
                assert_eq!(critical, Err(error));
            }
        }
    }
}

/// libreswan: wrong payloads twice. What may stand once is refused twice, the rest is not.
#[test]
fn cve_2023_38712_every_payload_doubled() {
    for payload in every_payload() {
        let twice = [payload.clone(), payload.clone()];
        let datagram = encode_message(&header(), &twice).unwrap();
        let parsed = Message::parse(&datagram).map(|message| message.clear.as_slice().len());
        if payload.kind().may_repeat() {
            assert_eq!(parsed, Ok(2));
        } else {
            assert_eq!(parsed, Err(WireError::Duplicate(payload.kind())));
        }
    }
}

/// libreswan: withheld payloads were dereferenced. Each accessor says what is missing.
#[test]
fn cve_2013_6467_every_payload_withheld() {
    let none = Payloads::default();
    let missing = |kind| WireError::Missing(kind);
    assert_eq!(none.require_sa().err(), Some(missing(PayloadType::SA)));
    assert_eq!(none.require_ke().err(), Some(missing(PayloadType::KE)));
    assert_eq!(none.require_id_i().err(), Some(missing(PayloadType::ID_I)));
    assert_eq!(none.require_id_r().err(), Some(missing(PayloadType::ID_R)));
    assert_eq!(none.require_auth().err(), Some(missing(PayloadType::AUTH)));
    assert_eq!(none.require_nonce().err(), Some(missing(PayloadType::NONCE)));
    assert_eq!(none.require_ts_i().err(), Some(missing(PayloadType::TS_I)));
    assert_eq!(none.require_ts_r().err(), Some(missing(PayloadType::TS_R)));
    let datagram = encode_message(&header(), &every_payload()[1..]).unwrap();
    let message = Message::parse(&datagram).unwrap();
    assert_eq!(message.clear.sa(), None);
    assert!(message.protected.is_none());
}

/// libreswan: many unknown payloads ran over a fixed array.
#[test]
fn cve_2026_12413_payload_counts_around_the_cap() {
    for (count, accepted) in
        [(MAX_PAYLOADS - 1, true), (MAX_PAYLOADS, true), (MAX_PAYLOADS + 1, false)]
    {
        for kind in [200, 43] {
            let datagram = chain(&vec![(kind, 0, vec![1]); count]);
            assert_eq!(reads(&datagram), accepted, "{count} of {kind}");
        }
    }
}

/// strongSwan: KE with a group that is only for internal use.
#[test]
fn cve_2014_9221_every_group_with_data_of_every_length() {
    for group in 0..=u16::MAX {
        for length in [0, 1, 32, 256] {
            let mut body = group.to_be_bytes().to_vec();
            body.resize(4 + length, 2);
            let datagram = raw(PayloadType::KE.0, 0, &body);
            let parsed = Message::parse(&datagram);
            assert_eq!(parsed.is_ok(), length > 0);
            if let Ok(message) = parsed {
                let known = message.clear.require_ke().unwrap().known_group();
                assert_eq!(known.is_some(), matches!(group, 14 | 15 | 19 | 20 | 31));
            }
        }
    }
}

/// strongSwan: identities that crash whoever looks at them, DNs of unequal and empty length.
#[test]
fn cve_2013_5018_identities_of_every_type_and_length() {
    for id_type in 0..=255u8 {
        for length in [0usize, 1, 3, 4, 5, 15, 16, 17, 255, 3000] {
            for fill in [0u8, b'a', 0x30, 0xff] {
                let mut body = vec![id_type, 0, 0, 0];
                body.resize(4 + length, fill);
                let datagram = raw(PayloadType::ID_I.0, 0, &body);
                let message = Message::parse(&datagram).unwrap();
                let payload = message.clear.require_id_i().unwrap();
                assert_eq!(payload.rest_of_payload(), body);
                let Ok(identity) = payload.identity() else { continue };
                assert!(length > 0 && matches!(id_type, 1 | 2 | 3 | 5 | 9 | 10 | 11));
                assert_eq!(Identification::new(&identity).rest_of_payload(), body);
                assert!(identity.same(&identity) && !format!("{identity}").is_empty());
                assert!(!identity.same(&Identity::Dn(vec![fill; length + 1])));
            }
        }
    }
}

/// libreswan: malformed TS payloads.
#[test]
fn cve_2023_23009_traffic_selector_counts_and_lengths() {
    let selector = |length: u16, octets: usize| {
        let mut out = vec![7, 0];
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0xff, 0xff, 10, 0, 0, 0, 10, 0, 0, 255]);
        out.resize(octets, 0);
        out
    };
    let payload = |count: u8, selectors: &[u8]| {
        let mut body = vec![count, 0, 0, 0];
        body.extend_from_slice(selectors);
        reads(&raw(PayloadType::TS_I.0, 0, &body))
    };
    let good = selector(16, 16);
    assert!(payload(1, &good));
    assert!(payload(2, &[good.clone(), good.clone()].concat()));
    for count in 0..=255u8 {
        assert_eq!(payload(count, &good), count == 1, "{count}");
    }
    assert!(payload(0, &[]), "no selector is TS_UNACCEPTABLE, not a broken message");
    for length in 0..=40u16 {
        assert_eq!(payload(1, &selector(length, 16)), length == 16, "{length}");
        assert_eq!(payload(1, &selector(16, usize::from(length))), length == 16, "{length}");
    }
    // Addresses and ports that run backwards; opaque ports do, and are meant.
    let mut backwards = good.clone();
    backwards[8] = 11;
    assert!(!payload(1, &backwards));
    let mut ports = good.clone();
    ports[4..8].copy_from_slice(&[0, 9, 0, 8]);
    assert!(!payload(1, &ports));
    ports[4..8].copy_from_slice(&[0xff, 0xff, 0, 0]);
    assert!(payload(1, &ports));
    // Unknown types select nothing.
    let mut unknown = good;
    unknown[0] = 10;
    let mut body = vec![1, 0, 0, 0];
    body.extend_from_slice(&unknown);
    let datagram = raw(PayloadType::TS_R.0, 0, &body);
    let message = Message::parse(&datagram).unwrap();
    let selectors = message.clear.require_ts_r().unwrap();
    assert_eq!((selectors.selectors.len(), selectors.unknown), (0, 1));
}

/// libreswan: Notify and Delete with every protocol and SPI size.
#[test]
fn cve_2023_38710_every_protocol_and_spi_size() {
    for protocol in 0..=255u8 {
        for spi_len in 0..=255u8 {
            let mut notify = vec![protocol, spi_len, 0x40, 0x09];
            assert_eq!(reads(&raw(PayloadType::NOTIFY.0, 0, &notify)), spi_len == 0);
            notify.resize(4 + usize::from(spi_len), 1);
            let datagram = raw(PayloadType::NOTIFY.0, 0, &notify);
            let message = Message::parse(&datagram).unwrap();
            let notify = message.clear.notify(NotifyType::REKEY_SA).unwrap();
            assert_eq!(notify.spi.esp().is_some(), spi_len == 4);
            // What was read can be written again: an answer about it is no trap.
            assert_eq!(encode_message(&header(), message.clear.as_slice()), Ok(datagram.clone()));
            for count in [0u16, 1, 2, u16::MAX] {
                let mut delete = vec![protocol, spi_len];
                delete.extend_from_slice(&count.to_be_bytes());
                delete.resize(4 + usize::from(spi_len) * usize::from(count.min(2)), 1);
                let datagram = raw(PayloadType::DELETE.0, 0, &delete);
                let size_fits = match protocol {
                    1 => spi_len == 0,
                    2 | 3 => spi_len == 4,
                    _ => spi_len != 0 || count == 0,
                };
                let count_fits = count <= 2 && (count == 0 || spi_len != 0);
                let parsed = Message::parse(&datagram);
                assert_eq!(parsed.is_ok(), size_fits && count_fits, "{protocol} {spi_len} {count}");
                if let Ok(message) = parsed {
                    let deletes = message.clear.deletes().flat_map(Delete::esp_spis).count();
                    assert!(deletes == 0 || protocol == 3);
                }
            }
        }
    }
}

/// RADIUS, EAP and SIM attributes of length 0 (strongSwan): every loop here makes progress, so a
/// structure length of 0 to its header's size is an error wherever there is one.
#[test]
fn cve_2026_35330_lengths_of_zero() {
    let sa = |proposal: u16, transform: u16| {
        let mut body = vec![0, 0];
        body.extend_from_slice(&proposal.to_be_bytes());
        body.extend_from_slice(&[1, 1, 0, 1]);
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&transform.to_be_bytes());
        body.extend_from_slice(&[4, 0, 0, 14]);
        reads(&raw(PayloadType::SA.0, 0, &body))
    };
    for length in 0..=64 {
        assert_eq!(sa(length, 8), length == 16, "{length}");
        assert_eq!(sa(16, length), length == 8, "{length}");
    }
    for length in 0..=8u16 {
        let mut datagram = raw(PayloadType::VENDOR_ID.0, 0, &[1, 2]);
        datagram[30..32].copy_from_slice(&length.to_be_bytes());
        assert_eq!(reads(&datagram), length == 6, "{length}");
    }
    // An attribute of length 0 is no loop: it is read, and the end is reached.
    let long = raw(PayloadType::CP.0, 0, &[1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0]);
    assert_eq!(Message::parse(&long).unwrap().clear.cp().unwrap().attributes.len(), 2);
}

/// Caps at -1, 0 and +1.
#[test]
fn counts_are_capped() {
    let proposals = |count: usize| {
        let proposal = Proposal {
            number: 1,
            protocol: ProtocolId::IKE,
            spi: Spi::None,
            transforms: vec![Transform::new(TransformType::KE, 14)],
        };
        let sa = SecurityAssociation { proposals: vec![proposal; count] };
        reads(&encode_message(&header(), &[Payload::Sa(sa)]).unwrap())
    };
    assert!(proposals(MAX_PROPOSALS - 1) && proposals(MAX_PROPOSALS));
    assert!(!proposals(MAX_PROPOSALS + 1));
    let transforms = |counts: &[usize]| {
        let proposals = counts.iter().map(|count| Proposal {
            number: 1,
            protocol: ProtocolId::IKE,
            spi: Spi::None,
            transforms: vec![Transform::new(TransformType::KE, 14); *count],
        });
        let sa = SecurityAssociation { proposals: proposals.collect() };
        encode_message(&header(), &[Payload::Sa(sa)]).map(|datagram| reads(&datagram))
    };
    assert_eq!(MAX_TRANSFORMS, 1024);
    assert_eq!(transforms(&[255, 255, 255, 255, 3]), Ok(true));
    assert_eq!(transforms(&[255, 255, 255, 255, 4]), Ok(true));
    assert_eq!(transforms(&[255, 255, 255, 255, 5]), Ok(false));
    assert_eq!(transforms(&[256]), Err(EncodeError::TooMany(PayloadType::SA)));
    let attributes = |count: usize| {
        let transform = Transform {
            kind: TransformType::ENCR,
            id: 12,
            attributes: vec![Attribute::KeyLength(128); count],
        };
        let proposal = Proposal {
            number: 1,
            protocol: ProtocolId::IKE,
            spi: Spi::None,
            transforms: vec![transform],
        };
        let sa = SecurityAssociation { proposals: vec![proposal] };
        reads(&encode_message(&header(), &[Payload::Sa(sa)]).unwrap())
    };
    assert!(attributes(MAX_ATTRIBUTES) && !attributes(MAX_ATTRIBUTES + 1));
    let spi = EspSpi::new(256).unwrap();
    let deletes =
        |count| encode_message(&header(), &[Payload::Delete(Delete::esp(vec![spi; count]))]);
    assert!(deletes(MAX_DELETE_SPIS).is_ok_and(|datagram| reads(&datagram)));
    assert_eq!(deletes(MAX_DELETE_SPIS + 1), Err(EncodeError::TooMany(PayloadType::DELETE)));
}

#[test]
fn nonces_have_16_to_256_octets() {
    for length in 0..300 {
        let fits = NONCE_LEN.contains(&length);
        assert_eq!(reads(&raw(PayloadType::NONCE.0, 0, &vec![1; length])), fits, "{length}");
        let nonce = Payload::Nonce(Nonce(vec![1; length].into()));
        assert_eq!(encode_message(&header(), &[nonce]).is_ok(), fits, "{length}");
    }
}

#[test]
fn nothing_longer_than_64_kib_is_written() {
    let vendor = |length| Payload::VendorId(vec![0; length].into());
    let fits = MAX_MESSAGE_LEN - HEADER_LEN - 4;
    let datagram = encode_message(&header(), &[vendor(fits)]).unwrap();
    assert_eq!(datagram.len(), MAX_MESSAGE_LEN);
    assert!(reads(&datagram));
    assert_eq!(encode_message(&header(), &[vendor(fits + 1)]), Err(EncodeError::MessageTooLong));
    assert_eq!(
        encode_message(&header(), &[vendor(65_532)]),
        Err(EncodeError::PayloadTooLong(PayloadType::VENDOR_ID))
    );
    assert_eq!(
        encode_message(&header(), &[vendor(40_000), vendor(40_000)]),
        Err(EncodeError::MessageTooLong)
    );
}

/// strongSwan and Cisco: fragment numbers 0, totals 0, bodies shorter than the header.
#[test]
fn cve_2013_6076_fragment_numbers() {
    for (number, total, fits) in [
        (0u16, 0u16, false),
        (0, 1, false),
        (1, 0, false),
        (1, 1, true),
        (2, 1, false),
        (3, 4, true),
    ] {
        let body = [number.to_be_bytes(), total.to_be_bytes()].concat();
        for length in 0..=body.len() {
            let accepted = fits && length == body.len();
            assert_eq!(reads(&raw(PayloadType::SKF.0, 0, &body[..length])), accepted);
        }
    }
}

#[test]
fn protected_payloads_end_the_message() {
    let after = chain(&[(46, 0, vec![0; 32]), (43, 0, vec![1])]);
    assert_eq!(Message::parse(&after), Err(WireError::TrailingOctets));
    let before = chain(&[(43, 0, vec![1]), (46, 0, vec![0; 32])]);
    let message = Message::parse(&before).unwrap();
    let protected = message.protected.unwrap();
    assert_eq!(protected.associated.len() + protected.body.len(), before.len());
    assert_eq!(message.clear.vendor_ids().count(), 1);
    // And none stands inside of another one.
    let inner = encode_associated(&header(), PayloadType::NONE, None, 8).unwrap();
    assert_eq!(
        Payloads::parse(PayloadType::SK, &[&inner[28..], &[0; 8]].concat()),
        Err(WireError::Unexpected(PayloadType::SK))
    );
}

#[test]
fn debug_shows_no_secrets() {
    let text = format!("{:?}", every_payload());
    assert!(text.contains("Nonce(32 octets)") && text.contains("AUTH"));
    for hidden in ["3, 3, 3", "4, 4, 4", "7, 7, 7"] {
        assert!(!text.contains(hidden), "{hidden}");
    }
}

proptest! {
    #[test]
    fn arbitrary_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Message::parse(&octets);
        let _ = Payloads::parse(PayloadType(octets.first().copied().unwrap_or(33)), &octets);
    }

    /// As above behind a header that fits, so that payloads are reached.
    #[test]
    fn arbitrary_payloads_are_written_as_they_were_read(
        kind in prop_oneof![33u8..=48, any::<u8>()],
        octets in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let datagram = raw(kind, 0, &octets);
        if let Ok(message) = Message::parse(&datagram) {
            let written = encode_message(&message.header, message.clear.as_slice()).unwrap();
            let again = Message::parse(&written).unwrap();
            prop_assert_eq!(again.clear.as_slice(), message.clear.as_slice());
        }
    }

    #[test]
    fn altered_messages_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut datagram = encode_message(&header(), &every_payload()).unwrap();
        for (at, value) in changes {
            let at = at.index(datagram.len());
            datagram[at] = value;
        }
        if let Ok(message) = Message::parse(&datagram) {
            let written = encode_message(&message.header, message.clear.as_slice());
            prop_assert!(written.is_ok());
        }
    }
}
