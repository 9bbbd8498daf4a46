//! The programs in the kernel say of every packet what the first policy that matches it says.

use hw_offload::{Policy, PolicyAction, PolicySet};
use proptest::prelude::*;
use sa_store::{ChildId, DomainId, OffloadIntent, TrafficSelector, TunnelId};

use super::{
    super::{
        SteeringConfig,
        nft::needs_whole,
        oracle::{self, Expected, Packet, expected},
    },
    Programs, load,
    program::{DROP, PASS, Way, program},
    sys::test_run::{Beside, Ran, run},
    tree::TooMany,
};
use crate::policy::{Connected, Rule, compile};

/// Index of the TUN interface, and of another one.
const TUN: u32 = 77;
const LAN: u32 = 5;

fn loaded(rules: &[Rule]) -> Programs {
    load(&SteeringConfig::default(), rules, TUN).expect("the kernel takes the programs; as root")
}

/// An Ethernet frame.
fn frame(packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(packet);
    frame
}

fn leaves(programs: &Programs, packet: &[u8], beside: Beside) -> bool {
    match run(&programs.out, &frame(packet), beside, 1) {
        Ran { result, mark, .. } if result as u32 == PASS => {
            assert_eq!(mark, beside.mark, "nothing is marked on its way out");
            true
        }
        Ran { result, .. } => {
            assert_eq!(result as u32, DROP);
            false
        }
    }
}

/// The mark of a packet that arrived with `mark`.
fn marked(programs: &Programs, packet: &[u8], mark: u32) -> u32 {
    let ran = run(&programs.into, &frame(packet), Beside { mark, ingress: LAN }, 1);
    assert_eq!(ran.result as u32, PASS, "nothing is dropped on its way in");
    ran.mark
}

/// `all` is whether a policy is about everything, and so about what comes from the peer's side in
/// the one direction as well as in the other.
fn hold(policies: &[Policy], packets: &[Packet], all: bool) -> Result<(), TestCaseError> {
    let marks = SteeringConfig::default().marks();
    let rules = compile(&PolicySet { policies: policies.to_vec() }, &[]);
    let programs = loaded(&rules);
    for packet in packets {
        let bytes = packet.bytes(7);
        let caught = expected(policies, packet) == Expected::Caught;
        if packet.outward {
            // Where everything is the peer's side, what comes from ours is an arrival as well.
            for ingress in if all { &[0][..] } else { &[0, LAN] } {
                let left = leaves(&programs, &bytes, Beside { mark: 0, ingress: *ingress });
                prop_assert_eq!(left, !caught, "{:?}", packet);
            }
            // A fragment waits for the others where they may tell.
            let waits = packet.flow_is_hidden() && needs_whole(&rules, packet.v4);
            let protect = if caught && !waits { marks.protect } else { 0 };
            prop_assert_eq!(marked(&programs, &bytes, 0), protect, "{:?}", packet);
            if waits {
                let beside = Beside { mark: marks.whole, ingress: LAN };
                prop_assert!(leaves(&programs, &bytes, beside), "{:?}", packet);
            }
        } else if !packet.flow_is_hidden() && !all {
            let forwarded = Beside { mark: 0, ingress: LAN };
            prop_assert_eq!(leaves(&programs, &bytes, forwarded), !caught, "{:?}", packet);
        }
    }
    Ok(())
}

fn protect() -> PolicyAction {
    PolicyAction::Protect {
        tunnel: TunnelId(1),
        child: ChildId(1),
        peers: Vec::new(),
        offload: OffloadIntent::Auto,
    }
}

fn policy(action: PolicyAction, local: &[&str], remote: &[&str]) -> Policy {
    let parse = |texts: &[&str]| -> Vec<TrafficSelector> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    Policy { domain: DomainId(0), action, local: parse(local), remote: parse(remote) }
}

fn rules(policies: Vec<Policy>) -> Vec<Rule> {
    compile(&PolicySet { policies }, &[])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_kernel_says_what_the_first_policy_says(
        policies in oracle::policies(),
        last in 0..4_u8,
        packets in proptest::collection::vec(oracle::packet(), 100),
    ) {
        let everything = match last {
            0 => vec![policy(PolicyAction::Discard, &["0.0.0.0/0", "::/0"], &["0.0.0.0/0", "::/0"])],
            1 => vec![policy(PolicyAction::Bypass, &["0.0.0.0/0", "::/0"], &["0.0.0.0/0", "::/0"])],
            _ => Vec::new(),
        };
        let all = last == 0;
        hold(&[policies, everything].concat(), &packets, all)?;
    }
}

/// A packet with 16 octets of a next layer that begins with `words`.
fn packet(source: &str, destination: &str, protocol: u8, words: [u16; 2]) -> Vec<u8> {
    let upper: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).chain([0; 12]).collect();
    let mut bytes = if source.contains('.') {
        let mut bytes = vec![0x45, 0, 0, 36, 0, 1, 0, 0, 64, protocol, 0, 0];
        for text in [source, destination] {
            bytes.extend(text.parse::<std::net::Ipv4Addr>().unwrap().octets());
        }
        bytes
    } else {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 16, protocol, 255];
        for text in [source, destination] {
            bytes.extend(text.parse::<std::net::Ipv6Addr>().unwrap().octets());
        }
        bytes
    };
    bytes.extend(upper);
    bytes
}

const OWN: Beside = Beside { mark: 0, ingress: 0 };

#[test]
fn our_own_sockets_get_through_and_nobody_else_with_their_mark() {
    let marks = SteeringConfig::default().marks();
    let all4 = rules(vec![policy(protect(), &["0.0.0.0/0"], &["0.0.0.0/0"])]);
    let all6 = rules(vec![policy(protect(), &["::/0"], &["::/0"])]);
    for (rules, from, to) in
        [(all4, "192.0.2.1", "198.51.100.9"), (all6, "2001:db8::1", "2001:db8:2::9")]
    {
        let programs = loaded(&rules);
        let ours = Beside { mark: marks.bypass | 7, ingress: 0 };
        for (protocol, words, passes) in [
            (50, [0x1234, 0x5678], true),
            (17, [500, 500], true),
            (17, [4500, 61_000], true),
            (17, [61_000, 4500], false),
            (6, [4500, 4500], false),
            (1, [8 << 8, 0], false),
        ] {
            let bytes = packet(from, to, protocol, words);
            assert_eq!(leaves(&programs, &bytes, ours), passes, "{protocol} {words:?}");
            assert!(!leaves(&programs, &bytes, OWN), "{protocol} {words:?}, not ours");
        }
    }
}

#[test]
fn what_is_marked_for_protection_leaves_nowhere_else() {
    let marks = SteeringConfig::default().marks();
    let programs = loaded(&rules(vec![policy(protect(), &["10.1.0.0/16"], &["10.2.0.0/16"])]));
    // Behind NAT it looks like anything, also like IPv6.
    for bytes in [
        packet("192.0.2.1", "198.51.100.9", 6, [1, 2]),
        packet("2001:db8::1", "2001:db8:2::9", 6, [1, 2]),
    ] {
        assert!(leaves(&programs, &bytes, OWN));
        assert!(!leaves(&programs, &bytes, Beside { mark: marks.protect | 7, ingress: LAN }));
    }
    // The other bits of a mark stay.
    let bytes = packet("10.1.0.5", "10.2.0.9", 6, [1, 2]);
    assert_eq!(marked(&programs, &bytes, marks.bypass | 7), marks.protect | 7);
}

#[test]
fn what_came_out_of_a_tunnel_goes_on() {
    let emerged = Beside { mark: 0, ingress: TUN };
    let all = policy(protect(), &["0.0.0.0/0"], &["0.0.0.0/0"]);
    let back = packet("10.2.0.9", "10.1.0.5", 6, [1, 2]);
    let programs = loaded(&rules(vec![all.clone()]));
    assert!(leaves(&programs, &back, emerged));
    assert!(!leaves(&programs, &back, Beside { mark: 0, ingress: LAN }));
    let spokes = policy(protect(), &["10.2.0.0/16"], &["10.1.0.0/16"]);
    let programs = loaded(&rules(vec![spokes, all]));
    assert!(!leaves(&programs, &back, emerged), "a smaller policy says so");
    let nets = policy(protect(), &["10.1.0.0/16"], &["10.2.0.0/16"]);
    let programs = loaded(&rules(vec![nets]));
    assert!(leaves(&programs, &back, emerged));
    assert!(leaves(&programs, &back, OWN), "the other side's addresses are here");
    assert!(!leaves(&programs, &back, Beside { mark: 0, ingress: LAN }), "a clear arrival");
}

#[test]
fn neighbour_discovery_passes_unless_a_policy_names_it() {
    for (remote, passes) in [
        ("fd02::/64", true),
        ("fd02::/64[ipv6-icmp]", true),
        ("fd02::/64[ipv6-icmp/135]", false),
        ("fd02::/64[ipv6-icmp/128-255]", false),
    ] {
        let programs = loaded(&rules(vec![policy(protect(), &["fd01::/64"], &[remote])]));
        let solicit = packet("fd01::1", "fd02::2", 58, [135 << 8, 0]);
        assert_eq!(leaves(&programs, &solicit, OWN), passes, "{remote}");
        assert_eq!(marked(&programs, &solicit, 0) == 0, passes, "{remote}");
        let mut routed = solicit;
        routed[7] = 254;
        assert!(!leaves(&programs, &routed, OWN), "{remote}: from another link");
    }
}

/// Packets of a test run leave through the loopback interface, which has this index.
const LEAVES_BY: u32 = 1;

#[test]
fn a_connected_network_is_clear_through_its_own_interface_only() {
    let set = || PolicySet {
        policies: vec![policy(protect(), &["0.0.0.0/0", "::/0"], &["0.0.0.0/0", "::/0"])],
    };
    let of = |interface| {
        let networks = ["192.168.7.0/24", "fd07::/64"];
        let connected =
            networks.map(|network| Connected { network: network.parse().unwrap(), interface });
        loaded(&compile(&set(), &connected))
    };
    let marks = SteeringConfig::default().marks();
    let forwarded = Beside { mark: 0, ingress: LAN };
    for (near, far, other) in [
        ("192.168.7.9", "198.51.100.1", "203.0.113.9"),
        ("fd07::9", "2001:db8::1", "2001:db8:9::9"),
    ] {
        let out = packet(far, near, 6, [1, 2]);
        let programs = of(LEAVES_BY);
        assert!(leaves(&programs, &out, OWN), "{near}");
        // It came from where everything is the peer's side.
        assert!(!leaves(&programs, &out, forwarded), "{near}");
        let programs = of(LAN);
        assert!(!leaves(&programs, &out, OWN), "{near} through another interface");
        assert_eq!(marked(&programs, &out, 0), 0, "before routing the way out is not known");
        let elsewhere = packet(far, other, 6, [1, 2]);
        assert_eq!(marked(&programs, &elsewhere, 0), marks.protect);
    }
}

#[test]
fn what_is_no_ip_packet_is_left_alone() {
    let programs = loaded(&rules(vec![policy(protect(), &["10.1.0.0/16"], &["10.2.0.0/16"])]));
    let bytes = packet("10.1.0.5", "10.2.0.9", 6, [1, 2]);
    let drops = |frame: &[u8]| run(&programs.out, frame, OWN, 1).result as u32 == DROP;
    assert!(drops(&frame(&bytes)));
    let mut arp = frame(&bytes);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert!(!drops(&arp));
}

/// Such a frame was asked about at the interface of its VLAN.
#[test]
fn what_has_a_vlan_tag_is_not_asked_about_again() {
    let programs = loaded(&rules(vec![policy(protect(), &["10.1.0.0/16"], &["10.2.0.0/16"])]));
    let untagged = frame(&packet("10.1.0.5", "10.2.0.9", 6, [1, 2]));
    let tagged = [&untagged[..12], &[0x81, 0, 0, 7], &untagged[12..]].concat();
    let result = |frame: &[u8]| run(&programs.out, frame, OWN, 1).result as u32;
    assert_eq!((result(&untagged), result(&tagged)), (DROP, PASS));
}

/// As many rules as a large hub has, and what goes beyond any.
#[test]
fn thousands_of_rules_are_taken_and_too_many_are_an_error() {
    let nets = |count: u32, v4: bool| -> Vec<Policy> {
        (0..count)
            .map(|net| {
                let (a, b) = (net >> 8, net & 255);
                if v4 {
                    let remote = format!("10.{a}.{b}.0/25[tcp/1-{}]", net + 1);
                    policy(protect(), &["172.16.0.0/12"], &[remote.as_str()])
                } else {
                    let remote = format!("fd02:{net:x}::/32");
                    policy(protect(), &["fd01::/16"], &[remote.as_str()])
                }
            })
            .collect()
    };
    let programs = loaded(&rules([nets(4000, true), nets(4000, false)].concat()));
    for net in (0..4000).step_by(371) {
        let (a, b) = (net >> 8, net & 255);
        for (last, port, left) in [(1, net + 1, false), (1, net + 2, true), (200, 1, true)] {
            let to = format!("10.{a}.{b}.{last}");
            let bytes = packet("172.16.0.1", &to, 6, [9, port]);
            assert_eq!(leaves(&programs, &bytes, OWN), left, "{to} {port}");
        }
        let inside = packet("fd01::1", &format!("fd02:{net:x}::9"), 6, [1, 2]);
        assert!(!leaves(&programs, &inside, OWN));
    }
    let ports: Vec<Policy> = (0..3000)
        .map(|port| {
            let remote = format!("10.2.0.0/16[tcp/{port}]");
            policy(protect(), &["10.1.0.0/16"], &[remote.as_str()])
        })
        .collect();
    let too_many = program(&SteeringConfig::default(), &rules(ports), TUN, Way::Out);
    assert_eq!(too_many, Err(TooMany));
}
