//! Networks that somebody hands out are connected, and open nothing of a policy for everything:
//! what the wires show, and what comes in.

use hw_offload::{Operation, PolicySet};

use crate::{
    CANARY,
    common::{
        Capture, Namespace, eventually,
        sites::{Pairing, Sites, bypass},
        wire,
    },
};

/// Side a with a policy for everything and no SA, and a second network beside its LAN.
struct Beside {
    sites: Sites,
    other: Namespace,
}

impl Beside {
    fn new() -> Self {
        let (mut sites, other) = (Sites::new(), Namespace::new());
        wire(&sites.a.gateway, "second", &other, "second");
        other.ip("addr add 172.30.0.2/30 dev second");
        other.ip("route add default dev second");
        other.ip("-6 route add default dev second");
        sites.a.start(1);
        sites.a.done(vec![Operation::SetPolicies(everything())]);
        Self { sites, other }
    }

    /// Waits until steering knows of what was changed before: it answers in turn.
    fn settle(&mut self) {
        self.sites.a.done(vec![Operation::SetPolicies(everything())]);
    }

    /// The networks that stay clear, with their interfaces.
    fn clear(&self) -> Vec<String> {
        let handle = self.sites.a.handle();
        let found = self.sites.a.gateway.within(move || handle.left_clear());
        found.iter().map(|found| format!("{} {}", found.network, found.interface)).collect()
    }
}

fn everything() -> PolicySet {
    Pairing::new(&["10.1.0.0/16", "fd01::/64"], &["0.0.0.0/0", "::/0"]).policies(true)
}

/// The networks of the LAN.
const LAN: [&str; 2] = ["10.1.0.0/24 lan", "fd01::/64 lan"];

#[test]
fn a_network_that_somebody_hands_out_opens_nothing() {
    let mut beside = Beside::new();
    // The address that is handed out, where, and a host in the network that it makes connected.
    for (given, at, host) in [
        ("100.0.0.9/1", "wan", "8.8.8.8"),
        ("200.0.0.9/1", "wan", "200.1.2.3"),
        ("10.9.0.9/24", "wan", "10.9.0.2"),
        ("100.0.0.9/2", "second", "72.1.2.3"),
        ("200.0.0.9/1", "second", "200.1.2.3"),
        ("10.129.0.9/9", "second", "10.200.0.1"),
        ("8.8.8.9/24", "second", "8.8.8.8"),
        ("2a00::9/3", "wan", "2a00:1450::8"),
        ("fd09::9/64", "wan", "fd09::8"),
        ("2a00::9/3", "second", "2a00:1450::8"),
        ("2a00:1450::9/64", "second", "2a00:1450::8"),
    ] {
        let (a, b) = (&beside.sites.a, &beside.sites.b.gateway);
        let there = if at == "wan" { b } else { &beside.other };
        let v6 = if given.contains(':') { " nodad" } else { "" };
        a.gateway.ip(&format!("addr add {given} dev {at}{v6}"));
        let length = if v6.is_empty() { 32 } else { 128 };
        there.ip(&format!("addr add {host}/{length} dev {at}{v6}"));
        let back = if v6.is_empty() { "10.1.0.0/24" } else { "fd01::/64" };
        let gateway = given.split('/').next().unwrap();
        there.ip(&format!("route replace {back} via {gateway} dev {at} onlink"));
        let (wires, client) =
            ([Capture::start(b), Capture::start(&beside.other)], Capture::start(&a.client));
        beside.settle();
        eventually("the LAN alone to stay clear", || beside.clear() == LAN);

        let a = &beside.sites.a;
        assert!(a.client.no_ping(host), "{given} at {at}");
        assert!(a.gateway.no_ping(host), "{given} at {at}: own");
        let spoof = |space: &Namespace| {
            let to = if v6.is_empty() { "10.1.0.2" } else { "fd01::2" };
            space.exec(&format!("ping -n -q -c 1 -W 0.2 -p 73706f6f66 -I {host} {to}"));
        };
        spoof(if at == "wan" { &beside.sites.b.gateway } else { &beside.other });
        assert!(a.client.pings("10.1.0.1"), "what is in the LAN stays clear");
        for wire in &wires {
            assert_eq!(wire.count(CANARY), 0, "{given} at {at}: in clear");
        }
        assert_eq!(client.count(b"spoof"), 0, "{given} at {at}: came in");

        // The same with the network named: there is a way, and the captures see it.
        let mut open = everything();
        let (local, remote) =
            if v6.is_empty() { ("10.1.0.0/16", "0.0.0.0/0") } else { ("fd01::/64", "::/0") };
        open.policies.insert(0, bypass(&[local], &[remote]));
        beside.sites.a.done(vec![Operation::SetPolicies(open)]);
        assert!(beside.sites.a.client.pings(host), "control: {given} at {at}");
        assert!(wires.iter().any(|wire| wire.count(CANARY) > 0), "control: {given} at {at}");
        spoof(if at == "wan" { &beside.sites.b.gateway } else { &beside.other });
        eventually("a control to come in", || client.count(b"spoof") > 0);

        let there = if at == "wan" { &beside.sites.b.gateway } else { &beside.other };
        beside.sites.a.gateway.ip(&format!("addr del {given} dev {at}"));
        if at == "second" {
            there.ip(&format!("route del {back}"));
        } else {
            let via = if v6.is_empty() { "192.0.2.1" } else { "2001:db8::1" };
            there.ip(&format!("route replace {back} via {via}"));
        }
        there.ip(&format!("addr del {host}/{length} dev {at}"));
    }
    beside.sites.a.release();
}

#[test]
fn a_connected_network_stays_clear_through_its_own_interface_only() {
    let mut beside = Beside::new();
    let (gateway, other) = (&beside.sites.a.gateway, &beside.other);
    gateway.ip("addr add 10.9.0.1/24 dev second");
    other.ip("addr add 10.9.0.2/24 dev second");
    other.ip("route add 10.1.0.0/16 via 10.9.0.1");
    let known = || beside.clear() == ["10.1.0.0/24 lan", "10.9.0.0/24 second", "fd01::/64 lan"];
    eventually("the second network to stay clear", known);
    let client = &beside.sites.a.client;
    assert!(client.pings("10.9.0.2"));
    assert!(other.pings("10.1.0.2"));
    assert!(gateway.pings("10.9.0.2"), "own traffic");

    // The same addresses on the outer wire.
    let wan = &beside.sites.b.gateway;
    wan.ip("addr add 10.9.0.2/32 dev wan");
    let (wire, inside) = (Capture::start(wan), Capture::start(client));
    wan.exec("ping -n -q -c 2 -i 0.1 -W 0.2 -p 73706f6f66 -I 10.9.0.2 10.1.0.2");
    assert!(other.pings("10.1.0.2"), "and then through its own");
    assert_eq!(inside.count(b"spoof"), 0, "it came in through another interface");
    gateway.ip("route add 10.9.0.2/32 via 192.0.2.2 dev wan");
    assert!(client.no_ping("10.9.0.2"), "a narrower route to the outer wire");
    gateway.exec("ping -n -q -c 2 -i 0.1 -W 0.2 -p 63616e617279 -I 10.1.0.1 10.9.0.2");
    assert_eq!(wire.count(CANARY), 0, "it left through another interface");
    gateway.ip("route del 10.9.0.2/32 via 192.0.2.2 dev wan");
    assert!(client.pings("10.9.0.2"), "as before");

    // It is the way to the peer now: everything there is outside.
    gateway.ip("route add 192.0.2.2/32 via 10.9.0.2 dev second");
    eventually("the network to be covered", || beside.clear() == LAN);
    let second = Capture::start(&beside.other);
    assert!(beside.sites.a.client.no_ping("10.9.0.2"));
    assert_eq!(second.count(CANARY), 0, "in clear on the way to the peer");
    beside.sites.a.release();
}
