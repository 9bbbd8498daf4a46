//! The engine on RustCrypto's `aes-gcm`: an implementation independent of the others, the
//! oracle of the tests. Its keys wipe themselves when dropped.

use aes_gcm::{
    AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit,
    aead::{Nonce, Tag},
};
use sa_store::{EspCipher, EspSuite};

use super::{
    AeadError, Engine, EngineKey, KeyError, OpenJob, Record, SealJob,
    job::{AEAD_ICV, AEAD_IV, nonce},
};

/// AES-GCM by RustCrypto.
#[derive(Clone, Copy, Debug, Default)]
pub struct RustCrypto;

impl RustCrypto {
    /// The engine; it has no state.
    #[must_use]
    pub fn engine() -> &'static dyn Engine {
        &Self
    }
}

impl Engine for RustCrypto {
    fn name(&self) -> &'static str {
        "aes-gcm"
    }

    fn supports(&self, suite: EspSuite) -> bool {
        matches!(suite.cipher(), EspCipher::AesGcm16(_))
    }

    fn make_key(
        &self,
        suite: EspSuite,
        encryption: &[u8],
        _integrity: &[u8],
    ) -> Result<Box<dyn EngineKey>, KeyError> {
        Ok(match suite.cipher() {
            EspCipher::AesGcm16(128) => Box::new(GcmKey(
                Aes128Gcm::new_from_slice(encryption).map_err(|_| KeyError::Length)?,
            )),
            EspCipher::AesGcm16(256) => Box::new(GcmKey(
                Aes256Gcm::new_from_slice(encryption).map_err(|_| KeyError::Length)?,
            )),
            _ => return Err(KeyError::Unsupported),
        })
    }
}

struct GcmKey<A>(A);

impl<A: AeadInOut + Send + Sync + 'static> EngineKey for GcmKey<A> {
    fn seal(&self, salt: [u8; 4], job: &mut SealJob<'_>) -> Result<(), AeadError> {
        let Record { aad, iv, text, icv, .. } = job.parts().split(AEAD_IV, AEAD_ICV)?;
        let nonce = Nonce::<A>::try_from(nonce(salt, iv)?.as_slice()).map_err(|_| AeadError)?;
        let tag = self.0.encrypt_inout_detached(&nonce, aad, text.into()).map_err(|_| AeadError)?;
        icv.copy_from_slice(&tag);
        Ok(())
    }

    fn open(&self, salt: [u8; 4], job: &mut OpenJob<'_>) -> Result<(), AeadError> {
        let Record { aad, iv, text, icv, .. } = job.parts().split(AEAD_IV, AEAD_ICV)?;
        let nonce = Nonce::<A>::try_from(nonce(salt, iv)?.as_slice()).map_err(|_| AeadError)?;
        let tag = Tag::<A>::try_from(&*icv).map_err(|_| AeadError)?;
        self.0.decrypt_inout_detached(&nonce, aad, text.into(), &tag).map_err(|_| AeadError)
    }
}
