//! Datagrams that are longer than anything on their way, and selectors with ports, which only the
//! first of their fragments shows.

use hw_offload::Operation;
use sa_store::{Encapsulation, SaId};

use crate::{
    common::{
        Namespace,
        sites::{Pairing, Sites, bypass},
    },
    datagram_to,
};

fn opened(sites: &Sites) -> u64 {
    sites.b.live.get(SaId(2)).unwrap().counters().packets
}

/// How many packets of a datagram and its way back went through the tunnel from a to b; `None`
/// when it does not arrive. The first attempts may only teach both ends the MTU.
fn through(sites: &Sites, from: &Namespace, server: &str, len: usize) -> Option<u64> {
    (0..4).find_map(|_| {
        let before = opened(sites);
        datagram_to(from, &sites.b.client, server, len).then(|| opened(sites) - before)
    })
}

#[test]
fn a_child_with_ports_carries_datagrams_of_any_size_whole_and_others_keep_their_way() {
    for encapsulation in [Encapsulation::Udp, Encapsulation::None] {
        let covered = Pairing::new(&["10.1.0.0/16"], &["10.2.0.0/16[udp/9001]"]);
        let pairing = Pairing { encapsulation, ..covered };
        let mut sites = Sites::new();
        sites.up(&pairing, 2);
        for len in [1200, 1390, 1450, 2000, 5000, 60_000] {
            for host in [&sites.a.client, &sites.a.gateway] {
                let covered = through(&sites, host, "10.2.0.2:9001", len);
                assert_eq!(covered, Some(1), "{len}: it arrives, and went as one packet");
                let others = through(&sites, host, "10.2.0.2:9003", len);
                assert_eq!(others, Some(0), "{len}: what is not covered is not caught");
            }
        }
        for site in [&sites.a, &sites.b] {
            assert_eq!(site.handle().counters().policy, 0);
            assert!(site.live.snapshot().iter().all(|sa| sa.counters().dropped == [0; 5]));
        }
        sites.a.release();
        sites.b.release();
    }
}

/// The tunnel is narrower than the interface, so that the data plane itself has to cut.
#[test]
fn a_narrow_path_makes_no_later_fragments_of_a_child_with_ports() {
    let pairing = Pairing::new(&["10.1.0.0/16"], &["10.2.0.0/16[udp/9001]"]);
    let mut sites = Sites::new();
    for site in [&sites.a, &sites.b] {
        site.gateway.ip("link set wan mtu 1300");
    }
    sites.up(&pairing, 1);
    for len in [1200, 1300, 1372, 3000] {
        let packets = through(&sites, &sites.a.client, "10.2.0.2:9001", len);
        assert_eq!(packets, Some(1), "{len}");
    }
    sites.a.release();
    sites.b.release();
}

#[test]
fn fragments_of_a_bypassed_port_stay_together() {
    let pairing = Pairing::new(&["10.1.0.0/16"], &["10.2.0.0/16"]);
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    for (site, a) in [(&mut sites.a, true), (&mut sites.b, false)] {
        let mut set = pairing.policies(a);
        let (near, far) = if a {
            (["10.1.0.0/16"], ["10.2.0.0/16[udp/9003]"])
        } else {
            (["10.2.0.0/16[udp/9003]"], ["10.1.0.0/16"])
        };
        set.policies.insert(0, bypass(&near, &far));
        site.done(vec![Operation::SetPolicies(set)]);
    }
    let client = &sites.a.client;
    assert!(through(&sites, client, "10.2.0.2:9001", 5000) >= Some(4), "the child takes fragments");
    assert_eq!(through(&sites, client, "10.2.0.2:9003", 5000), Some(0), "not one of these");
    sites.a.release();
    sites.b.release();
}
