//! What the selectors of a child may not name: packets that the rules of steering leave alone, that
//! no tunnel carries, or that do not exist (`docs/fail-closed.md`, "What stays clear").

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{Range, RangeInclusive},
};

use gateway::spec::RemoteAddress;
use sa_store::{PortRange, TrafficSelector, uncovered};

use super::{
    diagnostic::Findings,
    schema::{At, RawChild},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;

/// Protocols whose packets show ports, or a type instead (RFC 4301 §4.4.1.1).
const SHOW_PORTS: [u8; 8] = [1, TCP, UDP, 33, ICMPV6, 132, 135, 136];

/// Where peers send IKE and ESP in UDP to.
const OUR_PORTS: [u16; 2] = [500, 4500];

/// Types of neighbour discovery (RFC 4861).
const DISCOVERY: RangeInclusive<u16> = 133..=137;

/// Addresses of many hosts.
fn many() -> Vec<TrafficSelector> {
    let v4 =
        |start: [u8; 4], end: [u8; 4]| (Ipv4Addr::from(start).into(), Ipv4Addr::from(end).into());
    let v6 = |first: u16| Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0).into();
    ranges([
        v4([224, 0, 0, 0], [239, 255, 255, 255]),
        v4([255; 4], [255; 4]),
        (v6(0xff00), Ipv6Addr::from([0xff; 16]).into()),
    ])
}

/// Addresses of this machine to itself.
fn loopback() -> Vec<TrafficSelector> {
    let v4 = (Ipv4Addr::new(127, 0, 0, 0).into(), Ipv4Addr::new(127, 255, 255, 255).into());
    ranges([v4, (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into())])
}

fn ranges<const N: usize>(ranges: [(IpAddr, IpAddr); N]) -> Vec<TrafficSelector> {
    ranges
        .into_iter()
        .filter_map(|(start, end)| TrafficSelector::new(0, start, end, PortRange::ANY))
        .collect()
}

fn lies_in(selector: &TrafficSelector, ranges: &[TrafficSelector]) -> bool {
    ranges.iter().any(|range| {
        range.contains_address(selector.start()) && range.contains_address(selector.end())
    })
}

fn is_everything(selector: &TrafficSelector) -> bool {
    selector.as_prefix().is_some_and(|prefix| prefix.length() == 0)
}

/// Ports that are a range of their own.
fn ranged(selector: &TrafficSelector) -> bool {
    !selector.ports().is_any() && selector.ports() != PortRange::OPAQUE
}

/// The selectors of one child and its `bypass`.
pub(super) fn check(
    raw: &RawChild<'_>,
    (local, remote): (&[TrafficSelector], &[TrafficSelector]),
    bypass: &[TrafficSelector],
    findings: &mut Findings,
) {
    let texts = |list: &'_ Option<At<Vec<At<&str>>>>| -> Vec<Range<usize>> {
        list.iter().flat_map(|list| &list.value).map(|text| text.span.clone()).collect()
    };
    let (locals, remotes) = (texts(&raw.local), texts(&raw.remote));
    let networks = || locals.iter().zip(local).chain(remotes.iter().zip(remote));
    for (span, selector) in networks() {
        named(span, selector, findings);
    }
    let bypasses = raw.bypass.iter().map(|text| &text.span).zip(bypass);
    for (span, selector) in networks().chain(bypasses.clone()) {
        without_ports(span, selector, findings);
    }
    for (span, selector) in remotes.iter().zip(remote) {
        covers_many(span, selector, bypass, findings);
    }
    for (span, selector) in bypasses.filter(|(_, selector)| selector.ports() == PortRange::OPAQUE) {
        findings.warning(
            span.clone(),
            format!("`{selector}` leaves clear what shows no ports, and no fragments"),
            "a fragment may belong to what is protected; name the protocol, or ports",
        );
    }
}

/// Names something that stays clear whatever covers it, or that no tunnel carries.
fn named(span: &Range<usize>, selector: &TrafficSelector, findings: &mut Findings) {
    if lies_in(selector, &many()) {
        findings.error(
            span.clone(),
            format!("`{selector}` is multicast or broadcast, which no tunnel carries"),
            "an SA has one peer (RFC 4301 section 4.1); name networks of hosts",
        );
    } else if lies_in(selector, &loopback()) {
        findings.error(
            span.clone(),
            format!("`{selector}` is this machine itself: its packets never leave"),
            "name networks that packets come from and go to",
        );
    }
    let types = selector.ports().start >> 8..=selector.ports().end >> 8;
    let meets = types.start() <= DISCOVERY.end() && DISCOVERY.start() <= types.end();
    if selector.protocol() == ICMPV6 && ranged(selector) && meets {
        findings.error(
            span.clone(),
            format!("`{selector}` names neighbour discovery (types 133 to 137)"),
            "encrypted packets find their way by it; name types up to 132, and from 138 on",
        );
    }
}

fn without_ports(span: &Range<usize>, selector: &TrafficSelector, findings: &mut Findings) {
    let protocol = selector.protocol();
    if protocol != 0 && ranged(selector) && !SHOW_PORTS.contains(&protocol) {
        findings.error(
            span.clone(),
            format!("`{selector}` matches no packet: protocol {protocol} has no ports"),
            format!("leave out the ports: [{protocol}]"),
        );
    }
}

/// Covers multicast without naming it: not everything, which leaves links alone.
fn covers_many(
    span: &Range<usize>,
    selector: &TrafficSelector,
    bypass: &[TrafficSelector],
    findings: &mut Findings,
) {
    if is_everything(selector) || lies_in(selector, &many()) {
        return;
    }
    let inside: Vec<_> = many().iter().filter_map(|range| range.intersect(selector)).collect();
    if inside.is_empty() {
        return;
    }
    let Some(blocked) = uncovered(&inside, bypass).first().copied() else { return };
    let all = if selector.is_ipv4() {
        "`bypass = [\"224.0.0.0/4\", \"255.255.255.255\"]`"
    } else {
        "`bypass = [\"ff00::/8\"]`"
    };
    findings.warning(
        span.clone(),
        format!("`{selector}` covers multicast or broadcast ({blocked}), which will be blocked"),
        format!("{all} leaves it clear, as a network for everything does"),
    );
}

/// A child that names what carries its own tunnel: IKE and ESP of the peer would not come in.
pub(super) fn check_peer(
    raw: &RawChild<'_>,
    (local, remote): (&[TrafficSelector], &[TrafficSelector]),
    (ours, peers): (&[IpAddr], &[RemoteAddress]),
    findings: &mut Findings,
) {
    let met = |selector: &TrafficSelector| {
        peers.iter().find_map(|peer| match peer {
            RemoteAddress::Address(address) if selector.contains_address(*address) => {
                Some(*address)
            }
            _ => None,
        })
    };
    // One for each family and protocol, so that many networks cost no more.
    let mut theirs = BTreeMap::new();
    for there in remote {
        if let Some(peer) = met(there) {
            theirs.entry((there.is_ipv4(), there.protocol())).or_insert((there, peer));
        }
    }
    let texts = raw.local.iter().flat_map(|list| &list.value);
    for (text, here) in texts.zip(local) {
        let us = ours.is_empty() || ours.iter().any(|address| here.contains_address(*address));
        let names_ours = ranged(here) && OUR_PORTS.iter().any(|port| here.ports().contains(*port));
        for ((v4, _), (there, peer)) in theirs.iter().filter(|_| us) {
            let what = match (here.protocol(), there.protocol()) {
                (ESP, ESP | 0) | (0, ESP) => "ESP",
                (UDP, UDP | 0) | (0, UDP | 0) if names_ours => "UDP to port 500 or 4500",
                _ => continue,
            };
            if here.is_ipv4() != *v4 {
                continue;
            }
            findings.error(
                text.span.clone(),
                format!(
                    "`{here}` and `{there}` name {what} from {peer}, which carries this tunnel"
                ),
                "leave it out: name other protocols or ports, or networks without the peer",
            );
            return;
        }
    }
}
