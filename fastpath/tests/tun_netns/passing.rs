//! What is protected passes, whole and unseen.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use hw_offload::{Notice, Operation};
use sa_store::{Encapsulation, EspCipher, EspSuite, IntegrityAlgorithm, SaId};

use crate::{
    CANARY,
    common::{
        Capture, eventually,
        sites::{HELD, PLANTED, Pairing, Sites},
    },
    datagram, transfer,
};

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
            // The first one only teaches this client the MTU, the second one the other.
            let long = || datagram(&sites.a.client, &sites.b.client, target, 5000);
            assert!(long() || long() || long(), "fragments pass");
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

/// The kernel believes an ICMP error down to 552 octets, also one that somebody made up; what is
/// configured may be less than that.
#[test]
fn a_path_of_any_size_lets_full_packets_through() {
    for (encapsulation, mtu) in [
        (Encapsulation::Udp, 552),
        (Encapsulation::None, 552),
        (Encapsulation::Udp, 575),
        (Encapsulation::Udp, 300),
        (Encapsulation::None, 300),
    ] {
        let pairing = Pairing { encapsulation, ..Pairing::nets() };
        let mut sites = Sites::new();
        sites.up(&pairing, 1);
        assert!(sites.a.client.pings("10.2.0.2"));
        sites.a.gateway.ip(&format!("route add 192.0.2.2 dev wan mtu {mtu}"));
        transfer(&sites.a.client, &sites.b.client, "10.2.0.2", 500_000);
        transfer(&sites.a.client, &sites.b.client, "[fd02::2]", 500_000);
        let lost = sites.a.handle().counters().send_failed;
        assert!((1..500).contains(&lost), "{encapsulation} {mtu}: {lost} were lost to learn it");
        sites.a.release();
        sites.b.release();
    }
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

/// "Done" means that what was removed is gone: a worker that is kept from running while it uses
/// the SA is waited for, however long that takes.
#[test]
fn an_sa_is_removed_when_no_worker_uses_it_any_more() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    assert!(sites.a.client.pings("10.2.0.2"));
    sites.b.gateway.within(|| {
        let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
        socket.send_to(HELD, "192.0.2.1:500").unwrap();
    });
    sites.a.hold.wait();
    let removed = sites.a.submit(vec![Operation::Remove(SaId(3)), Operation::Remove(SaId(2))]);
    let later = sites.a.submit(vec![Operation::SetPolicies(pairing.policies(true))]);
    assert!(!sites.a.is_done(removed, Duration::from_millis(500)), "the worker still uses it");
    sites.a.hold.release();
    assert!(sites.a.is_done(removed, Duration::from_secs(20)));
    assert!(sites.a.is_done(later, Duration::from_secs(20)));
    assert!(sites.a.client.no_ping("10.2.0.2"));
    sites.a.release();
    sites.b.release();
}
