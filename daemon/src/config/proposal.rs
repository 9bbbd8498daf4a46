//! Proposals in strongSwan's keywords, and the ones used when none are named.

use ike::config::{EspProposal, IkeProposal};
use sa_store::{Esn, EspCipher, IntegrityAlgorithm, KeGroup, PrfAlgorithm};

use super::{suggest, validate::without_esn};

/// What is offered and accepted for IKE when nothing is configured, most preferred first.
const IKE_DEFAULTS: [&str; 9] = [
    "aes256gcm16-prfsha384-ecp384",
    "aes256gcm16-prfsha384-x25519",
    "aes128gcm16-prfsha256-x25519",
    "aes128gcm16-prfsha256-ecp256",
    "chacha20poly1305-prfsha256-x25519",
    "aes256-sha256-x25519",
    "aes256-sha384-ecp384",
    "aes256-sha256-modp3072",
    "aes256-sha256-modp2048",
];

/// What is offered and accepted for ESP when nothing is configured, most preferred first.
const ESP_DEFAULTS: [&str; 8] = [
    "aes256gcm16-esn",
    "aes256gcm16",
    "aes128gcm16-esn",
    "aes128gcm16",
    "chacha20poly1305-esn",
    "chacha20poly1305",
    "aes256-sha256-esn",
    "aes256-sha256",
];

/// The default IKE proposals.
pub(super) fn ike_defaults() -> Vec<IkeProposal> {
    IKE_DEFAULTS.iter().filter_map(|text| ike(text).ok()).collect()
}

/// The default ESP proposals; without a replay window there are no extended sequence numbers.
pub(super) fn esp_defaults(esn: bool) -> Vec<EspProposal> {
    let all = ESP_DEFAULTS.iter().filter_map(|text| esp(text).ok()).collect();
    if esn { all } else { without_esn(all) }
}

#[derive(Default)]
struct Parts {
    ciphers: Vec<EspCipher>,
    integrity: Vec<IntegrityAlgorithm>,
    prfs: Vec<PrfAlgorithm>,
    groups: Vec<KeGroup>,
    esn: Vec<Esn>,
}

/// Reads an IKE proposal.
///
/// # Errors
/// Which word is wrong or missing.
pub(super) fn ike(text: &str) -> Result<IkeProposal, String> {
    let mut parts = parts(text)?;
    if !parts.esn.is_empty() {
        return Err("esn and noesn are for ESP only".into());
    }
    if parts.prfs.is_empty() {
        parts.prfs = parts.integrity.iter().map(|mac| prf_of(*mac)).collect();
    }
    if parts.prfs.is_empty() {
        return Err("it needs a PRF: prfsha256, prfsha384 or prfsha512".into());
    }
    if parts.groups.is_empty() {
        return Err("it needs a key exchange: x25519, ecp256, ecp384, modp2048 or modp3072".into());
    }
    Ok(IkeProposal {
        ciphers: parts.ciphers,
        integrity: parts.integrity,
        prfs: parts.prfs,
        groups: parts.groups,
    })
}

/// Reads an ESP proposal.
///
/// # Errors
/// Which word is wrong or missing.
pub(super) fn esp(text: &str) -> Result<EspProposal, String> {
    let mut parts = parts(text)?;
    if !parts.prfs.is_empty() {
        return Err("PRFs are for IKE only".into());
    }
    if parts.esn.is_empty() {
        parts.esn.push(Esn::No);
    }
    Ok(EspProposal {
        ciphers: parts.ciphers,
        integrity: parts.integrity,
        groups: parts.groups,
        esn: parts.esn,
    })
}

fn parts(text: &str) -> Result<Parts, String> {
    let mut parts = Parts::default();
    for keyword in text.split('-') {
        match keyword {
            "aes128gcm16" | "aes128gcm128" => parts.ciphers.push(EspCipher::AesGcm16(128)),
            "aes256gcm16" | "aes256gcm128" => parts.ciphers.push(EspCipher::AesGcm16(256)),
            "chacha20poly1305" => parts.ciphers.push(EspCipher::ChaCha20Poly1305),
            "aes128" => parts.ciphers.push(EspCipher::AesCbc(128)),
            "aes192" => parts.ciphers.push(EspCipher::AesCbc(192)),
            "aes256" => parts.ciphers.push(EspCipher::AesCbc(256)),
            "sha256" | "sha2_256" => parts.integrity.push(IntegrityAlgorithm::HmacSha256_128),
            "sha384" | "sha2_384" => parts.integrity.push(IntegrityAlgorithm::HmacSha384_192),
            "sha512" | "sha2_512" => parts.integrity.push(IntegrityAlgorithm::HmacSha512_256),
            "prfsha256" => parts.prfs.push(PrfAlgorithm::HmacSha256),
            "prfsha384" => parts.prfs.push(PrfAlgorithm::HmacSha384),
            "prfsha512" => parts.prfs.push(PrfAlgorithm::HmacSha512),
            "x25519" | "curve25519" => parts.groups.push(KeGroup::Curve25519),
            "ecp256" => parts.groups.push(KeGroup::Ecp256),
            "ecp384" => parts.groups.push(KeGroup::Ecp384),
            "modp2048" => parts.groups.push(KeGroup::Modp2048),
            "modp3072" => parts.groups.push(KeGroup::Modp3072),
            "esn" => parts.esn.push(Esn::Yes),
            "noesn" => parts.esn.push(Esn::No),
            other => return Err(unknown(other)),
        }
    }
    let aead = parts.ciphers.iter().filter(|cipher| cipher.is_aead()).count();
    match aead {
        _ if parts.ciphers.is_empty() => Err("it needs a cipher".into()),
        0 if parts.integrity.is_empty() => {
            Err("this cipher needs a MAC: sha256, sha384 or sha512".into())
        }
        0 => Ok(parts),
        n if n != parts.ciphers.len() => {
            Err("AEAD and other ciphers cannot share a proposal: write two".into())
        }
        _ if !parts.integrity.is_empty() => {
            Err("an AEAD takes no MAC; for IKE write prfsha256 and the like".into())
        }
        _ => Ok(parts),
    }
}

fn prf_of(mac: IntegrityAlgorithm) -> PrfAlgorithm {
    match mac {
        IntegrityAlgorithm::HmacSha256_128 => PrfAlgorithm::HmacSha256,
        IntegrityAlgorithm::HmacSha384_192 => PrfAlgorithm::HmacSha384,
        IntegrityAlgorithm::HmacSha512_256 => PrfAlgorithm::HmacSha512,
    }
}

fn unknown(keyword: &str) -> String {
    const KNOWN: [&str; 19] = [
        "aes128gcm16",
        "aes256gcm16",
        "chacha20poly1305",
        "aes128",
        "aes192",
        "aes256",
        "sha256",
        "sha384",
        "sha512",
        "prfsha256",
        "prfsha384",
        "prfsha512",
        "x25519",
        "ecp256",
        "ecp384",
        "modp2048",
        "modp3072",
        "esn",
        "noesn",
    ];
    let keyword = super::schema::shown(keyword);
    match suggest::nearest(&keyword, &KNOWN) {
        Some(near) => format!("`{keyword}` is not known, did you mean `{near}`?"),
        None => format!("`{keyword}` is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_proposal() {
        assert_eq!(ike_defaults().len(), IKE_DEFAULTS.len());
        assert_eq!(esp_defaults(true).len(), ESP_DEFAULTS.len());
        assert_eq!(esp_defaults(false).len(), ESP_DEFAULTS.len() / 2);
    }
}
