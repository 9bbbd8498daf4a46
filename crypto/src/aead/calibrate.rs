//! Choosing engines by what this CPU does best.

use core::fmt;

use sa_store::{EspCipher, EspSuite, KeyMaterial, SecretBytes};

use super::{Engine, SealJob, Suffix, SuiteKey, seal_burst};

/// Packet sizes measured: small, middle, full.
const SIZES: [usize; 3] = [64, 512, 1420];
/// Jobs in a burst.
const BURST: usize = 16;
/// Bursts in a round; the fastest round counts, as others only add noise.
const BURSTS: usize = 8;
/// Rounds, engines taking turns in each.
const ROUNDS: usize = 9;

/// What one engine took for one suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// The engine's name.
    pub engine: &'static str,
    /// Nanoseconds for a packet of 64, 512 and 1420 octets.
    pub nanos: [u64; 3],
}

/// The engine a suite got, and why.
#[derive(Clone)]
pub struct Choice {
    suite: EspSuite,
    engine: &'static dyn Engine,
    measurements: Vec<Measurement>,
}

impl Choice {
    /// The suite.
    #[must_use]
    pub const fn suite(&self) -> EspSuite {
        self.suite
    }

    /// The engine it got.
    #[must_use]
    pub fn engine(&self) -> &'static dyn Engine {
        self.engine
    }

    /// What was measured.
    #[must_use]
    pub fn measurements(&self) -> &[Measurement] {
        &self.measurements
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.suite, self.engine.name())
    }
}

/// Measures the AEAD suites on every engine that does them; suites only one engine does need no
/// choice.
pub(super) fn choose(
    engines: &[&'static dyn Engine],
    clock: &mut dyn FnMut() -> u64,
) -> Vec<Choice> {
    let ciphers = [EspCipher::AesGcm16(128), EspCipher::AesGcm16(256), EspCipher::ChaCha20Poly1305];
    ciphers
        .into_iter()
        .filter_map(|cipher| EspSuite::new(cipher, None))
        .filter_map(|suite| choose_one(suite, engines, clock))
        .collect()
}

fn choose_one(
    suite: EspSuite,
    engines: &[&'static dyn Engine],
    clock: &mut dyn FnMut() -> u64,
) -> Option<Choice> {
    let cipher = suite.cipher();
    // The value does not matter: nothing that is sealed with it leaves this function.
    let keys = KeyMaterial {
        encryption: SecretBytes::new(vec![0x42; cipher.key_len() + cipher.salt_len()]),
        integrity: SecretBytes::default(),
    };
    let keys: Vec<_> = engines
        .iter()
        .filter_map(|engine| SuiteKey::new(*engine, suite, &keys).ok().map(|key| (*engine, key)))
        .collect();
    let mut best = vec![[u64::MAX; SIZES.len()]; keys.len()];
    for _ in 0..ROUNDS {
        for ((_, key), best) in keys.iter().zip(&mut best) {
            for (size, best) in SIZES.into_iter().zip(best) {
                *best = (*best).min(measure(key, size, clock));
            }
        }
    }
    let measurements = keys
        .iter()
        .zip(&best)
        .map(|((engine, _), nanos)| Measurement { engine: engine.name(), nanos: *nanos })
        .collect();
    let engine = keys
        .iter()
        .zip(&best)
        .min_by_key(|(_, nanos)| nanos.iter().fold(0_u64, |sum, n| sum.saturating_add(*n)))
        .map(|((engine, _), _)| *engine)?;
    Some(Choice { suite, engine, measurements })
}

/// Nanoseconds a packet.
fn measure(key: &SuiteKey, size: usize, clock: &mut dyn FnMut() -> u64) -> u64 {
    let record = key.iv_len() + size + key.icv_len();
    let mut buffer = vec![0; record * BURST];
    let start = clock();
    for _ in 0..BURSTS {
        let mut records = buffer.chunks_exact_mut(record);
        let mut jobs: [SealJob<'_>; BURST] = core::array::from_fn(|_| match records.next() {
            Some(record) => SealJob::new(key, [0; 8], Suffix::NONE, record),
            None => SealJob::vacant(),
        });
        seal_burst(&mut jobs);
    }
    clock().saturating_sub(start) / (BURST * BURSTS) as u64
}
