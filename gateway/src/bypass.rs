//! What the `bypass` of a child leaves clear.

use std::collections::HashSet;

use sa_store::{TrafficSelector, uncovered};

/// What the bypass selectors of a child leave clear.
///
/// A selector that meets the peer's networks leaves clear what goes from the child's own networks
/// to it; one that only meets the child's own networks, what goes from it to the peer's. One that
/// meets both, as most do when the peer's networks are everything, is no source: otherwise own
/// networks that are named to stay reachable would take all their traffic out of protection.
#[derive(Debug)]
pub struct Clear {
    /// Of the peer's networks.
    pub destinations: Vec<TrafficSelector>,
    /// Of the child's own networks.
    pub sources: Vec<TrafficSelector>,
}

impl Clear {
    /// What `bypass` leaves clear between the networks `local` and `remote`.
    #[must_use]
    pub fn of(
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
        bypass: &[TrafficSelector],
    ) -> Self {
        let mut clear = Self { destinations: Vec::new(), sources: Vec::new() };
        for selector in bypass {
            let inside = |networks: &[TrafficSelector]| -> Vec<TrafficSelector> {
                networks.iter().filter_map(|network| network.intersect(selector)).collect()
            };
            let destinations = inside(remote);
            if destinations.is_empty() {
                clear.sources.extend(inside(local));
            } else {
                clear.destinations.extend(destinations);
            }
        }
        clear
    }

    /// The networks of a child of which nothing is left to protect: one of `remote` whose
    /// destinations, or one of `local` whose sources, are all clear.
    #[must_use]
    pub fn voided(
        &self,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
    ) -> Vec<TrafficSelector> {
        let gone = |networks: &[TrafficSelector], clear: &[TrafficSelector]| {
            let left: HashSet<_> = match clear {
                [] => return Vec::new(),
                _ => uncovered(networks, clear).into_iter().collect(),
            };
            networks.iter().filter(|network| !left.contains(network)).copied().collect::<Vec<_>>()
        };
        [gone(local, &self.sources), gone(remote, &self.destinations)].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_are_clear_as_a_whole_are_named() {
        let all = |texts: &[&str]| -> Vec<TrafficSelector> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let voided = |local: &[&str], remote: &[&str], bypass: &[&str]| {
            let (local, remote) = (all(local), all(remote));
            let gone = Clear::of(&local, &remote, &all(bypass)).voided(&local, &remote);
            gone.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (ours, theirs) = (&["10.1.0.0/16"], &["10.2.0.0/16", "10.3.0.0/16"]);
        assert_eq!(voided(ours, theirs, &["10.2.7.0/24", "10.1.7.0/24"]), [""; 0]);
        assert_eq!(voided(ours, theirs, &["10.2.0.0/17", "10.2.128.0/17"]), ["10.2.0.0/16"]);
        assert_eq!(voided(ours, theirs, &["10.2.0.0/15"]), theirs);
        assert_eq!(voided(ours, theirs, &["10.2.0.0/16[tcp]"]), [""; 0]);
        assert_eq!(voided(ours, theirs, &["10.1.0.0-10.1.255.255"]), ours);
        assert_eq!(voided(ours, &["0.0.0.0/0"], &["10.1.0.0/16"]), [""; 0]);
        assert_eq!(voided(ours, &["0.0.0.0/0", "::/0"], &["0.0.0.0/0"]), ["0.0.0.0/0"]);
        assert_eq!(voided(ours, theirs, &[]), [""; 0]);
    }
}
