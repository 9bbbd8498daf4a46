//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Adds the 16-bit words of `bytes` to a running sum; an odd last octet counts as a high half.
pub(crate) fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut quads = bytes.chunks_exact(4);
    for quad in &mut quads {
        if let Ok(quad) = <[u8; 4]>::try_from(quad) {
            sum = sum.wrapping_add(u64::from(u32::from_be_bytes(quad)));
        }
    }
    let mut last = [0; 4];
    for (to, from) in last.iter_mut().zip(quads.remainder()) {
        *to = *from;
    }
    sum.wrapping_add(u64::from(u32::from_be_bytes(last)))
}

/// The checksum of a sum.
pub(crate) fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The checksum after a 16-bit word changed (RFC 1624 equation 3).
pub(crate) fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}
