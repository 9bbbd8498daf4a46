//! Ranges of ports, selectors and prefixes, each held against the plain set of what it selects.

use std::{collections::BTreeSet, net::IpAddr};

use sa_store::{PortRange, Prefix, TrafficSelector, uncovered};

/// What a packet shows of a port: the port, or nothing (a later fragment).
type Seen = Option<u16>;

/// Ports around every edge of the ranges below, and the packet that shows none.
fn views() -> Vec<Seen> {
    let mut views: Vec<Seen> =
        [0, 1, 2, 21, 22, 23, 24, 79, 80, 81, 0xfffe, 0xffff].into_iter().map(Some).collect();
    views.push(None);
    views
}

fn ranges() -> Vec<PortRange> {
    let edges = [0, 1, 22, 23, 80, 0xfffe, 0xffff];
    let pairs = edges.into_iter().flat_map(|start| edges.into_iter().map(move |end| (start, end)));
    let mut ranges: Vec<PortRange> = pairs
        .filter(|(start, end)| start <= end)
        .map(|(start, end)| PortRange { start, end })
        .collect();
    ranges.push(PortRange::OPAQUE);
    ranges
}

/// RFC 4301 §4.4.1.1: ANY also means packets whose port cannot be seen, OPAQUE only those.
fn selected(range: PortRange) -> BTreeSet<Seen> {
    let selects = |seen: &Seen| {
        if range == PortRange::ANY {
            return true;
        }
        match *seen {
            None => range == PortRange::OPAQUE,
            Some(_) if range == PortRange::OPAQUE => false,
            Some(port) => (range.start..=range.end).contains(&port),
        }
    };
    views().into_iter().filter(selects).collect()
}

#[test]
fn ranges_of_ports_are_the_sets_they_stand_for() {
    for one in ranges() {
        assert_eq!(one.is_any(), selected(one).len() == views().len(), "{one:?}");
        for port in views().into_iter().flatten() {
            assert_eq!(one.contains(port), selected(one).contains(&Some(port)), "{one:?} {port}");
        }
        for other in ranges() {
            let (ours, theirs) = (selected(one), selected(other));
            assert_eq!(one.covers(other), theirs.is_subset(&ours), "{one:?} covers {other:?}");
            let both: BTreeSet<Seen> = ours.intersection(&theirs).copied().collect();
            let met = one.intersect(other);
            assert_eq!(met.map(selected).unwrap_or_default(), both, "{one:?} and {other:?}");
            assert_eq!(met, other.intersect(one));
        }
    }
}

#[test]
fn a_type_of_icmp_is_all_its_codes() {
    for kind in [0, 3, 8, 128, 255] {
        let range = PortRange::icmp_type(kind);
        assert_eq!(range.start.to_be_bytes(), [kind, 0]);
        assert_eq!(range.end.to_be_bytes(), [kind, 255]);
    }
    assert_eq!(PortRange::single(80), PortRange { start: 80, end: 80 });
}

/// Addresses around every edge of the networks below.
fn addresses() -> Vec<IpAddr> {
    let texts = [
        "0.0.0.0",
        "9.255.255.255",
        "10.0.0.0",
        "10.1.0.0",
        "10.1.0.5",
        "10.1.0.6",
        "10.1.0.7",
        "10.1.255.255",
        "10.2.0.0",
        "10.255.255.255",
        "255.255.255.255",
        "::",
        "2001:db8::",
        "2001:db8::5",
        "2001:db8:ffff::",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ];
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn selectors() -> Vec<TrafficSelector> {
    let networks = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.0.5..10.1.0.6",
        "10.1.0.6..10.2.0.0",
        "10.1.0.5",
        "::/0",
        "2001:db8::/32",
        "2001:db8::5",
    ];
    let kinds = ["", "[tcp]", "[tcp/80]", "[tcp/22-80]", "[tcp/opaque]", "[udp/80]", "[any/80]"];
    let texts =
        networks.iter().flat_map(|net| kinds.iter().map(move |kind| format!("{net}{kind}")));
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Packets' sides: address, protocol, port.
fn packets() -> Vec<(IpAddr, u8, Seen)> {
    let mut packets = Vec::new();
    for address in addresses() {
        for protocol in [0, 6, 17, 50] {
            packets.extend(views().into_iter().map(|seen| (address, protocol, seen)));
        }
    }
    packets
}

fn matched(selector: &TrafficSelector) -> BTreeSet<(IpAddr, u8, Seen)> {
    let ports = selected(selector.ports());
    packets()
        .into_iter()
        .filter(|(address, protocol, seen)| {
            address.is_ipv4() == selector.start().is_ipv4()
                && (selector.start()..=selector.end()).contains(address)
                && (selector.protocol() == 0 || selector.protocol() == *protocol)
                && ports.contains(seen)
        })
        .collect()
}

#[test]
fn selectors_are_the_sets_they_stand_for() {
    let selectors = selectors();
    assert_eq!(selectors.len(), 63, "each is read");
    let sets: Vec<_> = selectors.iter().map(matched).collect();
    for (one, ours) in selectors.iter().zip(&sets) {
        for (address, protocol, seen) in packets() {
            let expected = ours.contains(&(address, protocol, seen));
            assert_eq!(one.matches(address, protocol, seen), expected, "{one}: {address} {seen:?}");
        }
        for (other, theirs) in selectors.iter().zip(&sets) {
            assert_eq!(one.covers(other), theirs.is_subset(ours), "{one} covers {other}");
            let both: BTreeSet<_> = ours.intersection(theirs).copied().collect();
            let met = one.intersect(other);
            assert_eq!(met.as_ref().map(matched).unwrap_or_default(), both, "{one} and {other}");
            assert_eq!(uncovered(&[*one], &[*other]).is_empty(), other.covers(one));
        }
    }
}

#[test]
fn several_selectors_cover_one_together_only_without_a_gap() {
    let parse = |text: &str| text.parse::<TrafficSelector>().unwrap();
    // Every choice of these six addresses' single selectors, against every range of them.
    let hosts: Vec<TrafficSelector> = (0..6).map(|last| parse(&format!("10.0.0.{last}"))).collect();
    for chosen in 0..64_u32 {
        let by: Vec<TrafficSelector> =
            (0..6).filter(|bit| chosen >> bit & 1 == 1).map(|bit| hosts[bit]).rev().collect();
        for first in 0..6 {
            for last in first..6 {
                let wanted = parse(&format!("10.0.0.{first}..10.0.0.{last}"));
                let covered = (first..=last).all(|bit| chosen >> bit & 1 == 1);
                assert_eq!(uncovered(&[wanted], &by).is_empty(), covered, "{wanted} by {chosen:b}");
            }
        }
    }
    // What covers only some protocols or ports fills no gap, whatever its addresses.
    let wanted = parse("10.0.0.0/24[tcp/80]");
    let left = |by: &[&str]| {
        let by: Vec<_> = by.iter().map(|text| parse(text)).collect();
        uncovered(&[wanted], &by)
    };
    assert_eq!(left(&["10.0.0.0/25[tcp/80]", "10.0.0.128/25[tcp/443]"]), [wanted]);
    assert_eq!(left(&["10.0.0.0/25[tcp/80]", "10.0.0.128/25[udp/80]"]), [wanted]);
    assert_eq!(left(&["10.0.0.0/25", "10.0.0.128/25[tcp/1-100]"]), []);
    // Overlapping ones, and one that ends where the wanted one does.
    assert_eq!(left(&["10.0.0.0/25", "10.0.0.64..10.0.0.200", "10.0.0.199..10.0.0.255"]), []);
    assert_eq!(left(&["9.0.0.0/8", "10.0.0.0/24", "11.0.0.0/8"]), []);
}

#[test]
fn prefixes_are_the_addresses_with_these_first_bits() {
    let all = addresses();
    assert_eq!(all.len(), 16, "each is read");
    for address in &all {
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let bits = |address: &IpAddr| match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        for length in [0, 1, 8, 15, 16, 31, 32, 48, 127, 128].into_iter().filter(|l| *l <= width) {
            let prefix = Prefix::of(*address, length).unwrap();
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            assert_eq!(prefix.length(), length);
            assert_eq!(bits(&prefix.first()), bits(address) & mask);
            for other in &all {
                let inside = other.is_ipv4() == address.is_ipv4()
                    && (bits(other) ^ bits(address)) & mask == 0;
                assert_eq!(prefix.contains(*other), inside, "{prefix} {other}");
                assert_eq!(inside, prefix.first() <= *other && *other <= prefix.last());
            }
            // Only the first address may be named as the prefix.
            assert_eq!(Prefix::new(*address, length).is_some(), prefix.first() == *address);
            assert_eq!(prefix.to_string().parse(), Ok(prefix));
            // A selector of the prefix is that prefix again, one of all but its last address is not.
            let selector = TrafficSelector::prefix(prefix);
            assert_eq!(selector.as_prefix(), Some(prefix));
        }
        assert_eq!(Prefix::of(*address, width + 1), None);
        assert_eq!(Prefix::new(*address, width + 1), None);
    }
    for (text, prefix) in [
        ("10.0.0.0..10.0.0.255", Some("10.0.0.0/24")),
        ("10.0.0.0..10.0.0.254", None),
        ("10.0.0.1..10.0.0.255", None),
        ("10.0.0.1..10.0.0.2", None),
        ("10.0.0.7..10.0.0.7", Some("10.0.0.7/32")),
    ] {
        let selector: TrafficSelector = text.parse().unwrap();
        assert_eq!(selector.as_prefix().map(|prefix| prefix.to_string()).as_deref(), prefix);
        assert_eq!(selector.to_string(), prefix.unwrap_or(text));
    }
}

#[test]
fn a_selector_keeps_what_it_was_made_of() {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (low, high) = (address("10.0.0.1"), address("10.0.0.9"));
    let ports = PortRange { start: 1, end: 9 };
    let made = TrafficSelector::new(17, low, high, ports).unwrap();
    assert_eq!((made.protocol(), made.ports(), made.start(), made.end()), (17, ports, low, high));
    assert!(TrafficSelector::new(17, high, low, ports).is_none());
    assert!(TrafficSelector::new(17, low, address("ffff::"), ports).is_none());
    let host = TrafficSelector::host(low);
    assert_eq!(
        (host.protocol(), host.ports(), host.start(), host.end()),
        (0, PortRange::ANY, low, low)
    );
    assert!(host.is_ipv4() && !TrafficSelector::host(address("::")).is_ipv4());
}

#[test]
fn every_way_of_writing_a_selector_is_read() {
    let part = |text: &str| {
        let selector: TrafficSelector = text.parse().unwrap();
        (selector.protocol(), selector.ports().start, selector.ports().end)
    };
    for (text, expected) in [
        ("10.0.0.0/8[icmp]", (1, 0, 0xffff)),
        ("10.0.0.0/8[icmp/8]", (1, 0x0800, 0x08ff)),
        ("10.0.0.0/8[icmp/3(4)]", (1, 0x0304, 0x0304)),
        ("10.0.0.0/8[icmp/3-8]", (1, 0x0300, 0x08ff)),
        ("10.0.0.0/8[icmp/3(1)-8(2)]", (1, 0x0301, 0x0802)),
        ("::/0[ipv6-icmp/128]", (58, 0x8000, 0x80ff)),
        ("::/0[icmpv6/128(1)]", (58, 0x8001, 0x8001)),
        ("10.0.0.0/8[gre]", (47, 0, 0xffff)),
        ("10.0.0.0/8[sctp/9]", (132, 9, 9)),
        ("10.0.0.0/8[132/9]", (132, 9, 9)),
        ("10.0.0.0/8[tcp/http]", (6, 80, 80)),
        ("10.0.0.0/8[tcp/https]", (6, 443, 443)),
        ("10.0.0.0/8[tcp/ssh]", (6, 22, 22)),
        ("10.0.0.0/8[udp/domain]", (17, 53, 53)),
        ("10.0.0.0/8[tcp/ssh - http]", (6, 22, 80)),
        ("10.0.0.0/8[]", (0, 0, 0xffff)),
        ("10.0.0.0/8[any/any]", (0, 0, 0xffff)),
        ("10.0.0.0/8[%any/%any]", (0, 0, 0xffff)),
        ("10.0.0.0/8[tcp/]", (6, 0, 0xffff)),
        ("10.0.0.0/8[tcp/opaque]", (6, 0xffff, 0)),
        (" 10.0.0.0/8 [ tcp / %opaque ] ", (6, 0xffff, 0)),
    ] {
        assert_eq!(part(text), expected, "{text}");
        // What is shown is read as the same again.
        let selector: TrafficSelector = text.parse().unwrap();
        assert_eq!(selector.to_string().parse(), Ok(selector), "{selector}");
    }
    for text in ["10.0.0.1-10.0.0.9", "10.0.0.1..10.0.0.9", "10.0.0.1 - 10.0.0.9"] {
        assert_eq!(text.parse::<TrafficSelector>().unwrap().to_string(), "10.0.0.1..10.0.0.9");
    }
    for (text, shown) in [
        ("10.0.0.0/8[icmp/3(4)]", "10.0.0.0/8[icmp/3(4)]"),
        ("10.0.0.0/8[icmp/3]", "10.0.0.0/8[icmp/3]"),
        ("10.0.0.0/8[icmp/3(0)-3(1)]", "10.0.0.0/8[icmp/3(0)-3(1)]"),
        ("10.0.0.0/8[icmp/3(1)-3(255)]", "10.0.0.0/8[icmp/3(1)-3(255)]"),
        ("10.0.0.0/8[icmp/3-4]", "10.0.0.0/8[icmp/3(0)-4(255)]"),
        ("10.0.0.0/8[any/80]", "10.0.0.0/8[any/80]"),
        ("::/0[58]", "::/0[ipv6-icmp]"),
        ("10.0.0.0/8[sctp]", "10.0.0.0/8[sctp]"),
        ("10.0.0.0/8[tcp/opaque]", "10.0.0.0/8[tcp/opaque]"),
    ] {
        assert_eq!(text.parse::<TrafficSelector>().unwrap().to_string(), shown);
    }
    for (text, says) in [
        ("lan", "is no address"),
        ("10.0.0.0/x", "is no prefix length"),
        ("::/129", "is no prefix length"),
        ("10.0.0.1/8", "did you mean `10.0.0.0/8`"),
        ("10.0.0.9..10.0.0.1", "the lower one first"),
        ("10.0.0.0/8[tpc]", "is no protocol"),
        ("10.0.0.0/8[256]", "is no protocol"),
        ("10.0.0.0/8[tcp/80-22]", "is no port"),
        ("10.0.0.0/8[tcp/65536]", "is no port"),
        ("10.0.0.0/8[icmp/256]", "is no port"),
        ("10.0.0.0/8[icmp/3(256)]", "is no port"),
        ("10.0.0.0/8[icmp/3(1]", "is no port"),
        ("10.0.0.0/8[icmp/4-3]", "is no port"),
    ] {
        let error = text.parse::<TrafficSelector>().unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}
