//! AES-CBC (RFC 3602) with HMAC-SHA-2 (RFC 4868), encrypt-then-MAC.

use aws_lc_rs::{
    cipher::{
        AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey,
        EncryptionContext, UnboundCipherKey,
    },
    hmac,
    iv::FixedLength,
};
use sa_store::{EspCipher, IntegrityAlgorithm};
use subtle::ConstantTimeEq;

use super::{AeadError, EngineKey, KeyError, OpenJob, Record, SealJob};

/// Octets of an AES block and of the IV.
const BLOCK: usize = 16;

/// Both keys; where they are when they are dropped, they cleanse themselves. (What they leave on
/// the stack while they are built and moved to their place is beyond reach.)
pub(super) struct CbcHmacKey {
    encrypting: EncryptingKey,
    decrypting: DecryptingKey,
    mac: hmac::Key,
    icv_len: usize,
}

impl CbcHmacKey {
    pub(super) fn new(
        cipher: EspCipher,
        encryption: &[u8],
        integrity: IntegrityAlgorithm,
        integrity_key: &[u8],
    ) -> Result<Self, KeyError> {
        let algorithm = match cipher {
            EspCipher::AesCbc(128) => &AES_128,
            EspCipher::AesCbc(192) => &AES_192,
            EspCipher::AesCbc(256) => &AES_256,
            _ => return Err(KeyError::Unsupported),
        };
        let digest = match integrity {
            IntegrityAlgorithm::HmacSha256_128 => hmac::HMAC_SHA256,
            IntegrityAlgorithm::HmacSha384_192 => hmac::HMAC_SHA384,
            IntegrityAlgorithm::HmacSha512_256 => hmac::HMAC_SHA512,
        };
        if integrity_key.len() != integrity.key_len() {
            return Err(KeyError::Length);
        }
        let unbound = || UnboundCipherKey::new(algorithm, encryption).map_err(|_| KeyError::Length);
        Ok(Self {
            encrypting: EncryptingKey::cbc(unbound()?).map_err(|_| KeyError::Unsupported)?,
            decrypting: DecryptingKey::cbc(unbound()?).map_err(|_| KeyError::Unsupported)?,
            mac: hmac::Key::new(digest, integrity_key),
            icv_len: integrity.icv_len(),
        })
    }

    fn mac(&self, aad: &[u8], iv: &[u8], text: &[u8], suffix: &[u8]) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&self.mac);
        mac.update(aad);
        mac.update(iv);
        mac.update(text);
        mac.update(suffix);
        mac.sign()
    }
}

fn iv_of(iv: &[u8]) -> Result<FixedLength<BLOCK>, AeadError> {
    Ok(FixedLength::from(<[u8; BLOCK]>::try_from(iv).map_err(|_| AeadError)?))
}

impl EngineKey for CbcHmacKey {
    fn seal(&self, _salt: [u8; 4], job: &mut SealJob<'_>) -> Result<(), AeadError> {
        let Record { aad, suffix, iv, text, icv } = job.parts().split(BLOCK, self.icv_len)?;
        let context = EncryptionContext::Iv128(iv_of(iv)?);
        self.encrypting.less_safe_encrypt(text, context).map_err(|_| AeadError)?;
        let tag = self.mac(aad, iv, text, suffix);
        icv.copy_from_slice(tag.as_ref().get(..self.icv_len).ok_or(AeadError)?);
        Ok(())
    }

    fn open(&self, _salt: [u8; 4], job: &mut OpenJob<'_>) -> Result<(), AeadError> {
        let Record { aad, suffix, iv, text, icv } = job.parts().split(BLOCK, self.icv_len)?;
        let tag = self.mac(aad, iv, text, suffix);
        let expected = tag.as_ref().get(..self.icv_len).ok_or(AeadError)?;
        if !bool::from(expected.ct_eq(icv)) {
            return Err(AeadError);
        }
        let context = DecryptionContext::Iv128(iv_of(iv)?);
        self.decrypting.decrypt(text, context).map(|_| ()).map_err(|_| AeadError)
    }
}
