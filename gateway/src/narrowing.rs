//! What a child's configuration protects and its SA does not carry: it stays blocked.

use std::fmt::Write as _;

use sa_store::TrafficSelector;

use crate::spec::ChildSpec;

/// Selectors of one traffic selector payload (RFC 7296 §3.13).
const MOST_SELECTORS: usize = 255;

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
