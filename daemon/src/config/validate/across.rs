//! What tunnels and children of one file are to each other.

use gateway::spec::{ConnectionSpec, TunnelMode};

use super::super::{callers, diagnostic::Findings, overlap, schema::RawConfig};

pub(super) fn check_overlaps(
    raw: &RawConfig<'_>,
    connections: &[ConnectionSpec],
    findings: &mut Findings,
) {
    let mut places = Vec::new();
    let mut nets = Vec::new();
    for (raw, spec) in raw.tunnels.iter().zip(connections) {
        if raw.children.len() != spec.children.len() {
            return;
        }
        for (raw_child, child) in raw.children.iter().zip(&spec.children) {
            places.push((format!("{}/{}", spec.name, child.name), raw_child.name.span.clone()));
            nets.push(overlap::Nets {
                local: &child.local,
                remote: &child.remote,
                has_bypass: !child.bypass.is_empty(),
            });
        }
    }
    for (first, second, kind) in overlap::find(&nets) {
        let (Some((first, _)), Some((second, span))) = (places.get(first), places.get(second))
        else {
            continue;
        };
        let takes = |who: &str| format!("packets that match both take `{who}`");
        let help = match kind {
            overlap::Overlap::Shadowed => {
                findings.error(
                    span.clone(),
                    format!("`{first}` already protects everything that `{second}` would"),
                    "give them different networks, or remove one",
                );
                continue;
            }
            overlap::Overlap::Earlier => takes(first),
            overlap::Overlap::Later => takes(second),
            overlap::Overlap::Mixed => {
                "packets that match both take the one with the narrower network".to_owned()
            }
        };
        findings.warning(span.clone(), format!("`{first}` and `{second}` overlap"), help);
    }
}

/// A passive tunnel comes up by its peer's call alone; for one that calls itself, the peer's calls
/// are lost.
pub(super) fn check_callers(
    raw: &RawConfig<'_>,
    connections: &[ConnectionSpec],
    findings: &mut Findings,
) {
    for (first, second) in callers::indistinct(connections) {
        let (Some(first), Some(second), Some(raw)) =
            (connections.get(first), connections.get(second), raw.tunnels.get(second))
        else {
            continue;
        };
        let message = format!(
            "a peer that calls cannot be told to be `{}`, not `{}`, which has another key",
            second.name, first.name
        );
        let (span, help) = (raw.name.span.clone(), "give each of them a remote.id of its own");
        if second.mode == TunnelMode::Passive {
            findings.error(span, message, help);
        } else {
            findings.warning(span, message, help);
        }
    }
}
