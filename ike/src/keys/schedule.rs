//! SKEYSEED, the seven secrets of an IKE SA, and KEYMAT for Child SAs.

use core::fmt;

use crypto::{
    aead::split_keymat,
    prf::{prf, prf_plus},
};
use sa_store::{EspSuite, IkeSpi, KeyMaterial, PrfAlgorithm, SecretBytes};

use crate::config::IkeSuite;

/// SKEYSEED (RFC 7296 §2.14, §2.18): deriving the keys consumes it.
pub struct Skeyseed(SecretBytes);

/// `SK_d`: the secret that keys of Child SAs and of the next IKE SA are derived from.
pub struct SkD {
    prf: PrfAlgorithm,
    key: SecretBytes,
}

/// `SK_pi` or `SK_pr`: the key that binds an identity into the AUTH payload.
pub struct SkP {
    pub(super) prf: PrfAlgorithm,
    pub(super) key: SecretBytes,
}

/// The secrets of an IKE SA (RFC 7296 §2.14).
#[derive(Debug)]
pub struct IkeKeys {
    /// `SK_d`.
    pub d: SkD,
    /// `SK_ei` (with salt) and `SK_ai`: what the original initiator seals with.
    pub initiator: KeyMaterial,
    /// `SK_er` (with salt) and `SK_ar`: what the original responder seals with.
    pub responder: KeyMaterial,
    /// `SK_pi`.
    pub pi: SkP,
    /// `SK_pr`.
    pub pr: SkP,
}

/// The keys of a pair of Child SAs (RFC 7296 §2.17).
#[derive(Clone, Debug)]
pub struct ChildKeys {
    /// For the SA from the initiator of the exchange that made the pair to its responder.
    pub initiator: KeyMaterial,
    /// For the other direction.
    pub responder: KeyMaterial,
}

/// The suite's keys do not come out of prf+: it ends after 255 blocks, which no suite needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DerivationFailed;

impl fmt::Display for DerivationFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the keys could not be derived")
    }
}

impl core::error::Error for DerivationFailed {}

impl Skeyseed {
    /// SKEYSEED = prf(Ni | Nr, g^ir) of the first IKE SA; `algorithm` is the negotiated PRF.
    #[must_use]
    pub fn initial(
        algorithm: PrfAlgorithm,
        nonce_i: &[u8],
        nonce_r: &[u8],
        shared: &SecretBytes,
    ) -> Self {
        let mut key = zeroize::Zeroizing::new(alloc::vec::Vec::with_capacity(
            nonce_i.len().saturating_add(nonce_r.len()),
        ));
        key.extend_from_slice(nonce_i);
        key.extend_from_slice(nonce_r);
        Self(prf(algorithm, &key, &[shared.expose()]))
    }

    /// SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr) of an IKE SA that replaces another: with
    /// the PRF of the old one (RFC 7296 §2.18).
    #[must_use]
    pub fn rekey(old: &SkD, shared: &SecretBytes, nonce_i: &[u8], nonce_r: &[u8]) -> Self {
        Self(prf(old.prf, old.key.expose(), &[shared.expose(), nonce_i, nonce_r]))
    }

    /// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} =
    /// prf+(SKEYSEED, Ni | Nr | SPIi | SPIr), with the PRF of the new IKE SA.
    ///
    /// # Errors
    /// Never for the suites there are; see [`DerivationFailed`].
    pub fn derive(
        self,
        suite: IkeSuite,
        nonce_i: &[u8],
        nonce_r: &[u8],
        spi_i: IkeSpi,
        spi_r: IkeSpi,
    ) -> Result<IkeKeys, DerivationFailed> {
        let prf = suite.prf;
        let cipher = suite.suite.cipher();
        let integrity_len = suite.suite.integrity().map_or(0, |mac| mac.key_len());
        let encryption_len = cipher.key_len() + cipher.salt_len();
        let secret_len = prf.output_len();
        let total = 3 * secret_len + 2 * (integrity_len + encryption_len);
        let (spi_i, spi_r) = (spi_i.0.to_be_bytes(), spi_r.0.to_be_bytes());
        let stream = prf_plus(prf, self.0.expose(), &[nonce_i, nonce_r, &spi_i, &spi_r], total)
            .map_err(|_| DerivationFailed)?;
        let mut rest = stream.expose();
        let mut next = |length: usize| -> Result<SecretBytes, DerivationFailed> {
            let (head, tail) = rest.split_at_checked(length).ok_or(DerivationFailed)?;
            rest = tail;
            Ok(SecretBytes::from_slice(head))
        };
        let d = next(secret_len)?;
        let (ai, ar) = (next(integrity_len)?, next(integrity_len)?);
        let (ei, er) = (next(encryption_len)?, next(encryption_len)?);
        let (pi, pr) = (next(secret_len)?, next(secret_len)?);
        Ok(IkeKeys {
            d: SkD { prf, key: d },
            initiator: KeyMaterial { encryption: ei, integrity: ai },
            responder: KeyMaterial { encryption: er, integrity: ar },
            pi: SkP { prf, key: pi },
            pr: SkP { prf, key: pr },
        })
    }
}

impl SkD {
    /// KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr), split into the two directions (RFC 7296
    /// §2.17). The nonces are those of the exchange that makes the pair; `shared` is there when
    /// that exchange had KE payloads of its own.
    ///
    /// # Errors
    /// Never for the suites there are; see [`DerivationFailed`].
    pub fn child_keys(
        &self,
        suite: EspSuite,
        shared: Option<&SecretBytes>,
        nonce_i: &[u8],
        nonce_r: &[u8],
    ) -> Result<ChildKeys, DerivationFailed> {
        let length = suite.keymat_len();
        let shared = shared.map_or(&[][..], SecretBytes::expose);
        let stream = prf_plus(self.prf, self.key.expose(), &[shared, nonce_i, nonce_r], 2 * length)
            .map_err(|_| DerivationFailed)?;
        let (initiator, responder) =
            stream.expose().split_at_checked(length).ok_or(DerivationFailed)?;
        Ok(ChildKeys {
            initiator: split_keymat(suite, initiator).ok_or(DerivationFailed)?,
            responder: split_keymat(suite, responder).ok_or(DerivationFailed)?,
        })
    }
}

macro_rules! silent {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}

silent!(Skeyseed SkD SkP);
