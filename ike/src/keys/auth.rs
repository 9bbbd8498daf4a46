//! Authentication of the IKE SA with a shared key (RFC 7296 §2.15).

use alloc::vec::Vec;
use core::fmt;

use crypto::{ct, prf::prf};
use sa_store::SecretBytes;

use super::schedule::SkP;
use crate::wire::{AuthMethod, Authentication};

const KEY_PAD: &[u8] = b"Key Pad for IKEv2";

/// What one side signs.
#[derive(Clone, Copy, Debug)]
pub struct SignedOctets<'a> {
    /// RealMessage1 or RealMessage2: the signer's own IKE_SA_INIT message as it was on the wire,
    /// without non-ESP marker; the one that the IKE SA came from when there were retries.
    pub message: &'a [u8],
    /// NonceRData for the initiator, NonceIData for the responder: the *other* side's nonce.
    pub peer_nonce: &'a [u8],
    /// RestOfInitIDPayload or RestOfRespIDPayload:
    /// [`crate::wire::Identification::rest_of_payload`] of the signer's ID payload.
    pub identity: &'a [u8],
}

/// The peer has proven its identity. Nothing but a successful verification makes one, and an
/// established IKE SA cannot be built without it.
#[derive(PartialEq, Eq, Debug)]
pub struct PeerAuthenticated(());

/// The peer has not proven its identity; why must not be visible to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAuthenticated;

impl fmt::Display for NotAuthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer did not prove its identity")
    }
}

impl core::error::Error for NotAuthenticated {}

/// AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), SignedOctets), with `SK_pi` for the
/// original initiator's AUTH payload and `SK_pr` for the responder's.
#[must_use]
pub fn psk_auth(
    secret: &SecretBytes,
    sk_p: &SkP,
    octets: &SignedOctets<'_>,
) -> Authentication<'static> {
    let data: Vec<u8> = compute(secret, sk_p, octets).expose().to_vec();
    Authentication { method: AuthMethod::SHARED_KEY_MIC, data: data.into() }
}

/// Holds a received AUTH payload against the shared key, in constant time. For an unknown peer
/// call it with a random secret, so that the time is the same.
///
/// # Errors
/// The method is another one or the data is not right.
pub fn verify_psk(
    secret: &SecretBytes,
    sk_p: &SkP,
    octets: &SignedOctets<'_>,
    received: &Authentication<'_>,
) -> Result<PeerAuthenticated, NotAuthenticated> {
    let expected = compute(secret, sk_p, octets);
    let right = ct::equal(expected.expose(), &received.data);
    if right && received.method == AuthMethod::SHARED_KEY_MIC {
        Ok(PeerAuthenticated(()))
    } else {
        Err(NotAuthenticated)
    }
}

fn compute(secret: &SecretBytes, sk_p: &SkP, octets: &SignedOctets<'_>) -> SecretBytes {
    let padded = prf(sk_p.prf, secret.expose(), &[KEY_PAD]);
    let identity = prf(sk_p.prf, sk_p.key.expose(), &[octets.identity]);
    prf(sk_p.prf, padded.expose(), &[octets.message, octets.peer_nonce, identity.expose()])
}
