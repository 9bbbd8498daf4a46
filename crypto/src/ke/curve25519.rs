//! Curve25519 (RFC 8031): the 32 octets of RFC 7748 as they are.

use sa_store::SecretBytes;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::KeError;
use crate::random::RandomSource;

pub(super) fn generate(random: &mut dyn RandomSource) -> (SecretBytes, Vec<u8>) {
    let mut octets = Zeroizing::new([0; 32]);
    random.fill(octets.as_mut_slice());
    let secret = StaticSecret::from(*octets);
    let public = PublicKey::from(&secret);
    (SecretBytes::from_slice(octets.as_slice()), public.as_bytes().to_vec())
}

pub(super) fn agree(secret: &SecretBytes, peer: &[u8]) -> Result<SecretBytes, KeError> {
    let octets: [u8; 32] = secret.expose().try_into().map_err(|_| KeError::Internal)?;
    let octets = Zeroizing::new(octets);
    let peer: [u8; 32] = peer.try_into().map_err(|_| KeError::InvalidPublic)?;
    let shared = StaticSecret::from(*octets).diffie_hellman(&PublicKey::from(peer));
    if shared.was_contributory() {
        Ok(SecretBytes::from_slice(shared.as_bytes()))
    } else {
        Err(KeError::NonContributory)
    }
}
