//! Key exchange methods (transform type 4).

/// A private key of a key exchange: opaque, wiped on drop.
#[derive(Debug)]
pub struct PrivateKey(());
