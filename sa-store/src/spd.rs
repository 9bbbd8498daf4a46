//! The security policy database (RFC 4301 §4.4.1): what happens to which packets.

mod order;

use std::net::IpAddr;

use crate::{ChildId, DomainId, TrafficSelector, TunnelId};

/// What happens to a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SpdAction {
    /// It stays clear as far as this child is concerned: unless another one protects it.
    Bypass {
        /// Whose networks it is taken out of.
        child: ChildId,
    },
    /// It goes through this child, or not at all.
    Protect {
        /// The tunnel.
        tunnel: TunnelId,
        /// The child.
        child: ChildId,
    },
}

/// Packets from `local` to `remote`, and back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpdEntry {
    /// Tenant.
    pub domain: DomainId,
    /// What happens.
    pub action: SpdAction,
    /// Selectors of our side.
    pub local: Vec<TrafficSelector>,
    /// Selectors of the peer's side.
    pub remote: Vec<TrafficSelector>,
}

impl SpdEntry {
    fn matches(&self, local: IpAddr, remote: IpAddr, protocol: u8, ports: (u16, u16)) -> bool {
        let one = |set: &[TrafficSelector], address, port| {
            set.iter().any(|selector| selector.matches(address, protocol, Some(port)))
        };
        one(&self.local, local, ports.0) && one(&self.remote, remote, ports.1)
    }
}

/// How wide a selector is: bits of its address range, then protocol, then ports.
type Width = (u32, bool, u16);

/// Where policies for two networks stand among all: the narrower ones first, in which the remote
/// side counts before the local one. Equal ranks keep the order in which they were given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    remote: Width,
    local: Width,
}

impl Rank {
    /// The rank of the packets between two selectors.
    #[must_use]
    pub fn of(local: &TrafficSelector, remote: &TrafficSelector) -> Self {
        Self { remote: width(remote), local: width(local) }
    }
}

/// The policies in the order in which they count: the first that matches.
///
/// Specific policies stand before wide ones; where both are equally wide, the order in which they
/// were given decides. A bypass stands before what its own child protects and behind what any
/// other one does: nothing that some child protects leaves in clear because of another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spd {
    entries: Vec<SpdEntry>,
}

impl Spd {
    /// Orders policies. An entry whose selectors are of several widths is split, so that a wide
    /// selector in it does not drag a specific one behind the policies of others.
    #[must_use]
    pub fn new(entries: Vec<SpdEntry>) -> Self {
        Self { entries: order::in_order(entries) }
    }

    /// The policies in order.
    #[must_use]
    pub fn entries(&self) -> &[SpdEntry] {
        &self.entries
    }

    /// The policy for a packet that leaves: from `local` to `remote`.
    #[must_use]
    pub fn find(
        &self,
        domain: DomainId,
        local: IpAddr,
        remote: IpAddr,
        protocol: u8,
        ports: (u16, u16),
    ) -> Option<&SpdEntry> {
        self.entries
            .iter()
            .filter(|entry| entry.domain == domain)
            .find(|entry| entry.matches(local, remote, protocol, ports))
    }
}

/// Groups selectors of one width, keeping their order within the group.
fn by_width(
    selectors: &[TrafficSelector],
) -> std::collections::BTreeMap<Width, Vec<TrafficSelector>> {
    let mut groups = std::collections::BTreeMap::<Width, Vec<TrafficSelector>>::new();
    for selector in selectors {
        groups.entry(width(selector)).or_default().push(*selector);
    }
    groups
}

fn width(selector: &TrafficSelector) -> Width {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let span = number(selector.end()) - number(selector.start());
    let bits = span.checked_ilog2().map_or(0, |top| top + 1);
    let ports = selector.ports();
    (bits, selector.protocol() == 0, ports.end.saturating_sub(ports.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(action: SpdAction, local: &[&str], remote: &[&str]) -> SpdEntry {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        SpdEntry { domain: DomainId(0), action, local: parse(local), remote: parse(remote) }
    }

    fn protect(child: u32) -> SpdAction {
        SpdAction::Protect { tunnel: TunnelId(1), child: ChildId(child) }
    }

    fn action(spd: &Spd, remote: &str, protocol: u8, port: u16) -> Option<SpdAction> {
        let local = "10.1.0.1".parse().unwrap();
        spd.find(DomainId(0), local, remote.parse().unwrap(), protocol, (1000, port))
            .map(|entry| entry.action)
    }

    fn bypass(child: u32) -> SpdAction {
        SpdAction::Bypass { child: ChildId(child) }
    }

    #[test]
    fn specific_policies_count_before_wide_ones_wherever_they_stand() {
        let spd = Spd::new(vec![
            entry(protect(1), &["10.1.0.0/16"], &["10.0.0.0/8", "192.168.1.0/24"]),
            entry(protect(2), &["10.1.0.0/16"], &["10.2.0.0/16"]),
            entry(protect(3), &["10.1.0.0/16"], &["192.168.0.0/16"]),
            entry(bypass(3), &["10.1.0.0/16"], &["192.168.7.0/24"]),
            entry(protect(4), &["10.1.0.0/16"], &["10.2.0.0/16[tcp/443]"]),
        ]);
        assert_eq!(action(&spd, "10.9.0.1", 17, 9), Some(protect(1)));
        assert_eq!(action(&spd, "10.2.0.1", 17, 9), Some(protect(2)));
        assert_eq!(action(&spd, "10.2.0.1", 6, 443), Some(protect(4)));
        assert_eq!(action(&spd, "192.168.1.1", 17, 9), Some(protect(1)));
        assert_eq!(action(&spd, "192.168.2.1", 17, 9), Some(protect(3)));
        assert_eq!(action(&spd, "192.168.7.1", 17, 9), Some(bypass(3)));
        assert_eq!(action(&spd, "172.16.0.1", 17, 9), None);
    }

    #[test]
    fn a_bypass_gives_way_to_what_others_protect_however_wide_it_is() {
        let ours = &["10.1.0.0/16"];
        let spd = Spd::new(vec![
            entry(protect(1), ours, &["10.2.0.0/16"]),
            entry(bypass(1), ours, &["10.2.8.0/21"]),
            entry(protect(2), ours, &["10.2.8.0/24"]),
            entry(protect(3), ours, &["10.2.10.0/23"]),
            entry(bypass(3), ours, &["10.2.10.0/24", "10.2.11.0/25"]),
            entry(protect(4), ours, &["10.2.8.0/21[tcp/443]"]),
            entry(protect(5), ours, &["10.0.0.0/8[tcp/22]"]),
        ]);
        assert_eq!(action(&spd, "10.2.7.1", 17, 9), Some(protect(1)));
        assert_eq!(action(&spd, "10.2.8.1", 17, 9), Some(protect(2)));
        assert_eq!(action(&spd, "10.2.9.1", 17, 9), Some(bypass(1)));
        assert_eq!(action(&spd, "10.2.9.1", 6, 443), Some(protect(4)));
        assert_eq!(action(&spd, "10.2.9.1", 6, 22), Some(protect(5)));
        assert_eq!(action(&spd, "10.2.10.1", 17, 9), Some(bypass(3)));
        assert_eq!(action(&spd, "10.2.10.1", 6, 22), Some(protect(5)));
        assert_eq!(action(&spd, "10.2.11.200", 17, 9), Some(protect(3)));
    }

    /// What the order must come to, for one packet: the most specific child that protects it and
    /// does not leave it clear itself.
    fn expected(entries: &[SpdEntry], packet: (IpAddr, IpAddr)) -> Option<bool> {
        let hit = |entry: &&SpdEntry| entry.matches(packet.0, packet.1, 17, (1, 2));
        let cleared = |child: ChildId| {
            let mut hits = entries.iter().filter(hit);
            hits.any(|entry| entry.action == SpdAction::Bypass { child })
        };
        let mut children = entries.iter().filter(hit).filter_map(|entry| match entry.action {
            SpdAction::Protect { child, .. } => Some(child),
            SpdAction::Bypass { .. } => None,
        });
        let any = children.clone().next().is_some();
        any.then(|| children.any(|child| !cleared(child)))
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            cases: 500, failure_persistence: None, ..Default::default()
        })]

        #[test]
        fn nothing_that_a_child_protects_is_clear(
            parts in proptest::collection::vec((0..5_u32, 0..2_u8, 0..30_u32, 0..20_u32, 0..30_u32, 0..20_u32), 1..14)
        ) {
            let range = |start: u32, length: u32| {
                let address = |bits: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(bits));
                TrafficSelector::new(0, address(start), address(start + length), crate::PortRange::ANY)
            };
            let entries: Vec<SpdEntry> = parts
                .into_iter()
                .map(|(child, open, l, ll, r, rl)| SpdEntry {
                    domain: DomainId(0),
                    action: if open == 1 { bypass(child) } else { protect(child) },
                    local: range(l, ll).into_iter().collect(),
                    remote: range(r, rl).into_iter().collect(),
                })
                .collect();
            let spd = Spd::new(entries.clone());
            for (local, remote) in (0..50).flat_map(|l| (0..50).map(move |r| (l, r))) {
                let address = |bits: u32| IpAddr::V4(std::net::Ipv4Addr::from_bits(bits));
                let packet = (address(local), address(remote));
                let found = spd.find(DomainId(0), packet.0, packet.1, 17, (1, 2));
                let found = found.map(|entry| matches!(entry.action, SpdAction::Protect { .. }));
                proptest::prop_assert_eq!(found, expected(&entries, packet));
            }
        }
    }

    #[test]
    fn bypasses_that_overlap_in_many_ways_cost_bounded_time_and_stay_closed() {
        let remote = |child: u32| format!("10.2.0.0-10.2.255.{child}");
        let mut entries = Vec::new();
        for child in 0..60 {
            entries.push(entry(protect(child), &["10.1.0.0/16"], &[&remote(child)]));
            let open = format!("10.2.{child}.0-10.2.{}.255", 60 + child);
            entries.push(entry(bypass(child), &["10.1.0.0/16"], &[&open]));
        }
        let spd = Spd::new(entries);
        assert!(spd.entries().len() < 200_000);
        // The first child does not leave it clear.
        assert!(matches!(action(&spd, "10.2.60.1", 17, 9), Some(SpdAction::Protect { .. })));
        assert!(matches!(action(&spd, "10.2.200.1", 17, 9), Some(SpdAction::Protect { .. })));
    }

    #[test]
    fn thousands_of_children_that_meet_nowhere_stay_as_they_are() {
        let mut entries = Vec::new();
        for child in 0..3000 {
            let local = format!("10.{}.{}.0/24", child / 200, child % 200);
            entries.push(entry(protect(child), &[&local], &["0.0.0.0/0"]));
            entries.push(entry(bypass(child), &[&local], &["10.0.0.0/8"]));
        }
        assert_eq!(Spd::new(entries).entries().len(), 6000);
    }

    #[test]
    fn ten_thousand_selectors_of_one_width_stay_one_policy() {
        let remote: Vec<TrafficSelector> = (0..10_000u32)
            .map(|n| TrafficSelector::host(std::net::Ipv4Addr::from_bits(0x0a02_0000 + n).into()))
            .collect();
        let wide = SpdEntry { remote, ..entry(protect(1), &["10.1.0.0/16"], &[]) };
        assert_eq!(Spd::new(vec![wide]).entries().len(), 1);
    }

    #[test]
    fn domains_do_not_meet() {
        let other = SpdEntry { domain: DomainId(5), ..entry(protect(1), &["::/0"], &["::/0"]) };
        let spd = Spd::new(vec![other]);
        let address = "2001:db8::1".parse().unwrap();
        assert!(spd.find(DomainId(0), address, address, 6, (1, 2)).is_none());
        assert!(spd.find(DomainId(5), address, address, 6, (1, 2)).is_some());
    }
}
