//! The AEAD engines: published vectors, each other, bursts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod agreement;
mod bursts;
mod vectors;
mod wycheproof;

use crypto::aead::{AwsLc, Engine, Ring, RustCrypto, SuiteKey};
use sa_store::{EspCipher, EspSuite, IntegrityAlgorithm, KeyMaterial, SecretBytes};

/// Every engine there is.
fn engines() -> [&'static dyn Engine; 3] {
    [AwsLc::engine(), Ring::engine(), RustCrypto::engine()]
}

/// Every suite there is.
fn suites() -> Vec<EspSuite> {
    let aead = [EspCipher::AesGcm16(128), EspCipher::AesGcm16(256), EspCipher::ChaCha20Poly1305];
    let macs = [
        IntegrityAlgorithm::HmacSha256_128,
        IntegrityAlgorithm::HmacSha384_192,
        IntegrityAlgorithm::HmacSha512_256,
    ];
    let mut suites: Vec<_> =
        aead.into_iter().map(|cipher| EspSuite::new(cipher, None).unwrap()).collect();
    for bits in [128, 192, 256] {
        for mac in macs {
            suites.push(EspSuite::new(EspCipher::AesCbc(bits), Some(mac)).unwrap());
        }
    }
    suites
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap()).collect();
    assert!(digits.len().is_multiple_of(2), "{text}");
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// A key of `engine`, or `None` if it does not do the suite.
fn key(
    engine: &'static dyn Engine,
    suite: EspSuite,
    encryption: &[u8],
    integrity: &[u8],
) -> Option<SuiteKey> {
    let keys = KeyMaterial {
        encryption: SecretBytes::from_slice(encryption),
        integrity: SecretBytes::from_slice(integrity),
    };
    engine.supports(suite).then(|| SuiteKey::new(engine, suite, &keys).unwrap())
}

/// Some key of the suite, the same for the same `seed`.
fn some_key(engine: &'static dyn Engine, suite: EspSuite, seed: u8) -> Option<SuiteKey> {
    let octets: Vec<u8> =
        (0..=255).cycle().take(suite.keymat_len()).map(|n: u8| n.wrapping_mul(13) ^ seed).collect();
    let (encryption, integrity) =
        octets.split_at(suite.cipher().key_len() + suite.cipher().salt_len());
    key(engine, suite, encryption, integrity)
}
