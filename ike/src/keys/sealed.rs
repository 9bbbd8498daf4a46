//! The SK payload (RFC 7296 §3.14, RFC 5282) and the SKF payload (RFC 7383 §2.5).

use alloc::{boxed::Box, vec, vec::Vec};
use core::fmt;

use crypto::{
    aead::{Engines, IvGenerator, SuiteKey},
    random::RandomSource,
};
use sa_store::{EspSuite, KeyMaterial};
use zeroize::Zeroizing;

use crate::wire::{
    EncodeError, Fault, FragmentNumber, Header, Payload, PayloadType, Payloads, Protected,
    WireError, encode_associated, encode_payloads,
};

/// Bits of the counter in an AEAD IV; the 16 bits above are the takeover epoch.
const COUNTER_BITS: u32 = 48;

/// Why a message could not be sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealError {
    /// It cannot be written.
    Encode(EncodeError),
    /// All IVs of this key are used up: the IKE SA must be replaced.
    Exhausted,
    /// The key material does not fit the suite, or the library refused.
    Internal,
}

impl From<EncodeError> for SealError {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encode(error) => error.fmt(f),
            Self::Exhausted => f.write_str("the IVs of the IKE SA are used up"),
            Self::Internal => f.write_str("the message could not be sealed"),
        }
    }
}

impl core::error::Error for SealError {}

/// Where IVs come from. Both forms only move forward.
enum Iv {
    /// RFC 5282 §3.1: unique. The epoch counts takeovers of the IKE SA by other nodes, so that
    /// two nodes that know one key never use one IV.
    Counter { epoch: u16 },
    /// Unpredictable, for CBC.
    Random(Box<IvGenerator>),
}

/// Seals what we send in an IKE SA. It owns the IVs of its key, so there must be one for it on
/// the node, and it cannot be cloned.
pub struct Sealer {
    key: SuiteKey,
    iv: Iv,
    next: u64,
}

impl Sealer {
    /// For the keys of our direction. `epoch` is 0 for an IKE SA that this node negotiated.
    ///
    /// # Errors
    /// [`SealError::Internal`] if the keys do not fit the suite.
    pub fn new(
        engines: &Engines,
        suite: EspSuite,
        keys: &KeyMaterial,
        epoch: u16,
        random: &mut dyn RandomSource,
    ) -> Result<Self, SealError> {
        let key = engines.key(suite, keys).map_err(|_| SealError::Internal)?;
        let iv = if suite.cipher().is_aead() {
            Iv::Counter { epoch }
        } else {
            let mut seed = Zeroizing::new([0; 16]);
            random.fill(seed.as_mut_slice());
            Iv::Random(Box::new(IvGenerator::new(&seed).map_err(|_| SealError::Internal)?))
        };
        Ok(Self { key, iv, next: 0 })
    }

    /// Writes and seals a message.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn seal(
        &mut self,
        header: &Header,
        payloads: &[Payload<'_>],
    ) -> Result<Vec<u8>, SealError> {
        let (first, inner) = encode_payloads(payloads)?;
        self.seal_inner(header, first, None, &inner)
    }

    /// Seals octets of payloads that are already written, whole or one fragment of them, whether
    /// or not they make sense: fuzzers and judges need that too.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn seal_inner(
        &mut self,
        header: &Header,
        first: PayloadType,
        fragment: Option<FragmentNumber>,
        inner: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let padding = self.padding(inner.len());
        let record_len = inner
            .len()
            .checked_add(self.overhead())
            .and_then(|length| length.checked_add(padding))
            .ok_or(EncodeError::MessageTooLong)?;
        let mut message = encode_associated(header, first, fragment, record_len)?;
        let mut record = Vec::with_capacity(record_len);
        self.write_iv(&mut record)?;
        record.extend_from_slice(inner);
        record.resize(record.len() + padding, 0);
        record.push(u8::try_from(padding).map_err(|_| SealError::Internal)?);
        record.resize(record_len, 0);
        self.key.seal(&message, &mut record).map_err(|_| SealError::Internal)?;
        message.extend_from_slice(&record);
        Ok(message)
    }

    #[cfg(test)]
    pub(super) const fn skip_to(&mut self, counter: u64) {
        self.next = counter;
    }

    /// Octets that sealing adds besides padding: IV, pad length, ICV.
    pub(crate) const fn overhead(&self) -> usize {
        self.key.iv_len() + 1 + self.key.icv_len()
    }

    /// Octets the ciphertext is a multiple of.
    pub(crate) const fn block_len(&self) -> usize {
        self.key.suite().cipher().block_len()
    }

    fn padding(&self, length: usize) -> usize {
        let block = self.block_len();
        (block - (length.wrapping_add(1)) % block) % block
    }

    fn write_iv(&mut self, record: &mut Vec<u8>) -> Result<(), SealError> {
        let counter = self.next;
        if counter >> COUNTER_BITS != 0 {
            return Err(SealError::Exhausted);
        }
        // Moved on before it is used: an error on the way loses an IV, never repeats one.
        self.next = counter + 1;
        match &self.iv {
            Iv::Counter { epoch } => {
                let iv = (u64::from(*epoch) << COUNTER_BITS) | counter;
                record.extend_from_slice(&iv.to_be_bytes());
            }
            Iv::Random(generator) => {
                let iv = generator.iv(counter).map_err(|_| SealError::Internal)?;
                record.extend_from_slice(&iv);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({}, {} sealed)", self.key.suite(), self.next)
    }
}

/// Why a protected message was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// Not sealed with the key, or altered. Nothing may change because of it.
    NotAuthentic,
    /// Authentic, and yet not as the format demands.
    Malformed(WireError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAuthentic => f.write_str("the message is not authentic"),
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

/// Opens what the peer sends in an IKE SA.
pub struct Opener {
    key: SuiteKey,
}

/// The payloads that were sealed, as octets.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// The type of the first payload.
    pub first: PayloadType,
    /// The payloads, without padding.
    pub octets: Vec<u8>,
}

impl Opened {
    /// Reads the payloads.
    ///
    /// # Errors
    /// See [`Payloads::parse`].
    pub fn payloads(&self) -> Result<Payloads<'_>, WireError> {
        Payloads::parse(self.first, &self.octets)
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened {{ first: {}, {} octets }}", self.first, self.octets.len())
    }
}

impl Opener {
    /// For the keys of the peer's direction.
    ///
    /// # Errors
    /// [`SealError::Internal`] if the keys do not fit the suite.
    pub fn new(engines: &Engines, suite: EspSuite, keys: &KeyMaterial) -> Result<Self, SealError> {
        let key = engines.key(suite, keys).map_err(|_| SealError::Internal)?;
        Ok(Self { key })
    }

    /// Verifies, decrypts and removes the padding. A fragment yields its part of the octets;
    /// [`crate::fragment::Reassembly`] puts them together.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, protected: &Protected<'_>) -> Result<Opened, OpenError> {
        let mut record = vec![0; protected.body.len()];
        record.copy_from_slice(protected.body);
        let plaintext = self
            .key
            .open(protected.associated, &mut record)
            .map_err(|_| OpenError::NotAuthentic)?;
        let kind = if protected.fragment.is_some() { PayloadType::SKF } else { PayloadType::SK };
        let malformed = OpenError::Malformed(WireError::Malformed(kind, Fault::Value));
        let (padding, rest) = plaintext.split_last().ok_or(malformed)?;
        let length = rest.len().checked_sub(usize::from(*padding)).ok_or(malformed)?;
        // The octets move to the front of their own buffer.
        let begin = self.key.iv_len();
        record.truncate(begin.saturating_add(length));
        record.drain(..begin.min(record.len()));
        Ok(Opened { first: protected.first_inner, octets: record })
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({})", self.key.suite())
    }
}
