//! MODP groups (RFC 3526) with generator 2. Public values and secrets are padded to the length of
//! the prime (RFC 7296 §2.14). The primes are safe, so 1 < y < p - 1 is the whole check that
//! RFC 6989 §2.1 asks for.

use std::sync::LazyLock;

use crypto_bigint::{
    Odd, U2048, U3072, Uint,
    modular::{FixedMontyForm, FixedMontyParams},
};
use sa_store::{KeGroup, SecretBytes};
use zeroize::{Zeroize, Zeroizing};

use super::KeError;
use crate::random::RandomSource;

type Params<const LIMBS: usize> = LazyLock<FixedMontyParams<LIMBS>>;

static MODP_2048: Params<{ U2048::LIMBS }> = LazyLock::new(|| {
    FixedMontyParams::new_vartime(Odd::<U2048>::from_be_hex(concat!(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74",
        "020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437",
        "4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED",
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05",
        "98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB",
        "9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B",
        "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718",
        "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    )))
});

static MODP_3072: Params<{ U3072::LIMBS }> = LazyLock::new(|| {
    FixedMontyParams::new_vartime(Odd::<U3072>::from_be_hex(concat!(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74",
        "020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437",
        "4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED",
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05",
        "98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB",
        "9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B",
        "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718",
        "3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33",
        "A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7",
        "ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864",
        "D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2",
        "08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
    )))
});

/// Exponents of 320 bits: at least twice the strength of either group (RFC 3526 §8 gives 110 to
/// 160 bits for 2048 and 130 to 210 for 3072; RFC 7919 §5.2 asks for 225 and 275 bits or more).
const EXPONENT_LEN: usize = 40;
type Exponent = Uint<{ crypto_bigint::U320::LIMBS }>;

fn power<const LIMBS: usize>(
    base: &Uint<LIMBS>,
    exponent: &[u8],
    params: &FixedMontyParams<LIMBS>,
) -> Zeroizing<Uint<LIMBS>> {
    let mut exponent = Exponent::from_be_slice(exponent);
    let mut result = FixedMontyForm::new(base, params).pow_bounded_exp(&exponent, Exponent::BITS);
    let value = Zeroizing::new(result.retrieve());
    exponent.zeroize();
    result.as_montgomery_mut().zeroize();
    value
}

fn octets<const LIMBS: usize>(value: &Uint<LIMBS>, length: usize) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(length));
    for limb in value.as_limbs().iter().rev() {
        out.extend_from_slice(&limb.0.to_be_bytes());
    }
    out
}

fn public_value<const LIMBS: usize>(
    exponent: &[u8],
    params: &FixedMontyParams<LIMBS>,
    length: usize,
) -> Vec<u8> {
    octets(&power(&Uint::<LIMBS>::from_u8(2), exponent, params), length).to_vec()
}

fn shared_secret<const LIMBS: usize>(
    exponent: &[u8],
    peer: &[u8],
    params: &FixedMontyParams<LIMBS>,
) -> Result<SecretBytes, KeError> {
    if peer.len() != Uint::<LIMBS>::BYTES || exponent.len() != EXPONENT_LEN {
        return Err(KeError::Internal);
    }
    let y = Uint::<LIMBS>::from_be_slice(peer);
    let highest = params.modulus().as_ref().wrapping_sub(&Uint::<LIMBS>::from_u8(2));
    if y < Uint::<LIMBS>::from_u8(2) || y > highest {
        return Err(KeError::InvalidPublic);
    }
    let shared = power(&y, exponent, params);
    Ok(SecretBytes::from_slice(&octets(&shared, peer.len())))
}

pub(super) fn generate(
    group: KeGroup,
    random: &mut dyn RandomSource,
) -> Result<(SecretBytes, Vec<u8>), KeError> {
    let mut exponent = Zeroizing::new([0; EXPONENT_LEN]);
    random.fill(exponent.as_mut_slice());
    // The top bit is set: no exponent is short, and zero cannot happen.
    if let Some(top) = exponent.first_mut() {
        *top |= 0x80;
    }
    let length = group.public_len();
    let public = match group {
        KeGroup::Modp2048 => public_value(exponent.as_slice(), &MODP_2048, length),
        KeGroup::Modp3072 => public_value(exponent.as_slice(), &MODP_3072, length),
        _ => return Err(KeError::Internal),
    };
    Ok((SecretBytes::from_slice(exponent.as_slice()), public))
}

pub(super) fn agree(
    group: KeGroup,
    secret: &SecretBytes,
    peer: &[u8],
) -> Result<SecretBytes, KeError> {
    match group {
        KeGroup::Modp2048 => shared_secret(secret.expose(), peer, &MODP_2048),
        KeGroup::Modp3072 => shared_secret(secret.expose(), peer, &MODP_3072),
        _ => Err(KeError::Internal),
    }
}
