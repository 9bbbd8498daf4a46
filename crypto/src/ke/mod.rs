//! Key exchange methods (RFC 7296 §3.4, transform type 4), as an IKE KE payload carries them.
//!
//! [`generate`] makes a private value and the public value to send; [`PrivateKey::agree`] consumes
//! a handle of the private value, so that it is used once unless its owner keeps another. All work
//! on secrets is in constant time.

mod curve25519;
mod modp;
mod nist;

use core::fmt;
use std::sync::Arc;

use sa_store::{KeGroup, SecretBytes};

use crate::random::RandomSource;

/// A private value, wiped when its last handle goes. It can go to another thread and shows nothing
/// in `Debug`. A clone is a handle of the same value, for who has to agree with several answers to
/// one message (RFC 7296 §2.12): each public value is checked.
#[derive(Clone)]
pub struct PrivateKey {
    group: KeGroup,
    secret: Arc<SecretBytes>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.group)
    }
}

/// A private value and the octets of the public value that belongs to it.
#[derive(Debug)]
pub struct KePair {
    /// Kept until the peer's public value has come.
    pub private: PrivateKey,
    /// Key Exchange Data of the KE payload: [`KeGroup::public_len`] octets.
    pub public: Vec<u8>,
}

/// Why there is no shared secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeError {
    /// The peer's public value has not the length of the group.
    Length {
        /// What the group asks for.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// The peer's public value is not on the curve, or out of range.
    InvalidPublic,
    /// The peer's public value forces a known secret (RFC 7748 §6.1, RFC 8031 §5).
    NonContributory,
    /// The library refused; the peer has no part in it.
    Internal,
}

impl fmt::Display for KeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected, got } => {
                write!(f, "the public value has {got} octets instead of {expected}")
            }
            Self::InvalidPublic => f.write_str("the public value is not valid for the group"),
            Self::NonContributory => f.write_str("the public value forces a known secret"),
            Self::Internal => f.write_str("the key exchange could not be computed"),
        }
    }
}

impl core::error::Error for KeError {}

/// Draws a private value and computes its public value.
///
/// # Errors
/// [`KeError::Internal`] only.
pub fn generate(group: KeGroup, random: &mut dyn RandomSource) -> Result<KePair, KeError> {
    let (secret, public) = match group {
        KeGroup::Curve25519 => curve25519::generate(random),
        KeGroup::Ecp256 | KeGroup::Ecp384 => nist::generate(group, random)?,
        KeGroup::Modp2048 | KeGroup::Modp3072 => modp::generate(group, random)?,
    };
    Ok(KePair { private: PrivateKey { group, secret: Arc::new(secret) }, public })
}

impl PrivateKey {
    /// The method it belongs to.
    #[must_use]
    pub const fn group(&self) -> KeGroup {
        self.group
    }

    /// Computes g^ir from the peer's Key Exchange Data: [`KeGroup::shared_len`] octets.
    ///
    /// # Errors
    /// The peer's value has a wrong length or does not pass the checks of RFC 6989 (range,
    /// on the curve) or RFC 8031 (no all-zero secret).
    pub fn agree(self, peer_public: &[u8]) -> Result<SecretBytes, KeError> {
        let expected = self.group.public_len();
        if peer_public.len() != expected {
            return Err(KeError::Length { expected, got: peer_public.len() });
        }
        match self.group {
            KeGroup::Curve25519 => curve25519::agree(&self.secret, peer_public),
            KeGroup::Ecp256 | KeGroup::Ecp384 => nist::agree(self.group, &self.secret, peer_public),
            KeGroup::Modp2048 | KeGroup::Modp3072 => {
                modp::agree(self.group, &self.secret, peer_public)
            }
        }
    }
}

#[cfg(test)]
mod tests;
