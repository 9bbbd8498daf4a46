//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624), at the speed that
//! super-packets of 64 KiB need.

/// Adds the 16-bit words of `bytes`; an odd last octet counts as a high half.
#[must_use]
pub fn sum(start: u64, bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let (words, tail) = rest.as_chunks::<4>();
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    let native = words
        .iter()
        .chain([&last])
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .fold(long(blocks), u64::wrapping_add);
    // The sum of native words is the sum of network words with its octets swapped (RFC 1071 §2).
    start + u64::from(fold(native).to_be())
}

/// The native words of whole blocks; headers have none.
fn long(blocks: &[[u8; 64]]) -> u64 {
    if blocks.is_empty() {
        return 0;
    }
    // Sixteen lanes of 32-bit words without carry handling: the compiler makes vectors of it. A
    // lane of the longest packet (64 KiB) adds up 2^10 words and cannot wrap.
    let mut lanes = [0_u64; 16];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = lane.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

/// Brings a sum to 16 bits.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    // At most 16 bits are left.
    (sum & 0xffff) as u16
}

/// The checksum of a sum.
#[must_use]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// The checksum after a 16-bit word changed (RFC 1624 equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn slow(bytes: &[u8]) -> u16 {
        let mut total = 0_u64;
        for pair in bytes.chunks(2) {
            total += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        finish(total)
    }

    #[test]
    fn every_length_sums_as_the_plain_rule_does() {
        let bytes: Vec<u8> = (0..700_u32).map(|i| (i * 37 + i / 5) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(finish(sum(0, &bytes[..len])), slow(&bytes[..len]), "{len}");
        }
        assert_eq!(finish(sum(0, &[0xff; 65_535])), slow(&[0xff; 65_535]));
    }

    #[test]
    fn parts_of_even_length_may_be_summed_one_after_the_other() {
        let bytes: Vec<u8> = (0..101_u8).collect();
        assert_eq!(finish(sum(sum(0, &bytes[..40]), &bytes[40..])), slow(&bytes));
    }
}
