//! Where inbound ESP SPIs come from: one allocator for the node, before placement, so that an SA
//! can move between places.
//!
//! ```text
//!   SPI = | random tag ........ | slot index |
//! ```
//!
//! A data plane finds the SA by the slot index and compares the whole SPI. Tags are random, so
//! that somebody who does not see the packets cannot guess an SPI, and differ from use to use of
//! a slot, so that a late packet of a removed SA does not meet its successor. SPIs chosen by a
//! controller stand in a second table; the allocator keeps clear of them.

use core::fmt;
use std::collections::{BTreeSet, VecDeque};

use crate::EspSpi;

/// Tags drawn for one slot before another slot is tried.
const DRAWS: usize = 64;

/// The SPI is in use on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpiInUse(pub EspSpi);

impl fmt::Display for SpiInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SPI {} is in use already", self.0)
    }
}

impl core::error::Error for SpiInUse {}

/// The node's inbound SPIs.
#[derive(Debug)]
pub struct SpiAllocator {
    index_bits: u32,
    /// The SPI in each slot that was ever used: its current, else its last one.
    slots: Vec<Slot>,
    /// Free slots that were used before, the one that has been free longest first.
    free: VecDeque<u32>,
    chosen: BTreeSet<EspSpi>,
}

#[derive(Debug)]
struct Slot {
    spi: EspSpi,
    in_use: bool,
}

impl SpiAllocator {
    /// Room for 2^`index_bits` SPIs at a time; clamped to 1 to 24 bits, so that at least 8 bits
    /// of tag stay random.
    #[must_use]
    pub fn new(index_bits: u32) -> Self {
        Self {
            index_bits: index_bits.clamp(1, 24),
            slots: Vec::new(),
            free: VecDeque::new(),
            chosen: BTreeSet::new(),
        }
    }

    /// A fresh SPI; `random` is asked for tags. `None` when all slots are in use.
    pub fn allocate(&mut self, random: &mut dyn FnMut() -> u32) -> Option<EspSpi> {
        for _ in 0..=self.free.len() {
            let (index, last) = match self.unused() {
                Some(index) => (index, None),
                None => {
                    let index = self.free.pop_front()?;
                    (index, self.slots.get(usize::try_from(index).ok()?).map(|slot| slot.spi))
                }
            };
            let draw = (0..DRAWS)
                .filter_map(|_| EspSpi::new(random() << self.index_bits | index))
                .find(|spi| Some(*spi) != last && !self.chosen.contains(spi));
            if let Some(spi) = draw {
                self.occupy(index, spi);
                return Some(spi);
            }
            if last.is_some() {
                self.free.push_back(index);
            } else {
                return None;
            }
        }
        None
    }

    /// The lowest slot that was never used.
    fn unused(&self) -> Option<u32> {
        let index = u32::try_from(self.slots.len()).ok()?;
        (index < 1 << self.index_bits).then_some(index)
    }

    fn occupy(&mut self, index: u32, spi: EspSpi) {
        let slot = Slot { spi, in_use: true };
        match usize::try_from(index).ok().and_then(|at| self.slots.get_mut(at)) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
    }

    /// The slot of an SPI, for tables that are found by index.
    #[must_use]
    pub const fn index(&self, spi: EspSpi) -> usize {
        (spi.get() & ((1 << self.index_bits) - 1)) as usize
    }

    /// Takes an SPI that a controller chose.
    ///
    /// # Errors
    /// It is in use.
    pub fn claim(&mut self, spi: EspSpi) -> Result<(), SpiInUse> {
        let allocated =
            self.slots.get(self.index(spi)).is_some_and(|slot| slot.in_use && slot.spi == spi);
        if allocated || !self.chosen.insert(spi) { Err(SpiInUse(spi)) } else { Ok(()) }
    }

    /// The SPI is not in use any more. Unknown SPIs are ignored.
    pub fn release(&mut self, spi: EspSpi) {
        if self.chosen.remove(&spi) {
            return;
        }
        let index = self.index(spi);
        if let Some(slot) = self.slots.get_mut(index).filter(|s| s.in_use && s.spi == spi) {
            slot.in_use = false;
            self.free.extend(u32::try_from(index));
        }
    }

    /// SPIs in use, controllers' included.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.slots.len() - self.free.len() + self.chosen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> impl FnMut() -> u32 {
        let mut last = 0x1000;
        move || {
            last += 1;
            last
        }
    }

    #[test]
    fn a_space_of_two_holds_two_and_goes_on_after_a_release() {
        let mut spis = SpiAllocator::new(1);
        let mut random = counter();
        let a = spis.allocate(&mut random).unwrap();
        let b = spis.allocate(&mut random).unwrap();
        assert_ne!(spis.index(a), spis.index(b));
        assert_eq!(spis.allocate(&mut random), None);
        assert_eq!(spis.in_use(), 2);
        spis.release(b);
        spis.release(b);
        let c = spis.allocate(&mut random).unwrap();
        assert_eq!(spis.index(c), spis.index(b));
        assert_ne!(c, b);
        assert_eq!(spis.allocate(&mut random), None);
        spis.release(a);
        assert!(spis.allocate(&mut random).is_some());
    }

    #[test]
    fn reserved_and_chosen_values_never_come() {
        let mut spis = SpiAllocator::new(1);
        let chosen = EspSpi::new(0x1000).unwrap();
        assert_eq!(spis.claim(chosen), Ok(()));
        assert_eq!(spis.claim(chosen), Err(SpiInUse(chosen)));
        // Tags that give 0, 1 and the chosen SPI are drawn again.
        let mut tags = [0, 0x7f, 0x800, 0x801].into_iter().cycle();
        let spi = spis.allocate(&mut || tags.next().unwrap()).unwrap();
        assert_eq!(spi.get(), 0x1002);
        assert_eq!(spis.claim(spi), Err(SpiInUse(spi)));
        spis.release(chosen);
        assert_eq!(spis.claim(chosen), Ok(()));
        assert_eq!(spis.in_use(), 2);
    }

    #[test]
    fn a_generator_that_repeats_itself_does_not_hang() {
        let mut spis = SpiAllocator::new(8);
        let a = spis.allocate(&mut || 7).unwrap();
        assert_eq!(spis.allocate(&mut || 0), None);
        spis.release(a);
        assert!(spis.allocate(&mut || 7).is_some());
    }

    #[test]
    fn the_longest_free_slot_comes_first() {
        let mut spis = SpiAllocator::new(2);
        let mut random = counter();
        let all: Vec<_> = (0..4).map(|_| spis.allocate(&mut random).unwrap()).collect();
        for at in [2, 0, 3] {
            spis.release(all[at]);
        }
        let again: Vec<_> = (0..3)
            .map(|_| {
                let spi = spis.allocate(&mut random).unwrap();
                spis.index(spi)
            })
            .collect();
        assert_eq!(again, [2, 0, 3]);
    }
}
