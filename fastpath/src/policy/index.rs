//! Looking a packet up in thousands of rules: a hash table for each pair of prefix lengths.
//!
//! A policy has few different prefix lengths, so a look-up costs few probes however many
//! selectors there are, and building takes time and memory proportional to the rules.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use esp::inner::Flow;
use rustc_hash::FxHashMap;
use sa_store::ChildId;

use super::{Rule, Span, Verdict};

/// More prefix pairs than this for one rule (an odd range to an odd range) are not worth it.
const MAX_PIECES: usize = 512;

/// Rules, ready for look-ups. Immutable but for the time of each child's last acquire.
#[derive(Debug, Default)]
pub(crate) struct PolicyIndex {
    rules: Vec<Rule>,
    v4: Family,
    v6: Family,
    acquired: FxHashMap<ChildId, AtomicU64>,
}

#[derive(Debug, Default)]
struct Family {
    tuples: Vec<Tuple>,
    /// Rules in no tuple, looked at one by one.
    odd: Vec<u32>,
}

/// Rules whose local and remote ranges are prefixes of these lengths.
#[derive(Debug)]
struct Tuple {
    local_mask: u128,
    remote_mask: u128,
    /// The first rule in here: when a better one is known the tuple needs no probe.
    first: u32,
    rules: FxHashMap<(u128, u128), Vec<u32>>,
}

impl PolicyIndex {
    /// Builds the index; the order of `rules` is their preference.
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        let mut index = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            let Ok(number) = u32::try_from(number) else { break };
            if let Verdict::Protect(_, child) = rule.verdict {
                index.acquired.entry(child).or_default();
            }
            let family = if rule.v4 { &mut index.v4 } else { &mut index.v6 };
            family.add(number, rule);
        }
        for family in [&mut index.v4, &mut index.v6] {
            family.tuples.sort_by_key(|tuple| tuple.first);
        }
        index.rules = rules;
        index
    }

    /// The first rule that matches.
    pub(crate) fn find(
        &self,
        local: IpAddr,
        remote: IpAddr,
        protocol: u8,
        ports: Option<(u16, u16)>,
    ) -> Option<&Rule> {
        let family = if local.is_ipv4() { &self.v4 } else { &self.v6 };
        let (local, remote) = (Span::bits(local), Span::bits(remote));
        let mut best = u32::MAX;
        let rule = |number: u32| self.rules.get(number as usize);
        for tuple in &family.tuples {
            if tuple.first >= best {
                break;
            }
            let key = (local & tuple.local_mask, remote & tuple.remote_mask);
            let Some(numbers) = tuple.rules.get(&key) else { continue };
            let hit = numbers
                .iter()
                .take_while(|number| **number < best)
                .find(|number| rule(**number).is_some_and(|r| r.matches_upper(protocol, ports)));
            best = hit.copied().unwrap_or(best);
        }
        let odd = family.odd.iter().take_while(|number| **number < best).find(|number| {
            rule(**number).is_some_and(|rule| {
                rule.local.contains(local)
                    && rule.remote.contains(remote)
                    && rule.matches_upper(protocol, ports)
            })
        });
        rule(odd.copied().unwrap_or(best))
    }

    /// Asks about inbound packets, some of which may be of one flow.
    pub(crate) const fn admission(&self) -> Admission<'_> {
        Admission { index: self, last: None }
    }

    /// Whether an inbound packet that came through `child` is where the policies want it: what goes
    /// the other way, source and destination exchanged, would leave through that child as well (RFC
    /// 4301 §5.2 step 4). A source that a bypass or an earlier policy covers is somebody else's.
    fn admits(&self, child: ChildId, flow: &Flow) -> bool {
        let ports = flow.destination_port.zip(flow.source_port);
        self.find(flow.destination, flow.source, flow.protocol, ports)
            .is_some_and(|rule| matches!(rule.verdict, Verdict::Protect(_, own) if own == child))
    }

    /// Whether the child may ask for an SA at `now` (nanoseconds): at most once a second.
    pub(crate) fn may_acquire(&self, child: ChildId, now: u64) -> bool {
        let Some(last) = self.acquired.get(&child) else { return false };
        let before = last.load(Ordering::Relaxed);
        (before == 0 || now.saturating_sub(before) >= 1_000_000_000)
            && last
                .compare_exchange(before, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// See [`PolicyIndex::admission`].
pub(crate) struct Admission<'p> {
    index: &'p PolicyIndex,
    /// The answer to the last question.
    last: Option<(ChildId, Flow, bool)>,
}

impl Admission<'_> {
    /// Whether the policies let a packet of `flow` come in through `child`.
    pub(crate) fn permits(&mut self, child: ChildId, flow: &Flow) -> bool {
        if let Some((of, last, answer)) = &self.last
            && *of == child
            && last == flow
        {
            return *answer;
        }
        let answer = self.index.admits(child, flow);
        self.last = Some((child, *flow, answer));
        answer
    }
}

const fn mask(length: u8, v4: bool) -> u128 {
    let width: u32 = if v4 { 32 } else { 128 };
    let host = width.saturating_sub(length as u32);
    let all = if v4 { u32::MAX as u128 } else { u128::MAX };
    if host >= 128 { 0 } else { (all >> host) << host }
}

impl Family {
    fn add(&mut self, number: u32, rule: &Rule) {
        let (local, remote) = (rule.local.prefixes(rule.v4), rule.remote.prefixes(rule.v4));
        if local.len() * remote.len() > MAX_PIECES {
            self.odd.push(number);
            return;
        }
        for (local, local_length) in &local {
            for (remote, remote_length) in &remote {
                let key = (Span::bits(*local), Span::bits(*remote));
                let masks = (mask(*local_length, rule.v4), mask(*remote_length, rule.v4));
                let tuple = self.tuple(masks, number);
                tuple.rules.entry(key).or_default().push(number);
            }
        }
    }

    fn tuple(&mut self, (local_mask, remote_mask): (u128, u128), first: u32) -> &mut Tuple {
        let known = self
            .tuples
            .iter()
            .position(|tuple| tuple.local_mask == local_mask && tuple.remote_mask == remote_mask);
        let at = known.unwrap_or_else(|| {
            let rules = FxHashMap::default();
            self.tuples.push(Tuple { local_mask, remote_mask, first, rules });
            self.tuples.len() - 1
        });
        &mut self.tuples[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sa_store::{PortRange, TunnelId};

    fn rule(local: (u32, u32), remote: (u32, u32), protocol: u8, ports: PortRange) -> Rule {
        let span = |(start, end): (u32, u32)| Span { start: start.into(), end: end.into() };
        Rule {
            v4: true,
            local: span(local),
            remote: span(remote),
            protocol,
            local_ports: PortRange::ANY,
            remote_ports: ports,
            verdict: Verdict::Protect(TunnelId(0), ChildId(local.0 ^ remote.1)),
        }
    }

    /// Small numbers from a fixed seed.
    fn numbers() -> impl FnMut(u32) -> u32 {
        let mut state = 0x2545_f491_u32;
        move |below| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % below
        }
    }

    #[test]
    fn the_first_rule_that_matches_is_found_as_by_a_plain_search() {
        let mut number = numbers();
        for _ in 0..40 {
            let rules: Vec<Rule> = (0..60)
                .map(|_| {
                    let mut range = || {
                        let start = number(200);
                        match number(4) {
                            0 => (0, u32::MAX),
                            // Too many prefixes: one of the odd ones.
                            3 => (start | 1, u32::MAX - 2),
                            1 => (start & !7, start | 7),
                            _ => (start, start + number(50)),
                        }
                    };
                    let (local, remote) = (range(), range());
                    let port = u16::try_from(number(4)).unwrap();
                    match number(3) {
                        0 => rule(local, remote, 0, PortRange::ANY),
                        1 => rule(local, remote, 6, PortRange::ANY),
                        _ => rule(local, remote, 17, PortRange::single(port)),
                    }
                })
                .collect();
            let index = PolicyIndex::new(rules.clone());
            for _ in 0..400 {
                let (local, remote) = (number(256), number(256));
                let protocol = if number(2) == 0 { 6 } else { 17 };
                let port = u16::try_from(number(4)).unwrap();
                let ports = (number(8) != 0).then_some((9, port));
                let expected = rules.iter().find(|rule| {
                    rule.local.contains(local.into())
                        && rule.remote.contains(remote.into())
                        && rule.matches_upper(protocol, ports)
                });
                let ip = |bits: u32| IpAddr::V4(bits.into());
                assert_eq!(index.find(ip(local), ip(remote), protocol, ports), expected);
            }
        }
    }

    #[test]
    fn a_child_asks_once_a_second() {
        let index = PolicyIndex::new(vec![rule((1, 1), (2, 2), 0, PortRange::ANY)]);
        let child = ChildId(3);
        assert!(index.may_acquire(child, 5));
        assert!(!index.may_acquire(child, 900_000_000));
        assert!(index.may_acquire(child, 1_100_000_000));
        assert!(!index.may_acquire(ChildId(99), 5_000_000_000));
    }

    #[test]
    fn what_comes_in_belongs_to_the_first_rule_for_the_way_back() {
        let any = PortRange::ANY;
        let all = (0, u32::MAX);
        let with = |verdict, remote, protocol, ports| Rule {
            verdict,
            ..rule(all, remote, protocol, ports)
        };
        let child = |number| Verdict::Protect(TunnelId(0), ChildId(number));
        let hub = PolicyIndex::new(vec![
            with(Verdict::Bypass, (10, 19), 0, any),
            with(Verdict::Discard, (20, 29), 0, any),
            with(child(1), (30, 39), 17, PortRange::single(53)),
            with(child(2), (30, 39), 6, PortRange::OPAQUE),
            with(child(3), (30, 39), 1, PortRange::single(0x0800)),
            with(child(4), (40, 49), 0, any),
            with(child(5), (0, 99), 0, any),
        ]);
        let flow = |source: u32, protocol, ports: Option<(u16, u16)>| Flow {
            source: IpAddr::V4(source.into()),
            destination: IpAddr::V4(7.into()),
            protocol,
            source_port: ports.map(|(source, _)| source),
            destination_port: ports.map(|(_, destination)| destination),
        };
        let echo = |word| Some((word, word));
        for (flow, of) in [
            (flow(5, 17, Some((9, 9))), Some(5)),
            (flow(15, 17, Some((9, 9))), None),
            (flow(25, 17, Some((9, 9))), None),
            (flow(45, 6, Some((1, 2))), Some(4)),
            // Ports change places with addresses.
            (flow(35, 17, Some((53, 9))), Some(1)),
            (flow(35, 17, Some((9, 53))), Some(5)),
            // Later fragments show none.
            (flow(35, 17, None), Some(5)),
            (flow(35, 6, None), Some(2)),
            (flow(35, 6, Some((1, 2))), Some(5)),
            (flow(35, 1, echo(0x0800)), Some(3)),
            (flow(35, 1, echo(0x0000)), Some(5)),
            (flow(35, 1, echo(0x0304)), Some(5)),
            (flow(100, 17, Some((9, 9))), None),
        ] {
            let mut admission = hub.admission();
            for number in (1..=5).chain((1..=5).rev()) {
                let permitted = admission.permits(ChildId(number), &flow);
                assert_eq!(permitted, of == Some(number), "{flow:?} through {number}");
            }
        }
        let nothing = PolicyIndex::default();
        assert!(!nothing.admission().permits(ChildId(5), &flow(5, 17, None)), "no policies");
    }
}
