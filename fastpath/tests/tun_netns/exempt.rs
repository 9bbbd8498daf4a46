//! What steering leaves alone, and that a policy which names it wins: with what the wire shows.

use std::net::{Ipv4Addr, SocketAddr};

use hw_offload::{Operation, PolicySet};
use socket2::{Domain, Socket, Type};

use crate::{
    CANARY,
    common::{
        Capture, Namespace, eventually,
        sites::{Pairing, Sites, bypass},
    },
};

/// A datagram with a canary from an address, to one that may be of many.
fn say(space: &Namespace, from: &str, to: &str, len: usize) {
    let (from, to): (Ipv4Addr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    space.within(move || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.set_multicast_if_v4(&from).unwrap();
        let data: Vec<u8> = CANARY.iter().copied().cycle().take(len).collect();
        // A refusal is as good as a drop.
        let _ = socket.send_to(&data, &to.into());
    });
}

/// Policies of side a, and whether clear canaries come to the wire then. What no policy is about
/// comes behind the others.
fn shows(sites: &mut Sites, policies: PolicySet, wire: &Capture, say_it: impl Fn(&Sites)) -> bool {
    sites.a.done(vec![Operation::SetPolicies(policies)]);
    let (before, ends) = (wire.count(CANARY), wire.count(b"the end of it"));
    say_it(sites);
    sites.a.client.within(|| {
        let socket = std::net::UdpSocket::bind("10.1.0.2:0").unwrap();
        socket.send_to(b"the end of it", "203.0.113.9:9").unwrap();
    });
    eventually("the last packet", || wire.count(b"the end of it") > ends);
    wire.count(CANARY) > before
}

#[test]
fn a_bypass_on_hidden_ports_leaves_nothing_clear_that_shows_them() {
    let mut sites = Sites::new();
    sites.a.start(1);
    let wire = Capture::start(&sites.b.gateway);
    for (open, clear) in [
        ("10.2.0.0/16[udp/opaque]", false),
        ("10.2.0.0/16[any/opaque]", false),
        ("10.2.0.0/16[udp/9001]", true),
    ] {
        let mut policies = Pairing::new(&["10.1.0.0/16"], &["10.2.0.0/16"]).policies(true);
        policies.policies.insert(0, bypass(&["10.1.0.0/16"], &[open]));
        for len in [100, 5000] {
            let from_client =
                |sites: &Sites| say(&sites.a.client, "10.1.0.2", "10.2.0.2:9001", len);
            let from_gateway =
                |sites: &Sites| say(&sites.a.gateway, "10.1.0.1", "10.2.0.2:9001", len);
            assert_eq!(
                shows(&mut sites, policies.clone(), &wire, from_client),
                clear,
                "{open} {len}"
            );
            assert_eq!(
                shows(&mut sites, policies.clone(), &wire, from_gateway),
                clear,
                "{open} {len}"
            );
        }
    }
    sites.a.release();
}

#[test]
fn multicast_and_broadcast_that_a_policy_names_do_not_leave() {
    let mut sites = Sites::new();
    sites.a.start(1);
    let wire = Capture::start(&sites.b.gateway);
    // As somebody may hand out who answers DHCP: the broadcast address is one of the other side.
    sites.a.gateway.ip("addr add 10.2.0.9/30 broadcast 10.2.0.11 dev wan");
    let groups = |sites: &Sites| {
        for to in ["239.1.2.3:9", "224.0.0.251:5353"] {
            say(&sites.a.gateway, "192.0.2.1", to, 100);
        }
    };
    let broadcast = |sites: &Sites| say(&sites.a.gateway, "10.2.0.9", "10.2.0.11:9", 100);
    let pairing =
        |remote: &str| Pairing::new(&["192.0.2.1/32", "10.2.0.9/32"], &[remote]).policies(true);
    assert!(shows(&mut sites, pairing("10.9.0.0/16"), &wire, groups), "control");
    assert!(shows(&mut sites, pairing("10.9.0.0/16"), &wire, broadcast), "control");
    assert!(shows(&mut sites, pairing("0.0.0.0/0"), &wire, groups), "everything means no group");
    for named in ["224.0.0.0/4", "128.0.0.0/1"] {
        assert!(!shows(&mut sites, pairing(named), &wire, groups), "{named}");
    }
    assert!(
        !shows(&mut sites, pairing("10.2.0.0/16"), &wire, broadcast),
        "a host of the other side"
    );
    sites.a.release();
}
