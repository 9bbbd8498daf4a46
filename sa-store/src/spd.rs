//! The security policy database (RFC 4301 §4.4.1): what happens to which packets.

use std::net::IpAddr;

use crate::{ChildId, DomainId, TrafficSelector, TunnelId};

/// What happens to a packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SpdAction {
    /// It stays clear.
    Bypass,
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

/// The policies in the order in which they count: the first that matches.
///
/// Specific policies stand before wide ones; where both are equally wide, a bypass stands before
/// a protect, and otherwise the order in which they were given decides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spd {
    entries: Vec<SpdEntry>,
}

impl Spd {
    /// Orders policies. An entry whose selectors are of several widths is split, so that a wide
    /// selector in it does not drag a specific one behind the policies of others.
    #[must_use]
    pub fn new(entries: Vec<SpdEntry>) -> Self {
        let mut sized: Vec<((Width, Width), SpdEntry)> = Vec::new();
        for entry in entries {
            for (remote_width, remote) in by_width(&entry.remote) {
                for (local_width, local) in by_width(&entry.local) {
                    let part = SpdEntry { local, remote: remote.clone(), ..entry };
                    sized.push(((remote_width, local_width), part));
                }
            }
        }
        let bypass = |entry: &SpdEntry| entry.action == SpdAction::Bypass;
        sized.sort_by_key(|(width, entry)| (*width, !bypass(entry)));
        Self { entries: sized.into_iter().map(|(_, entry)| entry).collect() }
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

    #[test]
    fn specific_policies_count_before_wide_ones_wherever_they_stand() {
        let spd = Spd::new(vec![
            entry(protect(1), &["10.1.0.0/16"], &["10.0.0.0/8", "192.168.1.0/24"]),
            entry(protect(2), &["10.1.0.0/16"], &["10.2.0.0/16"]),
            entry(protect(3), &["10.1.0.0/16"], &["192.168.0.0/16"]),
            entry(SpdAction::Bypass, &["10.1.0.0/16"], &["10.2.0.0/16"]),
            entry(protect(4), &["10.1.0.0/16"], &["10.2.0.0/16[tcp/443]"]),
        ]);
        assert_eq!(action(&spd, "10.9.0.1", 17, 9), Some(protect(1)));
        assert_eq!(action(&spd, "10.2.0.1", 17, 9), Some(SpdAction::Bypass));
        assert_eq!(action(&spd, "10.2.0.1", 6, 443), Some(protect(4)));
        assert_eq!(action(&spd, "192.168.1.1", 17, 9), Some(protect(1)));
        assert_eq!(action(&spd, "192.168.2.1", 17, 9), Some(protect(3)));
        assert_eq!(action(&spd, "172.16.0.1", 17, 9), None);
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
