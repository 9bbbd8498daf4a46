//! Walking a chain of payloads (RFC 7296 §3.2): generic headers only, nothing is copied.

use super::{MAX_PAYLOADS, error::WireError, numbers::PayloadType};

/// Octets of the generic payload header.
pub(crate) const GENERIC_HEADER_LEN: usize = 4;
const CRITICAL: u8 = 0x80;

/// A payload whose content has not been looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawPayload<'a> {
    /// Its type.
    pub kind: PayloadType,
    /// Next Payload; in SK and SKF this is the type of the first payload inside.
    pub next: PayloadType,
    /// What follows the generic header.
    pub body: &'a [u8],
}

/// An iterator over a chain. It ends after the first error, after the announced end, and after
/// an SK or SKF payload, which must be the last one (RFC 7296 §3.14). Unknown critical payloads
/// are errors; the critical bit of known ones is ignored (RFC 7296 §3.2).
#[derive(Clone, Debug)]
pub struct PayloadChain<'a> {
    next: PayloadType,
    rest: &'a [u8],
    left: usize,
}

impl<'a> PayloadChain<'a> {
    /// The chain that begins with a payload of type `first` and fills `octets` exactly.
    #[must_use]
    pub const fn new(first: PayloadType, octets: &'a [u8]) -> Self {
        Self { next: first, rest: octets, left: MAX_PAYLOADS }
    }

    fn step(&mut self) -> Result<Option<RawPayload<'a>>, WireError> {
        let kind = self.next;
        if kind == PayloadType::NONE {
            return if self.rest.is_empty() { Ok(None) } else { Err(WireError::TrailingOctets) };
        }
        self.left = self.left.checked_sub(1).ok_or(WireError::TooManyPayloads)?;
        let bad = WireError::PayloadLength(kind);
        let ([next, flags, high, low], _) =
            self.rest.split_first_chunk::<GENERIC_HEADER_LEN>().ok_or(bad)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (payload, rest) = self.rest.split_at_checked(length).ok_or(bad)?;
        let body = payload.get(GENERIC_HEADER_LEN..).ok_or(bad)?;
        if flags & CRITICAL != 0 && !kind.is_known() {
            return Err(WireError::UnsupportedCritical(kind));
        }
        let raw = RawPayload { kind, next: PayloadType(*next), body };
        if matches!(kind, PayloadType::SK | PayloadType::SKF) {
            if !rest.is_empty() {
                return Err(WireError::TrailingOctets);
            }
            self.next = PayloadType::NONE;
        } else {
            self.next = raw.next;
        }
        self.rest = rest;
        Ok(Some(raw))
    }
}

impl<'a> Iterator for PayloadChain<'a> {
    type Item = Result<RawPayload<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.next = PayloadType::NONE;
            self.rest = &[];
        }
        step.transpose()
    }
}
