//! Unpredictable IVs for CBC (NIST SP 800-38A Appendix C, first method).

use core::fmt;

use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};

use super::{AeadError, KeyError};

/// Makes the IVs of one outbound CBC SA: the sequence number, which never repeats, enciphered
/// with AES under a random key that is used for nothing else. As AES is a permutation no IV
/// repeats, and without the key none can be foretold.
pub struct IvGenerator(EncryptingKey);

impl IvGenerator {
    /// `seed` must be fresh random octets for each SA; it cannot be learned from the IVs.
    ///
    /// # Errors
    /// Never in practice: the seed has the key's length.
    pub fn new(seed: &[u8; 16]) -> Result<Self, KeyError> {
        let key = UnboundCipherKey::new(&AES_128, seed).map_err(|_| KeyError::Length)?;
        EncryptingKey::ecb(key).map(Self).map_err(|_| KeyError::Unsupported)
    }

    /// The IV of the packet with this sequence number.
    ///
    /// # Errors
    /// When the cipher fails, which it does not.
    pub fn iv(&self, sequence: u64) -> Result<[u8; 16], AeadError> {
        let mut block = [0; 16];
        block[8..].copy_from_slice(&sequence.to_be_bytes());
        self.0.less_safe_encrypt(&mut block, EncryptionContext::None).map_err(|_| AeadError)?;
        Ok(block)
    }
}

impl fmt::Debug for IvGenerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IvGenerator(..)")
    }
}
