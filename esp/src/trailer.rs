//! The ESP trailer: padding, pad length, next header (RFC 4303 §2.4 to §2.6).

/// Pad length and next header.
pub(crate) const FIXED: usize = 2;

/// 1, 2, 3, ... as RFC 4303 §2.4 wants padding to be.
const PADDING: [u8; 255] = {
    let mut padding = [0; 255];
    let mut i = 0;
    while i < 255 {
        padding[i] = i as u8 + 1;
        i += 1;
    }
    padding
};

/// Octets of trailer behind `payload` octets, so that all is a multiple of `align` (4 to 16).
pub(crate) const fn len(payload: usize, align: usize) -> usize {
    FIXED + (align - (payload + FIXED) % align) % align
}

/// Writes a trailer that fills `room` (2 to 257 octets).
pub(crate) fn write(room: &mut [u8], next_header: u8) {
    let Some((padding, [pad_len, next])) = room.split_last_chunk_mut() else { return };
    for (to, from) in padding.iter_mut().zip(PADDING) {
        *to = from;
    }
    *pad_len = u8::try_from(padding.len()).unwrap_or(u8::MAX);
    *next = next_header;
}

/// Takes the trailer off: length of the payload, and the next header. `None` if it claims more
/// padding than there is, or the padding is not 1, 2, 3, ...
pub(crate) fn read(text: &[u8]) -> Option<(usize, u8)> {
    let (body, [pad_len, next]) = text.split_last_chunk()?;
    let pad_len = usize::from(*pad_len);
    let payload = body.len().checked_sub(pad_len)?;
    (body.get(payload..)? == PADDING.get(..pad_len)?).then_some((payload, *next))
}
