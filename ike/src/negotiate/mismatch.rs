//! Why there is no common proposal, in words.

use alloc::{string::String, vec::Vec};
use core::fmt;

/// A transform type in which two proposals have nothing in common.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// `encryption`, `prf`, `integrity`, `key exchange`, `sequence numbers`, `protocol`, `SPI`.
    pub what: &'static str,
    /// Our alternatives.
    pub ours: String,
    /// The peer's alternatives.
    pub theirs: String,
}

/// One of our proposals against one of the peer's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProposalDiff {
    /// Ours, as keywords.
    pub ours: String,
    /// Its place among ours, from 1 on.
    pub our_number: usize,
    /// The number the peer gave to its proposal.
    pub their_number: u8,
    /// What differs; never empty.
    pub differences: Vec<Difference>,
}

/// No proposal of the peer matches one of ours. `Display` shows, for each of ours, how the
/// nearest one of the peer's differs; [`Mismatch::pairs`] has every pair.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mismatch {
    /// Every pair, ours first, in order.
    pub pairs: Vec<ProposalDiff>,
    /// Proposals of the peer.
    pub their_proposals: usize,
    /// The peer's answer breaks a rule whatever we proposed, for example two proposals in it.
    pub broken_answer: Option<&'static str>,
}

/// [`Difference::what`] of a key exchange method.
pub(super) const KEY_EXCHANGE: &str = "key exchange";
/// How many pairs are recorded at most: a peer may offer many.
pub(super) const MAX_PAIRS: usize = 256;
/// How many of our proposals are named in the text.
const SHOWN: usize = 6;

impl Mismatch {
    /// Whether one of our proposals and one of the peer's differ in nothing but the key exchange:
    /// for a child, in perfect forward secrecy.
    #[must_use]
    pub fn is_key_exchange(&self) -> bool {
        let only = |pair: &ProposalDiff| pair.differences.iter().all(|it| it.what == KEY_EXCHANGE);
        self.pairs.iter().any(|pair| !pair.differences.is_empty() && only(pair))
    }

    /// For each of our proposals the pair with the fewest differences.
    pub fn nearest(&self) -> impl Iterator<Item = &ProposalDiff> {
        let mut numbers: Vec<usize> = self.pairs.iter().map(|pair| pair.our_number).collect();
        numbers.dedup();
        numbers.into_iter().filter_map(|number| {
            self.pairs
                .iter()
                .filter(|pair| pair.our_number == number)
                .min_by_key(|pair| pair.differences.len())
        })
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(broken) = self.broken_answer {
            return write!(f, "the peer's answer to our proposals is not valid: {broken}");
        }
        if self.their_proposals == 0 {
            return f.write_str("the peer offers no proposal");
        }
        f.write_str("no common proposal")?;
        for (at, pair) in self.nearest().take(SHOWN).enumerate() {
            f.write_str(if at == 0 { ": " } else { "; " })?;
            write!(
                f,
                "ours {} ({}) and the peer's {}",
                pair.our_number, pair.ours, pair.their_number
            )?;
            for (at, difference) in pair.differences.iter().enumerate() {
                let Difference { what, ours, theirs } = difference;
                f.write_str(if at == 0 { " differ in " } else { " and " })?;
                write!(f, "{what} (ours {ours}, the peer's {theirs})")?;
            }
        }
        Ok(())
    }
}

impl core::error::Error for Mismatch {}
