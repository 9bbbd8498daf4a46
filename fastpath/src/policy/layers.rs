//! Rules in layers, as look-ups in unordered sets need them.

use super::{Rule, Verdict};

/// Orders rules of one family into layers: rules of one layer do not overlap, and whatever
/// matches in an earlier layer counts before a later one, so that "first layer that matches"
/// gives the same verdict as "first rule that matches". Rules that can never match are left out.
pub(crate) fn in_layers(rules: &[Rule]) -> Vec<Vec<Rule>> {
    // Overlapping pairs by a sweep along the side that tells rules apart best.
    let distinct = |key: fn(&Rule) -> u128| {
        let mut keys: Vec<u128> = rules.iter().map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    };
    let by_local = distinct(|rule| rule.local.start) > distinct(|rule| rule.remote.start);
    let side = |rule: &Rule| if by_local { rule.local } else { rule.remote };
    let mut order: Vec<usize> = (0..rules.len()).collect();
    order.sort_by_key(|index| rules.get(*index).map(|rule| side(rule).start));
    let mut earlier: Vec<Vec<usize>> = vec![Vec::new(); rules.len()];
    let mut active: Vec<usize> = Vec::new();
    for index in order {
        let Some(rule) = rules.get(index) else { continue };
        active.retain(|other| {
            rules.get(*other).is_some_and(|other| side(other).end >= side(rule).start)
        });
        for other in &active {
            let (first, second) = (index.min(*other), index.max(*other));
            if rules.get(*other).is_some_and(|other| other.overlaps(rule))
                && let Some(list) = earlier.get_mut(second)
            {
                list.push(first);
            }
        }
        active.push(index);
    }
    let mut layer_of: Vec<Option<usize>> = Vec::with_capacity(rules.len());
    let mut layers: Vec<Vec<Rule>> = Vec::new();
    for (rule, earlier) in rules.iter().zip(&earlier) {
        // What counts for one interface only hides nothing.
        let always = |other: &Rule| !matches!(other.verdict, Verdict::Connected(_));
        let hidden = earlier.iter().any(|other| {
            rules.get(*other).is_some_and(|other| always(other) && other.covers(rule))
        });
        if hidden {
            layer_of.push(None);
            continue;
        }
        let layer = earlier
            .iter()
            .filter_map(|other| layer_of.get(*other).copied().flatten())
            .max()
            .map_or(0, |below| below + 1);
        layer_of.push(Some(layer));
        if layers.len() <= layer {
            layers.resize_with(layer + 1, Vec::new);
        }
        if let Some(list) = layers.get_mut(layer) {
            list.push(*rule);
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::{super::Span, *};
    use proptest::prelude::*;
    use sa_store::{ChildId, PortRange, TunnelId};

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        let span =
            (0..40_u128, 0..30_u128).prop_map(|(start, len)| Span { start, end: start + len });
        let protocol = prop_oneof![Just(0_u8), Just(6), Just(17)];
        let ports = (0..6_u16).prop_map(|port| match port {
            0 | 1 => PortRange::ANY,
            2 => PortRange::OPAQUE,
            _ => PortRange { start: port, end: port + 1 },
        });
        let rule = (span.clone(), span, protocol, any::<bool>(), ports.clone(), ports).prop_map(
            |(local, remote, protocol, protect, local_ports, remote_ports)| Rule {
                v4: true,
                local,
                remote,
                protocol,
                local_ports,
                remote_ports,
                verdict: if protect {
                    Verdict::Protect(TunnelId(0), ChildId(0))
                } else {
                    Verdict::Bypass
                },
            },
        );
        proptest::collection::vec(rule, 0..25)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

        /// nftables looks through layers, the data plane through rules: both must agree.
        #[test]
        fn layers_say_what_the_first_rule_says(rules in rules()) {
            let layers = in_layers(&rules);
            for layer in &layers {
                for (number, one) in layer.iter().enumerate() {
                    prop_assert!(!layer[number + 1..].iter().any(|other| other.overlaps(one)));
                }
            }
            for (local, remote) in (0..70).step_by(3).flat_map(|l| (0..70).map(move |r| (l, r))) {
                for (protocol, ports) in
                    [(6, Some((3, 5))), (6, Some((5, 3))), (17, Some((4, 4))), (6, None), (50, None)]
                {
                    let hit = |rule: &&Rule| {
                        rule.local.contains(local)
                            && rule.remote.contains(remote)
                            && rule.matches_upper(protocol, ports)
                    };
                    let by_rule = rules.iter().find(hit).map(|rule| rule.verdict);
                    let by_layer = layers.iter().flatten().find(hit).map(|rule| rule.verdict);
                    prop_assert_eq!(by_rule, by_layer);
                }
            }
        }
    }
}
