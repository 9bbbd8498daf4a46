//! Whole IKE_SA_INIT and IKE_AUTH exchanges computed by `tests/data/generate_ike.py`, a program
//! that shares no code with Postern: the same keys, the same AUTH data, the same octets.
#![cfg(test)]

use std::collections::BTreeMap;

use crypto::{aead::Engines, random::RandomSource};
use ike::{
    config::IkeSuite,
    fragment::{Progress, Reassembly},
    keys::{IkeKeys, Opener, Sealer, SignedOctets, Skeyseed, psk_auth, verify_psk},
    negotiate::{Pfs, check_esp, check_ike, parse_esp, parse_ike},
    wire::{Message, Payload, encode_message},
};
use sa_store::{IkeSpi, KeyMaterial, SecretBytes};

type Vector = BTreeMap<String, Vec<u8>>;

fn vectors() -> BTreeMap<String, Vector> {
    let mut all: BTreeMap<String, Vector> = BTreeMap::new();
    for line in include_str!("data/ike_vectors.txt").lines() {
        let [suite, label, hex] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let octets = if hex == "-" {
            Vec::new()
        } else {
            (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect()
        };
        all.entry(suite.to_owned()).or_default().insert(label.to_owned(), octets);
    }
    assert_eq!(all.len(), 5);
    all
}

fn suite(name: &str) -> IkeSuite {
    let proposal = parse_ike(name).unwrap();
    let integrity = proposal.integrity.first().copied();
    IkeSuite {
        suite: sa_store::EspSuite::new(proposal.ciphers[0], integrity).unwrap(),
        prf: proposal.prfs[0],
        group: proposal.groups[0],
    }
}

fn secret(octets: &[u8]) -> SecretBytes {
    SecretBytes::from_slice(octets)
}

fn keys(name: &str, vector: &Vector) -> IkeKeys {
    let header = Message::parse(&vector["init_response"]).unwrap().header;
    let suite = suite(name);
    Skeyseed::initial(suite.prf, &vector["nonce_i"], &vector["nonce_r"], &secret(&vector["shared"]))
        .derive(suite, &vector["nonce_i"], &vector["nonce_r"], header.spi_i, header.spi_r)
        .unwrap()
}

fn joined(keys: &KeyMaterial) -> Vec<u8> {
    [keys.encryption.expose(), keys.integrity.expose()].concat()
}

#[test]
fn keys_are_those_of_the_vectors() {
    for (name, vector) in vectors() {
        let keys = keys(&name, &vector);
        assert_eq!(keys.initiator.encryption.expose(), vector["sk_ei"], "{name}");
        assert_eq!(keys.initiator.integrity.expose(), vector["sk_ai"], "{name}");
        assert_eq!(keys.responder.encryption.expose(), vector["sk_er"], "{name}");
        assert_eq!(keys.responder.integrity.expose(), vector["sk_ar"], "{name}");

        let suite = suite(&name);
        let child =
            keys.d.child_keys(suite.suite, None, &vector["nonce_i"], &vector["nonce_r"]).unwrap();
        let keymat = [joined(&child.initiator), joined(&child.responder)].concat();
        assert_eq!(keymat, vector["child_keymat"], "{name}");

        let shared = secret(&vector["rekey_shared"]);
        let (ni, nr) = (&vector["rekey_nonce_i"], &vector["rekey_nonce_r"]);
        let child = keys.d.child_keys(suite.suite, Some(&shared), ni, nr).unwrap();
        let keymat = [joined(&child.initiator), joined(&child.responder)].concat();
        assert_eq!(keymat, vector["child_keymat_pfs"], "{name}");

        let spi = |label: &str| IkeSpi(u64::from_be_bytes(vector[label][..].try_into().unwrap()));
        let rekeyed = Skeyseed::rekey(&keys.d, &shared, ni, nr)
            .derive(suite, ni, nr, spi("rekey_spi_i"), spi("rekey_spi_r"))
            .unwrap();
        assert_eq!(rekeyed.initiator.encryption.expose(), vector["rekey_sk_ei"], "{name}");
        assert_eq!(rekeyed.responder.integrity.expose(), vector["rekey_sk_ar"], "{name}");
        assert_eq!(rekeyed.responder.encryption.expose(), vector["rekey_sk_er"], "{name}");
    }
}

#[test]
fn clear_messages_are_read_and_written_alike() {
    for (name, vector) in vectors() {
        for label in ["init_request", "init_response"] {
            let datagram = &vector[label];
            let message = Message::parse(datagram).unwrap();
            assert_eq!(message.header.response, label == "init_response");
            assert_eq!(&message.clear.require_nonce().unwrap().0[..], {
                let nonce = if message.header.response { "nonce_r" } else { "nonce_i" };
                &vector[nonce][..]
            });
            assert_eq!(
                encode_message(&message.header, message.clear.as_slice()).as_ref(),
                Ok(datagram),
                "{name} {label}"
            );
            let proposal = [parse_ike(&name).unwrap()];
            let choice = check_ike(&proposal, message.clear.require_sa().unwrap(), false).unwrap();
            assert_eq!(choice.suite, suite(&name));
        }
    }
}

#[test]
fn auth_messages_open_and_authenticate() {
    let engines = Engines::portable();
    for (name, vector) in vectors() {
        let keys = keys(&name, &vector);
        let suite = suite(&name);
        let psk = secret(&vector["psk"]);
        let esp = if suite.suite.cipher().is_aead() {
            format!("{}-esn", suite.suite.cipher())
        } else {
            format!("{}-esn", suite.suite)
        };
        for (label, direction, sk_p, init, nonce) in [
            ("auth_request", &keys.initiator, &keys.pi, "init_request", "nonce_r"),
            ("auth_response", &keys.responder, &keys.pr, "init_response", "nonce_i"),
        ] {
            let message = Message::parse(&vector[label]).unwrap();
            let opener = Opener::new(&engines, suite.suite, direction).unwrap();
            let opened = opener.open(&message.protected.unwrap()).unwrap();
            let payloads = opened.payloads().unwrap();
            let identity = payloads.id_i().or(payloads.id_r()).unwrap();
            let octets = SignedOctets {
                message: &vector[init],
                peer_nonce: &vector[nonce],
                identity: &identity.rest_of_payload(),
            };
            assert!(
                verify_psk(&psk, sk_p, &octets, payloads.require_auth().unwrap()).is_ok(),
                "{name} {label}"
            );
            assert_eq!(&psk_auth(&psk, sk_p, &octets), payloads.require_auth().unwrap());
            let choice =
                check_esp(&[parse_esp(&esp).unwrap()], payloads.require_sa().unwrap(), Pfs::No);
            assert_eq!(choice.unwrap().transform.suite, suite.suite);
            assert_eq!(payloads.require_ts_r().unwrap().selectors[0].to_string(), "10.2.0.0/16");
        }
    }
}

struct NoRandomness;

impl RandomSource for NoRandomness {
    fn fill(&mut self, _: &mut [u8]) {
        panic!("an AEAD needs no randomness");
    }
}

#[test]
fn aead_messages_are_sealed_octet_for_octet() {
    let engines = Engines::portable();
    let mut sealed = 0;
    for (name, vector) in vectors() {
        let suite = suite(&name);
        if !suite.suite.cipher().is_aead() {
            continue;
        }
        let keys = keys(&name, &vector);
        let message = Message::parse(&vector["auth_request"]).unwrap();
        let opener = Opener::new(&engines, suite.suite, &keys.initiator).unwrap();
        let opened = opener.open(&message.protected.unwrap()).unwrap();
        let payloads = opened.payloads().unwrap();
        let mut sealer =
            Sealer::new(&engines, suite.suite, &keys.initiator, 0, &mut NoRandomness).unwrap();
        let again = sealer.seal(&message.header, payloads.as_slice()).unwrap();
        assert_eq!(again, vector["auth_request"], "{name}");
        sealed += 1;
    }
    assert_eq!(sealed, 3);
}

#[test]
fn fragments_of_another_implementation_come_together() {
    let engines = Engines::portable();
    for (name, vector) in vectors() {
        let keys = keys(&name, &vector);
        let opener = Opener::new(&engines, suite(&name).suite, &keys.initiator).unwrap();
        let mut reassembly = Reassembly::default();
        let mut last = Progress::Incomplete;
        for label in ["fragment_3", "fragment_1", "fragment_2"] {
            let message = Message::parse(&vector[label]).unwrap();
            assert_eq!(last, Progress::Incomplete);
            last = reassembly
                .add(&opener, message.header.message_id, &message.protected.unwrap())
                .unwrap();
        }
        let Progress::Complete(opened) = last else { panic!("{name}: {last:?}") };
        let payloads = opened.payloads().unwrap();
        assert!(matches!(payloads.as_slice(), [Payload::VendorId(octets)] if octets.len() == 700));
    }
}
