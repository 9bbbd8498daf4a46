//! Where randomness comes from. It is injected, so that a whole gateway runs from one seed.

use core::fmt;

/// A source of octets that nobody can predict.
///
/// The call cannot fail: a source that may run dry reports so when it is built. Private key
/// exchange values, nonces, SPIs and CBC IVs all come from here.
pub trait RandomSource {
    /// Fills `out` completely.
    fn fill(&mut self, out: &mut [u8]);

    /// The next 32 bits.
    fn next_u32(&mut self) -> u32 {
        let mut octets = [0; 4];
        self.fill(&mut octets);
        u32::from_be_bytes(octets)
    }

    /// The next 64 bits.
    fn next_u64(&mut self) -> u64 {
        let mut octets = [0; 8];
        self.fill(&mut octets);
        u64::from_be_bytes(octets)
    }
}

impl<R: RandomSource + ?Sized> RandomSource for &mut R {
    fn fill(&mut self, out: &mut [u8]) {
        (**self).fill(out);
    }
}

impl<R: RandomSource + ?Sized> RandomSource for Box<R> {
    fn fill(&mut self, out: &mut [u8]) {
        (**self).fill(out);
    }
}

/// The operating system's generator, asked every time: nothing is kept that a fork or a restored
/// snapshot could repeat.
#[derive(Clone, Copy, Debug)]
pub struct OsRandom(());

/// The operating system gives no randomness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RandomUnavailable;

impl fmt::Display for RandomUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the operating system gives no randomness")
    }
}

impl core::error::Error for RandomUnavailable {}

impl OsRandom {
    /// Asks once, waiting until the kernel's pool is seeded: from then on it always answers.
    ///
    /// # Errors
    /// The system call does not exist or is forbidden.
    pub fn new() -> Result<Self, RandomUnavailable> {
        let mut probe = [0; 32];
        getrandom::fill(&mut probe).map_err(|_| RandomUnavailable)?;
        Ok(Self(()))
    }
}

impl RandomSource for OsRandom {
    /// Ends the process if the system call that worked in [`OsRandom::new`] fails now: going on
    /// with guessable keys is the one thing that must not happen.
    fn fill(&mut self, out: &mut [u8]) {
        if getrandom::fill(out).is_err() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_gives_different_octets() {
        let mut random = OsRandom::new().unwrap();
        let (a, b) = (random.next_u64(), random.next_u64());
        assert_ne!(a, b);
        let boxed: &mut dyn RandomSource = &mut random;
        assert_ne!(boxed.next_u64(), a);
    }
}
