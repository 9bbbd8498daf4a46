//! What protects packets: AES-GCM, ChaCha20-Poly1305, and AES-CBC with HMAC (encrypt-then-MAC),
//! for ESP and for IKE's SK payload alike.
//!
//! Both put the same thing on the wire, here called a *record*:
//!
//! ```text
//!    aad ...  | IV | ciphertext ................. | ICV |  suffix
//!             '------------- record --------------'
//! ```
//!
//! An AEAD authenticates `aad` and uses salt and IV as its nonce. A CBC suite computes its MAC
//! over aad, IV, ciphertext and suffix (the high half of an extended sequence number, which is
//! not sent). The caller writes the IV and, when sealing, the plaintext where the ciphertext
//! goes, or names a source for it.
//!
//! Work comes in bursts of jobs that may belong to many SAs ([`seal_burst`], [`open_burst`]);
//! an [`Engine`] does a run of jobs whose keys it made. A job carries its own outcome, so an
//! engine in hardware can answer [`Progress::Pending`] and finish in [`Engine::poll_seal`].
//!
//! ```
//! use crypto::aead::{Engines, split_keymat};
//! use sa_store::{EspCipher, EspSuite};
//!
//! let suite = EspSuite::new(EspCipher::AesGcm16(128), None).unwrap();
//! let keys = split_keymat(suite, &[7; 20]).unwrap(); // 16 of key, 4 of salt
//! let key = Engines::portable().key(suite, &keys).unwrap();
//! let mut record = [&[0, 0, 0, 0, 0, 0, 0, 1][..], b"plaintext", &[0; 16]].concat();
//! key.seal(b"aad", &mut record).unwrap();
//! assert_eq!(key.open(b"aad", &mut record).unwrap(), b"plaintext");
//! ```
//!
//! Failures do not say why: [`AeadError`] is the same for a wrong ICV, a short record and a bad
//! length, and MACs are compared in constant time.

mod audit;
mod aws_lc;
mod calibrate;
mod cbc_hmac;
mod engines;
mod iv;
mod job;
mod key;
mod ring;
mod rust_crypto;

pub use self::ring::Ring;
pub use audit::{KeyId, NonceAudit};
pub use aws_lc::AwsLc;
pub use calibrate::{Choice, Measurement};
pub use engines::Engines;
pub use iv::IvGenerator;
pub use job::{
    JobAad, JobParts, JobState, OpenJob, Progress, Record, SealJob, Suffix, open_burst, seal_burst,
};
pub use key::{Engine, EngineKey, KeyError, SuiteKey, split_keymat};
pub use rust_crypto::RustCrypto;

use core::fmt;

/// The one failure: nothing about the cause may be learned from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AeadError;

impl fmt::Display for AeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the packet is not authentic")
    }
}

impl core::error::Error for AeadError {}
