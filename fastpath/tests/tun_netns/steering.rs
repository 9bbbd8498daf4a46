//! Which packets take the way through the data plane.

use std::time::Duration;

use hw_offload::{Operation, PolicyAction, PolicySet};
use sa_store::Encapsulation;

use crate::{
    common::{
        Capture, Namespace, eventually,
        sites::{Pairing, Sites, bypass, selectors},
    },
    datagram, transfer,
};

#[test]
fn only_what_selectors_cover_is_steered() {
    let pairing = Pairing::new(&["10.1.0.0/16"], &["10.2.0.0/24[udp/9001]", "10.2.0.0/24[icmp/8]"]);
    let mut sites = Sites::new();
    sites.a.start(1);
    let policies = |extra: Vec<hw_offload::Policy>| {
        let mut set: PolicySet = pairing.policies(true);
        set.policies.splice(0..0, extra);
        vec![Operation::SetPolicies(set)]
    };
    sites.a.done(policies(vec![]));
    let (a, b) = (&sites.a.client, &sites.b.client);
    assert!(a.no_ping("10.2.0.2"), "echo requests are covered");
    assert!(!datagram(a, b, "10.2.0.2", 100), "the port is covered");
    transfer(a, b, "10.2.0.2", 1000);
    assert!(b.no_ping("10.1.0.2"), "echo requests of the other side are covered as arrivals");
    assert!(sites.a.gateway.exec("ping -n -c 1 -W 1 -I 192.0.2.1 10.2.0.2").0, "another source");

    let open = bypass(&["10.1.0.0/16"], &["10.2.0.2/32"]);
    sites.a.done(policies(vec![open]));
    assert!(sites.a.client.pings("10.2.0.2"), "bypass stands before the policy");
    assert!(sites.a.gateway.pings("10.2.0.2"), "also for own traffic");
    assert!(sites.a.client.no_ping("10.2.0.1"), "the rest stays covered");
    sites.a.release();
}

#[test]
fn everything_means_everything_but_connected_networks() {
    let pairing = Pairing::new(&["10.1.0.0/16"], &["0.0.0.0/0"]);
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    assert!(sites.a.client.pings("10.2.0.2"), "the other side");
    assert!(sites.a.gateway.pings("10.2.0.2"), "own traffic");
    let sealed = sites.a.live.snapshot()[1].counters().packets;
    assert_eq!(sealed, 6);
    assert!(sites.a.client.pings("10.1.0.1"), "the client's own gateway");
    assert!(sites.a.gateway.pings("10.1.0.2"), "a connected client");
    assert_eq!(sites.a.live.snapshot()[1].counters().packets, sealed, "those stay clear");

    // The wire is where the peer is: whoever hands out addresses there opens nothing.
    assert!(sites.a.client.pings("192.0.2.2"), "the connected wire");
    assert_eq!(sites.a.live.snapshot()[1].counters().packets, sealed + 3);

    // A policy that names a connected network means it.
    let naming = Pairing::new(&["10.1.0.0/16"], &["0.0.0.0/0", "10.1.0.0/24"]);
    sites.a.done(vec![Operation::SetPolicies(naming.policies(true))]);
    sites.a.gateway.no_ping("10.1.0.2");
    assert!(sites.a.live.snapshot()[1].counters().packets > sealed + 3);
    sites.a.release();
    sites.b.release();
}

/// The network of an interface that is down is not connected: packets to it would leave by the
/// default route.
#[test]
fn everything_means_the_network_of_an_interface_that_is_down_too() {
    let pairing = Pairing::new(&["10.1.0.0/16"], &["0.0.0.0/0"]);
    let mut sites = Sites::new();
    sites.a.gateway.ip("link add second type veth peer name other");
    sites.a.gateway.ip("link set other up");
    sites.a.gateway.ip("address add 10.9.0.1/24 dev second");
    sites.a.gateway.ip("link set second up");
    sites.up(&pairing, 1);
    let sealed = |sites: &Sites| sites.a.live.snapshot()[1].counters().packets;
    sites.a.client.no_ping("10.9.0.2");
    assert_eq!(sealed(&sites), 0, "a connected network stays clear");
    sites.a.gateway.ip("link set second down");
    eventually("packets to the network to be sealed", || {
        sites.a.client.no_ping("10.9.0.2");
        sealed(&sites) > 0
    });
    sites.a.gateway.ip("link set second up");
    eventually("packets to the network to stay clear again", || {
        let before = sealed(&sites);
        sites.a.client.no_ping("10.9.0.2");
        sealed(&sites) == before
    });
    sites.a.release();
    sites.b.release();
}

/// Only the mark of our own packets keeps them from going around in circles here.
#[test]
fn everything_means_not_the_way_to_a_peer_behind_a_router() {
    for encapsulation in [Encapsulation::Udp, Encapsulation::None] {
        let selectors = Pairing::new(&["10.1.0.0/16", "192.0.2.1/32"], &["0.0.0.0/0"]);
        let pairing = Pairing { encapsulation, ..selectors };
        let mut sites = Sites::new();
        let gateway = &sites.a.gateway;
        // No network is connected but the LAN.
        for line in [
            "addr del 192.0.2.1/24 dev wan",
            "addr add 192.0.2.1/32 dev wan",
            "route add 192.0.2.2/32 dev wan",
            "route add default via 192.0.2.2 dev wan",
        ] {
            gateway.ip(line);
        }
        sites.up(&pairing, 1);
        assert!(sites.a.client.pings("10.2.0.2"), "{encapsulation}");
        assert!(sites.a.gateway.pings("10.2.0.2"), "{encapsulation}: own traffic");
        assert!(sites.a.gateway.pings("192.0.2.2"), "{encapsulation}: the peer itself");
        assert_eq!(sites.a.live.snapshot()[1].counters().packets, 9, "through the tunnel");
        sites.a.release();
        sites.b.release();
    }
}

#[test]
fn everything_to_everything_leaves_links_alone() {
    let all = ["0.0.0.0/0", "::/0"];
    let mut sites = Sites::new();
    sites.up(&Pairing::new(&all, &all), 1);
    let (client, gateway) = (&sites.a.client, &sites.a.gateway);
    for target in ["10.2.0.2", "fd02::2"] {
        assert!(client.pings(target), "{target}");
    }
    assert!(gateway.pings("10.2.0.2"), "own traffic");
    let sealed = || sites.a.live.snapshot()[1].counters().packets;
    assert_eq!(sealed(), 9);
    let link_local = |space: &Namespace| {
        let (_, text) = space.exec("ip -6 -o addr show dev lan scope link");
        let mut words = text.split_whitespace().skip_while(|word| *word != "inet6");
        let address = words.nth(1).unwrap().split('/').next().unwrap().to_owned();
        format!("{address}%lan")
    };
    for (from, to) in [(client, gateway), (gateway, client)] {
        // Found anew: neighbour discovery passes as well.
        from.ip("neigh flush dev lan");
        assert!(from.pings(&link_local(to)));
        assert!(from.pings("ff02::1%lan"));
    }
    for (from, to) in [(client, ["10.1.0.1", "fd01::1"]), (gateway, ["10.1.0.2", "fd01::2"])] {
        assert!(to.iter().all(|to| from.pings(to)), "connected networks");
    }
    assert_eq!(sealed(), 9, "those stay clear");
    let handle = sites.a.handle();
    assert_eq!(sites.a.gateway.within(move || handle.clear_dropped().unwrap()), 0);
    sites.a.release();
    sites.b.release();
}

#[test]
fn host_to_host_does_not_loop() {
    for (a, b, outer_v4) in
        [("192.0.2.1", "192.0.2.2", true), ("2001:db8::1", "2001:db8::2", false)]
    {
        for encapsulation in [Encapsulation::Udp, Encapsulation::None] {
            let pairing = Pairing { outer_v4, encapsulation, ..Pairing::new(&[a], &[b]) };
            let mut sites = Sites::new();
            sites.up(&pairing, 1);
            let wire = Capture::start(&sites.a.gateway);
            assert!(sites.a.gateway.pings(b), "{encapsulation} to {b}");
            assert!(sites.b.gateway.pings(a), "{encapsulation} to {a}");
            drop(wire);
            assert_eq!(sites.b.live.snapshot()[0].counters().packets, 6, "through the tunnel");
            sites.a.release();
            sites.b.release();
        }
    }
}

#[test]
fn addresses_that_come_later_are_followed() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.a.gateway.ip("addr del 10.1.0.1/24 dev lan");
    sites.up(&pairing, 1);
    let route = |sites: &Sites| sites.a.gateway.exec("ip route get 10.2.0.2").1;
    assert!(!route(&sites).contains("src 10.1."), "no address is inside the local selectors");
    sites.a.gateway.ip("addr add 10.1.0.7/24 dev lan");
    eventually("own traffic takes the new address", || route(&sites).contains("src 10.1.0.7"));
    assert!(sites.a.gateway.pings("10.2.0.2"));
    sites.a.gateway.ip("addr del 10.1.0.7/24 dev lan");
    eventually("the address is forgotten", || !route(&sites).contains("src 10.1."));
    sites.a.release();
    sites.b.release();
}

#[test]
fn an_address_that_is_not_ready_holds_nothing_up() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    let (gateway, client) = (&sites.a.gateway, &sites.a.client);
    // Looked for duplicates for as long as the other end of the wire is down.
    gateway.within(|| std::fs::write("/proc/sys/net/ipv6/conf/lan/accept_dad", "1").unwrap());
    client.ip("link set lan down");
    gateway.ip("addr del fd01::1/64 dev lan");
    gateway.ip("addr add fd01::1/64 dev lan");
    assert!(gateway.exec("ip -6 addr show dev lan").1.contains("tentative"), "control");
    sites.up(&pairing, 1);
    assert!(sites.a.gateway.pings("10.2.0.2"), "IPv4 does not wait for it");
    let route = || sites.a.gateway.exec("ip -6 route get fd02::2").1;
    assert!(route().contains("No route to host"), "own traffic waits for it: {}", route());
    let handle = sites.a.handle();
    assert_eq!(sites.a.gateway.within(move || handle.warnings()), [""; 0]);
    let client = &sites.a.client;
    client.ip("link set lan up");
    client.ip("addr add fd01::2/64 dev lan nodad");
    eventually("own traffic takes the address", || route().contains("src fd01::1"));
    assert!(sites.a.gateway.pings("fd02::2"));
    sites.a.release();
    sites.b.release();
}

#[test]
fn what_others_take_out_is_put_back() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    let gateway = &sites.a.gateway;
    for harm in [
        "nft flush ruleset",
        "nft flush table inet postern",
        "nft flush chain inet postern prerouting",
        "nft delete chain inet postern guard_behind_nat",
        "nft add rule inet postern out4 return",
        "ip link set postern0 down",
        "ip rule del priority 1",
        "ip -6 rule del priority 1",
        "ip route flush table 28783",
        "ip -6 route flush table 28783",
        "ip rule del priority 151",
        "ip -6 rule del priority 150",
        "ip -6 rule del priority 152",
        "ip route flush table 28784",
        "tc qdisc del dev wan clsact",
        "tc filter del dev lan ingress",
        "tc filter del dev wan egress pref 1",
    ] {
        let state = || {
            [
                "nft list table inet postern",
                "ip rule",
                "ip -6 rule",
                "ip route show table 28783",
                "ip -6 route show table 28783",
                "ip route show table 28784",
                "ip -6 route show table 28784",
                "tc filter show dev wan egress",
                "tc filter show dev lan ingress",
            ]
            .map(|look| gateway.exec(look).1)
        };
        let before = state();
        assert!(gateway.exec(harm).0, "{harm}");
        eventually(harm, || state() == before);
    }
    // A copy from before, which is put back as some put back all of their rules.
    let (_, old) = gateway.exec("nft list ruleset");
    let mut set = pairing.policies(true);
    set.policies[0].remote.extend(selectors(&["10.9.0.0/24"]));
    sites.a.done(vec![Operation::SetPolicies(set)]);
    let gateway = &sites.a.gateway;
    let (_, new) = gateway.exec("nft list ruleset");
    crate::guarded::nft(gateway, &format!("flush ruleset\n{old}"));
    eventually("the rules of now", || gateway.exec("nft list ruleset").1 == new);
    for target in ["10.2.0.2", "fd02::2"] {
        assert!(sites.a.client.pings(target));
        assert!(sites.a.gateway.pings(target));
    }
    assert_eq!(sites.b.live.snapshot()[0].counters().packets, 12, "through the tunnel");
    sites.a.release();
    sites.b.release();
}

#[test]
fn source_checks_of_the_kernel_drop_nothing_that_comes_out_of_a_tunnel() {
    for strictness in ["1", "2"] {
        let mut sites = Sites::new();
        for site in [&sites.a, &sites.b] {
            site.gateway.within(move || {
                std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", strictness).unwrap();
            });
        }
        sites.up(&Pairing::nets(), 1);
        assert!(sites.a.client.pings("10.2.0.2"), "rp_filter {strictness}");
        assert!(sites.a.gateway.pings("10.2.0.2"), "rp_filter {strictness}, own traffic");
        sites.a.release();
        sites.b.release();
    }
}

/// What this process and those that it waited for took of the processors: how busy others keep
/// the machine is not judged.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // proc_pid_stat(5): behind the name, which may have spaces, utime is the twelfth field, and
    // stime, cutime and cstime follow, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(4);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

#[test]
fn ten_thousand_selectors_load_in_seconds_and_are_exact() {
    let remote: Vec<String> =
        (0..10_000_u32).map(|i| format!("172.{}.{}.0/25", 16 + i / 256 / 4, i / 4 % 256)).collect();
    let mut texts: Vec<String> = remote
        .iter()
        .enumerate()
        .map(|(i, net)| match i % 4 {
            0 => net.clone(),
            1 => net.replace(".0/25", ".128/26"),
            2 => net.replace(".0/25", ".192/27[tcp/443]"),
            _ => net.replace(".0/25", ".224-@.239").replace('@', net.trim_end_matches(".0/25")),
        })
        .collect();
    texts.push("10.2.0.0/24".to_owned());
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pairing = Pairing::new(&["10.1.0.0/16"], &texts);
    assert_eq!(selectors(&texts).len(), 10_001);
    let mut sites = Sites::new();
    sites.a.start(1);
    let before = cpu_time();
    sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    let took = cpu_time() - before;
    println!("loading took {took:?} of a processor");
    assert!(took < Duration::from_secs(14), "it took {took:?} of a processor");
    assert!(sites.a.client.no_ping("10.2.0.2"), "the last selector holds");
    assert!(sites.a.client.no_ping("172.16.9.1"));
    let blocked = sites.a.handle().counters().policy;
    assert!(blocked >= 6, "{blocked} packets came to the data plane");
    sites.a.client.no_ping("172.16.9.250");
    assert_eq!(sites.a.handle().counters().policy, blocked, "what no selector covers does not");
    let before = cpu_time();
    sites.a.done(vec![Operation::SetPolicies(PolicySet::default())]);
    assert!(cpu_time() - before < Duration::from_secs(2));
    assert!(sites.a.client.pings("10.2.0.2"), "without policies it passes");
    sites.a.release();
}

#[test]
fn rules_that_stand_are_not_loaded_again() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.a.start(1);
    let set = |peer: &str, remote: &str| {
        let mut set = pairing.policies(true);
        for policy in &mut set.policies {
            policy.remote.extend(selectors(&[remote]));
            if let PolicyAction::Protect { peers, .. } = &mut policy.action {
                *peers = vec![peer.parse().unwrap()];
            }
        }
        vec![Operation::SetPolicies(set)]
    };
    sites.a.done(set("192.0.2.2", "10.9.0.0/24"));
    // A table that is replaced gets a number of its own.
    let table = |sites: &Sites| {
        let (_, text) = sites.a.gateway.exec("nft -a list table inet postern");
        text.lines().next().unwrap().to_owned()
    };
    let before = table(&sites);
    assert!(before.contains("handle"), "{before}");
    for number in 0..20 {
        sites.a.done(set(&format!("192.0.2.{}", 10 + number), "10.9.0.0/24"));
    }
    let handle = sites.a.handle();
    assert_eq!(table(&sites), before, "a peer that is somewhere else changes no rule");
    sites.a.done(set("10.9.0.7", "10.9.0.0/24"));
    sites.a.gateway.within(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/wan/rp_filter", "1").unwrap();
    });
    let warnings = sites.a.gateway.within(move || handle.warnings());
    assert!(warnings.iter().any(|w| w.contains("covers the peer's own address")), "{warnings:?}");
    assert_eq!(table(&sites), before);
    assert!(sites.a.client.no_ping("10.2.0.2"));
    sites.a.done(set("192.0.2.2", "10.8.0.0/24"));
    assert_ne!(table(&sites), before, "control");
    sites.a.release();
}

#[test]
fn what_comes_without_a_policy_is_counted_but_not_the_systems_own_multicast() {
    let mut sites = Sites::new();
    sites.a.start(1);
    sites.a.done(vec![Operation::SetPolicies(Pairing::nets().policies(true))]);
    sites.a.gateway.within(|| {
        for to in ["224.0.0.99:9", "203.0.113.9:9"] {
            let to: std::net::SocketAddr = to.parse().unwrap();
            let (domain, datagrams) = (socket2::Domain::IPV4, socket2::Type::DGRAM);
            let socket = socket2::Socket::new(domain, datagrams, None).unwrap();
            // Past all routing.
            socket.bind_device(Some(b"postern0")).unwrap();
            socket.send_to(b"for nobody", &to.into()).unwrap();
        }
    });
    let counted = || sites.a.handle().counters().policy;
    eventually("counting", || counted() > 0);
    assert_eq!(counted(), 1, "the only worker has seen both");
    sites.a.release();
}
