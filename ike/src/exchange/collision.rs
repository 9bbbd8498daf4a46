//! Both ends rekey at once (RFC 7296 §2.8.1, §2.8.2, §2.25).
//!
//! Both requests are answered, so there are two successors for a moment. Of the four nonces the
//! lowest decides: the successor whose exchange has it is redundant, and the end that began that
//! exchange deletes it. The other end's successor inherits, and its creator deletes what was
//! replaced.
//!
//! ```text
//! A: rekey, Ni_a  -->  <--  B: rekey, Ni_b          both are on the way
//! A: <-- Nr_b           Nr_a --> :B                 both are answered
//! lowest of {Ni_a, Nr_b} < lowest of {Ni_b, Nr_a}:  A deletes its own successor, B the old one
//! ```

use alloc::vec::Vec;

use crate::view::IkeSaId;

/// The peer's successor of what we are replacing as well.
#[derive(Clone, Debug)]
pub(crate) struct Rival<T> {
    /// The lower nonce of its exchange.
    pub(crate) nonce: Vec<u8>,
    /// The successor itself, once it is there.
    pub(crate) successor: T,
}

/// A rival of an IKE SA; it is built when the key agreement is done.
pub(crate) type RivalIke = Rival<Option<IkeSaId>>;

/// Which successor is redundant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Redundant {
    Ours,
    Theirs,
}

/// The lower of an exchange's two nonces, octet by octet as RFC 7296 §2.8.1 compares them.
pub(crate) fn lower<'a>(nonce_i: &'a [u8], nonce_r: &'a [u8]) -> &'a [u8] {
    nonce_i.min(nonce_r)
}

/// Decides by the lower nonces of the two exchanges.
pub(crate) fn decide(ours: &[u8], theirs: &[u8]) -> Redundant {
    if ours < theirs { Redundant::Ours } else { Redundant::Theirs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_decide_alike_whatever_the_order_of_the_nonces() {
        let nonces: [&[u8]; 5] = [b"\x01\x02", b"\x01\x03", b"\x01", b"\xff", b"\x00\xff\xff"];
        for ni_a in nonces {
            for nr_b in nonces {
                for ni_b in nonces {
                    for nr_a in nonces {
                        let (a, b) = (lower(ni_a, nr_b), lower(ni_b, nr_a));
                        if a == b {
                            continue;
                        }
                        let at_a = decide(a, b) == Redundant::Ours;
                        let at_b = decide(b, a) == Redundant::Ours;
                        assert_ne!(at_a, at_b);
                        let lowest = [ni_a, nr_b, ni_b, nr_a].into_iter().min().unwrap();
                        assert_eq!(at_a, a == lowest);
                    }
                }
            }
        }
    }
}
