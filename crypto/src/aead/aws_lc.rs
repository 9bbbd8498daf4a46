//! The engine on `aws-lc-rs`: every suite. Its AEAD keys live on AWS-LC's own heap and cleanse
//! themselves when dropped; those of AES-CBC do as far as they can.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use sa_store::{EspCipher, EspSuite};

use super::{
    AeadError, Engine, EngineKey, KeyError, OpenJob, Record, SealJob,
    cbc_hmac::CbcHmacKey,
    job::{AEAD_ICV, AEAD_IV, nonce},
};

/// AES-GCM, ChaCha20-Poly1305 and AES-CBC with HMAC by AWS-LC.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

impl AwsLc {
    /// The engine; it has no state.
    #[must_use]
    pub fn engine() -> &'static dyn Engine {
        &Self
    }
}

impl Engine for AwsLc {
    fn name(&self) -> &'static str {
        "aws-lc"
    }

    fn supports(&self, _suite: EspSuite) -> bool {
        true
    }

    fn make_key(
        &self,
        suite: EspSuite,
        encryption: &[u8],
        integrity: &[u8],
    ) -> Result<Box<dyn EngineKey>, KeyError> {
        if let Some(mac) = suite.integrity() {
            return Ok(Box::new(CbcHmacKey::new(suite.cipher(), encryption, mac, integrity)?));
        }
        let algorithm = match suite.cipher() {
            EspCipher::AesGcm16(128) => &AES_128_GCM,
            EspCipher::AesGcm16(256) => &AES_256_GCM,
            EspCipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            EspCipher::AesGcm16(_) | EspCipher::AesCbc(_) => return Err(KeyError::Unsupported),
        };
        let key = UnboundKey::new(algorithm, encryption).map_err(|_| KeyError::Length)?;
        Ok(Box::new(AeadKey(LessSafeKey::new(key))))
    }
}

struct AeadKey(LessSafeKey);

impl EngineKey for AeadKey {
    fn seal(&self, salt: [u8; 4], job: &mut SealJob<'_>) -> Result<(), AeadError> {
        let Record { aad, iv, text, icv, .. } = job.parts().split(AEAD_IV, AEAD_ICV)?;
        let nonce = Nonce::assume_unique_for_key(nonce(salt, iv)?);
        let aad = Aad::from(aad);
        self.0.seal_in_place_scatter(nonce, aad, text, &[], icv).map_err(|_| AeadError)
    }

    fn open(&self, salt: [u8; 4], job: &mut OpenJob<'_>) -> Result<(), AeadError> {
        let Record { aad, iv, text, icv, .. } = job.parts().split(AEAD_IV, AEAD_ICV)?;
        let nonce = Nonce::assume_unique_for_key(nonce(salt, iv)?);
        self.0
            .open_in_place_separate_tag(nonce, Aad::from(aad), icv, text)
            .map(|_| ())
            .map_err(|_| AeadError)
    }
}
