//! A whole message: header, payloads in clear, and the protected part that may end it.

use alloc::vec::Vec;

use super::{
    MAX_MESSAGE_LEN,
    chain::{GENERIC_HEADER_LEN, PayloadChain},
    codec::Reader,
    error::{EncodeError, Fault, WireError},
    header::{HEADER_LEN, Header},
    numbers::PayloadType,
    payload::{Payload, Payloads, encode_payloads},
};

/// A message as received. Payloads in clear are read; what stands in the protected part is known
/// only after `keys` opened it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// The header.
    pub header: Header,
    /// The payloads outside of SK and SKF.
    pub clear: Payloads<'a>,
    /// The SK or SKF payload.
    pub protected: Option<Protected<'a>>,
}

/// An SK payload (RFC 7296 §3.14) or an SKF payload (RFC 7383 §2.5).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Protected<'a> {
    /// The type of the first payload inside; in SKF only the first fragment has it.
    pub first_inner: PayloadType,
    /// For SKF: which fragment of how many.
    pub fragment: Option<FragmentNumber>,
    /// IV, ciphertext and ICV.
    pub body: &'a [u8],
    /// Everything before `body`, from the first octet of the header on: what the ICV covers
    /// besides it.
    pub associated: &'a [u8],
}

/// Fragment Number and Total Fragments (RFC 7383 §2.5): 1 <= number <= total.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FragmentNumber {
    /// From 1 on.
    pub number: u16,
    /// At least 1.
    pub total: u16,
}

impl core::fmt::Debug for Protected<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Protected {{ first_inner: {}, ", self.first_inner)?;
        if let Some(fragment) = self.fragment {
            write!(f, "fragment: {}/{}, ", fragment.number, fragment.total)?;
        }
        write!(f, "body: {} octets }}", self.body.len())
    }
}

impl<'a> Message<'a> {
    /// Reads a datagram (without non-ESP marker).
    ///
    /// # Errors
    /// The first thing that is wrong. Use [`Header::parse`] to know the header in spite of a
    /// malformed payload.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, WireError> {
        let (header, first) = Header::parse(datagram)?;
        let octets = datagram.get(HEADER_LEN..).ok_or(WireError::ShortHeader)?;
        let mut message = Self { header, clear: Payloads::default(), protected: None };
        for raw in PayloadChain::new(first, octets) {
            let raw = raw?;
            match raw.kind {
                PayloadType::SK | PayloadType::SKF => {
                    let fragmented = raw.kind == PayloadType::SKF;
                    message.protected =
                        Some(Protected::parse(datagram, raw.next, raw.body, fragmented)?);
                }
                kind => message.clear.push(kind, raw.body)?,
            }
        }
        Ok(message)
    }
}

impl<'a> Protected<'a> {
    fn parse(
        datagram: &'a [u8],
        first_inner: PayloadType,
        body: &'a [u8],
        fragmented: bool,
    ) -> Result<Self, WireError> {
        let kind = if fragmented { PayloadType::SKF } else { PayloadType::SK };
        let malformed = |fault| WireError::Malformed(kind, fault);
        let mut reader = Reader::new(body);
        let fragment = if fragmented {
            let number = reader.u16().ok_or(malformed(Fault::Short))?;
            let total = reader.u16().ok_or(malformed(Fault::Short))?;
            if number == 0 || number > total {
                return Err(malformed(Fault::Value));
            }
            Some(FragmentNumber { number, total })
        } else {
            None
        };
        let body = reader.rest();
        // The payload ends the datagram, so what is not body stands before it.
        let associated = datagram
            .len()
            .checked_sub(body.len())
            .and_then(|length| datagram.get(..length))
            .ok_or(malformed(Fault::Short))?;
        Ok(Self { first_inner, fragment, body, associated })
    }
}

/// Writes a message without protected part.
///
/// # Errors
/// It would be longer than [`MAX_MESSAGE_LEN`], or a payload cannot be written.
pub fn encode_message(header: &Header, payloads: &[Payload<'_>]) -> Result<Vec<u8>, EncodeError> {
    let (first, body) = encode_payloads(payloads)?;
    let length = HEADER_LEN.checked_add(body.len()).ok_or(EncodeError::MessageTooLong)?;
    let mut out = Vec::with_capacity(length);
    header.write(first, message_len(length)?, &mut out);
    out.extend_from_slice(&body);
    Ok(out)
}

/// Writes everything of a protected message that comes before the IV, for `protected_len` octets
/// of IV, ciphertext and ICV. `keys` seals with it; nobody else needs it.
///
/// # Errors
/// The message or the payload would be too long.
pub fn encode_associated(
    header: &Header,
    first_inner: PayloadType,
    fragment: Option<FragmentNumber>,
    protected_len: usize,
) -> Result<Vec<u8>, EncodeError> {
    let kind = if fragment.is_some() { PayloadType::SKF } else { PayloadType::SK };
    let fragment_len = if fragment.is_some() { 4 } else { 0 };
    let payload_len = protected_len
        .checked_add(GENERIC_HEADER_LEN + fragment_len)
        .ok_or(EncodeError::MessageTooLong)?;
    let length = payload_len.checked_add(HEADER_LEN).ok_or(EncodeError::MessageTooLong)?;
    let payload_len = u16::try_from(payload_len).map_err(|_| EncodeError::PayloadTooLong(kind))?;
    let mut out = Vec::with_capacity(length);
    header.write(kind, message_len(length)?, &mut out);
    out.extend_from_slice(&[first_inner.0, 0]);
    out.extend_from_slice(&payload_len.to_be_bytes());
    if let Some(fragment) = fragment {
        out.extend_from_slice(&fragment.number.to_be_bytes());
        out.extend_from_slice(&fragment.total.to_be_bytes());
    }
    Ok(out)
}

fn message_len(length: usize) -> Result<u32, EncodeError> {
    if length > MAX_MESSAGE_LEN {
        return Err(EncodeError::MessageTooLong);
    }
    u32::try_from(length).map_err(|_| EncodeError::MessageTooLong)
}
