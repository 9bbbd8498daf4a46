//! The algorithms Postern speaks, with their IANA numbers.

use core::fmt;

/// A confidentiality algorithm, for ESP and for IKE's SK payload alike. Variants carry the key
/// length in bits where the algorithm has several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EspCipher {
    /// `ENCR_AES_GCM_16` (20), RFC 4106 and RFC 5282; 128 or 256 bits, 16-octet ICV.
    AesGcm16(u16),
    /// `ENCR_CHACHA20_POLY1305` (28), RFC 7634.
    ChaCha20Poly1305,
    /// `ENCR_AES_CBC` (12), RFC 3602; 128, 192 or 256 bits.
    AesCbc(u16),
}

impl EspCipher {
    /// Whether the algorithm also authenticates.
    #[must_use]
    pub const fn is_aead(self) -> bool {
        matches!(self, Self::AesGcm16(_) | Self::ChaCha20Poly1305)
    }

    /// The IANA transform ID (transform type 1).
    #[must_use]
    pub const fn transform_id(self) -> u16 {
        match self {
            Self::AesGcm16(_) => 20,
            Self::ChaCha20Poly1305 => 28,
            Self::AesCbc(_) => 12,
        }
    }

    /// The key length attribute in bits, for algorithms that carry one on the wire.
    #[must_use]
    pub const fn key_length_attribute(self) -> Option<u16> {
        match self {
            Self::AesGcm16(bits) | Self::AesCbc(bits) => Some(bits),
            Self::ChaCha20Poly1305 => None,
        }
    }

    /// Key octets without salt.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::AesGcm16(bits) | Self::AesCbc(bits) => bits as usize / 8,
            Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Salt octets taken from KEYMAT behind the key.
    #[must_use]
    pub const fn salt_len(self) -> usize {
        if self.is_aead() { 4 } else { 0 }
    }

    /// Octets of explicit IV in a packet.
    #[must_use]
    pub const fn iv_len(self) -> usize {
        if self.is_aead() { 8 } else { 16 }
    }

    /// Octets a ciphertext must be a multiple of (RFC 4303 §2.4 asks for at least 4 in ESP).
    #[must_use]
    pub const fn block_len(self) -> usize {
        if self.is_aead() { 1 } else { 16 }
    }
}

impl fmt::Display for EspCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AesGcm16(bits) => write!(f, "aes{bits}gcm16"),
            Self::ChaCha20Poly1305 => f.write_str("chacha20poly1305"),
            Self::AesCbc(bits) => write!(f, "aes{bits}"),
        }
    }
}

/// An integrity algorithm (transform type 3): HMAC with SHA-2, RFC 4868.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IntegrityAlgorithm {
    /// `AUTH_HMAC_SHA2_256_128` (12).
    HmacSha256_128,
    /// `AUTH_HMAC_SHA2_384_192` (13).
    HmacSha384_192,
    /// `AUTH_HMAC_SHA2_512_256` (14).
    HmacSha512_256,
}

impl IntegrityAlgorithm {
    /// The IANA transform ID (transform type 3).
    #[must_use]
    pub const fn transform_id(self) -> u16 {
        match self {
            Self::HmacSha256_128 => 12,
            Self::HmacSha384_192 => 13,
            Self::HmacSha512_256 => 14,
        }
    }

    /// Key octets.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha256_128 => 32,
            Self::HmacSha384_192 => 48,
            Self::HmacSha512_256 => 64,
        }
    }

    /// Octets of the truncated ICV.
    #[must_use]
    pub const fn icv_len(self) -> usize {
        self.key_len() / 2
    }
}

impl fmt::Display for IntegrityAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha256_128 => "sha256",
            Self::HmacSha384_192 => "sha384",
            Self::HmacSha512_256 => "sha512",
        })
    }
}

/// A pseudorandom function (transform type 2): HMAC with SHA-2, RFC 4868.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PrfAlgorithm {
    /// `PRF_HMAC_SHA2_256` (5).
    HmacSha256,
    /// `PRF_HMAC_SHA2_384` (6).
    HmacSha384,
    /// `PRF_HMAC_SHA2_512` (7).
    HmacSha512,
}

impl PrfAlgorithm {
    /// The IANA transform ID (transform type 2).
    #[must_use]
    pub const fn transform_id(self) -> u16 {
        match self {
            Self::HmacSha256 => 5,
            Self::HmacSha384 => 6,
            Self::HmacSha512 => 7,
        }
    }

    /// Octets of output, which is also the preferred key length (RFC 7296 §2.13).
    #[must_use]
    pub const fn output_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }
}

impl fmt::Display for PrfAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha256 => "prfsha256",
            Self::HmacSha384 => "prfsha384",
            Self::HmacSha512 => "prfsha512",
        })
    }
}

/// A key exchange method (transform type 4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KeGroup {
    /// 14, RFC 3526.
    Modp2048,
    /// 15, RFC 3526.
    Modp3072,
    /// 19, RFC 5903.
    Ecp256,
    /// 20, RFC 5903.
    Ecp384,
    /// 31, RFC 8031.
    Curve25519,
}

impl KeGroup {
    /// Every group, most preferred first.
    pub const ALL: [Self; 5] =
        [Self::Curve25519, Self::Ecp384, Self::Ecp256, Self::Modp3072, Self::Modp2048];

    /// The IANA transform ID (transform type 4).
    #[must_use]
    pub const fn transform_id(self) -> u16 {
        match self {
            Self::Modp2048 => 14,
            Self::Modp3072 => 15,
            Self::Ecp256 => 19,
            Self::Ecp384 => 20,
            Self::Curve25519 => 31,
        }
    }

    /// The group with that transform ID, if Postern speaks it.
    #[must_use]
    pub fn from_transform_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.transform_id() == id)
    }

    /// Octets of the public value in a KE payload.
    #[must_use]
    pub const fn public_len(self) -> usize {
        match self {
            Self::Modp2048 => 256,
            Self::Modp3072 => 384,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::Curve25519 => 32,
        }
    }

    /// Octets of the shared secret g^ir.
    #[must_use]
    pub const fn shared_len(self) -> usize {
        match self {
            Self::Modp2048 => 256,
            Self::Modp3072 => 384,
            Self::Ecp256 | Self::Curve25519 => 32,
            Self::Ecp384 => 48,
        }
    }
}

impl fmt::Display for KeGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Modp2048 => "modp2048",
            Self::Modp3072 => "modp3072",
            Self::Ecp256 => "ecp256",
            Self::Ecp384 => "ecp384",
            Self::Curve25519 => "x25519",
        })
    }
}

/// Extended sequence numbers (transform type 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Esn {
    /// 0: 32-bit sequence numbers.
    No,
    /// 1: 64-bit sequence numbers, RFC 4304.
    Yes,
}

impl Esn {
    /// The IANA transform ID (transform type 5).
    #[must_use]
    pub const fn transform_id(self) -> u16 {
        matches!(self, Self::Yes) as u16
    }
}

impl fmt::Display for Esn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Yes) { "esn" } else { "noesn" })
    }
}

/// What protects the packets of an SA: an AEAD, or a cipher with a separate MAC
/// (encrypt-then-MAC). Built only through [`EspSuite::new`], so the combination is always valid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EspSuite {
    cipher: EspCipher,
    integrity: Option<IntegrityAlgorithm>,
}

impl EspSuite {
    /// `None` if the combination or a key length does not exist: an AEAD with a MAC, CBC
    /// without one, AES with a length other than 128, 192 (CBC only) or 256 bits.
    #[must_use]
    pub const fn new(cipher: EspCipher, integrity: Option<IntegrityAlgorithm>) -> Option<Self> {
        let length_ok = match cipher {
            EspCipher::AesGcm16(bits) => matches!(bits, 128 | 256),
            EspCipher::AesCbc(bits) => matches!(bits, 128 | 192 | 256),
            EspCipher::ChaCha20Poly1305 => true,
        };
        if length_ok && cipher.is_aead() != integrity.is_some() {
            Some(Self { cipher, integrity })
        } else {
            None
        }
    }

    /// The cipher.
    #[must_use]
    pub const fn cipher(self) -> EspCipher {
        self.cipher
    }

    /// The MAC; `None` for AEAD.
    #[must_use]
    pub const fn integrity(self) -> Option<IntegrityAlgorithm> {
        self.integrity
    }

    /// Octets of ICV on each packet.
    #[must_use]
    pub const fn icv_len(self) -> usize {
        match self.integrity {
            Some(mac) => mac.icv_len(),
            None => 16,
        }
    }

    /// Octets of KEYMAT one direction takes: key, salt, integrity key.
    #[must_use]
    pub const fn keymat_len(self) -> usize {
        let mac = match self.integrity {
            Some(mac) => mac.key_len(),
            None => 0,
        };
        self.cipher.key_len() + self.cipher.salt_len() + mac
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.integrity {
            Some(mac) => write!(f, "{}-{mac}", self.cipher),
            None => write!(f, "{}", self.cipher),
        }
    }
}
