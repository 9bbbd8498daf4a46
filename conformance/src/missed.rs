//! What strongSwan's own sockets miss while a flow runs.
//!
//! Its user-space ESP reads one socket with one thread. On a machine with more work than cores the
//! kernel drops what that thread does not read in time, and counts it. Such a packet has crossed
//! the tunnel as far as it is ours, so it is no loss of the one who sent it; but it is said, and
//! more than a few are a failure like any other.

use std::io::Write as _;

use crate::failure::{Outcome, ensure};
use crate::strongswan::Strongswan;
use crate::traffic::{Direction, Report};

/// One of so many packets may be missed by the receiving strongSwan.
const ONE_OF: u64 = 1000;

/// A strongSwan at the receiving end of a flow, and what it had missed before.
#[derive(Debug)]
struct Receiver<'a> {
    who: &'a Strongswan,
    before: u64,
}

/// Looks at the sockets of the strongSwans at the ends of a flow, from before its first packet.
#[derive(Debug)]
pub struct Missed<'a> {
    there: Option<Receiver<'a>>,
    back: Option<Receiver<'a>>,
}

impl<'a> Missed<'a> {
    /// Of a flow between clients of a gateway that is not strongSwan and of this one.
    pub fn by(there: &'a Strongswan) -> Outcome<Self> {
        Ok(Self { there: Some(Receiver::watch(there)?), back: None })
    }

    /// Of a flow between clients of two strongSwans.
    pub fn by_both(there: &'a Strongswan, back: &'a Strongswan) -> Outcome<Self> {
        let mut both = Self::by(there)?;
        both.back = Some(Receiver::watch(back)?);
        Ok(both)
    }

    /// Fails unless every packet arrived once and unchanged, both ways, but for those few that the
    /// kernel has dropped in front of a strongSwan meanwhile.
    pub fn must_be_whole(self, report: &Report) -> Outcome {
        let mut judged = report.clone();
        let mut said = String::new();
        for (receiver, way) in [(&self.there, &mut judged.there), (&self.back, &mut judged.back)] {
            if let Some(receiver) = receiver {
                said.push_str(&receiver.excuse(way)?);
            }
        }
        if !said.is_empty() {
            // Not by the macro, whose output a test runner hides when the test passes.
            let _ = writeln!(std::io::stderr(), "{said}");
        }
        judged.must_be_whole().map_err(|failure| failure.while_doing(&format!("{report}{said}")))
    }
}

impl<'a> Receiver<'a> {
    fn watch(who: &'a Strongswan) -> Outcome<Self> {
        Ok(Self { who, before: who.missed()? })
    }

    /// Takes what was missed out of what was lost, and says so.
    fn excuse(&self, way: &mut Direction) -> Outcome<String> {
        let missed = self.who.missed()?.saturating_sub(self.before).min(way.lost);
        if missed == 0 {
            return Ok(String::new());
        }
        ensure(missed <= way.sent / ONE_OF, || {
            format!("strongSwan missed {missed} of {} packets at its own socket", way.sent)
        })?;
        way.lost -= missed;
        Ok(format!("; strongSwan missed {missed} of {} packets at its own socket", way.sent))
    }
}
