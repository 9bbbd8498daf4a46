//! Proposals in strongSwan's keywords, and the ones used when none are named.

use ike::{
    config::{EspProposal, IkeProposal},
    negotiate,
};
use sa_store::Esn;

/// The default IKE proposals.
pub(super) fn ike_defaults() -> Vec<IkeProposal> {
    negotiate::default_ike_proposals()
}

/// The default ESP proposals; without a replay window there are no extended sequence numbers.
pub(super) fn esp_defaults(esn: bool) -> Vec<EspProposal> {
    let mut all = negotiate::default_esp_proposals();
    if !esn {
        for proposal in &mut all {
            proposal.esn.retain(|esn| *esn == Esn::No);
        }
        all.retain(|proposal| !proposal.esn.is_empty());
    }
    all
}

/// Reads an IKE proposal.
///
/// # Errors
/// Which word is wrong or missing.
pub(super) fn ike(text: &str) -> Result<IkeProposal, String> {
    negotiate::parse_ike(text).map_err(|error| error.to_string())
}

/// Reads an ESP proposal.
///
/// # Errors
/// Which word is wrong or missing.
pub(super) fn esp(text: &str) -> Result<EspProposal, String> {
    negotiate::parse_esp(text).map_err(|error| error.to_string())
}
