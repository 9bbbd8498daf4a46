//! The data plane between real network namespaces: what is protected passes, what is not keeps
//! its way, and nothing leaves in clear whatever happens.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on ends")]

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use common::{
    Capture, Namespace, eventually,
    sites::{PLANTED, Pairing, Sites, bypass, selectors},
};
use hw_offload::{Notice, Operation, PolicySet};
use sa_store::{Encapsulation, EspCipher, EspSuite, IntegrityAlgorithm};

const CANARY: &[u8] = b"canarycanary";

/// Sends octets over TCP from one namespace to an address in another and checks every one.
fn transfer(from: &Namespace, to: &Namespace, address: &str, octets: usize) {
    let listen: SocketAddr = format!("{address}:9000").parse().unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    let reader = to.spawn(move || {
        let listener = TcpListener::bind(listen).unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    wait.recv().unwrap();
    let data: Vec<u8> = (0..octets).map(|i| (i * 31 + i / 257) as u8).collect();
    let sent = data.clone();
    from.within(move || {
        let mut stream = TcpStream::connect_timeout(&listen, Duration::from_secs(5)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&sent).unwrap();
    });
    assert!(reader.join().unwrap() == data, "the octets arrive as they were sent");
}

/// One datagram there and back.
fn datagram(from: &Namespace, to: &Namespace, address: &str, len: usize) -> bool {
    let server: SocketAddr = format!("{address}:9001").parse().unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    let echo = to.spawn(move || {
        let socket = UdpSocket::bind(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        ready.send(()).unwrap();
        let mut buffer = vec![0; 65_536];
        if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], peer).unwrap();
        }
    });
    wait.recv().unwrap();
    let came_back = from.within(move || {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let data: Vec<u8> = CANARY.iter().copied().cycle().take(len).collect();
        let mut buffer = vec![0; 65_536];
        socket.send_to(&data, server).is_ok()
            && socket.recv_from(&mut buffer).is_ok_and(|(got, _)| buffer[..got] == data)
    });
    echo.join().unwrap();
    came_back
}

fn suites() -> Vec<EspSuite> {
    let mac = Some(IntegrityAlgorithm::HmacSha256_128);
    [
        (EspCipher::AesGcm16(256), None),
        (EspCipher::ChaCha20Poly1305, None),
        (EspCipher::AesCbc(256), mac),
    ]
    .map(|(cipher, mac)| EspSuite::new(cipher, mac).unwrap())
    .into()
}

#[test]
fn traffic_passes_in_every_encapsulation_and_family_and_never_in_clear() {
    for (number, (encapsulation, outer_v4)) in [
        (Encapsulation::Udp, true),
        (Encapsulation::None, true),
        (Encapsulation::Udp, false),
        (Encapsulation::None, false),
    ]
    .into_iter()
    .enumerate()
    {
        let suites = suites();
        let pairing = Pairing {
            encapsulation,
            outer_v4,
            suite: suites[number % suites.len()],
            ..Pairing::nets()
        };
        let mut sites = Sites::new();
        sites.up(&pairing, 1 + number % 2);
        let wire = Capture::start(&sites.b.gateway);
        for target in ["10.2.0.2", "fd02::2"] {
            assert!(sites.a.client.pings(target), "{encapsulation} v4 {outer_v4} {target}");
        }
        assert!(sites.a.gateway.pings("10.2.0.2"), "the gateway's own traffic has a source inside");
        assert!(sites.a.gateway.pings("fd02::2"), "also with IPv6");
        for target in ["10.2.0.2", "[fd02::2]"] {
            transfer(&sites.a.client, &sites.b.client, target, 3_000_000);
            assert!(datagram(&sites.a.client, &sites.b.client, target, 1200));
            // The first one may only teach the client the MTU.
            let long = || datagram(&sites.a.client, &sites.b.client, target, 5000);
            assert!(long() || long(), "fragments pass");
        }
        let counters = sites.b.live.snapshot()[0].counters();
        assert_eq!(counters.dropped, [0; 5]);
        assert!(counters.packets > 2000, "{counters:?}");
        assert!(wire.count(CANARY) > 0, "the capture sees the side behind gateway b");
        drop(wire);
        sites.a.release();
        sites.b.release();
    }
}

#[test]
fn nothing_leaves_in_clear_without_an_sa_or_without_the_data_plane() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    assert!(sites.a.client.pings("10.2.0.2"), "control: without policies it passes in clear");
    sites.a.start(1);
    sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    let wire = Capture::start(&sites.b.gateway);
    let blocked = |sites: &Sites, when: &str| {
        for target in ["10.2.0.2", "fd02::2"] {
            assert!(sites.a.client.no_ping(target), "{when}: client to {target}");
            assert!(sites.a.gateway.no_ping(target), "{when}: gateway to {target}");
        }
        assert_eq!(wire.count(CANARY), 0, "{when}: clear packets were seen");
    };
    blocked(&sites, "policy without SA");
    sites.a.drain();
    let acquires = sites.a.seen.iter().filter(|n| matches!(n, Notice::Acquire { .. })).count();
    assert!((1..=10).contains(&acquires), "{acquires} acquires");

    sites.a.backend = None;
    blocked(&sites, "the data plane is gone");

    // Taken over: still blocked before anything is configured, then it passes again.
    sites.a.start(2);
    blocked(&sites, "a restarted data plane without policies");
    sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    sites.a.install(&pairing, true, 1);
    sites.b.start(1);
    sites.b.done(vec![Operation::SetPolicies(pairing.policies(false))]);
    sites.b.install(&pairing, false, 1);
    assert!(sites.a.client.pings("10.2.0.2"));

    sites.a.done(vec![Operation::Flush]);
    assert!(sites.a.client.no_ping("10.2.0.2"), "a flush keeps the policies");
    sites.a.release();
    sites.b.release();
    for space in [&sites.a.gateway, &sites.b.gateway] {
        for look in
            ["nft list tables", "ip rule", "ip -6 rule", "ip route show table all", "ip link"]
        {
            let (_, text) = space.exec(look);
            for word in ["postern", "28783", "28784", "proto 112"] {
                assert!(!text.contains(word), "release left in `{look}`: {text}");
            }
        }
    }
    assert!(sites.a.client.pings("10.2.0.2"), "after release it passes in clear again");
    assert!(wire.count(CANARY) > 0, "control: the capture sees clear packets");
}

#[test]
fn a_killed_process_leaves_the_block_and_the_next_one_takes_over() {
    let sites = Sites::new();
    let wire = Capture::start(&sites.b.gateway);
    let mut first = Process::start(&sites.a.gateway);
    first.tell("policy 10.1.0.0/16,fd01::/64 10.2.0.0/16,fd02::/64");
    let blocked = |when: &str| {
        for target in ["10.2.0.2", "fd02::2"] {
            assert!(sites.a.client.no_ping(target), "{when}: client to {target}");
            assert!(sites.a.gateway.no_ping(target), "{when}: gateway to {target}");
        }
        assert_eq!(wire.count(CANARY), 0, "{when}: clear packets were seen");
    };
    // No packet may slip through while processes come and go.
    let name = sites.a.client.name.clone();
    let mut flood = std::process::Command::new("ip")
        .args(["netns", "exec", &name, "ping", "-n", "-q", "-i", "0.002", "-p", "63616e617279"])
        .arg("10.2.0.2")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for round in 0..3 {
        blocked("it runs");
        first.kill();
        blocked("it was killed");
        first = Process::start(&sites.a.gateway);
        blocked("it was started again");
        if round > 0 {
            first.tell("policy 10.1.0.0/16,fd01::/64 10.2.0.0/16,fd02::/64");
        }
    }
    flood.kill().unwrap();
    flood.wait().unwrap();
    assert_eq!(wire.count(CANARY), 0);
    first.tell("release");
    assert!(sites.a.client.pings("10.2.0.2"), "control: after release it passes");
    assert!(wire.count(CANARY) > 0, "control: the capture would have seen it");
}

/// The example `driver` in a namespace.
struct Process {
    child: std::process::Child,
    input: std::process::ChildStdin,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Process {
    fn start(space: &Namespace) -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test.parent().unwrap().parent().unwrap().join("examples/driver");
        let mut child = std::process::Command::new("ip")
            .args(["netns", "exec", &space.name])
            .arg(program)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Built with every `cargo test -p fastpath`; `--test tun_netns` alone does not build it.
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut process = Self { child, input, output: std::io::BufReader::new(output) };
        assert_eq!(process.answer(), "ready");
        process
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.output, &mut line).unwrap();
        line.trim().to_owned()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
        assert_eq!(self.answer(), "ok", "{line}");
    }

    fn kill(&mut self) {
        // SIGKILL: nothing of ours runs any more. `ip netns exec` has become the program.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reload_has_no_moment_without_protection() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.a.start(2);
    sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    let wire = Capture::start(&sites.b.gateway);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = std::sync::Arc::clone(&stop);
    let flood = sites.a.client.spawn(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut sent = 0_u32;
        while !ended.load(std::sync::atomic::Ordering::Acquire) {
            // Errors are what `unreachable` looks like.
            let _ = socket.send_to(b"canarycanarycanary", "10.2.0.2:9");
            sent += 1;
        }
        sent
    });
    for round in 0..30_u32 {
        let mut set = pairing.policies(true);
        let net = format!("172.16.{round}.0/24");
        set.policies.push(bypass(&["10.1.0.0/16"], &[net.as_str()]));
        sites.a.done(vec![Operation::SetPolicies(set)]);
    }
    stop.store(true, std::sync::atomic::Ordering::Release);
    let sent = flood.join().unwrap();
    assert!(sent > 1000, "{sent} packets were too few to meet a moment");
    assert_eq!(wire.count(CANARY), 0, "of {sent} packets some left in clear");
    sites.a.release();
    assert!(sites.a.client.pings("10.2.0.2"));
    assert!(wire.count(CANARY) > 0, "control: the capture would have seen them");
}

#[test]
fn outer_headers_follow_inner_ones() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    let wire = Capture::start(&sites.b.gateway);
    // Ethernet, IPv4 from a, UDP: the traffic class, and whether DF is set.
    let outer = |class: u8, df: bool| {
        wire.any(|frame| {
            frame.get(12..14) == Some(&[8, 0])
                && frame.get(26..30) == Some(&[192, 0, 2, 1])
                && frame.get(23) == Some(&17)
                && frame.get(15) == Some(&class)
                && frame.get(20).is_some_and(|flags| (flags & 0x40 != 0) == df)
        })
    };
    for (options, class, df) in [
        ("-M do -Q 0xb8", 0xb8, true),
        ("-M dont -Q 0x28", 0x28, false),
        ("-M do -Q 0x02", 0x02, true),
    ] {
        assert!(!outer(class, df), "{options}: nothing before");
        let (passed, text) = sites.a.client.exec(&format!("ping -n -c 1 -W 2 {options} 10.2.0.2"));
        assert!(passed, "{text}");
        eventually(options, || outer(class, df));
    }
    drop(wire);
    sites.a.release();
    sites.b.release();
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
fn what_others_take_out_is_put_back() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    let gateway = &sites.a.gateway;
    for harm in [
        "nft flush ruleset",
        "ip rule del priority 150",
        "ip -6 rule del priority 150",
        "ip route flush table 28783",
        "ip -6 route flush table 28783",
        "ip rule del priority 151",
        "ip route flush table 28784",
    ] {
        let state = || {
            [
                "nft list table inet postern",
                "ip rule",
                "ip -6 rule",
                "ip route show table 28783",
                "ip -6 route show table 28783",
                "ip route show table 28784",
            ]
            .map(|look| gateway.exec(look).1)
        };
        let before = state();
        assert!(gateway.exec(harm).0, "{harm}");
        eventually(harm, || state() == before);
    }
    for target in ["10.2.0.2", "fd02::2"] {
        assert!(sites.a.client.pings(target));
        assert!(sites.a.gateway.pings(target));
    }
    assert_eq!(sites.b.live.snapshot()[0].counters().packets, 12, "through the tunnel");
    sites.a.release();
    sites.b.release();
}

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
    assert!(sites.a.gateway.pings("192.0.2.2"), "the connected wire");
    assert_eq!(sites.a.live.snapshot()[1].counters().packets, sealed, "those stay clear");

    // A policy that names a connected network means it.
    let naming = Pairing::new(&["10.1.0.0/16"], &["0.0.0.0/0", "192.0.2.0/24"]);
    sites.a.done(vec![Operation::SetPolicies(naming.policies(true))]);
    sites.a.client.no_ping("192.0.2.2");
    assert!(sites.a.live.snapshot()[1].counters().packets > sealed);
    sites.a.release();
    sites.b.release();
}

#[test]
fn clear_arrivals_that_should_be_protected_are_dropped() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.a.start(1);
    sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    let behind = Capture::start(&sites.a.client);
    for target in ["10.1.0.2", "10.1.0.1", "fd01::2", "fd01::1"] {
        assert!(sites.b.client.no_ping(target), "{target}");
    }
    assert_eq!(behind.count(CANARY), 0, "clear packets reached the protected network");
    assert!(sites.b.gateway.pings("192.0.2.1"), "what is not covered arrives");
    drop(behind);
    sites.a.release();
}

#[test]
fn packets_too_long_are_answered_or_cut() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    // A path with less room than the TUN interface promises.
    for site in [&sites.a, &sites.b] {
        site.gateway.ip("link set wan mtu 1380");
    }
    sites.up(&pairing, 1);
    let ping = |extra: &str| sites.a.client.exec(&format!("ping -n -c 1 -W 1 {extra}"));
    let (_, text) = ping("-M do -s 1350 10.2.0.2");
    assert!(text.contains("mtu = 1318") || text.contains("mtu=1318"), "{text}");
    assert!(ping("-M dont -s 1350 10.2.0.2").0, "without DF it is cut");
    assert!(ping("-M do -s 1290 10.2.0.2").0, "what fits passes");
    sites.a.client.exec("ip route flush cache");
    let (_, text) = ping("-M do -s 1350 fd02::2");
    assert!(text.contains("Packet too big") || text.contains("too long"), "{text}");
    transfer(&sites.a.client, &sites.b.client, "10.2.0.2", 500_000);
    transfer(&sites.b.client, &sites.a.client, "[fd01::2]", 500_000);
    assert!(sites.a.handle().counters().too_big > 0);
    sites.a.release();
    sites.b.release();
}

#[test]
fn a_rekey_loses_no_packet() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 2);
    let client = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let told = std::sync::Arc::clone(&client);
    let name = sites.a.client.name.clone();
    let pings = std::thread::spawn(move || {
        let output = std::process::Command::new("ip")
            .args(["netns", "exec", &name, "ping", "-n", "-q", "-c", "1000", "-i", "0.002"])
            .args(["-W", "1", "10.2.0.2"])
            .output()
            .unwrap();
        *told.lock().unwrap() = String::from_utf8_lossy(&output.stdout).into_owned();
    });
    for number in 2..12 {
        // The new inbound SAs stand before anything is sent to them.
        for (site, a) in [(&mut sites.a, true), (&mut sites.b, false)] {
            site.install_inbound(&pairing, a, number);
        }
        for (site, a) in [(&mut sites.a, true), (&mut sites.b, false)] {
            site.install_outbound(&pairing, a, number);
        }
        let sealed = || sites.b.live.get(sa_store::SaId(u64::from(number) * 2 + 1));
        eventually("traffic on the new SA", || {
            sealed().is_some_and(|sa| sa.counters().packets > 3)
        });
        for site in [&mut sites.a, &mut sites.b] {
            site.remove_pair(number - 1);
        }
    }
    pings.join().unwrap();
    let text = client.lock().unwrap().clone();
    assert!(text.contains(" 0% packet loss"), "{text}");
    sites.a.release();
    sites.b.release();
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
    let start = Instant::now();
    sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    assert!(sites.a.client.no_ping("10.2.0.2"), "the last selector holds");
    assert!(sites.a.client.no_ping("172.16.9.1"));
    let blocked = sites.a.handle().counters().policy;
    assert!(blocked >= 6, "{blocked} packets came to the data plane");
    sites.a.client.no_ping("172.16.9.250");
    assert_eq!(sites.a.handle().counters().policy, blocked, "what no selector covers does not");
    let start = Instant::now();
    sites.a.done(vec![Operation::SetPolicies(PolicySet::default())]);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(sites.a.client.pings("10.2.0.2"), "without policies it passes");
    sites.a.release();
}

#[test]
fn a_peer_that_moves_is_noticed_until_it_is_followed() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    assert!(sites.a.client.pings("10.2.0.2"));
    sites.b.drain();
    assert!(sites.b.seen.iter().any(|n| matches!(n, Notice::FirstInbound(_))));
    assert!(!sites.b.seen.iter().any(|n| matches!(n, Notice::MappingChanged { .. })));
    // Side a sends from another address from now on, as a NAT would make it.
    sites.a.gateway.ip("addr add 192.0.2.9/24 dev wan");
    let local: SocketAddr = "192.0.2.9:4500".parse().unwrap();
    let remote: SocketAddr = "192.0.2.2:4500".parse().unwrap();
    sites.a.done(vec![Operation::UpdateAddresses { sa: sa_store::SaId(3), local, remote }]);
    // Answers still go to the old address, which is a's as well.
    assert!(sites.a.client.pings("10.2.0.2"));
    sites.b.drain();
    let moved = |sites: &Sites| {
        sites.b.seen.iter().find_map(|notice| match notice {
            Notice::MappingChanged { remote, .. } => Some(*remote),
            _ => None,
        })
    };
    assert_eq!(moved(&sites), Some(local));
    // Once followed it is no news any more.
    sites.b.seen.clear();
    let b_local = "192.0.2.2:4500".parse().unwrap();
    for sa in [2, 3].map(sa_store::SaId) {
        sites.b.done(vec![Operation::UpdateAddresses { sa, local: b_local, remote: local }]);
    }
    assert!(sites.a.client.pings("10.2.0.2"));
    sites.b.drain();
    assert_eq!(moved(&sites), None);
    sites.a.release();
    sites.b.release();
}

#[test]
fn a_worker_survives_panics_and_they_are_counted() {
    let mut sites = Sites::new();
    sites.up(&Pairing::nets(), 1);
    let handle = sites.a.handle();
    assert_eq!(handle.counters().panics, 0);
    let stranger = sites.b.gateway.within(|| UdpSocket::bind("192.0.2.2:0").unwrap());
    // More in a row than a worker may fail before it is looked at whether it is hopeless.
    for count in 1..=20 {
        stranger.send_to(PLANTED, "192.0.2.1:500").unwrap();
        eventually("a panic", || handle.counters().panics == count);
    }
    assert!(sites.a.client.pings("10.2.0.2"), "the only worker still carries the tunnel");
    assert!(sites.b.client.pings("10.1.0.2"));
    sites.a.release();
    sites.b.release();
}
