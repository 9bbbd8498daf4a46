//! P-256 and P-384 (RFC 5903): the public value is x | y without the 0x04 that SEC 1 puts before
//! it, the secret is x alone.

use aws_lc_rs::agreement::{self, Algorithm, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey};
use sa_store::{KeGroup, SecretBytes};
use zeroize::Zeroizing;

use super::KeError;
use crate::random::RandomSource;

/// SEC 1 §2.3.3: an uncompressed point follows.
const UNCOMPRESSED: u8 = 4;

/// A random scalar is out of range with a chance below 2^-32 (P-256) or 2^-190 (P-384).
const TRIES: usize = 32;

fn algorithm(group: KeGroup) -> Result<&'static Algorithm, KeError> {
    match group {
        KeGroup::Ecp256 => Ok(&ECDH_P256),
        KeGroup::Ecp384 => Ok(&ECDH_P384),
        _ => Err(KeError::Internal),
    }
}

pub(super) fn generate(
    group: KeGroup,
    random: &mut dyn RandomSource,
) -> Result<(SecretBytes, Vec<u8>), KeError> {
    let algorithm = algorithm(group)?;
    let mut scalar = Zeroizing::new(vec![0; group.shared_len()]);
    for _ in 0..TRIES {
        random.fill(&mut scalar);
        // The library refuses zero and what is not below the order: draw again (FIPS 186-5 A.2.2).
        let Ok(key) = PrivateKey::from_private_key(algorithm, &scalar) else { continue };
        let public = key.compute_public_key().map_err(|_| KeError::Internal)?;
        let point = public.as_ref().strip_prefix(&[UNCOMPRESSED]).ok_or(KeError::Internal)?;
        return Ok((SecretBytes::from_slice(&scalar), point.to_vec()));
    }
    Err(KeError::Internal)
}

pub(super) fn agree(
    group: KeGroup,
    secret: &SecretBytes,
    peer: &[u8],
) -> Result<SecretBytes, KeError> {
    let algorithm = algorithm(group)?;
    let key =
        PrivateKey::from_private_key(algorithm, secret.expose()).map_err(|_| KeError::Internal)?;
    let mut point = Vec::with_capacity(1 + peer.len());
    point.push(UNCOMPRESSED);
    point.extend_from_slice(peer);
    agreement::agree(
        &key,
        UnparsedPublicKey::new(algorithm, &point),
        KeError::InvalidPublic,
        |shared| Ok(SecretBytes::from_slice(shared)),
    )
}
