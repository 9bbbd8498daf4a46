//! Children that want the same packets: the first one gets them, so the second is told.

use sa_store::TrafficSelector;

/// Comparisons at most, so that a hostile file costs bounded time.
const BUDGET: usize = 4_000_000;

/// What two children have to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Overlap {
    /// Everything the later one wants is already the earlier one's.
    Shadowed,
    /// Some of it is.
    Partial,
}

/// The selectors of one child.
pub(super) struct Nets<'a> {
    pub(super) local: &'a [TrafficSelector],
    pub(super) remote: &'a [TrafficSelector],
    pub(super) has_bypass: bool,
}

/// Pairs of children (earlier, later) whose selectors overlap.
pub(super) fn find(children: &[Nets<'_>]) -> Vec<(usize, usize, Overlap)> {
    let mut budget = BUDGET;
    // All remote selectors in the order of their first address: neighbours overlap or do not.
    let mut sorted: Vec<(TrafficSelector, usize)> = children
        .iter()
        .enumerate()
        .flat_map(|(owner, nets)| nets.remote.iter().map(move |selector| (*selector, owner)))
        .collect();
    sorted.sort_by_key(|(selector, _)| (selector.start(), selector.end()));
    let mut found: Vec<(usize, usize, Overlap)> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (index, (selector, owner)) in sorted.iter().enumerate() {
        for (other, other_owner) in sorted.iter().skip(index + 1) {
            if other.start() > selector.end() || other.is_ipv4() != selector.is_ipv4() {
                break;
            }
            budget = budget.saturating_sub(1);
            if budget == 0 {
                return found;
            }
            let pair = ((*owner).min(*other_owner), (*owner).max(*other_owner));
            if pair.0 == pair.1 || seen.contains(&pair) || selector.intersect(other).is_none() {
                continue;
            }
            let (Some(first), Some(second)) = (children.get(pair.0), children.get(pair.1)) else {
                continue;
            };
            budget = budget.saturating_sub(first.local.len() * second.local.len());
            if !meet(first.local, second.local) {
                continue;
            }
            seen.insert(pair);
            let cost = first.remote.len() * second.remote.len();
            let shadowed = !first.has_bypass
                && cost <= budget
                && covers(first.local, second.local)
                && covers(first.remote, second.remote);
            budget = budget.saturating_sub(cost);
            let kind = if shadowed { Overlap::Shadowed } else { Overlap::Partial };
            found.push((pair.0, pair.1, kind));
        }
    }
    found.sort_by_key(|(first, second, _)| (*second, *first));
    found
}

fn meet(left: &[TrafficSelector], right: &[TrafficSelector]) -> bool {
    left.iter().any(|l| right.iter().any(|r| l.intersect(r).is_some()))
}

fn covers(outer: &[TrafficSelector], inner: &[TrafficSelector]) -> bool {
    inner.iter().all(|i| outer.iter().any(|o| o.covers(i)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<TrafficSelector> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn check(children: &[(&[&str], &[&str])]) -> Vec<(usize, usize, Overlap)> {
        let lists: Vec<_> = children.iter().map(|(l, r)| (list(l), list(r))).collect();
        let nets: Vec<_> =
            lists.iter().map(|(local, remote)| Nets { local, remote, has_bypass: false }).collect();
        find(&nets)
    }

    #[test]
    fn the_same_networks_twice_are_shadowed() {
        let net: (&[&str], &[&str]) = (&["10.1.0.0/16"], &["10.2.0.0/16"]);
        assert_eq!(check(&[net, net]), [(0, 1, Overlap::Shadowed)]);
        let narrow: (&[&str], &[&str]) = (&["10.1.0.0/24"], &["10.2.3.0/24[tcp/80]"]);
        assert_eq!(check(&[net, narrow]), [(0, 1, Overlap::Shadowed)]);
        assert_eq!(check(&[narrow, net]), [(0, 1, Overlap::Partial)]);
    }

    #[test]
    fn what_only_meets_on_one_side_is_fine() {
        assert_eq!(
            check(&[
                (&["10.1.0.0/16"], &["10.2.0.0/16"]),
                (&["10.3.0.0/16"], &["10.2.0.0/16"]),
                (&["10.1.0.0/16"], &["10.4.0.0/16", "2001:db8::/32"]),
                (&["10.5.0.0/16"], &["10.2.0.0/16[udp]"]),
            ]),
            []
        );
    }

    #[test]
    fn ten_thousand_selectors_twice_take_no_time() {
        let many = |second: u8| -> Vec<TrafficSelector> {
            (0..10_000u32)
                .map(|i| format!("10.{second}.{}.{}/32", i >> 8, i & 255).parse().unwrap())
                .collect()
        };
        let (a, b) = (many(1), many(2));
        let nets = [
            Nets { local: &a, remote: &b, has_bypass: false },
            Nets { local: &a, remote: &b, has_bypass: false },
        ];
        assert!(find(&nets).len() <= 1);
    }
}
