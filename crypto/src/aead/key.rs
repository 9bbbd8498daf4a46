//! Engines and the keys they make.

use core::{any::Any, fmt};
use std::sync::Arc;

use sa_store::{EspSuite, KeyMaterial, SecretBytes};

use super::{
    AeadError, KeyId, NonceAudit, OpenJob, Progress, SealJob, Suffix, audit, open_burst, seal_burst,
};

/// Why a key could not be made. Neither can come from the wire: KEYMAT has the suite's lengths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// The engine does not do this suite.
    Unsupported,
    /// The key material does not have the suite's length.
    Length,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "no engine does this suite",
            Self::Length => "the key material does not have the suite's length",
        })
    }
}

impl core::error::Error for KeyError {}

/// A cryptographic library, or a device, that does bursts of jobs.
///
/// Object-safe. A synchronous engine implements [`Engine::name`], [`Engine::supports`] and
/// [`Engine::make_key`] and keeps the defaults, which do one job after the other through
/// [`EngineKey`]; one that works on many packets at once overrides [`Engine::seal`] and
/// [`Engine::open`] and may finish in the `poll` methods.
pub trait Engine: Send + Sync {
    /// As operators and benchmarks see it.
    fn name(&self) -> &'static str;

    /// Distinguishes engines: jobs of keys with one id go to the engine in one run.
    fn id(&self) -> usize {
        self.name().as_ptr() as usize
    }

    /// Whether the engine does this suite.
    fn supports(&self, suite: EspSuite) -> bool;

    /// Expands a key without its salt. The result wipes itself when dropped.
    ///
    /// # Errors
    /// When the suite is not supported or a length is wrong.
    fn make_key(
        &self,
        suite: EspSuite,
        encryption: &[u8],
        integrity: &[u8],
    ) -> Result<Box<dyn EngineKey>, KeyError>;

    /// Seals a run of jobs, all of whose keys this engine made.
    fn seal(&self, jobs: &mut [SealJob<'_>]) -> Progress {
        for job in jobs {
            let outcome = job.key().ok_or(AeadError).and_then(|key| key.key.seal(key.salt, job));
            job.set_state(outcome.into());
        }
        Progress::Complete
    }

    /// Goes on with jobs that [`Engine::seal`] left pending.
    fn poll_seal(&self, _jobs: &mut [SealJob<'_>]) -> Progress {
        Progress::Complete
    }

    /// Opens a run of jobs, all of whose keys this engine made.
    fn open(&self, jobs: &mut [OpenJob<'_>]) -> Progress {
        for job in jobs {
            let outcome = job.key().ok_or(AeadError).and_then(|key| key.key.open(key.salt, job));
            job.set_state(outcome.into());
        }
        Progress::Complete
    }

    /// Goes on with jobs that [`Engine::open`] left pending.
    fn poll_open(&self, _jobs: &mut [OpenJob<'_>]) -> Progress {
        Progress::Complete
    }
}

/// An expanded key inside an engine.
pub trait EngineKey: Any + Send + Sync {
    /// Seals one packet. `salt` is zero for suites without one.
    ///
    /// # Errors
    /// When the record is too short, or (CBC) no multiple of the block length.
    fn seal(&self, salt: [u8; 4], job: &mut SealJob<'_>) -> Result<(), AeadError>;

    /// Opens one packet.
    ///
    /// # Errors
    /// For everything that is not authentic, without a reason.
    fn open(&self, salt: [u8; 4], job: &mut OpenJob<'_>) -> Result<(), AeadError>;
}

/// The key of one SA (one direction), expanded by the engine that was chosen for its suite.
/// Wiped on drop, never printed.
pub struct SuiteKey {
    suite: EspSuite,
    engine: &'static dyn Engine,
    key: Box<dyn EngineKey>,
    salt: [u8; 4],
    audit: Option<(KeyId, Arc<dyn NonceAudit>)>,
}

impl SuiteKey {
    /// Expands key material (with the salt at the end of the encryption key, as KEYMAT gives it).
    ///
    /// # Errors
    /// When the engine does not do the suite or a length is wrong.
    pub fn new(
        engine: &'static dyn Engine,
        suite: EspSuite,
        keys: &KeyMaterial,
    ) -> Result<Self, KeyError> {
        if !engine.supports(suite) {
            return Err(KeyError::Unsupported);
        }
        let integrity_len = suite.integrity().map_or(0, sa_store::IntegrityAlgorithm::key_len);
        let (encryption, salt) = keys
            .encryption
            .expose()
            .split_at_checked(suite.cipher().key_len())
            .ok_or(KeyError::Length)?;
        if salt.len() != suite.cipher().salt_len() || keys.integrity.len() != integrity_len {
            return Err(KeyError::Length);
        }
        let key = engine.make_key(suite, encryption, keys.integrity.expose())?;
        let salt = salt.try_into().unwrap_or_default();
        Ok(Self { suite, engine, key, salt, audit: None })
    }

    /// Tells `auditor` every nonce that is used with this key from now on.
    #[must_use]
    pub fn with_audit(mut self, keys: &KeyMaterial, auditor: Arc<dyn NonceAudit>) -> Self {
        self.audit = Some((audit::key_id(self.suite, keys), auditor));
        self
    }

    /// The suite.
    #[must_use]
    pub const fn suite(&self) -> EspSuite {
        self.suite
    }

    /// The engine that made the key and does its work.
    #[must_use]
    pub fn engine(&self) -> &'static dyn Engine {
        self.engine
    }

    /// Octets of the IV at the front of a record.
    #[must_use]
    pub const fn iv_len(&self) -> usize {
        self.suite.cipher().iv_len()
    }

    /// Octets of the ICV at the end of a record.
    #[must_use]
    pub const fn icv_len(&self) -> usize {
        self.suite.icv_len()
    }

    /// Seals one record in place; `record` is IV, plaintext and room for the ICV. What IKE's SK
    /// payload needs: there `aad` is the message up to and with the payload's generic header
    /// (for a CBC suite too: its MAC covers it, RFC 7296 §3.14; for an AEAD, RFC 5282 §5.1).
    ///
    /// # Errors
    /// When the record is too short, or (CBC) the plaintext no multiple of 16 octets.
    pub fn seal(&self, aad: &[u8], record: &mut [u8]) -> Result<(), AeadError> {
        let mut job = [SealJob::new(self, aad, Suffix::NONE, record)];
        seal_burst(&mut job);
        job[0].state().result()
    }

    /// Opens one record in place; gives the plaintext.
    ///
    /// # Errors
    /// For everything that is not authentic, without a reason.
    pub fn open<'r>(&self, aad: &[u8], record: &'r mut [u8]) -> Result<&'r mut [u8], AeadError> {
        let mut job = [OpenJob::new(self, aad, Suffix::NONE, &mut *record)];
        open_burst(&mut job);
        job[0].state().result()?;
        let end = record.len().checked_sub(self.icv_len()).ok_or(AeadError)?;
        record.get_mut(self.iv_len()..end).ok_or(AeadError)
    }

    /// Tells the auditor, if there is one, the nonce at the front of `record`.
    #[inline]
    pub(super) fn audit(&self, record: &[u8]) {
        if let Some((id, auditor)) = &self.audit
            && let Some(iv) = record.get(..self.iv_len())
        {
            auditor.sealed(id, iv);
        }
    }
}

impl fmt::Debug for SuiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SuiteKey({} on {})", self.suite, self.engine.name())
    }
}

impl Drop for SuiteKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.salt);
    }
}

/// Splits KEYMAT octets of one direction into encryption key (with salt) and integrity key
/// (RFC 7296 §2.17 order); `None` if there are not exactly as many as the suite takes.
#[must_use]
pub fn split_keymat(suite: EspSuite, keymat: &[u8]) -> Option<KeyMaterial> {
    if keymat.len() != suite.keymat_len() {
        return None;
    }
    let cipher = suite.cipher();
    let (encryption, integrity) = keymat.split_at_checked(cipher.key_len() + cipher.salt_len())?;
    Some(KeyMaterial {
        encryption: SecretBytes::from_slice(encryption),
        integrity: SecretBytes::from_slice(integrity),
    })
}
