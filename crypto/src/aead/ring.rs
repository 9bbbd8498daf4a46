//! The engine on `ring`: AES-GCM and ChaCha20-Poly1305.

use core::mem::{MaybeUninit, needs_drop};

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey,
};
use sa_store::{EspCipher, EspSuite};

use super::{
    AeadError, Engine, EngineKey, KeyError, OpenJob, Record, SealJob,
    job::{AEAD_ICV, AEAD_IV, nonce},
};

/// AES-GCM and ChaCha20-Poly1305 by ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ring;

impl Ring {
    /// The engine; it has no state.
    #[must_use]
    pub fn engine() -> &'static dyn Engine {
        &Self
    }
}

impl Engine for Ring {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn supports(&self, suite: EspSuite) -> bool {
        suite.integrity().is_none()
    }

    fn make_key(
        &self,
        suite: EspSuite,
        encryption: &[u8],
        _integrity: &[u8],
    ) -> Result<Box<dyn EngineKey>, KeyError> {
        let algorithm = match suite.cipher() {
            EspCipher::AesGcm16(128) => &AES_128_GCM,
            EspCipher::AesGcm16(256) => &AES_256_GCM,
            EspCipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            EspCipher::AesGcm16(_) | EspCipher::AesCbc(_) => return Err(KeyError::Unsupported),
        };
        let key = UnboundKey::new(algorithm, encryption).map_err(|_| KeyError::Length)?;
        Ok(WipedKey::boxed(LessSafeKey::new(key)))
    }
}

/// ring's key has no destructor and is never wiped by ring. Here it lives in one heap place
/// from which it never moves, and that place is overwritten when the key is dropped. (The copy
/// on the stack while it is built is beyond reach.)
struct WipedKey(MaybeUninit<LessSafeKey>);

const _: () = assert!(!needs_drop::<LessSafeKey>(), "wiping would skip a destructor");

impl WipedKey {
    fn boxed(key: LessSafeKey) -> Box<Self> {
        Box::new(Self(MaybeUninit::new(key)))
    }

    #[expect(unsafe_code, reason = "ring's key must be wiped in place, see `WipedKey`")]
    fn key(&self) -> &LessSafeKey {
        // SAFETY: initialised in `boxed`, the only constructor, and overwritten only in `drop`.
        unsafe { self.0.assume_init_ref() }
    }
}

impl Drop for WipedKey {
    #[expect(unsafe_code, reason = "ring's key must be wiped in place, see `WipedKey`")]
    fn drop(&mut self) {
        let place = self.0.as_mut_ptr().cast::<MaybeUninit<u8>>();
        for offset in 0..size_of::<LessSafeKey>() {
            // SAFETY: `place` points to `size_of::<LessSafeKey>()` octets that belong to `self`.
            // The key has no destructor (asserted above) and nobody reads it after this; the
            // write is volatile so that it is not optimised away.
            unsafe { place.add(offset).write_volatile(MaybeUninit::new(0)) };
        }
    }
}

impl EngineKey for WipedKey {
    fn seal(&self, salt: [u8; 4], job: &mut SealJob<'_>) -> Result<(), AeadError> {
        let Record { aad, iv, text, icv, .. } = job.parts().split(AEAD_IV, AEAD_ICV)?;
        let nonce = Nonce::assume_unique_for_key(nonce(salt, iv)?);
        let tag = self
            .key()
            .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
            .map_err(|_| AeadError)?;
        icv.copy_from_slice(tag.as_ref());
        Ok(())
    }

    fn open(&self, salt: [u8; 4], job: &mut OpenJob<'_>) -> Result<(), AeadError> {
        let Record { aad, iv, text, icv, .. } = job.parts().split(AEAD_IV, AEAD_ICV)?;
        let nonce = Nonce::assume_unique_for_key(nonce(salt, iv)?);
        let tag = Tag::try_from(&*icv).map_err(|_| AeadError)?;
        self.key()
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, text, 0..)
            .map(|_| ())
            .map_err(|_| AeadError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "looks at the octets of a key after its drop")]
    fn a_dropped_key_leaves_nothing_behind() {
        let key = UnboundKey::new(&AES_256_GCM, &[0xa5; 32]).unwrap();
        let place = Box::into_raw(WipedKey::boxed(LessSafeKey::new(key)));
        // SAFETY: `place` came from a box; after the drop in place only its octets are read, all
        // of which the drop has written, and it is freed as octets without a second drop.
        let left = unsafe {
            place.drop_in_place();
            let octets = core::slice::from_raw_parts(place.cast::<u8>(), size_of::<WipedKey>());
            let left = octets.iter().filter(|octet| **octet != 0).count();
            drop(Box::from_raw(place.cast::<MaybeUninit<WipedKey>>()));
            left
        };
        assert_eq!(left, 0);
    }
}
