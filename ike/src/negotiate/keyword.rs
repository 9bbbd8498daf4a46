//! Proposal strings as strongSwan writes them: `aes256gcm16-prfsha384-ecp384`.

use alloc::{
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::fmt;

use sa_store::{Esn, EspCipher, IntegrityAlgorithm, KeGroup, PrfAlgorithm};

use super::edits::edit_distance;
use crate::config::{EspProposal, IkeProposal};

/// One algorithm that a keyword names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keyword {
    Cipher(EspCipher),
    Integrity(IntegrityAlgorithm),
    Prf(PrfAlgorithm),
    Group(KeGroup),
    Esn(Esn),
}

/// Every keyword; the first one of an algorithm is how it is shown.
const KEYWORDS: [(&str, Keyword); 33] = [
    ("aes128gcm16", Keyword::Cipher(EspCipher::AesGcm16(128))),
    ("aes128gcm128", Keyword::Cipher(EspCipher::AesGcm16(128))),
    ("aes256gcm16", Keyword::Cipher(EspCipher::AesGcm16(256))),
    ("aes256gcm128", Keyword::Cipher(EspCipher::AesGcm16(256))),
    ("chacha20poly1305", Keyword::Cipher(EspCipher::ChaCha20Poly1305)),
    ("aes128", Keyword::Cipher(EspCipher::AesCbc(128))),
    ("aes", Keyword::Cipher(EspCipher::AesCbc(128))),
    ("aes192", Keyword::Cipher(EspCipher::AesCbc(192))),
    ("aes256", Keyword::Cipher(EspCipher::AesCbc(256))),
    ("sha256", Keyword::Integrity(IntegrityAlgorithm::HmacSha256_128)),
    ("sha2_256", Keyword::Integrity(IntegrityAlgorithm::HmacSha256_128)),
    ("sha384", Keyword::Integrity(IntegrityAlgorithm::HmacSha384_192)),
    ("sha2_384", Keyword::Integrity(IntegrityAlgorithm::HmacSha384_192)),
    ("sha512", Keyword::Integrity(IntegrityAlgorithm::HmacSha512_256)),
    ("sha2_512", Keyword::Integrity(IntegrityAlgorithm::HmacSha512_256)),
    ("prfsha256", Keyword::Prf(PrfAlgorithm::HmacSha256)),
    ("prfsha2_256", Keyword::Prf(PrfAlgorithm::HmacSha256)),
    ("prfsha384", Keyword::Prf(PrfAlgorithm::HmacSha384)),
    ("prfsha2_384", Keyword::Prf(PrfAlgorithm::HmacSha384)),
    ("prfsha512", Keyword::Prf(PrfAlgorithm::HmacSha512)),
    ("prfsha2_512", Keyword::Prf(PrfAlgorithm::HmacSha512)),
    ("x25519", Keyword::Group(KeGroup::Curve25519)),
    ("curve25519", Keyword::Group(KeGroup::Curve25519)),
    ("ecp256", Keyword::Group(KeGroup::Ecp256)),
    ("ecp384", Keyword::Group(KeGroup::Ecp384)),
    ("modp2048", Keyword::Group(KeGroup::Modp2048)),
    ("modp3072", Keyword::Group(KeGroup::Modp3072)),
    ("esn", Keyword::Esn(Esn::Yes)),
    ("noesn", Keyword::Esn(Esn::No)),
    ("ecp_256", Keyword::Group(KeGroup::Ecp256)),
    ("ecp_384", Keyword::Group(KeGroup::Ecp384)),
    ("modp_2048", Keyword::Group(KeGroup::Modp2048)),
    ("modp_3072", Keyword::Group(KeGroup::Modp3072)),
];

/// Keywords of strongSwan whose algorithms Postern does not speak, by how they begin.
const REFUSED: [&str; 43] = [
    "3des",
    "des",
    "null",
    "blowfish",
    "cast",
    "serpent",
    "twofish",
    "camellia",
    "aes128ctr",
    "aes192ctr",
    "aes256ctr",
    "aes128ccm",
    "aes192ccm",
    "aes256ccm",
    "aes192gcm",
    "aes128gcm8",
    "aes128gcm12",
    "aes128gcm64",
    "aes128gcm96",
    "aes256gcm8",
    "aes256gcm12",
    "aes256gcm64",
    "aes256gcm96",
    "aes128gmac",
    "aes192gmac",
    "aes256gmac",
    "md5",
    "sha1",
    "sha256_96",
    "aesxcbc",
    "aescmac",
    "prfmd5",
    "prfsha1",
    "prfaesxcbc",
    "prfaescmac",
    "modp",
    "ecp192",
    "ecp224",
    "ecp521",
    "curve448",
    "ntru",
    "newhope",
    "mlkem",
];

/// Why a text is no proposal; `Display` says what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProposalError {
    /// There is no keyword in it.
    Empty,
    /// Not a keyword.
    Unknown {
        /// What was written.
        keyword: String,
        /// The keyword that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A keyword of an algorithm that Postern does not speak.
    NotSpoken(String),
    /// The same algorithm stands twice.
    Repeated(String),
    /// A kind of algorithm has to be there and is not.
    Missing(&'static str),
    /// AEAD ciphers and others in one proposal (RFC 7296 §3.3 wants them apart).
    MixedCiphers,
    /// An AEAD needs no MAC.
    NeedlessIntegrity(String),
    /// The keyword has no meaning here: a PRF in ESP, ESN in IKE.
    OutOfPlace {
        /// What was written.
        keyword: String,
        /// In which kind of proposal.
        protocol: &'static str,
    },
}

impl fmt::Display for ProposalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the proposal is empty"),
            Self::Unknown { keyword, nearest: Some(nearest) } => {
                write!(f, "`{keyword}` is no algorithm; did you mean `{nearest}`?")
            }
            Self::Unknown { keyword, nearest: None } => {
                write!(f, "`{keyword}` is no algorithm")
            }
            Self::NotSpoken(keyword) => write!(
                f,
                "`{keyword}` is too weak or not available; use one of aes256gcm16, aes128gcm16, \
                 chacha20poly1305, aes256, aes128, sha256 to sha512, x25519, ecp256, ecp384, \
                 modp2048, modp3072"
            ),
            Self::Repeated(keyword) => write!(f, "`{keyword}` stands twice"),
            Self::Missing(what) => write!(f, "the proposal needs {what}"),
            Self::MixedCiphers => f.write_str(
                "ciphers with and without authentication of their own cannot share a proposal: \
                 write two proposals",
            ),
            Self::NeedlessIntegrity(keyword) => {
                write!(f, "the cipher authenticates by itself: leave out `{keyword}`")
            }
            Self::OutOfPlace { keyword, protocol } => {
                write!(f, "`{keyword}` has no meaning in {protocol} proposals")
            }
        }
    }
}

impl core::error::Error for ProposalError {}

#[derive(Default)]
struct Parsed {
    ciphers: Vec<EspCipher>,
    integrity: Vec<IntegrityAlgorithm>,
    prfs: Vec<PrfAlgorithm>,
    groups: Vec<KeGroup>,
    esn: Vec<Esn>,
}

/// Reads an IKE proposal. Without a `prf…` keyword the PRFs are those of the MACs.
///
/// # Errors
/// See [`ProposalError`].
pub fn parse_ike(text: &str) -> Result<IkeProposal, ProposalError> {
    let mut parsed = parse(text)?;
    if let Some(esn) = parsed.esn.first() {
        return Err(ProposalError::OutOfPlace { keyword: esn.to_string(), protocol: "IKE" });
    }
    let aead = all_or_none_aead(&parsed.ciphers)?;
    let derived = parsed.prfs.is_empty();
    if derived {
        parsed.prfs = parsed.integrity.iter().copied().map(prf_of).collect();
    }
    if aead && derived {
        // As in strongSwan, `aes256gcm16-sha384-ecp384` means the PRF.
        parsed.integrity.clear();
    }
    check_integrity(aead, &parsed.integrity)?;
    if parsed.prfs.is_empty() {
        return Err(ProposalError::Missing("a PRF, for example `prfsha384`"));
    }
    if parsed.groups.is_empty() {
        return Err(ProposalError::Missing("a key exchange method, for example `x25519`"));
    }
    let Parsed { ciphers, integrity, prfs, groups, .. } = parsed;
    Ok(IkeProposal { ciphers, integrity, prfs, groups })
}

/// Reads an ESP proposal. Without `esn` or `noesn` it means `noesn`.
///
/// # Errors
/// See [`ProposalError`].
pub fn parse_esp(text: &str) -> Result<EspProposal, ProposalError> {
    let mut parsed = parse(text)?;
    if let Some(prf) = parsed.prfs.first() {
        return Err(ProposalError::OutOfPlace { keyword: prf.to_string(), protocol: "ESP" });
    }
    let aead = all_or_none_aead(&parsed.ciphers)?;
    check_integrity(aead, &parsed.integrity)?;
    if parsed.esn.is_empty() {
        parsed.esn.push(Esn::No);
    }
    let Parsed { ciphers, integrity, groups, esn, .. } = parsed;
    Ok(EspProposal { ciphers, integrity, groups, esn })
}

fn parse(text: &str) -> Result<Parsed, ProposalError> {
    let mut parsed = Parsed::default();
    let text = text.trim();
    if text.is_empty() {
        return Err(ProposalError::Empty);
    }
    for word in text.split('-') {
        let keyword = lookup(word)?;
        let repeated = match keyword {
            Keyword::Cipher(it) => add(&mut parsed.ciphers, it),
            Keyword::Integrity(it) => add(&mut parsed.integrity, it),
            Keyword::Prf(it) => add(&mut parsed.prfs, it),
            Keyword::Group(it) => add(&mut parsed.groups, it),
            Keyword::Esn(it) => add(&mut parsed.esn, it),
        };
        if repeated {
            return Err(ProposalError::Repeated(word.to_string()));
        }
    }
    Ok(parsed)
}

/// Whether it was there already.
fn add<T: PartialEq>(list: &mut Vec<T>, item: T) -> bool {
    let repeated = list.contains(&item);
    if !repeated {
        list.push(item);
    }
    repeated
}

fn lookup(word: &str) -> Result<Keyword, ProposalError> {
    let lower = word.trim().to_ascii_lowercase();
    if let Some((_, keyword)) = KEYWORDS.iter().find(|(name, _)| *name == lower) {
        return Ok(*keyword);
    }
    // A typo in a known keyword is likelier than a refused algorithm, unless that is spelt out.
    let refused = REFUSED.iter().any(|name| {
        lower.strip_prefix(name).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit()))
    });
    if refused {
        return Err(ProposalError::NotSpoken(word.to_string()));
    }
    Err(ProposalError::Unknown { keyword: word.to_string(), nearest: nearest(&lower) })
}

fn nearest(word: &str) -> Option<&'static str> {
    // Longer words are no typos of anything, and the distance costs their length squared.
    if word.is_empty() || word.len() > 32 {
        return None;
    }
    KEYWORDS
        .iter()
        .map(|(name, _)| (edit_distance(word, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

fn all_or_none_aead(ciphers: &[EspCipher]) -> Result<bool, ProposalError> {
    let aead =
        ciphers.first().ok_or(ProposalError::Missing("a cipher, for example `aes256gcm16`"))?;
    if ciphers.iter().all(|cipher| cipher.is_aead() == aead.is_aead()) {
        Ok(aead.is_aead())
    } else {
        Err(ProposalError::MixedCiphers)
    }
}

fn check_integrity(aead: bool, integrity: &[IntegrityAlgorithm]) -> Result<(), ProposalError> {
    match (aead, integrity.first()) {
        (true, Some(mac)) => Err(ProposalError::NeedlessIntegrity(mac.to_string())),
        (false, None) => {
            Err(ProposalError::Missing("an integrity algorithm, for example `sha256`"))
        }
        _ => Ok(()),
    }
}

const fn prf_of(mac: IntegrityAlgorithm) -> PrfAlgorithm {
    match mac {
        IntegrityAlgorithm::HmacSha256_128 => PrfAlgorithm::HmacSha256,
        IntegrityAlgorithm::HmacSha384_192 => PrfAlgorithm::HmacSha384,
        IntegrityAlgorithm::HmacSha512_256 => PrfAlgorithm::HmacSha512,
    }
}

/// What a tunnel proposes for IKE when nothing is configured.
#[must_use]
pub fn default_ike_proposals() -> Vec<IkeProposal> {
    let groups = default_groups();
    let prfs = vec![PrfAlgorithm::HmacSha384, PrfAlgorithm::HmacSha256, PrfAlgorithm::HmacSha512];
    vec![
        IkeProposal {
            ciphers: vec![
                EspCipher::AesGcm16(256),
                EspCipher::ChaCha20Poly1305,
                EspCipher::AesGcm16(128),
            ],
            integrity: Vec::new(),
            prfs: prfs.clone(),
            groups: groups.clone(),
        },
        IkeProposal {
            ciphers: vec![EspCipher::AesCbc(256), EspCipher::AesCbc(128)],
            integrity: vec![
                IntegrityAlgorithm::HmacSha384_192,
                IntegrityAlgorithm::HmacSha256_128,
                IntegrityAlgorithm::HmacSha512_256,
            ],
            prfs,
            groups,
        },
    ]
}

/// What a child proposes for ESP when nothing is configured. Whether a Child SA has a key exchange
/// of its own shows at its first rekey only (RFC 7296 §1.2): each proposal stands there with and
/// without, so that the child outlives it whatever the peer wants.
#[must_use]
pub fn default_esp_proposals() -> Vec<EspProposal> {
    let aead =
        vec![EspCipher::AesGcm16(256), EspCipher::ChaCha20Poly1305, EspCipher::AesGcm16(128)];
    let cbc = vec![EspCipher::AesCbc(256), EspCipher::AesCbc(128)];
    let macs = vec![
        IntegrityAlgorithm::HmacSha384_192,
        IntegrityAlgorithm::HmacSha256_128,
        IntegrityAlgorithm::HmacSha512_256,
    ];
    let mut all = Vec::new();
    for (ciphers, integrity) in [(aead, Vec::new()), (cbc, macs)] {
        for groups in [default_groups(), Vec::new()] {
            all.push(EspProposal {
                ciphers: ciphers.clone(),
                integrity: integrity.clone(),
                groups,
                esn: vec![Esn::Yes, Esn::No],
            });
        }
    }
    all
}

/// The last method is what every peer has (RFC 8247 §2.4), and all that some have.
fn default_groups() -> Vec<KeGroup> {
    vec![
        KeGroup::Curve25519,
        KeGroup::Ecp384,
        KeGroup::Ecp256,
        KeGroup::Modp3072,
        KeGroup::Modp2048,
    ]
}

/// Joins keywords with `-`.
fn join<T: fmt::Display>(f: &mut fmt::Formatter<'_>, first: &mut bool, list: &[T]) -> fmt::Result {
    for item in list {
        if !core::mem::take(first) {
            f.write_str("-")?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        join(f, &mut first, &self.ciphers)?;
        join(f, &mut first, &self.integrity)?;
        join(f, &mut first, &self.prfs)?;
        join(f, &mut first, &self.groups)
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        join(f, &mut first, &self.ciphers)?;
        join(f, &mut first, &self.integrity)?;
        join(f, &mut first, &self.groups)?;
        if self.esn.as_slice() == [Esn::No] { Ok(()) } else { join(f, &mut first, &self.esn) }
    }
}
