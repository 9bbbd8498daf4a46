//! Watching for nonces that are used twice: the one fault that silently ends confidentiality.

use core::fmt;

use aws_lc_rs::digest;
use sa_store::{EspSuite, KeyMaterial};

/// Names a key without revealing it: a truncated hash of suite and key material. Two SAs that
/// were given the same key have the same id, which is what an auditor must see.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Told about every (key, nonce) pair that is sealed. Used by the simulator; a key without an
/// auditor pays one untaken branch a packet.
pub trait NonceAudit: Send + Sync {
    /// `iv` is about to be used with the key `id`.
    fn sealed(&self, id: &KeyId, iv: &[u8]);
}

pub(super) fn key_id(suite: EspSuite, keys: &KeyMaterial) -> KeyId {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(b"postern key id");
    hash.update(suite.to_string().as_bytes());
    hash.update(keys.encryption.expose());
    hash.update(keys.integrity.expose());
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    KeyId(id)
}
