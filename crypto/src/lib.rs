//! The one room where cryptographic libraries are touched.

pub mod aead;
pub mod ke;
