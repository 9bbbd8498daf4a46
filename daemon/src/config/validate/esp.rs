//! `esp` of a child.

use ike::config::EspProposal;
use sa_store::{Esn, Limits};

use super::{
    super::{diagnostic::Findings, lifetime, proposal, schema::RawEsp},
    words::proposals,
};

/// What a child's SAs take from the file.
pub(super) struct Esp {
    pub(super) proposals: Vec<EspProposal>,
    pub(super) rekey: Limits,
    pub(super) replay_window: u32,
}

pub(super) fn esp(raw: &RawEsp<'_>, findings: &mut Findings) -> Esp {
    let replay_window = replay_window(raw, findings);
    let proposals = match &raw.proposals {
        Some(list) => {
            let parsed = proposals(list, proposal::esp, findings);
            if replay_window == 0 && parsed.iter().any(|p| p.esn.contains(&Esn::Yes)) {
                findings.error(
                    list.span.clone(),
                    "extended sequence numbers need a replay window (RFC 4303 section 3.4.3)",
                    "use -noesn, or a replay_window from 32 to 4096",
                );
            }
            parsed
        }
        None => proposal::esp_defaults(replay_window != 0),
    };
    let rekey = lifetime::soft(raw, findings);
    Esp { proposals, rekey, replay_window }
}

fn replay_window(raw: &RawEsp<'_>, findings: &mut Findings) -> u32 {
    const DEFAULT: u32 = 4096;
    match raw.replay_window.as_ref().map(|at| (at.value, &at.span)) {
        None => DEFAULT,
        Some((window @ (0 | 32..=4096), _)) => window as u32,
        Some((window, span)) => {
            let message = format!("a replay window of {window} packets does not exist");
            findings.error(span.clone(), message, "use 32 to 4096, or 0 for none");
            DEFAULT
        }
    }
}
