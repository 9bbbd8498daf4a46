//! What the `bypass` of a child may name: parts of its networks, but not all of one.

use gateway::bypass::Clear;
use sa_store::TrafficSelector;

use super::{diagnostic::Findings, schema::At};

/// Every selector lies inside the child's networks `(local, remote)`, and something of each of these
/// is left to protect.
pub(super) fn check(
    raw: &[At<&str>],
    (local, remote): (&[TrafficSelector], &[TrafficSelector]),
    bypass: &[TrafficSelector],
    findings: &mut Findings,
) {
    let meets = |networks: &[TrafficSelector], selector: &TrafficSelector| {
        networks.iter().any(|network| network.intersect(selector).is_some())
    };
    for (text, selector) in raw.iter().zip(bypass) {
        if !meets(local, selector) && !meets(remote, selector) {
            findings.error(
                text.span.clone(),
                format!("`{selector}` lies in none of the child's networks"),
                "it would do nothing; remove it",
            );
        }
    }
    for network in Clear::of(local, remote, bypass).voided(local, remote) {
        // Several may cover it together: the last one of them completes that.
        let mut texts = raw.iter().zip(bypass).rev();
        let Some((text, _)) = texts.find(|(_, selector)| network.intersect(selector).is_some())
        else {
            continue;
        };
        findings.error(
            text.span.clone(),
            format!("`bypass` leaves nothing of `{network}` to protect"),
            "all of it would go in clear; name a part of it, or remove it from both",
        );
    }
}
