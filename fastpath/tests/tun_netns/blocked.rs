//! Nothing leaves in clear, whatever happens to the data plane, and nothing clear comes in.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use fastpath::InlineHandle;
use hw_offload::{Notice, Operation};
use sa_store::{Lifetime, Limits, SaId, live::DropReason};

use crate::{
    CANARY,
    common::{
        Capture, eventually,
        sites::{Pairing, Sites, bypass},
    },
    process::{Flood, Process},
};

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
        for look in [
            "nft list tables",
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "ip link",
            "tc qdisc show",
        ] {
            let (_, text) = space.exec(look);
            for word in ["postern", "28783", "28784", "proto 112", "clsact"] {
                assert!(!text.contains(word), "release left in `{look}`: {text}");
            }
        }
    }
    assert!(sites.a.client.pings("10.2.0.2"), "after release it passes in clear again");
    assert!(wire.count(CANARY) > 0, "control: the capture sees clear packets");
}

/// Whoever installed the SAs hangs and lets their hard time limit pass.
#[test]
fn an_sa_that_nobody_removes_is_stopped_some_time_behind_its_hard_limit() {
    let hard = Limits { time: Some(Duration::from_secs(1)), ..Limits::default() };
    let lifetime = Lifetime { hard, ..Lifetime::default() };
    let mut sites = Sites::new();
    (sites.a.dead_man, sites.b.dead_man) = (Duration::from_secs(2), Duration::from_secs(60));
    let start = Instant::now();
    sites.up(&Pairing { lifetime, ..Pairing::nets() }, 1);
    assert!(sites.a.client.pings("10.2.0.2"));
    let mut expired = Vec::new();
    eventually("the end of both SAs", || {
        sites.a.drain();
        for notice in sites.a.seen.drain(..) {
            if let Notice::HardExpired { sa, reason } = notice {
                assert!(reason.ends_with("time"), "{reason}");
                expired.push(sa);
            }
        }
        expired.len() >= 2
    });
    assert!(start.elapsed() >= Duration::from_secs(3), "not before");
    assert_eq!(expired, [SaId(2), SaId(3)], "each once");
    assert!(sites.a.client.no_ping("10.2.0.2"), "what they protected is blocked");
    assert!(sites.a.live.get(SaId(3)).unwrap().counters().dropped(DropReason::Expired) > 0);
    sites.a.release();
    sites.b.release();
}

#[test]
fn an_interface_that_somebody_deleted_is_told_and_what_it_protected_is_blocked() {
    let mut sites = Sites::new();
    sites.up(&Pairing::nets(), 2);
    assert!(sites.a.client.pings("10.2.0.2"));
    let handle = sites.a.handle();
    let told = |handle: &InlineHandle| {
        handle.warnings().iter().any(|warning| warning.contains("postern0 was deleted"))
    };
    assert!(!told(&handle));
    sites.a.gateway.ip("link del postern0");
    eventually("a warning", || told(&handle));
    let wire = Capture::start(&sites.b.gateway);
    assert!(sites.a.client.no_ping("10.2.0.2"));
    assert_eq!(wire.count(CANARY), 0);
    drop(wire);
    // A new start brings it back; the handle keeps the sockets open.
    drop(handle);
    sites.a.backend = None;
    sites.a.start(2);
    assert!(!told(&sites.a.handle()));
    sites.a.release();
    sites.b.release();
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
    let floods = ["10.2.0.2", "fd02::2"].map(|target| Flood::start(&sites.a.client, target));
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
    drop(floods);
    assert_eq!(wire.count(CANARY), 0);
    first.release();
    for target in ["10.2.0.2", "fd02::2"] {
        assert!(sites.a.client.pings(target), "control: after release it passes");
    }
    assert!(wire.count(CANARY) > 0, "control: the capture would have seen it");
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
    let dropped = |sites: &Sites| {
        let handle = sites.a.handle();
        sites.a.gateway.within(move || handle.clear_dropped().unwrap())
    };
    let counted = dropped(&sites);
    assert!((4..100).contains(&counted), "{counted}");
    // Replacing the rules, also by another process, does not start anew.
    sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    sites.a.backend = None;
    sites.a.start(1);
    sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
    let again = dropped(&sites);
    assert!(again >= counted, "{again} after {counted}");
    assert!(sites.b.client.no_ping("10.1.0.2"));
    assert!(dropped(&sites) > again);
    assert!(sites.b.gateway.pings("192.0.2.1"), "what is not covered arrives");
    drop(behind);
    let handle = sites.a.handle();
    sites.a.release();
    assert_eq!(sites.a.gateway.within(move || handle.clear_dropped().unwrap()), 0);
}
