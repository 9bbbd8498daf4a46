//! What can be wrong with a message.

use core::fmt;

use super::{header::Header, numbers::PayloadType};

/// Why octets are no acceptable message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// Fewer octets than a header has.
    ShortHeader,
    /// A message of IKEv1: dropped without state and without an answer.
    IkeV1,
    /// A major version that is neither 1 nor 2 (RFC 7296 §2.5).
    MajorVersion {
        /// What the header says, for the answer.
        header: Header,
        /// The version.
        major: u8,
    },
    /// The length in the header is not that of the datagram.
    MessageLength {
        /// In the header.
        header: u32,
        /// Of the datagram.
        datagram: usize,
    },
    /// A payload's length is shorter than its header or longer than what is left.
    PayloadLength(PayloadType),
    /// Octets follow where no payload is announced.
    TrailingOctets,
    /// More payloads than [`super::MAX_PAYLOADS`].
    TooManyPayloads,
    /// An unknown payload is marked critical (RFC 7296 §2.5).
    UnsupportedCritical(PayloadType),
    /// The content of a payload breaks its format.
    Malformed(PayloadType, Fault),
    /// A payload that may stand once stands twice.
    Duplicate(PayloadType),
    /// A payload that the exchange needs is absent.
    Missing(PayloadType),
    /// A payload that must not stand here.
    Unexpected(PayloadType),
}

/// In what way a payload's content breaks its format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It ends too early.
    Short,
    /// It goes on behind its end.
    Long,
    /// A count does not match what follows, or exceeds our cap.
    Count,
    /// A field has a value that it cannot have.
    Value,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortHeader => f.write_str("shorter than an IKE header"),
            Self::IkeV1 => f.write_str("IKEv1 is not spoken"),
            Self::MajorVersion { major, .. } => write!(f, "IKE version {major} is not spoken"),
            Self::MessageLength { header, datagram } => {
                write!(f, "the header says {header} octets, the datagram has {datagram}")
            }
            Self::PayloadLength(kind) => write!(f, "the length of payload {kind} is impossible"),
            Self::TrailingOctets => f.write_str("octets follow the last payload"),
            Self::TooManyPayloads => f.write_str("too many payloads"),
            Self::UnsupportedCritical(kind) => {
                write!(f, "unknown payload {kind} is marked critical")
            }
            Self::Malformed(kind, fault) => write!(f, "payload {kind} {fault}"),
            Self::Duplicate(kind) => write!(f, "payload {kind} stands twice"),
            Self::Missing(kind) => write!(f, "payload {kind} is missing"),
            Self::Unexpected(kind) => write!(f, "payload {kind} must not stand here"),
        }
    }
}

impl core::error::Error for WireError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "ends too early",
            Self::Long => "has octets behind its end",
            Self::Count => "holds a count that does not fit",
            Self::Value => "holds an impossible value",
        })
    }
}

/// Why values cannot be written as a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EncodeError {
    /// A payload does not fit its 16-bit length.
    PayloadTooLong(PayloadType),
    /// The message would exceed [`super::MAX_MESSAGE_LEN`].
    MessageTooLong,
    /// More elements than a count field holds.
    TooMany(PayloadType),
    /// A value that the payload's format does not allow (a nonce of the wrong length, mixed SPIs).
    Value(PayloadType),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PayloadTooLong(kind) => write!(f, "payload {kind} is longer than 65535 octets"),
            Self::MessageTooLong => f.write_str("the message is longer than 65535 octets"),
            Self::TooMany(kind) => write!(f, "payload {kind} holds too many elements"),
            Self::Value(kind) => write!(f, "payload {kind} cannot hold that value"),
        }
    }
}

impl core::error::Error for EncodeError {}
