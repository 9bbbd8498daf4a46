//! Comparing secrets.

use subtle::ConstantTimeEq;

/// Whether both are the same octets, in time that depends on the lengths only.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    bool::from(a.ct_eq(b))
}

#[cfg(test)]
mod tests {
    #[test]
    fn compares_all_octets() {
        assert!(super::equal(b"", b""));
        assert!(super::equal(b"abc", b"abc"));
        assert!(!super::equal(b"abc", b"abd"));
        assert!(!super::equal(b"bbc", b"abc"));
        assert!(!super::equal(b"abc", b"abcd"));
    }
}
