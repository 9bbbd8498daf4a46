//! Others on the same machine change addresses, marks and routing rules: what is protected still
//! leaves through its tunnel or not at all.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use hw_offload::Operation;

use crate::{
    CANARY,
    common::{
        Capture, Namespace,
        sites::{Pairing, Sites, bypass},
    },
    process::Process,
};

/// Loads a table of nftables.
pub(crate) fn nft(space: &Namespace, text: &str) {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &space.name, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
}

/// What others do, whether it leaves the tunnel its traffic, and what ends it.
const HARMS: [(&str, &str, bool, &str); 8] = [
    (
        "destinations are translated",
        "table inet others {\nchain pre {\ntype nat hook prerouting priority -90\n\
         ip daddr 10.7.7.7 dnat ip to 10.2.0.2\nip6 daddr fd07::7 dnat ip6 to fd02::2\n}\n}",
        true,
        "delete table inet others",
    ),
    (
        "marks are wiped where we mangled before",
        "table inet others {\nchain pre {\ntype filter hook prerouting priority -150\n\
         meta mark set 0\n}\nchain out {\ntype route hook output priority -150\nmeta mark set 0\n\
         }\n}",
        true,
        "delete table inet others",
    ),
    (
        "marks of ours are restored",
        "table inet others {\nchain pre {\ntype filter hook prerouting priority 0\n\
         meta mark set 0x02000000\n}\n}",
        true,
        "delete table inet others",
    ),
    (
        "marks are wiped behind us",
        "table inet others {\nchain pre {\ntype filter hook prerouting priority 2000\n\
         iifname lan meta mark set 0\n}\n}",
        false,
        "delete table inet others",
    ),
    (
        "marks are wiped behind us, and sources translated",
        "table inet others {\nchain pre {\ntype filter hook prerouting priority 2000\n\
         iifname lan meta mark set 0\n}\nchain post {\ntype nat hook postrouting priority 0\n\
         oifname wan masquerade\n}\n}",
        false,
        "delete table inet others",
    ),
    (
        "an earlier rule than most",
        "ip rule add pref 100 from 10.1.0.0/16 lookup main\n\
         ip -6 rule add pref 100 from fd01::/64 lookup main",
        true,
        "ip rule del pref 100\nip -6 rule del pref 100",
    ),
    (
        "a rule before ours",
        "ip rule add pref 0 iif lan lookup main\nip -6 rule add pref 0 iif lan lookup main",
        false,
        "ip rule del pref 0 iif lan\nip -6 rule del pref 0 iif lan",
    ),
    (
        "sources are translated to protected ones",
        "table inet others {\nchain post {\ntype nat hook postrouting priority 100\n\
         ip saddr 172.16.0.2 snat ip to 10.1.0.200\n}\n}",
        false,
        "delete table inet others",
    ),
];

fn others(space: &Namespace, what: &str) {
    if !what.starts_with("ip ") {
        return nft(space, what);
    }
    for line in what.lines() {
        assert!(space.exec(line).0, "{line}");
    }
}

#[test]
fn others_on_the_machine_do_not_lead_around_the_tunnel() {
    let pairing = Pairing::nets();
    let mut sites = Sites::new();
    sites.up(&pairing, 1);
    sites.a.client.ip("addr add 172.16.0.2/32 dev lan");
    sites.a.gateway.ip("route add 172.16.0.2/32 dev lan");
    sites.b.gateway.ip("route add 172.16.0.2/32 via 192.0.2.1");
    let wire = Wire::start(&sites.b.gateway);
    for (name, harm, passes, undo) in HARMS {
        // Before and behind the rules being loaded.
        for first in [true, false] {
            if first {
                others(&sites.a.gateway, harm);
            }
            let mut set = pairing.policies(true);
            set.policies.push(bypass(&["10.1.0.0/16"], &["10.99.0.0/24"]));
            sites.a.done(vec![Operation::SetPolicies(set)]);
            sites.a.done(vec![Operation::SetPolicies(pairing.policies(true))]);
            if !first {
                others(&sites.a.gateway, harm);
            }
            let ping = |from: &str, to: &str| {
                sites
                    .a
                    .client
                    .exec(&format!("ping -n -q -c 2 -i 0.05 -W 1 -p 63616e617279 -I {from} {to}"))
            };
            let mut targets = vec![("10.1.0.2", "10.2.0.2"), ("fd01::2", "fd02::2")];
            if harm.contains("dnat") {
                targets.extend([("10.1.0.2", "10.7.7.7"), ("fd01::2", "fd07::7")]);
            }
            if harm.contains("snat") {
                targets = vec![("172.16.0.2", "10.2.0.2")];
            }
            let sealed = || sites.a.live.snapshot()[1].counters().packets;
            for (from, to) in targets {
                let before = sealed();
                let passed = ping(from, to).0;
                assert_eq!(passed, passes, "{name}, first {first}: {to}");
                assert_eq!(sealed() - before, if passes { 2 } else { 0 }, "{name} {first}: {to}");
            }
            assert!(!wire.shows_canaries(), "{name}, first {first}: clear packets were seen");
            others(&sites.a.gateway, undo);
        }
    }
    sites.a.release();
    assert!(!sites.a.client.pings("10.2.0.2"), "control: b takes no clear arrivals");
    assert!(wire.shows_canaries(), "control: clear packets are seen");
    sites.b.release();
}

/// The first address of an IPv6 network is an anycast address (RFC 4291 §2.6.1).
#[test]
fn the_first_address_of_a_protected_network_is_protected() {
    let mut sites = Sites::new();
    sites.up(&Pairing::nets(), 1);
    let wire = Wire::start(&sites.b.gateway);
    let sealed = || sites.a.live.snapshot()[1].counters().packets;
    // Whoever answers does so with another address, which ping does not take.
    sites.a.client.no_ping("fd02::");
    assert_eq!(sealed(), 3);
    sites.a.gateway.no_ping("fd02::");
    assert_eq!(sealed(), 6);
    assert!(!wire.shows_canaries(), "clear packets were seen");
    sites.a.release();
    sites.b.release();
}

/// A dead process cannot put back what others take out, but its rules of nftables still guard.
#[test]
fn routing_rules_that_are_flushed_behind_a_dead_process_open_nothing() {
    let sites = Sites::new();
    let wire = Wire::start(&sites.b.gateway);
    let mut process = Process::start(&sites.a.gateway);
    process.tell("policy 10.1.0.0/16,fd01::/64 10.2.0.0/16,fd02::/64");
    process.kill();
    for line in ["ip rule del pref 1", "ip -6 rule del pref 1"] {
        assert!(sites.a.gateway.exec(line).0, "{line}");
    }
    for (target, own) in [("10.2.0.2", "10.1.0.1"), ("fd02::2", "fd01::1")] {
        assert!(sites.a.client.no_ping(target));
        assert!(sites.a.gateway.no_ping(&format!("-I {own} {target}")));
    }
    assert!(!wire.shows_canaries(), "clear packets were seen");
    assert!(sites.a.gateway.pings("192.0.2.2"), "what is not covered leaves");
    Process::start(&sites.a.gateway).release();
    assert!(sites.a.client.pings("10.2.0.2"));
    assert!(wire.shows_canaries(), "control: clear packets are seen");
}

/// The wire as the gateway at its end sees it.
struct Wire {
    capture: Capture,
    own: Vec<u8>,
}

impl Wire {
    fn start(gateway: &Namespace) -> Self {
        let (_, text) = gateway.exec("ip link show wan");
        let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
        let own = words.nth(1).unwrap().split(':');
        let own = own.map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
        Self { capture: Capture::start(gateway), own }
    }

    fn shows_canaries(&self) -> bool {
        self.capture.any(|frame| {
            frame.len() > 12
                && (frame[..6] == self.own || frame[6..12] == self.own)
                && frame.windows(CANARY.len()).any(|part| part == CANARY)
        })
    }
}
