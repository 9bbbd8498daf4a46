//! Children that want the same packets, in the order in which the policies count
//! ([`sa_store::spd`]): the narrower networks get them, wherever they stand.

use std::{cmp::Ordering, collections::BTreeMap};

use sa_store::{TrafficSelector, spd::Rank};

/// Comparisons at most, so that a hostile file costs bounded time.
const BUDGET: usize = 4_000_000;

/// What two children, of which one stands before the other in the file, have to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Overlap {
    /// Everything the later one wants is the earlier one's.
    Shadowed,
    /// The earlier one gets what both want.
    Earlier,
    /// The later one does.
    Later,
    /// Some of it is the one's, some the other's.
    Mixed,
}

/// The selectors of one child.
pub(super) struct Nets<'a> {
    pub(super) local: &'a [TrafficSelector],
    pub(super) remote: &'a [TrafficSelector],
    pub(super) has_bypass: bool,
}

/// Who gets packets of both.
#[derive(Clone, Copy, Default)]
struct Winners {
    earlier: bool,
    later: bool,
}

impl Winners {
    fn note(&mut self, order: Ordering, otherwise: Self) {
        match order {
            Ordering::Less => self.earlier = true,
            Ordering::Greater => self.later = true,
            Ordering::Equal => {
                self.earlier |= otherwise.earlier;
                self.later |= otherwise.later;
            }
        }
    }
}

/// Two children as far as they were compared.
struct Meeting {
    /// By their local sides, where the remote ones are equally wide.
    local: Winners,
    all: Winners,
}

/// Pairs of children (earlier, later) whose selectors overlap.
pub(super) fn find(children: &[Nets<'_>]) -> Vec<(usize, usize, Overlap)> {
    let mut budget = BUDGET;
    let meetings = meetings(children, &mut budget);
    let mut found: Vec<_> = meetings
        .into_iter()
        .filter_map(|((first, second), meeting)| {
            let meeting = meeting?;
            let (earlier, later) = (children.get(first)?, children.get(second)?);
            let overlap = match (meeting.all.earlier, meeting.all.later) {
                (true, true) => Overlap::Mixed,
                (false, _) => Overlap::Later,
                (true, false) if shadows(earlier, later, &mut budget) => Overlap::Shadowed,
                (true, false) => Overlap::Earlier,
            };
            Some((first, second, overlap))
        })
        .collect();
    found.sort_by_key(|(first, second, _)| (*second, *first));
    found
}

/// What was compared; `None` where local sides do not meet.
fn meetings(
    children: &[Nets<'_>],
    budget: &mut usize,
) -> BTreeMap<(usize, usize), Option<Meeting>> {
    // All remote selectors in the order of their first address: neighbours overlap or do not.
    let mut sorted: Vec<(TrafficSelector, usize)> = children
        .iter()
        .enumerate()
        .flat_map(|(owner, nets)| nets.remote.iter().map(move |selector| (*selector, owner)))
        .collect();
    sorted.sort_by_key(|(selector, _)| (selector.start(), selector.end()));
    let mut meetings = BTreeMap::new();
    for (index, (selector, owner)) in sorted.iter().enumerate() {
        for (other, other_owner) in sorted.iter().skip(index + 1) {
            if other.start() > selector.end() || other.is_ipv4() != selector.is_ipv4() {
                break;
            }
            *budget = budget.saturating_sub(1);
            if *budget == 0 {
                return meetings;
            }
            if owner == other_owner || selector.intersect(other).is_none() {
                continue;
            }
            let (pair, remotes) = if owner < other_owner {
                ((*owner, *other_owner), (selector, other))
            } else {
                ((*other_owner, *owner), (other, selector))
            };
            let (Some(earlier), Some(later)) = (children.get(pair.0), children.get(pair.1)) else {
                continue;
            };
            let meeting = meetings.entry(pair).or_insert_with(|| {
                *budget = budget.saturating_sub(earlier.local.len() * later.local.len());
                let local = local_winners(earlier.local, later.local);
                (local.earlier || local.later).then(|| Meeting { local, all: Winners::default() })
            });
            if let Some(Meeting { local, all }) = meeting {
                all.note(compare_remotes(remotes.0, remotes.1), *local);
            }
        }
    }
    meetings
}

/// Which of two remote selectors comes first for packets of one local selector.
fn compare_remotes(earlier: &TrafficSelector, later: &TrafficSelector) -> Ordering {
    let local = earlier;
    Rank::of(local, earlier).cmp(&Rank::of(local, later))
}

/// Which of two local selectors comes first for packets of one remote selector.
fn compare_locals(earlier: &TrafficSelector, later: &TrafficSelector) -> Ordering {
    let remote = earlier;
    Rank::of(earlier, remote).cmp(&Rank::of(later, remote))
}

fn local_winners(earlier: &[TrafficSelector], later: &[TrafficSelector]) -> Winners {
    let mut winners = Winners::default();
    for one in earlier {
        for other in later.iter().filter(|other| one.intersect(other).is_some()) {
            // Equal ranks keep their order.
            winners.note(compare_locals(one, other), Winners { earlier: true, later: false });
        }
    }
    winners
}

/// Whether nothing is left for the later one. Where it is covered by something wider, it is first.
fn shadows(earlier: &Nets<'_>, later: &Nets<'_>, budget: &mut usize) -> bool {
    let cost = earlier.remote.len() * later.remote.len() + earlier.local.len() * later.local.len();
    if earlier.has_bypass || cost > *budget {
        return false;
    }
    *budget -= cost;
    let covered = |inner: &[TrafficSelector], outer: &[TrafficSelector], compare: Compare| {
        let covers = |i: &TrafficSelector, o: &TrafficSelector| {
            o.covers(i) && compare(o, i) == Ordering::Equal
        };
        inner.iter().all(|i| outer.iter().any(|o| covers(i, o)))
    };
    covered(later.local, earlier.local, compare_locals)
        && covered(later.remote, earlier.remote, compare_remotes)
}

type Compare = fn(&TrafficSelector, &TrafficSelector) -> Ordering;

#[cfg(test)]
mod tests {
    use sa_store::{
        ChildId, DomainId, TunnelId,
        spd::{Spd, SpdAction, SpdEntry},
    };

    use super::*;

    fn list(texts: &[&str]) -> Vec<TrafficSelector> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    type Sides = (Vec<TrafficSelector>, Vec<TrafficSelector>);

    fn find_in(lists: &[Sides]) -> Vec<(usize, usize, Overlap)> {
        let nets: Vec<_> =
            lists.iter().map(|(local, remote)| Nets { local, remote, has_bypass: false }).collect();
        find(&nets)
    }

    fn check(children: &[(&[&str], &[&str])]) -> Vec<(usize, usize, Overlap)> {
        let lists: Vec<_> = children.iter().map(|(l, r)| (list(l), list(r))).collect();
        find_in(&lists)
    }

    #[test]
    fn only_what_gets_nothing_is_shadowed() {
        let net: (&[&str], &[&str]) = (&["10.1.0.0/16"], &["10.2.0.0/16"]);
        assert_eq!(check(&[net, net]), [(0, 1, Overlap::Shadowed)]);
        let both: (&[&str], &[&str]) = (&["10.1.0.0/16"], &["10.3.0.0/16", "10.2.0.0/16"]);
        assert_eq!(check(&[both, net]), [(0, 1, Overlap::Shadowed)]);
        assert_eq!(check(&[net, both]), [(0, 1, Overlap::Earlier)]);
    }

    #[test]
    fn the_narrower_one_wins_wherever_it_stands() {
        let hub: (&[&str], &[&str]) = (&["10.1.0.0/16"], &["0.0.0.0/0"]);
        let branch: (&[&str], &[&str]) = (&["10.1.0.0/16"], &["10.2.0.0/16"]);
        assert_eq!(check(&[hub, branch]), [(0, 1, Overlap::Later)]);
        assert_eq!(check(&[branch, hub]), [(0, 1, Overlap::Earlier)]);
        let host: (&[&str], &[&str]) = (&["10.1.0.7"], &["0.0.0.0/0"]);
        assert_eq!(check(&[branch, host]), [(0, 1, Overlap::Earlier)], "remote counts first");
        assert_eq!(check(&[hub, host]), [(0, 1, Overlap::Later)]);
        let port: (&[&str], &[&str]) = (&["10.1.0.0/16"], &["10.2.0.0/16[tcp/80]"]);
        assert_eq!(check(&[branch, port]), [(0, 1, Overlap::Later)]);
        let two: (&[&str], &[&str]) = (&["10.1.0.0/16"], &["10.0.0.0/8", "192.168.1.0/24"]);
        let other: (&[&str], &[&str]) = (&["10.1.0.0/16"], &["10.2.0.0/16", "192.168.0.0/16"]);
        assert_eq!(check(&[two, other]), [(0, 1, Overlap::Mixed)]);
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

    /// A small generator: variety that comes back in every run.
    struct Draw(u64);

    impl Draw {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % limit
        }

        fn networks(&mut self) -> Vec<TrafficSelector> {
            let most = 1 + self.below(3);
            (0..most)
                .map(|_| {
                    let length = [28, 29, 30, 31, 32][usize::try_from(self.below(5)).unwrap()];
                    let first = self.below(16) >> (32 - length) << (32 - length);
                    format!("10.0.0.{first}/{length}").parse().unwrap()
                })
                .collect()
        }
    }

    /// What is said here is what the policies do, for every packet there can be.
    #[test]
    fn verdicts_agree_with_the_policies() {
        let mut draw = Draw(7);
        let mut told = [0; 4];
        for _ in 0..2000 {
            let lists = [(); 2].map(|()| (draw.networks(), draw.networks()));
            let entry = |number: usize| SpdEntry {
                domain: DomainId(0),
                action: SpdAction::Protect {
                    tunnel: TunnelId(1),
                    child: ChildId(u32::try_from(number).unwrap()),
                },
                local: lists[number].0.clone(),
                remote: lists[number].1.clone(),
            };
            let spd = Spd::new(vec![entry(0), entry(1)]);
            let (mut shared, mut alone) = ([0; 2], [0; 2]);
            for packet in 0..256_u32 {
                let address = |last: u32| std::net::Ipv4Addr::from(0x0a00_0000 + last).into();
                let (local, remote) = (address(packet & 15), address(packet >> 4));
                let matches = |sides: &Sides| {
                    sides.0.iter().any(|s| s.matches(local, 6, None))
                        && sides.1.iter().any(|s| s.matches(remote, 6, None))
                };
                let both = lists.iter().all(matches);
                let found = spd.find(DomainId(0), local, remote, 6, (1, 1));
                let Some(SpdAction::Protect { child, .. }) = found.map(|entry| entry.action) else {
                    continue;
                };
                let counts = if both { &mut shared } else { &mut alone };
                counts[child.0 as usize] += 1;
            }
            let verdict = find_in(&lists).first().map(|(_, _, overlap)| *overlap);
            let seen = format!("{lists:?}: {shared:?} shared, {alone:?} alone");
            match verdict {
                None => assert_eq!(shared, [0, 0], "{seen}"),
                Some(Overlap::Shadowed) => assert_eq!((shared[1], alone[1]), (0, 0), "{seen}"),
                Some(Overlap::Earlier) => assert_eq!(shared[1], 0, "{seen}"),
                Some(Overlap::Later) => assert_eq!(shared[0], 0, "{seen}"),
                Some(Overlap::Mixed) => assert_ne!(shared, [0, 0], "{seen}"),
            }
            if let Some(verdict) = verdict {
                told[verdict as usize] += 1;
            }
        }
        assert!(told.iter().all(|&count| count > 0), "{told:?}");
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
