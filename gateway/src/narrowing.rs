//! What a child's configuration protects and its SA does not carry: it stays blocked.

use std::{fmt::Write as _, net::IpAddr};

use sa_store::TrafficSelector;

use crate::spec::ChildSpec;

/// Selectors of one traffic selector payload (RFC 7296 §3.13).
const MOST_SELECTORS: usize = 255;

/// The configured selectors that are not all inside the negotiated ones.
pub(crate) fn uncovered(
    configured: &[TrafficSelector],
    negotiated: &[TrafficSelector],
) -> Vec<TrafficSelector> {
    if configured == negotiated {
        return Vec::new();
    }
    let mut sorted: Vec<&TrafficSelector> = negotiated.iter().collect();
    sorted.sort_by_key(|selector| (selector.start(), selector.end()));
    let open = |wanted: &&TrafficSelector| !is_inside(wanted, &sorted);
    configured.iter().filter(open).copied().collect()
}

/// Whether `sorted` selectors, ascending by their first address, cover all of `wanted` together.
fn is_inside(wanted: &TrafficSelector, sorted: &[&TrafficSelector]) -> bool {
    // The first address that is not covered yet.
    let mut next = wanted.start();
    for selector in sorted {
        let fits = (selector.protocol() == 0 || selector.protocol() == wanted.protocol())
            && selector.ports().covers(wanted.ports())
            && selector.is_ipv4() == wanted.is_ipv4();
        if !fits || selector.end() < next {
            continue;
        }
        if selector.start() > next {
            return false;
        }
        match behind(selector.end()) {
            Some(address) if selector.end() < wanted.end() => next = address,
            _ => return true,
        }
    }
    false
}

/// The address behind; `None` after the last one.
fn behind(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// For operators: what stays blocked, and why when it is a matter of number. `None` when nothing
/// does.
pub(crate) fn sentence(
    local: &[TrafficSelector],
    remote: &[TrafficSelector],
    spec: &ChildSpec,
) -> Option<String> {
    if local.is_empty() && remote.is_empty() {
        return None;
    }
    let mut text = String::from("the SA carries less than the child protects; what stays blocked:");
    for (side, open) in [("local", local), ("remote", remote)] {
        // Writing to a string cannot fail.
        let _ = match open {
            [] => Ok(()),
            [one] => write!(text, " {side} {one}"),
            [first, rest @ ..] => write!(text, " {side} {first} and {} more", rest.len()),
        };
    }
    if spec.local.len().max(spec.remote.len()) > MOST_SELECTORS {
        let _ = write!(text, "; a child negotiates {MOST_SELECTORS} networks a side: split it");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<TrafficSelector> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_the_negotiated_selectors_cover_together_is_not_missing() {
        let configured = all(&["10.2.0.0/16", "10.3.0.0/16", "fd02::/48", "10.4.0.0/16[tcp/443]"]);
        let open = |negotiated: &[&str]| uncovered(&configured, &all(negotiated));
        assert_eq!(uncovered(&configured, &configured), []);
        let halves =
            ["10.2.128.0/17", "10.2.0.0/17", "10.3.0.0/16", "fd02::/32", "10.4.0.0/16[tcp]"];
        assert_eq!(open(&halves), []);
        assert_eq!(open(&["0.0.0.0/0", "::/0"]), []);
        // A gap in the middle, at the front, at the end; another protocol; another family.
        let gaps = [
            "10.2.0.0/18",
            "10.2.128.0/17",
            "10.3.0.1-10.3.255.255",
            "fd02::/49",
            "10.4.0.0/16[udp/443]",
        ];
        assert_eq!(open(&gaps), configured);
        assert_eq!(open(&["0.0.0.0/0"]), all(&["fd02::/48"]));
        assert_eq!(uncovered(&all(&["0.0.0.0/0"]), &all(&["128.0.0.0/1"])), all(&["0.0.0.0/0"]));
        assert_eq!(uncovered(&all(&["::/0"]), &all(&["8000::/1", "::/1"])), []);
    }

    #[test]
    fn the_sentence_names_the_first_and_how_many_more() {
        let networks: Vec<String> =
            (0..258).map(|n| format!("10.{}.{}.0/24", n / 200, n % 200)).collect();
        let networks: Vec<&str> = networks.iter().map(String::as_str).collect();
        let spec = |remote: &[&str]| ChildSpec {
            name: "net".into(),
            local: all(&["192.168.0.0/16"]),
            remote: all(remote),
            proposals: Vec::new(),
            rekey: sa_store::Limits::default(),
            life: sa_store::Limits::default(),
            replay_window: 64,
            bypass: Vec::new(),
            offload: sa_store::OffloadIntent::Auto,
        };
        let many = spec(&networks);
        assert_eq!(
            sentence(&[], &many.remote[255..], &many).unwrap(),
            "the SA carries less than the child protects; what stays blocked: remote 10.1.55.0/24 \
             and 2 more; a child negotiates 255 networks a side: split it"
        );
        let few = spec(&networks[..2]);
        assert_eq!(
            sentence(&few.local, &few.remote[..1], &few).unwrap(),
            "the SA carries less than the child protects; what stays blocked: \
             local 192.168.0.0/16 remote 10.0.0.0/24"
        );
        assert_eq!(sentence(&[], &[], &few), None);
    }
}
