//! Transforms in strongSwan's words, for people: also those that Postern does not speak.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

use super::mismatch::KEY_EXCHANGE;
use crate::wire::{Proposal, Transform, TransformType};

/// A transform as a keyword.
pub(super) fn transform(transform: &Transform) -> String {
    let id = transform.id;
    let bits = match transform.key_length() {
        Ok(Some(bits)) => bits.to_string(),
        Ok(None) => String::new(),
        Err(()) => return format!("{}:{id} with unknown attributes", transform.kind),
    };
    let name = match (transform.kind, id) {
        (TransformType::ENCR, 2) => "des",
        (TransformType::ENCR, 3) => "3des",
        (TransformType::ENCR, 11) => "null",
        (TransformType::ENCR, 12) => return format!("aes{bits}"),
        (TransformType::ENCR, 13) => return format!("aes{bits}ctr"),
        (TransformType::ENCR, 14) => return format!("aes{bits}ccm8"),
        (TransformType::ENCR, 15) => return format!("aes{bits}ccm12"),
        (TransformType::ENCR, 16) => return format!("aes{bits}ccm16"),
        (TransformType::ENCR, 18) => return format!("aes{bits}gcm8"),
        (TransformType::ENCR, 19) => return format!("aes{bits}gcm12"),
        (TransformType::ENCR, 20) => return format!("aes{bits}gcm16"),
        (TransformType::ENCR, 21) => return format!("aes{bits}gmac"),
        (TransformType::ENCR, 23) => return format!("camellia{bits}"),
        (TransformType::ENCR, 28) => "chacha20poly1305",
        (TransformType::PRF, 1) => "prfmd5",
        (TransformType::PRF, 2) => "prfsha1",
        (TransformType::PRF, 4) => "prfaesxcbc",
        (TransformType::PRF, 5) => "prfsha256",
        (TransformType::PRF, 6) => "prfsha384",
        (TransformType::PRF, 7) => "prfsha512",
        (TransformType::PRF, 8) => "prfaescmac",
        (TransformType::INTEG | TransformType::KE, 0) => "none",
        (TransformType::INTEG, 1) => "md5",
        (TransformType::INTEG, 2) => "sha1",
        (TransformType::INTEG, 5) => "aesxcbc",
        (TransformType::INTEG, 8) => "aescmac",
        (TransformType::INTEG, 12) => "sha256",
        (TransformType::INTEG, 13) => "sha384",
        (TransformType::INTEG, 14) => "sha512",
        (TransformType::KE, 1) => "modp768",
        (TransformType::KE, 2) => "modp1024",
        (TransformType::KE, 5) => "modp1536",
        (TransformType::KE, 14) => "modp2048",
        (TransformType::KE, 15) => "modp3072",
        (TransformType::KE, 16) => "modp4096",
        (TransformType::KE, 17) => "modp6144",
        (TransformType::KE, 18) => "modp8192",
        (TransformType::KE, 19) => "ecp256",
        (TransformType::KE, 20) => "ecp384",
        (TransformType::KE, 21) => "ecp521",
        (TransformType::KE, 27) => "ecp224bp",
        (TransformType::KE, 28) => "ecp256bp",
        (TransformType::KE, 29) => "ecp384bp",
        (TransformType::KE, 30) => "ecp512bp",
        (TransformType::KE, 31) => "x25519",
        (TransformType::KE, 32) => "curve448",
        (TransformType::KE, 35) => "mlkem512",
        (TransformType::KE, 36) => "mlkem768",
        (TransformType::KE, 37) => "mlkem1024",
        (TransformType::ESN, 0) => "noesn",
        (TransformType::ESN, 1) => "esn",
        (kind, id) => return format!("{kind}:{id}"),
    };
    name.to_string()
}

/// Alternatives of one type, joined with `/`; `none` if there are none. A peer may send
/// hundreds: people get the first few.
pub(super) fn alternatives(theirs: &Proposal, kind: TransformType) -> String {
    const SHOWN: usize = 12;
    let mut names: Vec<String> = theirs
        .transforms
        .iter()
        .filter(|transform| transform.kind == kind)
        .take(SHOWN + 1)
        .map(transform)
        .collect();
    if names.is_empty() {
        return "none".to_string();
    }
    if names.len() > SHOWN {
        names.truncate(SHOWN);
        names.push("…".to_string());
    }
    names.join("/")
}

/// What a transform type is called.
pub(super) const fn kind(kind: TransformType) -> &'static str {
    match kind {
        TransformType::ENCR => "encryption",
        TransformType::PRF => "prf",
        TransformType::INTEG => "integrity",
        TransformType::KE => KEY_EXCHANGE,
        TransformType::ESN => "sequence numbers",
        _ => "an unknown kind of transform",
    }
}
