//! The anti-replay window of an inbound SA (RFC 4303 §3.4.3), shared by workers without locks.
//!
//! The window is a ring of 64-bit words. A word covers a block of 32 consecutive sequence
//! numbers: its low half is their bitmap, its high half the low 32 bits of the block's number.
//!
//! ```text
//!  sequence number  |............ block ............| bit |     32 numbers a block
//!  ring             | tag:bitmap | tag:bitmap | ... |           slot = block mod slots
//! ```
//!
//! A number is accepted by one compare-and-swap that sets its bit, so two workers that hold
//! copies of one packet cannot both win. The ring has at least one block more than the window:
//! a slot is only taken over by a block that pushes the old block out of the window, and
//! `highest` moves before any slot does, so whoever finds a foreign tag also sees the new
//! `highest` and refuses what has become too old.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::Esn;

/// Sequence numbers one word covers.
const BLOCK: u64 = 32;

/// The window used to infer high bits when replay protection is off (RFC 4303 §3.3.3 advises
/// against ESN then): the number nearest to the highest one seen is meant.
const INFERENCE_WINDOW_WHEN_OFF: u64 = 1 << 31;

/// Why a sequence number was refused. Both are counted as `replay`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// Left of the window, or never valid (0, or at most the floor).
    TooOld,
    /// Seen before.
    Duplicate,
}

/// A replay window of 32 to 4096 packets; 0 is off.
#[derive(Debug)]
pub struct ReplayWindow {
    highest: AtomicU64,
    floor: u64,
    window: u64,
    mask: u64,
    ring: Box<[AtomicU64]>,
}

impl ReplayWindow {
    /// The largest window.
    pub const MAX: u32 = 4096;
    /// The smallest window that is on.
    pub const MIN: u32 = 32;

    /// A window of `window` packets (0 is off; else clamped to [`Self::MIN`]..=[`Self::MAX`])
    /// that refuses every number up to `floor` (0 for a new SA).
    #[must_use]
    pub fn new(window: u32, floor: u64) -> Self {
        let window = if window == 0 { 0 } else { window.clamp(Self::MIN, Self::MAX) };
        let slots = if window == 0 { 0 } else { (window.div_ceil(32) + 1).next_power_of_two() };
        Self {
            highest: AtomicU64::new(floor),
            floor,
            window: u64::from(window),
            mask: u64::from(slots).wrapping_sub(1),
            ring: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// The highest authenticated sequence number so far (the floor before the first).
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest.load(Ordering::Acquire)
    }

    /// The size of the window in packets; 0 is off.
    #[must_use]
    pub const fn window(&self) -> u64 {
        self.window
    }

    /// The 64-bit sequence number a packet means. Without ESN it is the one in the packet; with
    /// ESN the high half is inferred from the window's place (RFC 4303 Appendix A2.2).
    ///
    /// `None` if the number would lie before the first cycle, so that it cannot be valid.
    #[must_use]
    pub fn infer(&self, esn: Esn, low: u32) -> Option<u64> {
        if esn == Esn::No {
            return Some(u64::from(low));
        }
        let window = if self.window == 0 { INFERENCE_WINDOW_WHEN_OFF } else { self.window };
        infer_esn(self.highest(), window, low)
    }

    /// The check before authentication: whether `sequence` could still be accepted. Changes
    /// nothing.
    ///
    /// # Errors
    /// When the number is too old or has been seen.
    pub fn check(&self, sequence: u64) -> Result<(), Replayed> {
        if self.window == 0 {
            return Ok(());
        }
        if sequence <= self.floor || self.too_old(sequence, self.highest()) {
            return Err(Replayed::TooOld);
        }
        let (slot, tag, bit) = self.place(sequence);
        let Some(word) = self.ring.get(slot) else { return Err(Replayed::TooOld) };
        let word = word.load(Ordering::Acquire);
        if word >> 32 == tag && word & bit != 0 {
            return Err(Replayed::Duplicate);
        }
        Ok(())
    }

    /// Takes `sequence`, which must have been authenticated: exactly one caller gets `Ok` for a
    /// number, however many workers try at once. `Ok(true)` says that it is the newest so far.
    ///
    /// # Errors
    /// When the number is too old or has been seen.
    pub fn accept(&self, sequence: u64) -> Result<bool, Replayed> {
        let mut highest = self.highest.load(Ordering::Acquire);
        let newest = sequence > highest;
        if newest {
            highest = self.highest.fetch_max(sequence, Ordering::AcqRel).max(sequence);
        }
        if self.window == 0 {
            return Ok(newest);
        }
        if sequence <= self.floor || self.too_old(sequence, highest) {
            return Err(Replayed::TooOld);
        }
        let (slot, tag, bit) = self.place(sequence);
        let Some(cell) = self.ring.get(slot) else { return Err(Replayed::TooOld) };
        let mut word = cell.load(Ordering::Acquire);
        loop {
            let updated = if word >> 32 == tag {
                if word & bit != 0 {
                    return Err(Replayed::Duplicate);
                }
                word | bit
            } else {
                // A foreign tag is either a block that fell out of the window (ours replaces
                // it) or one that pushed ours out; the second kind moved `highest` first.
                if self.too_old(sequence, self.highest.load(Ordering::Acquire)) {
                    return Err(Replayed::TooOld);
                }
                tag << 32 | bit
            };
            match cell.compare_exchange_weak(word, updated, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(newest),
                Err(now) => word = now,
            }
        }
    }

    const fn too_old(&self, sequence: u64, highest: u64) -> bool {
        highest.saturating_sub(sequence) >= self.window
    }

    /// Slot index, tag and bit of a sequence number.
    fn place(&self, sequence: u64) -> (usize, u64, u64) {
        let block = sequence / BLOCK;
        let slot = usize::try_from(block & self.mask).unwrap_or(usize::MAX);
        (slot, block & 0xffff_ffff, 1 << (sequence % BLOCK))
    }
}

/// RFC 4303 Appendix A2.2: the full number of a packet that carries `low`, for a window of
/// `window` numbers (at least 1) whose right edge is `highest`. `None` if it lies before the
/// first cycle or behind the last.
#[must_use]
pub const fn infer_esn(highest: u64, window: u64, low: u32) -> Option<u64> {
    infer_halves(32, highest, window, low as u64)
}

/// The same for numbers of two halves of `bits` each: a small `bits` can be tried exhaustively.
const fn infer_halves(bits: u32, highest: u64, window: u64, low: u64) -> Option<u64> {
    let cycle = 1_u64 << bits;
    let (high_t, low_t) = (highest >> bits, highest % cycle);
    let behind = window - 1;
    let high = if low_t >= behind {
        // Case A: the window lies within one cycle of the low half.
        if low >= low_t - behind { Some(high_t) } else { high_t.checked_add(1) }
    } else {
        // Case B: the window spans two cycles.
        let left_edge = low_t + cycle - behind;
        if low >= left_edge { high_t.checked_sub(1) } else { Some(high_t) }
    };
    match high {
        Some(high) if high < cycle => Some(high << bits | low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number the packet means is the one with that low half in the 2^bits numbers that
    /// start at the window's left edge: there is exactly one.
    #[test]
    fn infers_every_number_of_a_small_model() {
        const BITS: u32 = 4;
        for highest in 0..256_i64 {
            for window in 1..=15_i64 {
                for low in 0..16_i64 {
                    let left = highest - window + 1;
                    let meant = (left..left + 16).find(|n| n.rem_euclid(16) == low).unwrap();
                    let expected = u64::try_from(meant).ok().filter(|n| *n < 256);
                    let inferred = infer_halves(
                        BITS,
                        highest.try_into().unwrap(),
                        window.try_into().unwrap(),
                        low.try_into().unwrap(),
                    );
                    assert_eq!(inferred, expected, "T={highest} W={window} low={low}");
                }
            }
        }
    }

    #[test]
    fn infers_across_the_32_bit_boundary() {
        let edge = 1_u64 << 32;
        assert_eq!(infer_esn(edge - 1, 64, 0), Some(edge));
        assert_eq!(infer_esn(edge + 5, 64, u32::MAX), Some(edge - 1));
        assert_eq!(infer_esn(edge + 5, 64, u32::MAX - 56), Some(edge - 57));
        assert_eq!(infer_esn(edge + 5, 64, u32::MAX - 58), Some(2 * edge - 59));
        // Before the first cycle there is nothing, behind the last neither.
        assert_eq!(infer_esn(0, 64, u32::MAX), None);
        assert_eq!(infer_esn(u64::MAX - 1, 64, 5), None);
    }
}
