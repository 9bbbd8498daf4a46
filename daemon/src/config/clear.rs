//! `[gateway] clear`: networks that stay outside every policy. They are bypasses of every child
//! that covers them; a child that names nothing else is a contradiction.

use gateway::spec::ConnectionSpec;
use sa_store::{TrafficSelector, uncovered};

use super::{
    diagnostic::Findings,
    schema::{At, shown},
};

/// Reads the list.
pub(super) fn networks(
    raw: Option<&At<Vec<At<&str>>>>,
    findings: &mut Findings,
) -> Vec<TrafficSelector> {
    let mut networks = Vec::new();
    for text in raw.iter().flat_map(|list| &list.value) {
        match text.value.parse::<TrafficSelector>() {
            Ok(network) if network.protocol() != 0 || !network.ports().is_any() => findings.error(
                text.span.clone(),
                format!("`{}` is more than a network", shown(text.value)),
                "leave out protocol and ports; a child's `bypass` takes them",
            ),
            Ok(network) => networks.push(network),
            Err(error) => findings.error(text.span.clone(), error.to_string(), ""),
        }
    }
    networks
}

/// Takes `clear` out of every child.
pub(super) fn apply(
    raw: Option<&At<Vec<At<&str>>>>,
    clear: &[TrafficSelector],
    connections: &mut [ConnectionSpec],
    findings: &mut Findings,
) {
    let Some(list) = raw.filter(|_| !clear.is_empty()) else { return };
    for tunnel in connections {
        for child in &mut tunnel.children {
            let covered = |network: &&TrafficSelector| uncovered(&[**network], clear).is_empty();
            if let Some(network) = child.remote.iter().find(covered) {
                let mut texts = list.value.iter().zip(clear).rev();
                let of = texts.find(|(_, selector)| selector.intersect(network).is_some());
                findings.error(
                    of.map_or_else(|| list.span.clone(), |(text, _)| text.span.clone()),
                    format!(
                        "`clear` leaves nothing of `{network}`, which `{}/{}` protects",
                        tunnel.name, child.name
                    ),
                    "take it out of `clear`, or out of the child",
                );
                continue;
            }
            for part in child
                .remote
                .iter()
                .flat_map(|network| clear.iter().filter_map(|selector| network.intersect(selector)))
            {
                if !child.bypass.contains(&part) {
                    child.bypass.push(part);
                }
            }
        }
    }
}
