//! What the `bypass` of a child may name: parts of its networks, but not all of one.

use gateway::{
    bypass::Clear,
    spec::{ChildSpec, ConnectionSpec},
};
use sa_store::{TrafficSelector, uncovered};

use super::{
    diagnostic::Findings,
    schema::{At, RawConfig},
};

/// Comparisons at most, so that a hostile file costs bounded time.
const BUDGET: usize = 4_000_000;

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

/// A bypass is its own child's: what another child protects of it goes through that one.
pub(super) fn check_across(
    raw: &RawConfig<'_>,
    connections: &[ConnectionSpec],
    findings: &mut Findings,
) {
    let all: Vec<(String, &ChildSpec)> = connections
        .iter()
        .flat_map(|spec| {
            spec.children.iter().map(|child| (format!("{}/{}", spec.name, child.name), child))
        })
        .collect();
    let texts: Vec<_> = raw.tunnels.iter().flat_map(|tunnel| &tunnel.children).collect();
    if texts.len() != all.len() {
        return;
    }
    let mut budget = BUDGET;
    for (text, (name, child)) in texts.iter().zip(&all) {
        let Some(place) = text.bypass.first() else { continue };
        let clear = Clear::of(&child.local, &child.remote, &child.bypass);
        let others = all.iter().filter(|(other, _)| other != name);
        for (other_name, other) in others {
            let cost = child.bypass.len() * (other.local.len() + other.remote.len());
            let Some(left) = budget.checked_sub(cost) else { return };
            budget = left;
            if protects(other, &child.local, &clear.destinations)
                || protects(other, &clear.sources, &child.remote)
            {
                findings.warning(
                    place.span.clone(),
                    format!("`{other_name}` protects some of what `{name}` leaves clear"),
                    format!("that goes through `{other_name}`, unless its `bypass` names it too"),
                );
                break;
            }
        }
    }
}

/// Whether a child protects something between these networks.
fn protects(child: &ChildSpec, local: &[TrafficSelector], remote: &[TrafficSelector]) -> bool {
    let common = |ours: &[TrafficSelector], theirs: &[TrafficSelector]| -> Vec<TrafficSelector> {
        ours.iter().flat_map(|a| theirs.iter().filter_map(|b| a.intersect(b))).collect()
    };
    let (local, remote) = (common(&child.local, local), common(&child.remote, remote));
    let clear = Clear::of(&child.local, &child.remote, &child.bypass);
    let families = |v4: bool| {
        local.iter().any(|it| it.is_ipv4() == v4) && remote.iter().any(|it| it.is_ipv4() == v4)
    };
    (families(true) || families(false))
        && !uncovered(&remote, &clear.destinations).is_empty()
        && !uncovered(&local, &clear.sources).is_empty()
}
