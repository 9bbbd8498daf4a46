//! `ike` of a tunnel.

use std::time::Duration;

use ::ike::config::IkeProposal;

use super::{
    super::{diagnostic::Findings, lifetime, proposal, schema::RawIke},
    words::proposals,
};

/// What a tunnel's IKE SA takes from the file.
pub(super) struct Ike {
    pub(super) proposals: Vec<IkeProposal>,
    pub(super) rekey: Option<Duration>,
    pub(super) dpd: Option<Duration>,
}

pub(super) fn ike(raw: &RawIke<'_>, findings: &mut Findings) -> Ike {
    Ike {
        proposals: match &raw.proposals {
            Some(list) => proposals(list, proposal::ike, findings),
            None => proposal::ike_defaults(),
        },
        rekey: lifetime::ike(raw.rekey.as_ref(), findings),
        dpd: lifetime::dpd(raw.dpd.as_ref(), findings),
    }
}
