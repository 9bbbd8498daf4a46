//! The table says of every packet what the first policy that matches it says (RFC 4301 §4.4.1), in
//! every chain, and so does the look-up of the data plane.

use esp::inner::{Flow, NextLayer};
use hw_offload::{Policy, PolicyAction, PolicySet};
use proptest::prelude::*;
use sa_store::{ChildId, DomainId, TrafficSelector};

use super::{
    super::{
        SteeringConfig,
        oracle::{self, Expected, Packet, Part, expected, first},
    },
    Place,
    model::{Match, Table},
    simulate::{Outcome, Seen},
    table,
};
use crate::{
    packet::header::shape,
    policy::{Connected, PolicyIndex, Rule, Verdict, compile},
};

fn built(rules: &[Rule], place: Place) -> Table {
    table(&SteeringConfig::default(), place, rules, super::Count::default(), true)
}

/// What each chain makes of a packet, against what policies say.
fn hold(rules: &[Rule], policies: &[Policy], packets: &[Packet]) -> Result<(), TestCaseError> {
    let marks = SteeringConfig::default().marks();
    for place in [Place::First, Place::Second] {
        let table = built(rules, place);
        for packet in packets {
            let seen = Seen::read(&packet.bytes(7));
            let wanted = expected(policies, packet);
            let caught = wanted == Expected::Caught;
            if packet.outward {
                let marks = Outcome::Passes(if caught { marks.protect } else { 0 });
                // Where the peer's side is everything, what comes from ours is an arrival as well.
                if !policies.iter().any(is_everything) {
                    let marked = table.pass("prerouting", &seen);
                    prop_assert_eq!(marked, marks, "forwarded, {:?}: {:?}", place, packet);
                }
                let leaves = Seen { to: Some("wan".to_owned()), ..seen };
                prop_assert_eq!(table.pass("output", &leaves), marks, "own: {:?}", packet);
                for guard in ["guard_before_nat", "guard_behind_nat"] {
                    let dropped = table.pass(guard, &leaves) == Outcome::Dropped;
                    prop_assert_eq!(dropped, caught, "{}: {:?}", guard, packet);
                }
            } else {
                let arrived = Seen { from: "wan".to_owned(), ..seen };
                for chain in ["arrivals", "prerouting"] {
                    let dropped = table.pass(chain, &arrived) == Outcome::Dropped;
                    prop_assert_eq!(dropped, caught, "{}: {:?}", chain, packet);
                }
            }
        }
    }
    Ok(())
}

/// What the data plane finds for a packet, against the policy that matches first.
fn hold_index(
    rules: Vec<Rule>,
    policies: &[Policy],
    packets: &[Packet],
) -> Result<(), TestCaseError> {
    let index = PolicyIndex::new(rules);
    // The headers of a later IPv6 fragment may be those of another packet's middle.
    let told = |packet: &&Packet| packet.v4 || packet.part != Part::Later;
    for packet in packets.iter().filter(|packet| packet.outward).filter(told) {
        let bytes = packet.bytes(7);
        let Some(flow) = Flow::read(&bytes) else { continue };
        let ports = flow.source_port.zip(flow.destination_port);
        let found = index.find(flow.source, flow.destination, flow.protocol, ports);
        let found = found.map(|rule| rule.verdict);
        let wanted = first(policies, packet).map(|at| match &policies[at].action {
            PolicyAction::Protect { tunnel, child, .. } => Verdict::Protect(*tunnel, *child),
            PolicyAction::Bypass => Verdict::Bypass,
            PolicyAction::Discard => Verdict::Discard,
        });
        prop_assert_eq!(found, wanted, "{:?}", packet);
    }
    Ok(())
}

fn is_everything(policy: &Policy) -> bool {
    policy.remote.iter().any(|selector| selector.as_prefix().is_some_and(|all| all.length() == 0))
}

/// Everything to everything of both families, behind all others.
fn everything(kind: u8) -> Vec<Policy> {
    let action = match kind {
        0 => PolicyAction::Discard,
        1 => PolicyAction::Bypass,
        _ => return Vec::new(),
    };
    let both: Vec<TrafficSelector> = ["0.0.0.0/0", "::/0"].map(|all| all.parse().unwrap()).into();
    let (local, remote) = (both.clone(), both);
    vec![Policy { domain: DomainId(0), action, local, remote }]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_chain_and_the_data_plane_say_what_the_first_policy_says(
        policies in oracle::policies(),
        last in 0..4_u8,
        packets in proptest::collection::vec(oracle::packet(), 60),
    ) {
        let policies = [policies, everything(last)].concat();
        let rules = compile(&PolicySet { policies: policies.clone() }, &[]);
        hold(&rules, &policies, &packets)?;
        hold_index(rules, &policies, &packets)?;
    }

    /// Whatever headers a packet has: one walk, and the same as the kernel's.
    #[test]
    fn the_kernel_and_the_data_plane_walk_every_chain_of_headers_alike(
        packet in oracle::packet(),
        types in proptest::collection::vec(
            proptest::sample::select(
                &[0_u8, 4, 6, 17, 41, 43, 44, 44, 47, 50, 51, 58, 59, 60, 60, 135, 139, 140, 253][..],
            ),
            0..11,
        ),
        position in proptest::sample::select(&[0_u8, 1, 8, 9, 0xf8][..]),
        cut in 0..200_usize,
    ) {
        let mut bytes = packet.bytes(7);
        if !packet.v4 {
            bytes.truncate(40);
            for kind in types.iter().chain(&[17]) {
                let from = if bytes.len() == 40 { 6 } else { bytes.len() - 16 };
                bytes[from] = *kind;
                // Lengths that are right for extension headers of 16 octets; AH counts otherwise.
                let len = if *kind == 51 { 2 } else { 1 };
                bytes.extend([0, len, 0, position, 0, 0, 0, 0, 6, 1, 0, 0, 0, 0, 0, 0]);
            }
            bytes.truncate(bytes.len().saturating_sub(cut).max(40));
            let len = u16::try_from(bytes.len() - 40).unwrap();
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
        }
        let kernel = Seen::read(&bytes);
        let Some(flow) = Flow::read(&bytes) else {
            // Too many headers, or cut off: dropped, whatever the rules say.
            prop_assert!(!packet.v4 && shape(&bytes).is_none());
            return Ok(());
        };
        let next = NextLayer::find(&bytes).unwrap();
        prop_assert_eq!(next.later, kernel.later);
        prop_assert_eq!(next.fragment, kernel.later || kernel.fragment || packet.v4 && packet.part == Part::First);
        prop_assert_eq!(flow.protocol, next.protocol);
        let ah_cut = flow.protocol == 51 && bytes.len() < next.offset + 2;
        if kernel.protocol.is_some() || !kernel.later && !ah_cut {
            prop_assert_eq!(kernel.protocol, Some(flow.protocol));
        }
        if !next.later && !ah_cut {
            prop_assert_eq!(&kernel.upper, &bytes[next.offset..]);
        }
        let shape = shape(&bytes).unwrap();
        prop_assert_eq!((shape.protocol, shape.network_len), (next.protocol, next.offset));
        prop_assert_eq!(shape.fragment, next.fragment);
    }
}

fn selectors(texts: &[&str]) -> Vec<TrafficSelector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn rules(bypass: bool, local: &[&str], remote: &[&str]) -> Vec<Rule> {
    let protect = PolicyAction::Protect {
        tunnel: sa_store::TunnelId(1),
        child: ChildId(1),
        peers: Vec::new(),
        offload: sa_store::OffloadIntent::Auto,
    };
    let action = if bypass { PolicyAction::Bypass } else { protect };
    let policy =
        Policy { domain: DomainId(0), action, local: selectors(local), remote: selectors(remote) };
    compile(&PolicySet { policies: vec![policy] }, &[])
}

/// A packet of protocol `protocol` from `source` to `destination` with 16-bit words.
fn seen(source: &str, destination: &str, protocol: u8, words: [u16; 2]) -> Seen {
    let bits = |text: &str| crate::policy::Span::bits(text.parse().unwrap());
    Seen {
        v4: source.contains('.'),
        source: bits(source),
        destination: bits(destination),
        protocol: Some(protocol),
        upper: words.iter().flat_map(|word| word.to_be_bytes()).collect(),
        later: false,
        fragment: false,
        hop_limit: 255,
        mark: 0,
        from: "lan".to_owned(),
        to: None,
        to_us: false,
        to_many: false,
    }
}

#[test]
fn a_bypass_on_hidden_ports_opens_nothing_that_shows_them() {
    let mut rules_ = rules(true, &["10.1.0.0/16"], &["10.2.0.0/16[tcp/opaque]"]);
    rules_.extend(rules(false, &["10.1.0.0/16"], &["10.2.0.0/16"]));
    let table = built(&rules_, Place::First);
    let wan = Some("wan".to_owned());
    let tcp = Seen { to: wan.clone(), ..seen("10.1.0.5", "10.2.0.9", 6, [1000, 443]) };
    let cut = Seen { later: true, upper: Vec::new(), ..tcp.clone() };
    let short = Seen { upper: vec![1, 2], ..tcp.clone() };
    let guard = |packet: &Seen| table.pass("guard_behind_nat", packet);
    assert_eq!(guard(&tcp), Outcome::Dropped);
    assert_eq!(guard(&cut), Outcome::Dropped, "it may be of any flow");
    assert_ne!(guard(&short), Outcome::Dropped, "it shows none");
    let back = Seen { from: "wan".to_owned(), ..seen("10.2.0.9", "10.1.0.5", 6, [443, 1000]) };
    assert_eq!(table.pass("arrivals", &back), Outcome::Dropped);
}

/// Every exemption of the rules: a packet that is exempt as long as a rule only covers it, and
/// the same one where a rule names it.
#[test]
fn a_selector_that_names_something_exempt_wins() {
    let marks = SteeringConfig::default().marks();
    let (lan4, lan6) = ("10.1.0.0/16", "fd01::/64");
    // Destinations that stay open under a selector for everything only (see `policy::compile`).
    for (source, destination, wide, named) in [
        ("10.1.0.1", "239.1.2.3", "0.0.0.0/0", "239.0.0.0/8"),
        ("10.1.0.1", "224.0.0.18", "0.0.0.0/0", "224.0.0.0/3"),
        ("10.1.0.1", "255.255.255.255", "0.0.0.0/0", "255.255.255.255/32"),
        ("10.1.0.1", "255.255.255.255", "0.0.0.0/0", "128.0.0.0/1"),
        ("fd01::1", "ff02::fb", "::/0", "ff02::/16"),
        ("fd01::1", "ff0e::1", "::/0", "ff00::/8"),
        ("fd01::1", "fe80::7", "::/0", "fe80::/10"),
    ] {
        let local = if source.contains('.') { lan4 } else { lan6 };
        let packet = Seen { to_many: true, ..seen(source, destination, 17, [9, 9]) };
        for (remote, caught) in [(wide, false), (named, true)] {
            let table = built(&rules(false, &[local], &[remote]), Place::First);
            let mark = if caught { marks.protect } else { 0 };
            let own = Seen { to: Some("wan".to_owned()), ..packet.clone() };
            assert_eq!(table.pass("prerouting", &packet), Outcome::Passes(mark), "{remote}");
            assert_eq!(table.pass("output", &own), Outcome::Passes(mark), "{remote}");
            let dropped = table.pass("guard_behind_nat", &own) == Outcome::Dropped;
            assert_eq!(dropped, caught, "{destination} under {remote}");
        }
    }
    // A network whose broadcast address lies where a selector protects: broadcast is no excuse.
    let table = built(&rules(false, &[lan4], &["10.2.0.0/16"]), Place::First);
    let to = Some("wan".to_owned());
    let packet = Seen { to_many: true, to, ..seen("10.1.0.1", "10.2.0.11", 17, [9, 9]) };
    assert_eq!(table.pass("guard_behind_nat", &packet), Outcome::Dropped);
    // Nor is an address of this machine, for what leaves.
    let packet = Seen { to_us: true, to_many: false, ..packet };
    assert_eq!(table.pass("guard_behind_nat", &packet), Outcome::Dropped);
    let arrives = Seen { to: None, ..packet };
    assert_eq!(table.pass("prerouting", &arrives), Outcome::Passes(0), "it is delivered here");

    // Neighbour discovery.
    let solicit = seen("fd01::1", "fd02::2", 58, [135 << 8, 0]);
    let leaves = Seen { to: Some("wan".to_owned()), ..solicit.clone() };
    let routed = Seen { hop_limit: 254, ..leaves.clone() };
    for (remote, caught) in [
        ("fd02::/64", false),
        ("fd02::/64[ipv6-icmp]", false),
        ("fd02::/64[ipv6-icmp/135]", true),
        ("fd02::/64[ipv6-icmp/128-255]", true),
    ] {
        let table = built(&rules(false, &[lan6], &[remote]), Place::First);
        let dropped = |packet: &Seen| table.pass("guard_behind_nat", packet) == Outcome::Dropped;
        assert_eq!(dropped(&leaves), caught, "{remote}");
        assert!(dropped(&routed), "{remote}: from another link");
        let back = seen("fd02::2", "fd01::1", 58, [135 << 8, 0]);
        let arrived = Seen { from: "wan".to_owned(), to_us: true, ..back };
        assert_eq!(table.pass("arrivals", &arrived) == Outcome::Dropped, caught, "{remote}");
    }

    // What our own sockets take.
    let arrival = |protocol, port| Seen {
        from: "wan".to_owned(),
        to_us: true,
        ..seen("10.2.0.9", "10.1.0.1", protocol, [7, port])
    };
    for (packet, named) in [
        (arrival(17, 500), "10.1.0.0/16[udp/500]"),
        (arrival(17, 4500), "10.1.0.0/16[udp/1024-65535]"),
        (arrival(50, 0), "10.1.0.0/16[50]"),
    ] {
        for (local, caught) in [(lan4, false), (named, true)] {
            let table = built(&rules(false, &[local], &["10.2.0.0/16"]), Place::First);
            let dropped = |packet: &Seen| table.pass("arrivals", packet) == Outcome::Dropped;
            assert_eq!(dropped(&packet), caught, "{local}");
            let others = Seen { to_us: false, ..packet.clone() };
            assert!(dropped(&others), "{local}: behind this machine");
        }
    }
    // Later fragments of such datagrams, where nobody has put them together.
    let table = built(&rules(false, &[lan4], &["10.2.0.0/16"]), Place::First);
    let cut = Seen { later: true, upper: Vec::new(), ..arrival(17, 0) };
    assert_eq!(table.pass("arrivals", &cut), Outcome::Passes(0));
    let others = Seen { to_us: false, ..cut };
    assert_eq!(table.pass("arrivals", &others), Outcome::Dropped);

    // What goes around in this machine, and what our sockets send.
    let table = built(&rules(false, &[lan4], &["10.2.0.0/16"]), Place::First);
    let packet = seen("10.1.0.5", "10.2.0.9", 6, [1, 2]);
    let lo = Seen { to: Some("lo".to_owned()), ..packet.clone() };
    assert_eq!(table.pass("guard_behind_nat", &lo), Outcome::Passes(0));
    assert_eq!(
        table.pass("prerouting", &Seen { from: "lo".to_owned(), ..packet.clone() }),
        Outcome::Passes(0)
    );
    let ours = Seen { mark: marks.bypass, to: Some("wan".to_owned()), ..packet.clone() };
    assert_eq!(table.pass("guard_behind_nat", &ours), Outcome::Passes(marks.bypass));
    // Forwarded packets do not get away with that mark.
    let others = Seen { mark: marks.bypass, ..seen("10.1.0.5", "10.9.0.9", 6, [1, 2]) };
    assert_eq!(table.pass("prerouting", &others), Outcome::Passes(0));
    let forged = Seen { mark: marks.bypass, ..packet };
    assert_eq!(table.pass("prerouting", &forged), Outcome::Passes(marks.protect));
}

/// What comes out of a tunnel does not go back where everything goes to everything, but does where
/// a smaller policy says so.
#[test]
fn what_emerged_meets_named_policies_alone() {
    let marks = SteeringConfig::default().marks();
    let all = rules(false, &["0.0.0.0/0"], &["0.0.0.0/0"]);
    let spokes = rules(false, &["10.2.0.0/16"], &["10.3.0.0/16"]);
    let emerged = Seen { from: "postern0".to_owned(), ..seen("10.2.0.1", "10.3.0.1", 6, [1, 2]) };
    let table = built(&all, Place::First);
    assert_eq!(table.pass("prerouting", &emerged), Outcome::Passes(marks.emerged));
    let table = built(&[spokes, all].concat(), Place::First);
    assert_eq!(table.pass("prerouting", &emerged), Outcome::Passes(marks.protect));
}

/// A name that nftables would take for a pattern stands for itself.
#[test]
fn a_star_in_the_name_of_an_interface_is_a_star() {
    assert_eq!(Match::To("w*".to_owned()).to_string(), "oifname \"w\\*\"");
}

/// What is connected stays clear by its own interface, out and in, and by no other, whichever of
/// two interfaces has the same network.
#[test]
fn connected_networks_stay_clear_by_their_own_interface() {
    let connected = [("10.9.0.0/24", 7), ("10.9.0.0/16", 8), ("10.8.0.0/24", 8)]
        .map(|(network, interface)| Connected { network: network.parse().unwrap(), interface });
    let all: Vec<TrafficSelector> = vec!["0.0.0.0/0".parse().unwrap()];
    for local in ["10.1.0.0/16", "0.0.0.0/0"] {
        let policy = Policy {
            domain: DomainId(0),
            action: PolicyAction::Discard,
            local: vec![local.parse().unwrap()],
            remote: all.clone(),
        };
        let rules = compile(&PolicySet { policies: vec![policy] }, &connected);
        for (place, remote, clear) in [
            (Place::First, [10, 9, 0, 5], &["if7", "if8"][..]),
            (Place::Second, [10, 9, 1, 5], &["if8"]),
            (Place::First, [10, 8, 0, 5], &["if8"]),
            (Place::Second, [10, 7, 0, 5], &[]),
        ] {
            let table = built(&rules, place);
            let number = |octets: [u8; 4]| u128::from(u32::from_be_bytes(octets));
            let packet = |outward: bool| {
                let mut bytes = vec![0_u8; 28];
                (bytes[0], bytes[9]) = (0x45, 17);
                let mut seen = Seen::read(&bytes);
                let ends = [number([10, 1, 0, 2]), number(remote)];
                [seen.source, seen.destination] = if outward { ends } else { [ends[1], ends[0]] };
                seen
            };
            for interface in ["if7", "if8", "wan"] {
                let caught = !clear.contains(&interface);
                let leaves = Seen { to: Some(interface.to_owned()), ..packet(true) };
                for guard in ["guard_before_nat", "guard_behind_nat"] {
                    let dropped = table.pass(guard, &leaves) == Outcome::Dropped;
                    assert_eq!(dropped, caught, "{guard} {interface} {remote:?} {local}");
                }
                let marked = table.pass("output", &leaves) != Outcome::Passes(0);
                assert_eq!(marked, caught, "output {interface} {remote:?} {local}");
                let arrives = Seen { from: interface.to_owned(), ..packet(false) };
                let dropped = table.pass("arrivals", &arrives) == Outcome::Dropped;
                assert_eq!(dropped, caught, "arrivals {interface} {remote:?} {local}");
            }
        }
    }
}
