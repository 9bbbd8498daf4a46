//! Engines agree with each other, and every octet counts.

use crypto::aead::{AwsLc, OpenJob, SealJob, Suffix, SuiteKey, open_burst, seal_burst};
use proptest::prelude::*;
use sa_store::{EspCipher, EspSuite};

use super::{engines, some_key, suites};

/// A record with its IV and text.
fn record(key: &SuiteKey, iv_seed: u8, text: &[u8]) -> Vec<u8> {
    let mut record = vec![iv_seed; key.iv_len()];
    record.extend_from_slice(text);
    record.resize(record.len() + key.icv_len(), 0);
    record
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// aes-gcm is the oracle for AES-GCM; for ChaCha20-Poly1305 two engines judge each other.
    #[test]
    fn engines_seal_alike_and_open_each_other(
        cipher in prop_oneof![
            Just(EspCipher::AesGcm16(128)),
            Just(EspCipher::AesGcm16(256)),
            Just(EspCipher::ChaCha20Poly1305),
        ],
        seed: u8,
        iv: u8,
        aad in prop::collection::vec(any::<u8>(), 0..40),
        text in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let suite = EspSuite::new(cipher, None).unwrap();
        let keys: Vec<_> =
            engines().into_iter().filter_map(|engine| some_key(engine, suite, seed)).collect();
        prop_assert!(keys.len() >= 2);
        let mut sealed: Option<Vec<u8>> = None;
        for key in &keys {
            let mut record = record(key, iv, &text);
            key.seal(&aad, &mut record).unwrap();
            match &sealed {
                None => sealed = Some(record),
                Some(first) => prop_assert_eq!(first, &record, "{:?}", key),
            }
        }
        for key in &keys {
            let mut record = sealed.clone().unwrap();
            prop_assert_eq!(key.open(&aad, &mut record).unwrap(), &text[..]);
        }
    }

    /// A flipped bit anywhere in AAD, suffix, IV, ciphertext or ICV is refused, on every suite
    /// and engine, with the one error there is.
    #[test]
    fn a_flipped_bit_is_refused(
        which in any::<prop::sample::Index>(),
        engine in any::<prop::sample::Index>(),
        blocks in 0_usize..8,
        at in any::<prop::sample::Index>(),
        bit in 0_u32..8,
    ) {
        let suite = *which.get(&suites());
        let engine = *engine.get(&engines());
        let Some(key) = some_key(engine, suite, 5) else { return Ok(()) };
        let aead = suite.cipher().is_aead();
        let (mut aad, mut high) = (*b"spi-seq-", 7_u32.to_be_bytes());
        let suffix = |high| if aead { Suffix::NONE } else { Suffix::esn_high(u32::from_be_bytes(high)) };
        let mut record = record(&key, 1, &vec![3; blocks * 16]);
        let mut jobs = [SealJob::new(&key, aad, suffix(high), &mut record)];
        seal_burst(&mut jobs);
        prop_assert!(jobs[0].state().result().is_ok());

        let covered = aad.len() + if aead { 0 } else { high.len() } + record.len();
        let at = at.index(covered);
        let flip = 1_u8 << bit;
        let octet = aad.iter_mut().chain(&mut record).chain(&mut high).nth(at).unwrap();
        *octet ^= flip;
        let mut jobs = [OpenJob::new(&key, aad, suffix(high), &mut record)];
        open_burst(&mut jobs);
        prop_assert!(jobs[0].state().result().is_err(), "{:?} octet {}", key, at);
    }

    /// With a source the record is the same as without, and the source stays as it was.
    #[test]
    fn sealing_from_a_source_gives_the_same_record(
        which in any::<prop::sample::Index>(),
        blocks in 1_usize..20,
        split in any::<prop::sample::Index>(),
    ) {
        let suite = *which.get(&suites());
        for engine in engines() {
            let Some(key) = some_key(engine, suite, 9) else { continue };
            let text: Vec<u8> = (0..=255).cycle().take(blocks * 16).collect();
            let mut plain = record(&key, 4, &text);
            key.seal(b"aad", &mut plain).unwrap();

            let split = split.index(text.len() + 1);
            let mut from_source = record(&key, 4, &text);
            from_source[key.iv_len()..key.iv_len() + split].fill(0xee);
            let mut jobs = [SealJob::new(&key, &b"aad"[..], Suffix::NONE, &mut from_source)
                .with_source(&text[..split])];
            seal_burst(&mut jobs);
            prop_assert!(jobs[0].state().result().is_ok());
            prop_assert_eq!(plain, from_source);
        }
    }
}

#[test]
fn records_that_are_too_short_are_refused_like_forgeries() {
    for suite in suites() {
        for engine in engines() {
            let Some(key) = some_key(engine, suite, 1) else { continue };
            let shortest = key.iv_len() + key.icv_len();
            for len in 0..shortest + 40 {
                let mut octets = vec![0x5a; len];
                assert!(key.open(b"", &mut octets).is_err(), "{suite} {len}");
                let whole_blocks = suite.cipher().is_aead()
                    || len.checked_sub(shortest).is_some_and(|text| text % 16 == 0);
                assert_eq!(
                    key.seal(b"", &mut octets).is_ok(),
                    len >= shortest && whole_blocks,
                    "{suite} {len}"
                );
            }
            // A source longer than the room for text.
            let mut octets = vec![0; shortest + 16];
            let mut jobs =
                [SealJob::new(&key, &b""[..], Suffix::NONE, &mut octets).with_source(&[0; 17])];
            seal_burst(&mut jobs);
            assert!(jobs[0].state().result().is_err());
        }
    }
}

#[test]
fn keys_of_a_wrong_length_are_refused() {
    use crypto::aead::KeyError;
    use sa_store::{KeyMaterial, SecretBytes};
    for suite in suites() {
        let encryption = suite.cipher().key_len() + suite.cipher().salt_len();
        let integrity = suite.keymat_len() - encryption;
        let make = |encryption: usize, integrity: usize| {
            let keys = KeyMaterial {
                encryption: SecretBytes::new(vec![1; encryption]),
                integrity: SecretBytes::new(vec![1; integrity]),
            };
            SuiteKey::new(AwsLc::engine(), suite, &keys).map(|_| ())
        };
        assert_eq!(make(encryption, integrity), Ok(()), "{suite}");
        for (e, i) in [
            (encryption - 1, integrity),
            (encryption + 1, integrity),
            (0, integrity),
            (encryption, integrity + 1),
        ] {
            assert_eq!(make(e, i), Err(KeyError::Length), "{suite} {e} {i}");
        }
    }
}
