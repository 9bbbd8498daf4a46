//! The auditor: no (key, nonce) pair is used twice.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crypto::aead::{KeyId, NonceAudit};

/// Remembers every pair that was sealed.
#[derive(Debug, Default)]
pub struct NonceAuditor(Mutex<Pairs>);

#[derive(Debug, Default)]
struct Pairs {
    seen: HashSet<(KeyId, Vec<u8>)>,
    sealed: u64,
    repeated: Vec<(KeyId, Vec<u8>)>,
}

impl NonceAuditor {
    /// Pairs that were used more than once.
    #[must_use]
    pub fn repeated(&self) -> Vec<(KeyId, Vec<u8>)> {
        self.pairs().repeated.clone()
    }

    /// Packets and messages that were sealed.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.pairs().sealed
    }

    fn pairs(&self) -> std::sync::MutexGuard<'_, Pairs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NonceAudit for NonceAuditor {
    fn sealed(&self, id: &KeyId, iv: &[u8]) {
        let mut pairs = self.pairs();
        pairs.sealed += 1;
        if !pairs.seen.insert((*id, iv.to_vec())) {
            pairs.repeated.push((*id, iv.to_vec()));
        }
    }
}
