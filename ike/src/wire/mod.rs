//! Octets to values and back (RFC 7296 §3, RFC 7383 §2.5): stateless and total. Whatever comes
//! in, the answer is a value or a [`WireError`], in time and memory linear in the datagram.
//!
//! - [`Message::parse`] reads a datagram; [`Payloads::parse`] reads what `keys` decrypted.
//! - [`encode_message`] writes a message in clear; `keys` writes protected ones.

mod auth;
mod chain;
mod codec;
mod config;
mod error;
mod header;
mod message;
mod notify;
mod numbers;
mod payload;
mod sa;
mod selectors;

pub use auth::{Authentication, Certificate, Identification, KeyExchange, NONCE_LEN, Nonce};
pub use chain::{PayloadChain, RawPayload};
pub use config::{ConfigAttribute, Configuration, MAX_CONFIG_ATTRIBUTES};
pub use error::{EncodeError, Fault, WireError};
pub use header::{HEADER_LEN, Header};

pub use message::{FragmentNumber, Message, Protected, encode_associated, encode_message};
pub use notify::{Delete, MAX_DELETE_SPIS, Notify};
pub use numbers::{
    AuthMethod, ConfigType, ExchangeType, NotifyType, PayloadType, ProtocolId, TransformType,
    TsType,
};
pub use payload::{Payload, Payloads, encode_payloads};
pub use sa::{
    Attribute, MAX_ATTRIBUTES, MAX_PROPOSALS, MAX_TRANSFORMS, Proposal, SecurityAssociation, Spi,
    Transform,
};
pub use selectors::TrafficSelectors;

/// Payloads of one chain.
pub const MAX_PAYLOADS: usize = 128;
/// Octets of a message, which must fit a datagram.
pub const MAX_MESSAGE_LEN: usize = 65_535;

#[cfg(test)]
mod tests;
