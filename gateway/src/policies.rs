//! From children to policies.

use std::{collections::BTreeMap, net::IpAddr};

use hw_offload::{Policy, PolicyAction, PolicySet};
use sa_store::{
    ChildId, DomainId, OffloadIntent, TrafficSelector, TunnelId,
    spd::{Spd, SpdAction, SpdEntry},
};

use crate::{bypass::Clear, spec::ChildSpec};

/// The policies of a child: what it protects, and what inside stays clear.
pub(crate) fn entries(tunnel: TunnelId, child: ChildId, spec: &ChildSpec) -> Vec<SpdEntry> {
    let entry = |action, local: &[TrafficSelector], remote: &[TrafficSelector]| SpdEntry {
        domain: DomainId::default(),
        action,
        local: local.to_vec(),
        remote: remote.to_vec(),
    };
    let mut all = vec![entry(SpdAction::Protect { tunnel, child }, &spec.local, &spec.remote)];
    let clear = Clear::of(&spec.local, &spec.remote, &spec.bypass);
    if !clear.destinations.is_empty() {
        all.push(entry(SpdAction::Bypass { child }, &spec.local, &clear.destinations));
    }
    if !clear.sources.is_empty() {
        all.push(entry(SpdAction::Bypass { child }, &clear.sources, &spec.remote));
    }
    all
}

/// What backends need to know of a child beside its selectors.
#[derive(Clone, Debug)]
pub(crate) struct ChildPlace {
    pub(crate) peers: Vec<IpAddr>,
    pub(crate) offload: OffloadIntent,
}

/// The policies as backends take them, in order.
pub(crate) fn set(spd: &Spd, children: &BTreeMap<ChildId, ChildPlace>) -> PolicySet {
    let policy = |entry: &SpdEntry| {
        let action = match entry.action {
            SpdAction::Bypass { .. } => PolicyAction::Bypass,
            SpdAction::Protect { tunnel, child } => {
                let place = children.get(&child);
                PolicyAction::Protect {
                    tunnel,
                    child,
                    peers: place.map(|place| place.peers.clone()).unwrap_or_default(),
                    offload: place.map(|place| place.offload.clone()).unwrap_or_default(),
                }
            }
        };
        Policy {
            domain: entry.domain,
            action,
            local: entry.local.clone(),
            remote: entry.remote.clone(),
        }
    };
    PolicySet { policies: spd.entries().iter().map(policy).collect() }
}

#[cfg(test)]
mod tests {
    use sa_store::Limits;

    use super::*;

    fn child(local: &[&str], remote: &[&str], bypass: &[&str]) -> ChildSpec {
        let selectors = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        ChildSpec {
            name: "net".into(),
            local: selectors(local),
            remote: selectors(remote),
            proposals: Vec::new(),
            rekey: Limits::default(),
            life: Limits::default(),
            replay_window: 64,
            bypass: selectors(bypass),
            offload: OffloadIntent::Auto,
        }
    }

    /// The child that protects a packet, `None` if it is clear.
    fn protects(spd: &Spd, local: &str, remote: &str) -> Option<u32> {
        let packet = (local.parse().unwrap(), remote.parse().unwrap());
        let found = spd.find(DomainId(0), packet.0, packet.1, 6, (1, 1));
        match found.map(|entry| entry.action) {
            Some(SpdAction::Protect { child, .. }) => Some(child.0),
            Some(SpdAction::Bypass { .. }) | None => None,
        }
    }

    #[test]
    fn own_networks_may_stay_reachable_under_a_policy_for_everything() {
        for remote in ["0.0.0.0/0", "10.0.0.0/8"] {
            let spec = child(&["10.1.0.0/16"], &[remote], &["10.1.0.0/16"]);
            let spd = Spd::new(entries(TunnelId(1), ChildId(2), &spec));
            assert_eq!(protects(&spd, "10.1.0.1", "10.1.7.1"), None);
            assert_eq!(protects(&spd, "10.1.0.1", "10.9.0.1"), Some(2), "{remote}");
        }
        let dns = child(&["0.0.0.0/0"], &["0.0.0.0/0"], &["192.0.2.53"]);
        let spd = Spd::new(entries(TunnelId(1), ChildId(2), &dns));
        assert_eq!(protects(&spd, "198.51.100.1", "192.0.2.53"), None);
        assert_eq!(protects(&spd, "198.51.100.1", "192.0.2.54"), Some(2));
    }

    #[test]
    fn a_bypass_leaves_what_other_children_protect() {
        for other in ["10.2.9.0/24", "10.2.8.0/23"] {
            let a = child(&["10.1.0.0/16"], &["10.2.0.0/16"], &["10.2.9.0/24"]);
            let b = child(&["10.1.0.0/16"], &[other], &[]);
            let all = [entries(TunnelId(1), ChildId(2), &a), entries(TunnelId(3), ChildId(4), &b)];
            let spd = Spd::new(all.concat());
            assert_eq!(protects(&spd, "10.1.0.1", "10.2.9.1"), Some(4), "{other}");
            assert_eq!(protects(&spd, "10.1.0.1", "10.2.7.1"), Some(2));
        }
    }

    #[test]
    fn bypass_selectors_of_either_side_come_before_the_protect_policy() {
        let spec = child(
            &["10.1.0.0/16"],
            &["10.2.0.0/16", "10.3.0.0/16"],
            &["10.2.7.0/24", "10.1.9.9", "172.16.0.0/12"],
        );
        let spd = Spd::new(entries(TunnelId(1), ChildId(2), &spec));
        let at = |local: &str, remote: &str| {
            spd.find(DomainId(0), local.parse().unwrap(), remote.parse().unwrap(), 6, (1, 1))
                .map(|entry| entry.action)
        };
        let protect = SpdAction::Protect { tunnel: TunnelId(1), child: ChildId(2) };
        assert_eq!(at("10.1.0.1", "10.2.0.1"), Some(protect));
        assert_eq!(at("10.1.0.1", "10.2.7.1"), Some(SpdAction::Bypass { child: ChildId(2) }));
        assert_eq!(at("10.1.9.9", "10.3.0.1"), Some(SpdAction::Bypass { child: ChildId(2) }));
        assert_eq!(at("10.1.0.1", "172.16.0.1"), None);
        let place =
            ChildPlace { peers: vec!["192.0.2.2".parse().unwrap()], offload: OffloadIntent::Auto };
        let set = set(&spd, &BTreeMap::from([(ChildId(2), place)]));
        assert_eq!(set.policies.len(), spd.entries().len());
        assert_eq!(set.policies[0].action, PolicyAction::Bypass);
        assert!(set.policies.iter().any(
            |policy| matches!(&policy.action, PolicyAction::Protect { peers, .. } if peers.len() == 1)
        ));
    }
}
