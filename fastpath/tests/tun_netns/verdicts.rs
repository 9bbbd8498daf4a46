//! A sample of policies in a real kernel: what leaves in clear, and what is let in, is what the
//! first policy that matches says.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hw_offload::{Operation, PolicySet};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    common::{
        Capture, Namespace,
        oracle::{self, Expected, Packet, Part, expected},
        sites::Sites,
    },
    guarded::nft,
};

/// Packets of one round; the tag of the one that ends it is the next.
const PACKETS: u16 = 120;
const ROUNDS: u16 = 12;

/// Sends packets as they are, in order.
fn send(space: &Namespace, packets: Vec<Vec<u8>>) {
    space.within(move || {
        let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(255))).unwrap();
        let (v4, v6) = (raw(Domain::IPV4), raw(Domain::IPV6));
        for packet in packets {
            let (socket, to): (_, IpAddr) = if packet[0] >> 4 == 4 {
                (&v4, <[u8; 4]>::try_from(&packet[16..20]).unwrap().into())
            } else {
                (&v6, <[u8; 16]>::try_from(&packet[24..40]).unwrap().into())
            };
            socket.send_to(&packet, &SocketAddr::from((to, 0)).into()).unwrap();
        }
    });
}

/// The tags of packets of our two sides that a capture holds.
fn tags(capture: &Capture) -> BTreeSet<u16> {
    let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let of = |frame: &[u8]| match (word(frame, 12), frame.len()) {
        (0x0800, 34..) if frame[26] == 10 && frame[29] >= 32 => Some(word(frame, 18)),
        (0x86dd, 54..) if frame[22] == 0xfd && frame[37] >= 32 => Some(word(frame, 16)),
        _ => None,
    };
    capture.frames().iter().filter_map(|frame| of(frame)).collect()
}

/// Sends `packets` and holds what comes out of the gateway against what must.
fn round(
    from: &Namespace,
    out: &Capture,
    packets: &[(u16, Packet, Expected)],
    end: &(u16, Packet),
) {
    let mut bytes: Vec<Vec<u8>> =
        packets.iter().map(|(tag, packet, _)| packet.bytes(*tag)).collect();
    bytes.push(end.1.bytes(end.0));
    send(from, bytes);
    let clear: BTreeSet<u16> = packets
        .iter()
        .filter(|(_, _, expected)| *expected == Expected::Clear)
        .map(|(tag, ..)| *tag)
        .chain([end.0])
        .collect();
    let ours = |tag: &u16| packets.first().is_some_and(|(first, ..)| first <= tag) && *tag <= end.0;
    let seen = || -> BTreeSet<u16> { tags(out).into_iter().filter(ours).collect() };
    // Packets may overtake each other between the processors of this machine.
    let until = Instant::now() + Duration::from_secs(10);
    while !seen().is_superset(&clear) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let of = |tag: &u16| packets.iter().find(|(known, ..)| known == tag);
    let missing: Vec<_> = clear.difference(&seen()).map(of).collect();
    assert!(missing.is_empty(), "did not come out: {missing:#?}");
    let leaked: Vec<_> = seen().difference(&clear).map(of).collect();
    assert!(leaked.is_empty(), "came out in clear: {leaked:#?}");
}

#[test]
fn the_kernel_says_of_a_sample_of_policies_what_the_first_one_says() {
    let mut sites = Sites::new();
    sites.a.start(1);
    let gateway = &sites.a.gateway;
    for line in [
        "route add 10.1.0.32/28 via 10.1.0.2",
        "-6 route add fd01::20/124 via fd01::2",
        "route add 10.2.0.32/28 via 192.0.2.2",
        "-6 route add fd02::20/124 via 2001:db8::2",
    ] {
        gateway.ip(line);
    }
    sites.b.gateway.ip("route replace 10.1.0.0/24 via 192.0.2.1");
    // Fragments of what is not tracked are not put together: they meet the rules one by one.
    nft(
        gateway,
        "table inet others {\nchain pre {\ntype filter hook prerouting priority -450\nnotrack\n}\n}",
    );
    let (wire, lan) = (Capture::start(&sites.b.gateway), Capture::start(&sites.a.client));
    let mut draw = TestRunner::deterministic();
    let mut tag = 0x100;
    let (mut clear, mut caught) = (0, 0);
    for _ in 0..ROUNDS {
        let policies = oracle::policies().new_tree(&mut draw).unwrap().current();
        sites.a.done(vec![Operation::SetPolicies(PolicySet { policies: policies.clone() })]);
        for outward in [true, false] {
            let packets: Vec<_> = (0..PACKETS)
                .map(|number| {
                    let mut packet = oracle::packet().new_tree(&mut draw).unwrap().current();
                    packet.outward = outward;
                    let wanted = expected(&policies, &packet);
                    (tag + number, packet, wanted)
                })
                .collect();
            clear += packets.iter().filter(|(.., wanted)| *wanted == Expected::Clear).count();
            caught += packets.iter().filter(|(.., wanted)| *wanted == Expected::Caught).count();
            // No policy is about these addresses.
            let end = Packet {
                v4: true,
                source: 9,
                destination: 9,
                outward,
                headers: (Vec::new(), Vec::new()),
                part: Part::Whole,
                protocol: 17,
                upper: vec![0; 8],
            };
            let (from, out) =
                if outward { (&sites.a.client, &wire) } else { (&sites.b.gateway, &lan) };
            round(from, out, &packets, &(tag + PACKETS, end));
            tag += PACKETS + 1;
        }
    }
    assert!(clear > 300 && caught > 300, "{clear} clear, {caught} caught");
    sites.a.release();
}
