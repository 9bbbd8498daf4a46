//! From children to policies.

use std::{collections::BTreeMap, net::IpAddr};

use hw_offload::{Policy, PolicyAction, PolicySet};
use sa_store::{
    ChildId, DomainId, OffloadIntent, TrafficSelector, TunnelId,
    spd::{Spd, SpdAction, SpdEntry},
};

use crate::spec::ChildSpec;

/// The policies of a child: what it protects, and what inside stays clear.
pub(crate) fn entries(tunnel: TunnelId, child: ChildId, spec: &ChildSpec) -> Vec<SpdEntry> {
    let entry = |action, local: &[TrafficSelector], remote: &[TrafficSelector]| SpdEntry {
        domain: DomainId::default(),
        action,
        local: local.to_vec(),
        remote: remote.to_vec(),
    };
    let mut all = vec![entry(SpdAction::Protect { tunnel, child }, &spec.local, &spec.remote)];
    // A bypass selector names addresses of either side.
    let inside = |networks: &[TrafficSelector]| -> Vec<TrafficSelector> {
        let cut = |clear: &TrafficSelector| {
            networks.iter().filter_map(|network| network.intersect(clear)).collect::<Vec<_>>()
        };
        spec.bypass.iter().flat_map(cut).collect()
    };
    let (local, remote) = (inside(&spec.local), inside(&spec.remote));
    if !remote.is_empty() {
        all.push(entry(SpdAction::Bypass, &spec.local, &remote));
    }
    if !local.is_empty() {
        all.push(entry(SpdAction::Bypass, &local, &spec.remote));
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
            SpdAction::Bypass => PolicyAction::Bypass,
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

    #[test]
    fn bypass_selectors_of_either_side_come_before_the_protect_policy() {
        let selectors = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let spec = ChildSpec {
            name: "net".into(),
            local: selectors(&["10.1.0.0/16"]),
            remote: selectors(&["10.2.0.0/16", "10.3.0.0/16"]),
            proposals: Vec::new(),
            rekey: Limits::default(),
            life: Limits::default(),
            replay_window: 64,
            bypass: selectors(&["10.2.7.0/24", "10.1.9.9", "172.16.0.0/12"]),
            offload: OffloadIntent::Auto,
        };
        let spd = Spd::new(entries(TunnelId(1), ChildId(2), &spec));
        let at = |local: &str, remote: &str| {
            spd.find(DomainId(0), local.parse().unwrap(), remote.parse().unwrap(), 6, (1, 1))
                .map(|entry| entry.action)
        };
        let protect = SpdAction::Protect { tunnel: TunnelId(1), child: ChildId(2) };
        assert_eq!(at("10.1.0.1", "10.2.0.1"), Some(protect));
        assert_eq!(at("10.1.0.1", "10.2.7.1"), Some(SpdAction::Bypass));
        assert_eq!(at("10.1.9.9", "10.3.0.1"), Some(SpdAction::Bypass));
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
