//! Jobs: one packet each, in bursts.

use super::{AeadError, SuiteKey};

/// How far an engine has got with a run of jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// Every job has its outcome.
    Complete,
    /// Some jobs are still [`JobState::Pending`]: poll the engine with the same jobs.
    Pending,
}

/// The outcome of one job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobState {
    /// Not done yet.
    Pending,
    /// Done, as asked.
    Done,
    /// Failed; the buffer's content is undefined.
    Failed,
}

impl JobState {
    /// `Ok` only if done.
    ///
    /// # Errors
    /// When the job failed or has not been done.
    pub const fn result(self) -> Result<(), AeadError> {
        match self {
            Self::Done => Ok(()),
            Self::Pending | Self::Failed => Err(AeadError),
        }
    }
}

impl From<Result<(), AeadError>> for JobState {
    fn from(result: Result<(), AeadError>) -> Self {
        if result.is_ok() { Self::Done } else { Self::Failed }
    }
}

/// What a CBC suite authenticates behind the ciphertext without sending it: the high half of an
/// extended sequence number, or nothing. AEADs ignore it (the high half is part of their AAD).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Suffix(Option<[u8; 4]>);

impl Suffix {
    /// Nothing: IKE, and ESP without extended sequence numbers.
    pub const NONE: Self = Self(None);

    /// The high half of an extended sequence number (RFC 4303 §2.2.1).
    #[must_use]
    pub const fn esn_high(high: u32) -> Self {
        Self(Some(high.to_be_bytes()))
    }

    /// The octets.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Some(high) => high,
            None => &[],
        }
    }
}

/// Additional authenticated data: short ones travel inside the job.
#[derive(Clone, Copy, Debug)]
enum Aad<'a> {
    Inline([u8; 12], u8),
    Slice(&'a [u8]),
}

impl Aad<'_> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes, len) => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Self::Slice(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Aad<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        let mut inline = [0; 12];
        match (inline.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(bytes);
                Self::Inline(inline, len)
            }
            _ => Self::Slice(bytes),
        }
    }
}

/// What an engine works on.
#[derive(Debug)]
pub struct JobParts<'j> {
    /// Authenticated in front of the record.
    pub aad: &'j [u8],
    /// Authenticated behind the ciphertext (CBC suites only).
    pub suffix: &'j [u8],
    /// The plaintext's first octets, if they do not stand in the record yet.
    pub source: Option<&'j [u8]>,
    /// IV, text and ICV.
    pub record: &'j mut [u8],
}

impl<'j> JobParts<'j> {
    /// Brings the plaintext into place and takes the record apart.
    ///
    /// # Errors
    /// When the record is too short.
    pub fn split(self, iv_len: usize, icv_len: usize) -> Result<Record<'j>, AeadError> {
        let (iv, rest) = self.record.split_at_mut_checked(iv_len).ok_or(AeadError)?;
        let text_len = rest.len().checked_sub(icv_len).ok_or(AeadError)?;
        let (text, icv) = rest.split_at_mut_checked(text_len).ok_or(AeadError)?;
        if let Some(source) = self.source {
            text.get_mut(..source.len()).ok_or(AeadError)?.copy_from_slice(source);
        }
        Ok(Record { aad: self.aad, suffix: self.suffix, iv, text, icv })
    }
}

/// A record taken apart.
#[derive(Debug)]
pub struct Record<'j> {
    /// Authenticated in front of the record.
    pub aad: &'j [u8],
    /// Authenticated behind the ciphertext (CBC suites only).
    pub suffix: &'j [u8],
    /// The explicit IV.
    pub iv: &'j [u8],
    /// Plaintext or ciphertext.
    pub text: &'j mut [u8],
    /// The ICV.
    pub icv: &'j mut [u8],
}

/// One packet to seal.
#[derive(Debug)]
pub struct SealJob<'a> {
    key: Option<&'a SuiteKey>,
    aad: Aad<'a>,
    suffix: Suffix,
    source: Option<&'a [u8]>,
    record: &'a mut [u8],
    state: JobState,
}

impl<'a> SealJob<'a> {
    /// A job whose plaintext stands in `record` already, between IV and ICV. Up to 12 octets of
    /// `aad` are copied into the job.
    #[must_use]
    pub fn new<'b: 'a>(
        key: &'a SuiteKey,
        aad: impl Into<JobAad<'b>>,
        suffix: Suffix,
        record: &'a mut [u8],
    ) -> Self {
        let aad = aad.into().0;
        Self { key: Some(key), aad, suffix, source: None, record, state: JobState::Pending }
    }

    /// Takes the plaintext's first octets from `source`, which keeps them; what lies behind them
    /// (an ESP trailer) stands in `record` already.
    #[must_use]
    pub const fn with_source(mut self, source: &'a [u8]) -> Self {
        self.source = Some(source);
        self
    }

    /// A place in an array that no packet uses; sealing it fails.
    #[must_use]
    pub const fn vacant() -> Self {
        Self {
            key: None,
            aad: Aad::Inline([0; 12], 0),
            suffix: Suffix::NONE,
            source: None,
            record: &mut [],
            state: JobState::Pending,
        }
    }

    /// The key; `None` for a vacant place.
    #[must_use]
    pub const fn key(&self) -> Option<&'a SuiteKey> {
        self.key
    }

    /// What is authenticated in front of the record.
    #[must_use]
    pub fn aad(&self) -> &[u8] {
        self.aad.as_bytes()
    }

    /// What an engine works on.
    pub fn parts(&mut self) -> JobParts<'_> {
        JobParts {
            aad: self.aad.as_bytes(),
            suffix: self.suffix.as_bytes(),
            source: self.source,
            record: self.record,
        }
    }

    /// The outcome.
    #[must_use]
    pub const fn state(&self) -> JobState {
        self.state
    }

    /// Called by the engine.
    pub const fn set_state(&mut self, state: JobState) {
        self.state = state;
    }
}

/// One packet to open, in place.
#[derive(Debug)]
pub struct OpenJob<'a> {
    key: Option<&'a SuiteKey>,
    aad: Aad<'a>,
    suffix: Suffix,
    record: &'a mut [u8],
    state: JobState,
}

impl<'a> OpenJob<'a> {
    /// When done, the plaintext stands in `record` between IV and ICV. Up to 12 octets of `aad`
    /// are copied into the job.
    #[must_use]
    pub fn new<'b: 'a>(
        key: &'a SuiteKey,
        aad: impl Into<JobAad<'b>>,
        suffix: Suffix,
        record: &'a mut [u8],
    ) -> Self {
        Self { key: Some(key), aad: aad.into().0, suffix, record, state: JobState::Pending }
    }

    /// A place in an array that no packet uses; opening it fails.
    #[must_use]
    pub const fn vacant() -> Self {
        Self {
            key: None,
            aad: Aad::Inline([0; 12], 0),
            suffix: Suffix::NONE,
            record: &mut [],
            state: JobState::Pending,
        }
    }

    /// The key; `None` for a vacant place.
    #[must_use]
    pub const fn key(&self) -> Option<&'a SuiteKey> {
        self.key
    }

    /// What an engine works on.
    pub fn parts(&mut self) -> JobParts<'_> {
        JobParts {
            aad: self.aad.as_bytes(),
            suffix: self.suffix.as_bytes(),
            source: None,
            record: self.record,
        }
    }

    /// The outcome.
    #[must_use]
    pub const fn state(&self) -> JobState {
        self.state
    }

    /// Called by the engine.
    pub const fn set_state(&mut self, state: JobState) {
        self.state = state;
    }
}

/// Additional authenticated data on its way into a job: a slice that outlives the job, or up
/// to 12 octets that are copied.
#[derive(Debug)]
pub struct JobAad<'a>(Aad<'a>);

impl<'a> From<&'a [u8]> for JobAad<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<[u8; 8]> for JobAad<'_> {
    fn from(bytes: [u8; 8]) -> Self {
        let mut inline = [0; 12];
        inline[..8].copy_from_slice(&bytes);
        Self(Aad::Inline(inline, 8))
    }
}

impl From<[u8; 12]> for JobAad<'_> {
    fn from(bytes: [u8; 12]) -> Self {
        Self(Aad::Inline(bytes, 12))
    }
}

/// Seals a burst; every job has its outcome afterwards. Jobs of different keys, suites and
/// engines may be mixed; runs of one engine go to it in one piece.
pub fn seal_burst(jobs: &mut [SealJob<'_>]) {
    for run in jobs.chunk_by_mut(|a, b| same_engine(a.key, b.key)) {
        let Some(engine) = run.first().and_then(SealJob::key).map(SuiteKey::engine) else {
            run.iter_mut().for_each(|job| job.state = JobState::Failed);
            continue;
        };
        for job in run.iter() {
            if let Some(key) = job.key {
                key.audit(job.record);
            }
        }
        let mut progress = engine.seal(run);
        while progress == Progress::Pending {
            progress = engine.poll_seal(run);
        }
    }
}

/// Opens a burst; every job has its outcome afterwards. Mixed bursts as in [`seal_burst`].
pub fn open_burst(jobs: &mut [OpenJob<'_>]) {
    for run in jobs.chunk_by_mut(|a, b| same_engine(a.key, b.key)) {
        let Some(engine) = run.first().and_then(OpenJob::key).map(SuiteKey::engine) else {
            run.iter_mut().for_each(|job| job.state = JobState::Failed);
            continue;
        };
        let mut progress = engine.open(run);
        while progress == Progress::Pending {
            progress = engine.poll_open(run);
        }
    }
}

fn same_engine(a: Option<&SuiteKey>, b: Option<&SuiteKey>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.engine().id() == b.engine().id(),
        (None, None) => true,
        _ => false,
    }
}

/// Octets of an AEAD's explicit IV (RFC 4106 §3.1, RFC 7634 §2, RFC 5282 §3.1).
pub(super) const AEAD_IV: usize = 8;
/// Octets of an AEAD's ICV.
pub(super) const AEAD_ICV: usize = 16;

/// Salt and explicit IV make the nonce (RFC 4106 §4, RFC 7634 §2).
pub(super) fn nonce(salt: [u8; 4], iv: &[u8]) -> Result<[u8; 12], AeadError> {
    let iv: [u8; AEAD_IV] = iv.try_into().map_err(|_| AeadError)?;
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&salt);
    nonce[4..].copy_from_slice(&iv);
    Ok(nonce)
}
