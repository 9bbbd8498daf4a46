//! What comes out of an SA is let in only where the policies would answer through the same child.

use hw_offload::{Operation, Policy, PolicyAction, PolicySet};
use sa_store::{ChildId, DomainId, OffloadIntent, SaId, TunnelId, live::DropReason};

use crate::{
    CANARY,
    common::{
        Capture, eventually,
        sites::{Pairing, Sites, bypass, selectors},
    },
    process::Flood,
};

const LOCAL: &[&str] = &["10.1.0.0/16", "fd01::/64"];

fn with(action: PolicyAction, remote: &[&str]) -> Policy {
    let (local, remote) = (selectors(LOCAL), selectors(remote));
    Policy { domain: DomainId(0), action, local, remote }
}

fn branch(remote: &[&str]) -> Policy {
    let action = PolicyAction::Protect {
        tunnel: TunnelId(2),
        child: ChildId(2),
        peers: vec!["192.0.2.77".parse().unwrap()],
        offload: OffloadIntent::Auto,
    };
    with(action, remote)
}

/// How many packets from `source`, an address of client b, reach client a, of three small ones and
/// of one in fragments.
fn arriving(sites: &Sites, source: &str) -> usize {
    let target = if source.contains(':') { "fd01::2" } else { "10.1.0.2" };
    let behind = Capture::start(&sites.a.client);
    let ping = format!("ping -n -q -W 1 -i 0.05 -p 63616e617279 -I {source}");
    sites.b.client.exec(&format!("{ping} -c 3 {target}"));
    sites.b.client.exec(&format!("{ping} -c 1 -s 3000 {target}"));
    let from: Vec<u8> = match source.parse().unwrap() {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let at = if from.len() == 4 { 26 } else { 22 };
    let is = |frame: &Vec<u8>| {
        frame.get(at..at + from.len()) == Some(&from)
            && frame.windows(CANARY.len()).any(|part| part == CANARY)
    };
    behind.frames().iter().filter(|frame| is(frame)).count()
}

#[test]
fn a_peer_cannot_send_from_networks_of_others() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    let others = ["10.2.5.9", "10.2.6.9", "10.2.7.9", "fd02::5:9", "fd02::6:9", "fd02::7:9"];
    for address in others {
        let length = if address.contains(':') { "128 nodad" } else { "32" };
        sites.b.client.ip(&format!("addr add dev lan {address}/{length}"));
        assert!(arriving(&sites, address) >= 3, "control: {address} is the peer's until now");
    }
    let mut set = pairing.policies(true);
    let first = [
        branch(&["10.2.5.0/24", "fd02::5:0/112"]),
        bypass(LOCAL, &["10.2.6.0/24", "fd02::6:0/112"]),
        with(PolicyAction::Discard, &["10.2.7.0/24", "fd02::7:0/112"]),
    ];
    set.policies.splice(0..0, first);
    sites.a.done(vec![Operation::SetPolicies(set)]);
    let dropped = |sites: &Sites| {
        let counters = sites.a.live.get(SaId(2)).unwrap().counters();
        (counters.dropped(DropReason::Policy), counters.packets)
    };
    for address in others {
        let before = dropped(&sites);
        assert_eq!(arriving(&sites, address), 0, "{address} was let in");
        let after = dropped(&sites);
        assert!(after.0 >= before.0 + 3, "{address}: {before:?}, {after:?}");
        assert_eq!(after.1, before.1, "{address}: what is refused counts as nothing else");
    }
    for address in ["10.2.0.2", "fd02::2"] {
        assert!(arriving(&sites, address) >= 3, "{address} is the peer's own");
    }
    assert!(sites.a.client.pings("10.2.0.2") && sites.b.client.pings("10.1.0.2"));
    sites.a.release();
    sites.b.release();
}

/// The SA still stands, since its peer has not confirmed that it is to go.
#[test]
fn a_child_that_no_policy_names_any_more_receives_nothing() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 2);
    assert!(sites.b.client.pings("10.1.0.2"), "control");
    let floods = ["10.1.0.2", "fd01::2"].map(|target| Flood::start(&sites.b.client, target));
    for set in [
        PolicySet::default(),
        PolicySet { policies: vec![branch(&["10.2.0.0/16", "fd02::/64"])] },
        PolicySet { policies: vec![bypass(LOCAL, &["10.2.0.0/16", "fd02::/64"])] },
    ] {
        sites.a.done(vec![Operation::SetPolicies(set.clone())]);
        let behind = Capture::start(&sites.a.client);
        let opened = |sites: &Sites| {
            sites.a.live.get(SaId(2)).unwrap().counters().dropped(DropReason::Policy)
        };
        let before = opened(&sites);
        eventually("packets to arrive", || opened(&sites) > before + 50);
        assert_eq!(behind.count(CANARY), 0, "with {set:?}");
        sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
        eventually("control: to be let in", || behind.count(CANARY) > 0);
    }
    drop(floods);
    sites.a.release();
    sites.b.release();
}
