//! Key material: wiped on drop, never printed.

use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Secret octets. Wiped on drop; `Debug` shows the length only; compared in constant time by
/// whoever needs to (there is no `PartialEq` on purpose).
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes ownership: the caller keeps no copy.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Copies; the caller answers for wiping its own copy.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// The octets themselves: hand them to a cryptographic primitive, nowhere else.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in octets.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no octets.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes(<{} octets>)", self.0.len())
    }
}

/// The keys of one ESP SA as KEYMAT gives them (RFC 7296 §2.17).
#[derive(Clone, Debug)]
pub struct KeyMaterial {
    /// The encryption key; for AES-GCM (RFC 4106 §8.1) and ChaCha20-Poly1305 (RFC 7634 §2) with
    /// the 4-octet salt as its last four octets.
    pub encryption: SecretBytes,
    /// The integrity key; empty for AEAD suites.
    pub integrity: SecretBytes,
}
