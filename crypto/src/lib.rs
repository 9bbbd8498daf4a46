//! The one room where cryptographic libraries are touched.
//!
//! - [`aead`]: what protects packets and IKE messages, burst-shaped.
//! - [`prf`]: HMAC-SHA-2 pseudorandom functions and prf+.
//! - [`ke`]: key exchange methods.
//! - [`random`]: injected randomness.
//! - [`hash`]: the SHA-1 digest of NAT detection.
//! - [`ct`]: comparison of secrets.

pub mod aead;
pub mod ct;
pub mod hash;
pub mod ke;
pub mod prf;
pub mod random;
