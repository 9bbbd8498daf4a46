//! Others flush nftables, routing rules or both, under a living process and behind a dead one:
//! what is protected does not leave in clear, at 10,000 packets a second.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hw_offload::Operation;

use crate::{
    CANARY,
    common::{
        Capture, Namespace, eventually,
        sites::{Pairing, Sites},
        wire,
    },
    guarded::nft,
    process::Process,
};

/// Datagrams with canaries to both protected networks, 10,000 a second, until it is stopped.
struct Stream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Stream {
    /// From a namespace, with these sources (addresses or "any").
    fn start(space: &Namespace, sources: [&str; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let sources: [SocketAddr; 2] = sources.map(|source| source.parse().unwrap());
        let thread = space.spawn(move || {
            let targets: [SocketAddr; 2] =
                ["10.2.0.2:9", "[fd02::2]:9"].map(|t| t.parse().unwrap());
            let sockets = sources.map(|source| UdpSocket::bind(source).unwrap());
            let start = Instant::now();
            let mut sent = 0;
            while !ended.load(Ordering::Acquire) {
                while sent < u32::try_from(start.elapsed().as_micros() / 100).unwrap() {
                    let which = usize::from(sent % 2 == 1);
                    // Errors are what `unreachable` looks like.
                    let _ = sockets[which].send_to(CANARY, targets[which]);
                    sent += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        Self { stop, thread: Some(thread) }
    }

    /// Waits for some packets more, and stops.
    fn finish(mut self) -> u32 {
        std::thread::sleep(Duration::from_millis(300));
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap()
    }
}

const FROM_CLIENT: [&str; 2] = ["0.0.0.0:0", "[::]:0"];
const FROM_GATEWAY: [&str; 2] = ["10.1.0.1:0", "[fd01::1]:0"];

const NFT: &[&str] = &["nft flush ruleset"];
/// All of them but what says where anything is.
const RULES: &[&str] = &[
    "ip rule flush",
    "ip -6 rule flush",
    "ip rule add pref 32766 lookup main",
    "ip -6 rule add pref 32766 lookup main",
];

fn flush(space: &Namespace, lines: &[&str]) {
    for line in lines {
        assert!(space.exec(line).0, "{line}");
    }
}

/// As `/etc/nftables.conf` of many a gateway has it.
const MASQUERADE: &str = "table inet others {\nchain post {\ntype nat hook postrouting priority 100\n\
                          oifname wan masquerade\n}\n}";

/// The canaries of two streams, from the client and from the gateway itself.
fn leaked(sites: &Sites, wire: &Capture, meanwhile: impl FnOnce(&Namespace)) -> usize {
    let before = wire.count(CANARY);
    let streams = [
        Stream::start(&sites.a.client, FROM_CLIENT),
        Stream::start(&sites.a.gateway, FROM_GATEWAY),
    ];
    meanwhile(&sites.a.gateway);
    let sent = streams.map(Stream::finish);
    assert!(sent.iter().all(|sent| *sent > 2000), "{sent:?} packets were too few");
    wire.count(CANARY) - before
}

#[test]
fn flushes_behind_a_dead_process_open_nothing() {
    let sites = Sites::new();
    let wire = Capture::start(&sites.b.gateway);
    for (name, lines, masquerade) in [
        ("nftables", vec![NFT], false),
        ("routing rules", vec![RULES], false),
        ("both", vec![NFT, RULES], false),
        ("nftables, for others with NAT", vec![NFT], true),
        ("both, and NAT", vec![NFT, RULES], true),
    ] {
        let mut process = Process::start(&sites.a.gateway);
        process.tell("policy 10.1.0.0/16,fd01::/64 10.2.0.0/16,fd02::/64");
        process.kill();
        let leaked = leaked(&sites, &wire, |gateway| {
            lines.iter().for_each(|lines| flush(gateway, lines));
            if masquerade {
                nft(gateway, MASQUERADE);
            }
        });
        assert_eq!(leaked, 0, "{name}: clear packets were seen");
        assert!(sites.a.gateway.pings("192.0.2.2"), "{name}: what is not covered leaves");
        flush(&sites.a.gateway, NFT);
    }
    // Without the filters of interfaces everything leaves.
    for line in ["tc qdisc del dev wan clsact", "tc qdisc del dev lan clsact"] {
        assert!(sites.a.gateway.exec(line).0, "{line}");
    }
    assert!(leaked(&sites, &wire, |_| {}) > 2000, "control");
    Process::start(&sites.a.gateway).release();
}

#[test]
fn flushes_under_a_living_process_open_nothing() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    let ours = |sites: &mut Sites| {
        sites.a.start(1);
        sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    };
    let wire = Capture::start(&sites.b.gateway);
    let storm = |gateway: &Namespace| {
        for _ in 0..8 {
            flush(gateway, NFT);
            // Our process puts its own rules back meanwhile.
            for line in ["ip rule del pref 1", "ip -6 rule del pref 1", "ip rule del pref 151"] {
                gateway.exec(line);
            }
            flush(gateway, NFT);
        }
    };
    // Where somebody has the hooks already there is one line only, which is told.
    for line in ["tc qdisc add dev wan ingress", "tc qdisc add dev lan ingress"] {
        assert!(sites.a.gateway.exec(line).0, "{line}");
    }
    ours(&mut sites);
    let told = |sites: &Sites| {
        let handle = sites.a.handle();
        let warnings = sites.a.gateway.within(move || handle.warnings());
        warnings.iter().any(|warning| warning.contains("an ingress qdisc is in the way"))
    };
    assert!(told(&sites));
    assert!(leaked(&sites, &wire, storm) > 0, "control");
    for line in ["tc qdisc del dev wan ingress", "tc qdisc del dev lan ingress"] {
        assert!(sites.a.gateway.exec(line).0, "{line}");
    }
    eventually("the filters", || !told(&sites));
    assert_eq!(leaked(&sites, &wire, storm), 0, "clear packets were seen");
    sites.a.release();
}

/// Interfaces that come later, also while nobody can tell packets by nftables.
#[test]
fn an_interface_that_comes_later_is_held_at_once() {
    let mut sites = Sites::new();
    sites.a.start(1);
    sites.a.done(vec![Operation::SetPolicies(Pairing::nets().policies(true))]);
    wire(&sites.a.gateway, "late", &sites.b.gateway, "late");
    let gateway = &sites.a.gateway;
    let filters = || gateway.exec("tc filter show dev late egress").1;
    eventually("a filter", || filters().contains("postern"));
    gateway.ip("addr add 198.51.100.1/24 dev late");
    sites.b.gateway.ip("addr add 198.51.100.2/24 dev late");
    gateway.ip("route replace 10.2.0.0/24 via 198.51.100.2");
    sites.a.backend = None;
    let gateway = &sites.a.gateway;
    let seen = Capture::start(&sites.b.gateway);
    flush(gateway, NFT);
    flush(gateway, RULES);
    assert!(sites.a.client.no_ping("10.2.0.2"));
    assert_eq!(seen.count(CANARY), 0);
    assert!(gateway.exec("tc qdisc del dev late clsact").0);
    assert!(gateway.exec("tc qdisc del dev lan clsact").0);
    sites.a.client.no_ping("10.2.0.2");
    assert!(seen.count(CANARY) > 0, "control");
    sites.a.release();
}

/// Neither do clear arrivals for a protected network go on to it.
#[test]
fn clear_arrivals_are_not_forwarded_where_nftables_is_flushed() {
    let mut sites = Sites::new();
    sites.a.start(1);
    sites.a.done(vec![Operation::SetPolicies(Pairing::nets().policies(true))]);
    sites.a.backend = None;
    let behind = Capture::start(&sites.a.client);
    flush(&sites.a.gateway, NFT);
    for target in ["10.1.0.2", "fd01::2"] {
        assert!(sites.b.client.no_ping(target));
    }
    assert_eq!(behind.count(CANARY), 0);
    sites.a.release();
    assert!(sites.b.client.pings("10.1.0.2"), "control");
    assert!(behind.count(CANARY) > 0, "control");
}

/// What a bridge passes on between its ports is not routed, and no business of ours.
#[test]
fn what_is_bridged_is_left_alone() {
    let mut sites = Sites::new();
    let hosts = [Namespace::new(), Namespace::new()];
    let gateway = &sites.a.gateway;
    gateway.ip("link add hub type bridge");
    gateway.ip("link set hub up");
    // Some kernels show such packets to nftables as well.
    for family in ["ip", "ip6"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
        gateway.within(move || std::fs::write(path, "0").is_ok());
    }
    for (host, port, address) in
        [(&hosts[0], "one", "10.1.7.1/8"), (&hosts[1], "two", "10.2.7.1/8")]
    {
        wire(gateway, port, host, "eth");
        gateway.ip(&format!("link set {port} master hub"));
        host.ip(&format!("addr add {address} dev eth"));
    }
    sites.a.start(1);
    sites.a.done(vec![Operation::SetPolicies(Pairing::nets().policies(true))]);
    let filters = sites.a.gateway.exec("tc filter show dev hub egress").1;
    assert!(filters.contains("postern"), "{filters}");
    assert!(hosts[0].pings("10.2.7.1"));
    sites.a.release();
}
