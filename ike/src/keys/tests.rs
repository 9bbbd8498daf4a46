use alloc::{format, vec::Vec};

use crypto::{aead::Engines, random::RandomSource};
use sa_store::{
    EspCipher, EspSuite, IkeSpi, IntegrityAlgorithm, KeGroup, KeyMaterial, PrfAlgorithm,
    SecretBytes,
};

use super::*;
use crate::{
    config::IkeSuite,
    fragment::{self, MAX_FRAGMENTS, Progress, Reassembly},
    wire::{ExchangeType, Header, Message, Notify, NotifyType, Payload},
};

struct Counter(u8);

impl RandomSource for Counter {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            self.0 = self.0.wrapping_mul(5).wrapping_add(17);
            *octet = self.0;
        }
    }
}

fn suites() -> Vec<EspSuite> {
    let mac = Some(IntegrityAlgorithm::HmacSha256_128);
    [
        (EspCipher::AesGcm16(128), None),
        (EspCipher::AesGcm16(256), None),
        (EspCipher::ChaCha20Poly1305, None),
        (EspCipher::AesCbc(128), mac),
        (EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha384_192)),
        (EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha512_256)),
    ]
    .into_iter()
    .map(|(cipher, mac)| EspSuite::new(cipher, mac).unwrap())
    .collect()
}

fn keys(suite: EspSuite) -> KeyMaterial {
    let cipher = suite.cipher();
    let mac_len = suite.integrity().map_or(0, |mac| mac.key_len());
    KeyMaterial {
        encryption: SecretBytes::new(alloc::vec![7; cipher.key_len() + cipher.salt_len()]),
        integrity: SecretBytes::new(alloc::vec![9; mac_len]),
    }
}

fn pair(suite: EspSuite) -> (Sealer, Opener) {
    let engines = Engines::portable();
    let keys = keys(suite);
    let sealer = Sealer::new(&engines, suite, &keys, 0, &mut Counter(1)).unwrap();
    (sealer, Opener::new(&engines, suite, &keys).unwrap())
}

fn header() -> Header {
    Header {
        spi_i: IkeSpi(1),
        spi_r: IkeSpi(2),
        exchange: ExchangeType::INFORMATIONAL,
        initiator: true,
        response: false,
        message_id: 5,
    }
}

fn notify(length: usize) -> Payload<'static> {
    let data: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
    Payload::Notify(Notify::with_data(NotifyType::COOKIE2, data))
}

#[test]
fn every_suite_seals_what_it_opens() {
    for suite in suites() {
        let (mut sealer, opener) = pair(suite);
        for length in 0..70 {
            let payloads = [notify(length)];
            let datagram = sealer.seal(&header(), &payloads).unwrap();
            let message = Message::parse(&datagram).unwrap();
            assert_eq!(message.header, header());
            let opened = opener.open(&message.protected.unwrap()).unwrap();
            assert_eq!(opened.payloads().unwrap().as_slice(), payloads);
        }
        let empty = sealer.seal(&header(), &[]).unwrap();
        let message = Message::parse(&empty).unwrap();
        let opened = opener.open(&message.protected.unwrap()).unwrap();
        assert!(opened.octets.is_empty() && opened.payloads().unwrap().is_empty());
    }
}

#[test]
fn cve_2019_10155_every_altered_octet_is_noticed() {
    for suite in suites() {
        let (mut sealer, opener) = pair(suite);
        let datagram = sealer.seal(&header(), &[notify(20)]).unwrap();
        for at in 0..datagram.len() {
            for bit in 0..8 {
                let mut altered = datagram.clone();
                altered[at] ^= 1 << bit;
                let opened = Message::parse(&altered)
                    .ok()
                    .and_then(|message| message.protected)
                    .map(|protected| opener.open(&protected));
                assert!(!matches!(opened, Some(Ok(_))), "{suite}: octet {at} bit {bit}");
            }
        }
    }
}

#[test]
fn ivs_count_up_under_their_epoch_and_end() {
    let suite = suites()[1];
    let engines = Engines::portable();
    let mut sealer = Sealer::new(&engines, suite, &keys(suite), 0x0102, &mut Counter(1)).unwrap();
    for counter in 0..3u8 {
        let datagram = sealer.seal(&header(), &[]).unwrap();
        assert_eq!(datagram[32..40], [1, 2, 0, 0, 0, 0, 0, counter]);
    }
    sealer.skip_to((1 << 48) - 1);
    assert!(sealer.seal(&header(), &[]).is_ok());
    assert_eq!(sealer.seal(&header(), &[]), Err(SealError::Exhausted));
    assert_eq!(sealer.seal(&header(), &[]), Err(SealError::Exhausted));
}

#[test]
fn cve_2022_46397_cbc_ivs_are_neither_chained_nor_repeated() {
    let suite = suites()[3];
    let (mut sealer, _) = pair(suite);
    let mut ivs = Vec::new();
    let mut last_block = Vec::new();
    for _ in 0..200 {
        let datagram = sealer.seal(&header(), &[notify(3)]).unwrap();
        let iv = datagram[32..48].to_vec();
        assert!(!ivs.contains(&iv) && iv != last_block);
        last_block = datagram[datagram.len() - 32..datagram.len() - 16].to_vec();
        ivs.push(iv);
    }
    let ones: u32 = ivs.iter().flatten().map(|octet| octet.count_ones()).sum();
    assert!((12_000..13_600).contains(&ones), "{ones} of 25600 bits set");
}

#[test]
fn messages_beyond_the_limits_are_errors() {
    let (mut sealer, _) = pair(suites()[0]);
    let big = [notify(40_000), notify(30_000)];
    assert!(matches!(sealer.seal(&header(), &big), Err(SealError::Encode(_))));
    assert!(matches!(fragment::seal(&mut sealer, &header(), &big, 576), Err(SealError::Encode(_))));
}

#[test]
fn fragments_fit_and_come_together_in_any_order() {
    for suite in suites() {
        for (length, limit) in [(300, 1200), (1150, 1200), (3000, 576), (9000, 1200), (28_000, 548)]
        {
            let (mut sealer, opener) = pair(suite);
            let payloads = [notify(length)];
            let mut datagrams = fragment::seal(&mut sealer, &header(), &payloads, limit).unwrap();
            assert!(datagrams.iter().all(|datagram| datagram.len() <= limit), "{suite} {length}");
            assert!(datagrams.len() <= usize::from(MAX_FRAGMENTS));
            datagrams.reverse();
            let middle = datagrams.len() / 2;
            datagrams.rotate_left(middle);
            let mut reassembly = Reassembly::default();
            let count = datagrams.len();
            for (at, datagram) in datagrams.iter().enumerate() {
                let message = Message::parse(datagram).unwrap();
                let protected = message.protected.unwrap();
                let progress = reassembly.add(&opener, 5, &protected).unwrap();
                if at + 1 < count {
                    assert_eq!(progress, Progress::Incomplete);
                    assert_eq!(reassembly.add(&opener, 5, &protected), Ok(Progress::Ignored));
                } else {
                    let Progress::Complete(opened) = progress else { panic!("{progress:?}") };
                    assert_eq!(opened.payloads().unwrap().as_slice(), payloads);
                    assert_eq!(reassembly.held(), 0);
                }
            }
        }
    }
}

#[test]
fn a_finer_split_restarts_and_a_coarser_one_is_ignored() {
    let (mut sealer, opener) = pair(suites()[0]);
    let payloads = [notify(4000)];
    let coarse = fragment::seal(&mut sealer, &header(), &payloads, 1500).unwrap();
    let fine = fragment::seal(&mut sealer, &header(), &payloads, 600).unwrap();
    let mut reassembly = Reassembly::default();
    let add = |datagram: &[u8], reassembly: &mut Reassembly| {
        let message = Message::parse(datagram).unwrap();
        reassembly.add(&opener, 5, &message.protected.unwrap())
    };
    assert_eq!(add(&coarse[0], &mut reassembly), Ok(Progress::Incomplete));
    assert_eq!(add(&fine[1], &mut reassembly), Ok(Progress::Incomplete));
    assert_eq!(add(&coarse[1], &mut reassembly), Ok(Progress::Ignored));
    // An altered fragment of the same message changes nothing.
    let mut altered = fine[0].clone();
    *altered.last_mut().unwrap() ^= 1;
    assert_eq!(add(&altered, &mut reassembly), Err(OpenError::NotAuthentic));
    let last = fine.len() - 1;
    for datagram in fine.iter().enumerate().filter(|(at, _)| *at != 1 && *at != last) {
        assert_eq!(add(datagram.1, &mut reassembly), Ok(Progress::Incomplete));
    }
    let Ok(Progress::Complete(opened)) = add(&fine[last], &mut reassembly) else { panic!() };
    assert_eq!(opened.payloads().unwrap().as_slice(), payloads);
}

#[test]
fn cve_2016_1287_fragment_counts_and_bytes_are_capped() {
    let (mut sealer, opener) = pair(suites()[0]);
    let mut reassembly = Reassembly::default();
    let part = alloc::vec![0u8; 1400];
    for total in [MAX_FRAGMENTS - 1, MAX_FRAGMENTS, MAX_FRAGMENTS + 1, u16::MAX] {
        let fragment = crate::wire::FragmentNumber { number: 2, total };
        let datagram =
            sealer.seal_inner(&header(), crate::wire::PayloadType::NONE, Some(fragment), &part);
        let datagram = datagram.unwrap();
        let message = Message::parse(&datagram).unwrap();
        let progress = reassembly.add(&opener, 5, &message.protected.unwrap());
        assert_eq!(progress.is_ok(), total <= MAX_FRAGMENTS, "{total}");
    }
    // Bytes: 64 fragments of 1400 octets exceed 64 KiB, and the one too many is refused.
    reassembly.clear();
    let mut refused = 0;
    for number in 1..=MAX_FRAGMENTS {
        let fragment = crate::wire::FragmentNumber { number, total: MAX_FRAGMENTS };
        let datagram = sealer
            .seal_inner(&header(), crate::wire::PayloadType::NOTIFY, Some(fragment), &part)
            .unwrap();
        let message = Message::parse(&datagram).unwrap();
        refused += usize::from(reassembly.add(&opener, 5, &message.protected.unwrap()).is_err());
        assert!(reassembly.held() <= fragment::MAX_REASSEMBLED_LEN);
    }
    assert!(refused > 0);
}

#[test]
fn fragments_of_a_newer_message_replace_the_older_one() {
    let (mut sealer, opener) = pair(suites()[0]);
    let fragments = fragment::seal(&mut sealer, &header(), &[notify(3000)], 1000).unwrap();
    let mut reassembly = Reassembly::default();
    for message_id in 5..50 {
        let message = Message::parse(&fragments[0]).unwrap();
        let protected = message.protected.unwrap();
        assert_eq!(reassembly.add(&opener, message_id, &protected), Ok(Progress::Incomplete));
        assert!(reassembly.held() < 1000);
    }
}

/// Whoever counts what unfinished messages hold looks once a message has come.
#[test]
fn a_message_that_comes_whole_ends_one_in_fragments() {
    let (mut sealer, opener) = pair(suites()[0]);
    let fragments = fragment::seal(&mut sealer, &header(), &[notify(3000)], 1000).unwrap();
    let whole = sealer.seal(&header(), &[notify(30)]).unwrap();
    let mut reassembly = Reassembly::default();
    let add = |datagram: &[u8], reassembly: &mut Reassembly| {
        let message = Message::parse(datagram).unwrap();
        reassembly.add(&opener, 5, &message.protected.unwrap())
    };
    assert_eq!(add(&fragments[0], &mut reassembly), Ok(Progress::Incomplete));
    let held = reassembly.held();
    assert!(held > 0);
    let mut forged = whole.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(add(&forged, &mut reassembly), Err(OpenError::NotAuthentic));
    assert_eq!(reassembly.held(), held, "who has no keys ends nothing");
    assert!(matches!(add(&whole, &mut reassembly), Ok(Progress::Complete(_))));
    assert_eq!(reassembly.held(), 0);
}

#[test]
fn shared_key_authentication_accepts_only_the_right_octets() {
    let suite =
        IkeSuite { suite: suites()[1], prf: PrfAlgorithm::HmacSha384, group: KeGroup::Ecp384 };
    let shared = SecretBytes::new(alloc::vec![3; 48]);
    let derive = || {
        Skeyseed::initial(suite.prf, &[1; 32], &[2; 32], &shared)
            .derive(suite, &[1; 32], &[2; 32], IkeSpi(1), IkeSpi(2))
            .unwrap()
    };
    let keys = derive();
    let psk = SecretBytes::from_slice(b"secret");
    let octets = SignedOctets { message: b"message", peer_nonce: &[2; 32], identity: b"id" };
    let auth = psk_auth(&psk, &keys.pi, &octets);
    assert!(verify_psk(&psk, &derive().pi, &octets, &auth).is_ok());
    let other_key = SecretBytes::from_slice(b"Secret");
    assert_eq!(verify_psk(&other_key, &keys.pi, &octets, &auth), Err(NotAuthenticated));
    assert_eq!(verify_psk(&psk, &keys.pr, &octets, &auth), Err(NotAuthenticated));
    for wrong in [
        SignedOctets { message: b"Message", ..octets },
        SignedOctets { peer_nonce: &[1; 32], ..octets },
        SignedOctets { identity: b"ie", ..octets },
    ] {
        assert_eq!(verify_psk(&psk, &keys.pi, &wrong, &auth), Err(NotAuthenticated));
    }
    let mut cut = auth.clone();
    cut.data.to_mut().pop();
    assert_eq!(verify_psk(&psk, &keys.pi, &octets, &cut), Err(NotAuthenticated));
    let mut method = auth.clone();
    method.method = crate::wire::AuthMethod::NULL;
    assert_eq!(verify_psk(&psk, &keys.pi, &octets, &method), Err(NotAuthenticated));
    assert_eq!(format!("{auth:?} {keys:?}").matches("SecretBytes(<").count(), 4);
}

/// strongSwan and libreswan: algorithms that were negotiated and could not be built.
#[test]
fn cve_2018_10811_what_can_be_chosen_can_be_built() {
    let mut random = Counter(3);
    let mut built = 0;
    for proposal in crate::negotiate::default_ike_proposals() {
        let macs: Vec<Option<IntegrityAlgorithm>> = if proposal.integrity.is_empty() {
            alloc::vec![None]
        } else {
            proposal.integrity.iter().copied().map(Some).collect()
        };
        for cipher in &proposal.ciphers {
            for mac in &macs {
                let suite = EspSuite::new(*cipher, *mac).unwrap();
                for prf in &proposal.prfs {
                    let suite = IkeSuite { suite, prf: *prf, group: KeGroup::Ecp256 };
                    let shared = SecretBytes::new(alloc::vec![1; 32]);
                    let keys = Skeyseed::initial(*prf, &[1; 16], &[2; 256], &shared)
                        .derive(suite, &[1; 16], &[2; 256], IkeSpi(1), IkeSpi(2))
                        .unwrap();
                    let engines = Engines::portable();
                    let sealer =
                        Sealer::new(&engines, suite.suite, &keys.initiator, 0, &mut random);
                    let opener = Opener::new(&engines, suite.suite, &keys.responder);
                    assert!(sealer.is_ok() && opener.is_ok(), "{suite}");
                    assert!(keys.d.child_keys(suite.suite, None, &[1; 16], &[2; 16]).is_ok());
                    built += 1;
                }
            }
        }
        for group in &proposal.groups {
            assert!(crypto::ke::generate(*group, &mut random).is_ok(), "{group}");
        }
    }
    assert_eq!(built, 3 * 3 + 2 * 3 * 3);
}
