//! Digests that protocols prescribe.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// SHA-1 over the concatenated parts: what NAT detection hashes addresses with
/// (RFC 7296 §2.23). It proves nothing and protects nothing there, and must serve nowhere else.
#[must_use]
pub fn sha1_nat_detection(parts: &[&[u8]]) -> [u8; 20] {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    /// FIPS 180-4's example "abc".
    #[test]
    fn fips_180_example() {
        let digest = super::sha1_nat_detection(&[b"a", b"bc"]);
        let expected = [
            0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a, 0xba, 0x3e, 0x25, 0x71, 0x78, 0x50,
            0xc2, 0x6c, 0x9c, 0xd0, 0xd8, 0x9d,
        ];
        assert_eq!(digest, expected);
    }
}
