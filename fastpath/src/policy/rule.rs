//! From SPD entries to rules: one local range, one remote range, one protocol.
//!
//! The data plane looks packets up in these rules and steering writes them to nftables, so that
//! both always agree on what is protected.

use std::net::IpAddr;

use hw_offload::{Policy, PolicyAction, PolicySet};
use sa_store::{ChildId, PortRange, Prefix, TrafficSelector, TunnelId};

use super::Connected;

/// Protocols whose first four octets are a source and a destination port.
pub(crate) const PORT_PROTOCOLS: [u8; 5] = [6, 17, 33, 132, 136];

/// An inclusive range of addresses of one family as numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Span {
    /// First.
    pub start: u128,
    /// Last.
    pub end: u128,
}

impl Span {
    /// An address as a number.
    pub(crate) fn bits(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        }
    }

    /// The number as an address.
    pub(crate) fn address(v4: bool, bits: u128) -> IpAddr {
        if v4 {
            IpAddr::V4(u32::try_from(bits).unwrap_or(u32::MAX).into())
        } else {
            IpAddr::V6(bits.into())
        }
    }

    /// Everything.
    pub(crate) fn full(v4: bool) -> Self {
        Self { start: 0, end: if v4 { u128::from(u32::MAX) } else { u128::MAX } }
    }

    pub(super) fn of_prefix(prefix: Prefix) -> Self {
        Self { start: Self::bits(prefix.first()), end: Self::bits(prefix.last()) }
    }

    pub(crate) const fn contains(self, bits: u128) -> bool {
        self.start <= bits && bits <= self.end
    }

    pub(crate) const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    pub(crate) const fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// What both hold.
    pub(crate) fn intersect(self, other: Self) -> Option<Self> {
        self.overlaps(other)
            .then(|| Self { start: self.start.max(other.start), end: self.end.min(other.end) })
    }

    /// The same numbers as spans in order, none of which overlap.
    pub(crate) fn union(mut spans: Vec<Self>) -> Vec<Self> {
        spans.sort_unstable();
        spans.dedup_by(|next, span| {
            let joined = span.overlaps(*next);
            if joined {
                span.end = span.end.max(next.end);
            }
            joined
        });
        spans
    }

    /// The prefixes that make up the range.
    pub(crate) fn prefixes(self, v4: bool) -> Vec<(IpAddr, u8)> {
        let width: u32 = if v4 { 32 } else { 128 };
        let mut all = Vec::new();
        let mut at = self.start;
        loop {
            // The largest aligned block at `at` that does not reach behind the end.
            let aligned = if at == 0 { width } else { at.trailing_zeros().min(width) };
            let room = (self.end - at).saturating_add(1).checked_ilog2().unwrap_or(width);
            let room = if self.end - at == u128::MAX { width } else { room };
            let host = aligned.min(room);
            all.push((Self::address(v4, at), u8::try_from(width - host).unwrap_or(0)));
            let block = if host >= 128 { break } else { 1_u128 << host };
            match at.checked_add(block) {
                Some(next) if next <= self.end => at = next,
                _ => break,
            }
        }
        all
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Through the outbound SA of this child.
    Protect(TunnelId, ChildId),
    /// Stays clear.
    Bypass,
    /// Stays clear on its way through the interface with this index, out and in; through others
    /// the next rule counts. What steering cannot tell yet is left to the guard behind routing.
    Connected(u32),
    /// Is dropped.
    Discard,
}

impl Verdict {
    /// Whether steering has to catch it.
    pub(crate) const fn is_caught(self) -> bool {
        !matches!(self, Self::Bypass | Self::Connected(_))
    }
}

/// One rule. Seen from this node: `local` is the source of what goes out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rule {
    /// Family of both ranges.
    pub v4: bool,
    /// Our side.
    pub local: Span,
    /// The peer's side.
    pub remote: Span,
    /// Protocol; 0 is any.
    pub protocol: u8,
    /// Our ports, or ICMP type and code.
    pub local_ports: PortRange,
    /// The peer's ports, or ICMP type and code.
    pub remote_ports: PortRange,
    /// What to do.
    pub verdict: Verdict,
}

impl Rule {
    /// Whether the protocol or ports matter.
    pub(crate) fn is_wide(&self) -> bool {
        self.protocol == 0 && !self.has_ports()
    }

    /// Whether ports or ICMP types matter.
    pub(crate) fn has_ports(&self) -> bool {
        !(self.local_ports.is_any() && self.remote_ports.is_any())
    }

    /// Whether both have a packet in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.v4 == other.v4
            && self.remote.overlaps(other.remote)
            && self.local.overlaps(other.local)
            && (self.protocol == 0 || other.protocol == 0 || self.protocol == other.protocol)
            && self.local_ports.intersect(other.local_ports).is_some()
            && self.remote_ports.intersect(other.remote_ports).is_some()
    }

    /// Whether every packet of `other` is one of ours.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.v4 == other.v4
            && self.remote.covers(other.remote)
            && self.local.covers(other.local)
            && (self.protocol == 0 || self.protocol == other.protocol)
            && self.local_ports.covers(other.local_ports)
            && self.remote_ports.covers(other.remote_ports)
    }

    /// Whether a packet matches. `ports` is `None` when it shows none.
    pub(crate) fn matches_upper(&self, protocol: u8, ports: Option<(u16, u16)>) -> bool {
        if self.protocol != 0 && self.protocol != protocol {
            return false;
        }
        let side = |range: PortRange, port: Option<u16>| {
            range.is_any()
                || match port {
                    Some(port) => range.contains(port),
                    None => range == PortRange::OPAQUE,
                }
        };
        side(self.local_ports, ports.map(|(local, _)| local))
            && side(self.remote_ports, ports.map(|(_, remote)| remote))
    }
}

/// Compiles policies, first match first, to rules. Where a policy's remote side is everything,
/// connected networks and what never leaves a link are bypassed, but for what some policy names.
pub(crate) fn compile(set: &PolicySet, connected: &[Connected]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (number, policy) in set.policies.iter().enumerate() {
        let verdict = verdict(policy);
        // What names a network stands before what means everything.
        for everything in [false, true] {
            for remote in policy.remote.iter().filter(|ts| is_everything(ts) == everything) {
                for local in policy.local.iter().filter(|ts| ts.is_ipv4() == remote.is_ipv4()) {
                    if everything && verdict.is_caught() {
                        let later = set.policies.get(number + 1..).unwrap_or(&[]);
                        bypass(&mut rules, local, verdict, &open(connected, local), later);
                    }
                    rules.extend(combine(local, remote, verdict));
                }
            }
        }
    }
    rules
}

const fn verdict(policy: &Policy) -> Verdict {
    match &policy.action {
        PolicyAction::Protect { tunnel, child, .. } => Verdict::Protect(*tunnel, *child),
        PolicyAction::Bypass => Verdict::Bypass,
        PolicyAction::Discard => Verdict::Discard,
    }
}

/// The networks that some policy for everything leaves clear because they are connected.
pub(crate) fn left_clear(set: &PolicySet, connected: &[Connected]) -> Vec<Connected> {
    let everything = |policy: &&Policy| policy.remote.iter().any(is_everything);
    let caught = set.policies.iter().filter(|policy| verdict(policy).is_caught());
    let policies: Vec<&Policy> = caught.filter(everything).collect();
    let stays = |network: &&Connected| {
        let v4 = network.network.first().is_ipv4();
        policies.iter().any(|policy| {
            policy.remote.iter().any(|remote| is_everything(remote) && remote.is_ipv4() == v4)
                && policy.local.iter().any(|local| network.stays_clear(local))
        })
    };
    connected.iter().filter(stays).copied().collect()
}

/// Whether some policy is for everything, so that it matters which networks are connected.
pub(crate) fn covers_everything(set: &PolicySet) -> bool {
    set.policies
        .iter()
        .any(|policy| verdict(policy).is_caught() && policy.remote.iter().any(is_everything))
}

/// Destinations that a policy for everything does not mean: connected networks, multicast and
/// what is on one link only, and "no address", where hosts without one speak from.
fn open(connected: &[Connected], local: &TrafficSelector) -> Vec<(Span, Verdict)> {
    let of = |first: u128, host: u32| {
        (Span { start: first, end: first | ((1 << host) - 1) }, Verdict::Bypass)
    };
    let mut all: Vec<(Span, Verdict)> = connected
        .iter()
        .filter(|connected| connected.stays_clear(local))
        .map(|found| (Span::of_prefix(found.network), Verdict::Connected(found.interface)))
        .collect();
    if local.is_ipv4() {
        all.extend([of(0, 0), of(0xe000_0000, 28), of(0xffff_ffff, 0)]);
    } else {
        all.extend([of(0, 0), of(0xfe80 << 112, 118), of(0xff00 << 112, 120)]);
    }
    all
}

/// Bypasses `open` destinations of `local`. What `later` policies name among them is meant, and
/// stays with the policy that matches first, whose `verdict` this is.
fn bypass(
    rules: &mut Vec<Rule>,
    local: &TrafficSelector,
    verdict: Verdict,
    open: &[(Span, Verdict)],
    later: &[Policy],
) {
    let v4 = local.is_ipv4();
    for policy in later.iter().filter(|policy| !matches!(policy.action, PolicyAction::Bypass)) {
        for remote in policy.remote.iter().filter(|ts| !is_everything(ts) && ts.is_ipv4() == v4) {
            let hit = open.iter().filter_map(|(open, _)| open.intersect(span(remote)));
            let hit: Vec<Span> = hit.collect();
            if hit.is_empty() {
                continue;
            }
            for named in policy.local.iter().filter(|ts| ts.is_ipv4() == v4) {
                let Some(local) = span(named).intersect(span(local)) else { continue };
                for rule in combine(named, remote, verdict) {
                    rules.extend(hit.iter().map(|remote| Rule { local, remote: *remote, ..rule }));
                }
            }
        }
    }
    rules.extend(open.iter().map(|(remote, verdict)| Rule {
        v4,
        local: span(local),
        remote: *remote,
        protocol: 0,
        local_ports: PortRange::ANY,
        remote_ports: PortRange::ANY,
        verdict: *verdict,
    }));
}

pub(super) fn span(selector: &TrafficSelector) -> Span {
    Span { start: Span::bits(selector.start()), end: Span::bits(selector.end()) }
}

pub(super) fn is_everything(selector: &TrafficSelector) -> bool {
    span(selector) == Span::full(selector.is_ipv4())
}

/// Whether packets of a protocol show ports, or a type in their place (RFC 4301 §4.4.1.1).
const fn shows_ports(protocol: u8) -> bool {
    matches!(protocol, 1 | 6 | 17 | 33 | 58 | 132 | 135 | 136)
}

/// What a packet must show in the place of ports for two selectors; `None` if none can.
fn shown(protocol: u8, local: PortRange, remote: PortRange) -> Option<(PortRange, PortRange)> {
    let ranged = |ports: PortRange| !ports.is_any() && ports != PortRange::OPAQUE;
    let narrow = ranged(local) || ranged(remote);
    match protocol {
        // No packet shows some: all of them are opaque.
        other if other != 0 && !shows_ports(other) => {
            (!narrow).then_some((PortRange::ANY, PortRange::ANY))
        }
        // Both ports are seen, or none is.
        _ if narrow && [local, remote].contains(&PortRange::OPAQUE) => None,
        // One number for both sides.
        1 | 58 | 135 if narrow => {
            let both = local.intersect(remote)?;
            // Of mobility headers the type alone, in the high octet.
            let fits = protocol != 135 || both.start <= both.end & 0xff00;
            fits.then_some((both, both))
        }
        _ => Some((local, remote)),
    }
}

fn combine(
    local: &TrafficSelector,
    remote: &TrafficSelector,
    verdict: Verdict,
) -> impl Iterator<Item = Rule> {
    let (v4, a, b) = (local.is_ipv4(), local.protocol(), remote.protocol());
    let (local_ports, remote_ports) = (local.ports(), remote.ports());
    // "Any protocol, some ports": the protocols that have ports.
    let portly = [local, remote]
        .iter()
        .any(|ts| ts.protocol() == 0 && !ts.ports().is_any() && ts.ports() != PortRange::OPAQUE);
    let protocols: Vec<u8> = match (a, b) {
        (0, 0) if portly => PORT_PROTOCOLS.to_vec(),
        (0, other) | (other, 0) if !portly || PORT_PROTOCOLS.contains(&other) => vec![other],
        (one, other) if one == other => vec![one],
        _ => Vec::new(),
    };
    let (local, remote) = (span(local), span(remote));
    protocols.into_iter().filter_map(move |protocol| {
        let (local_ports, remote_ports) = shown(protocol, local_ports, remote_ports)?;
        Some(Rule { v4, local, remote, protocol, local_ports, remote_ports, verdict })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sa_store::{DomainId, OffloadIntent};

    fn policy(protect: bool, local: &[&str], remote: &[&str]) -> Policy {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let action = if protect {
            PolicyAction::Protect {
                tunnel: TunnelId(1),
                child: ChildId(1),
                peers: Vec::new(),
                offload: OffloadIntent::Auto,
            }
        } else {
            PolicyAction::Bypass
        };
        Policy { domain: DomainId(0), action, local: parse(local), remote: parse(remote) }
    }

    fn connected(networks: &[&str]) -> Vec<Connected> {
        let of = |text: &&str| Connected { network: text.parse().unwrap(), interface: 7 };
        networks.iter().map(of).collect()
    }

    fn first<'r>(rules: &'r [Rule], remote: &str) -> Option<&'r Rule> {
        let bits = Span::bits(remote.parse().unwrap());
        rules.iter().find(|rule| rule.remote.contains(bits))
    }

    #[test]
    fn connected_networks_are_open_unless_named() {
        let connected = connected(&["192.0.2.0/24", "10.9.0.0/24"]);
        let set = PolicySet { policies: vec![policy(true, &["10.1.0.0/16"], &["0.0.0.0/0"])] };
        let rules = compile(&set, &connected);
        assert_eq!(first(&rules, "192.0.2.7").unwrap().verdict, Verdict::Connected(7));
        assert!(first(&rules, "198.51.100.1").unwrap().verdict.is_caught());
        let set = PolicySet {
            policies: vec![
                policy(true, &["10.1.0.0/16"], &["0.0.0.0/0"]),
                policy(true, &["10.1.0.0/16"], &["10.9.0.0/16"]),
            ],
        };
        let rules = compile(&set, &connected);
        assert!(first(&rules, "10.9.0.1").unwrap().verdict.is_caught(), "it is named");
        assert_eq!(first(&rules, "192.0.2.7").unwrap().verdict, Verdict::Connected(7));
    }

    #[test]
    fn naming_a_part_of_a_connected_network_opens_and_closes_no_other_part() {
        let connected = connected(&["10.1.0.0/24", "10.9.0.0/24"]);
        let everything = policy(true, &["10.1.0.0/16"], &["0.0.0.0/0"]);
        let part = policy(true, &["10.1.0.7/32"], &["10.9.0.5/32[tcp/443]"]);
        for policies in [vec![everything.clone(), part.clone()], vec![part, everything]] {
            let rules = compile(&PolicySet { policies }, &connected);
            let caught = |local: &str, remote: &str, protocol, port| {
                let bits = |text: &str| Span::bits(text.parse().unwrap());
                let hit = rules.iter().find(|rule| {
                    rule.local.contains(bits(local))
                        && rule.remote.contains(bits(remote))
                        && rule.matches_upper(protocol, Some((9, port)))
                });
                hit.unwrap().verdict.is_caught()
            };
            assert!(caught("10.1.0.7", "10.9.0.5", 6, 443), "it is named");
            assert!(!caught("10.1.0.7", "10.9.0.5", 6, 80));
            assert!(!caught("10.1.0.8", "10.9.0.5", 6, 443));
            assert!(!caught("10.1.0.7", "10.9.0.6", 6, 443));
            assert!(!caught("10.1.0.7", "10.1.0.1", 6, 443), "the client's own gateway");
            assert!(caught("10.1.0.7", "198.51.100.1", 6, 443));
        }
    }

    #[test]
    fn what_stays_on_a_link_is_not_meant_by_everything() {
        for (all, links, beyond) in [
            ("0.0.0.0/0", ["0.0.0.0", "224.0.0.18", "255.255.255.255"], "198.51.100.1"),
            ("::/0", ["::", "fe80::1", "ff02::16"], "2001:db8::1"),
        ] {
            let rules = compile(&PolicySet { policies: vec![policy(true, &[all], &[all])] }, &[]);
            for link in links {
                assert_eq!(first(&rules, link).unwrap().verdict, Verdict::Bypass, "{link}");
            }
            assert!(first(&rules, beyond).unwrap().verdict.is_caught());
        }
    }

    #[test]
    fn selectors_of_different_families_or_protocols_make_no_rule() {
        let set = PolicySet {
            policies: vec![
                policy(true, &["10.1.0.0/16[tcp]"], &["10.2.0.0/16[udp]", "fd02::/64"]),
                policy(true, &["10.1.0.0/16[tcp]"], &["10.3.0.0/16"]),
            ],
        };
        let rules = compile(&set, &[]);
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].protocol, 6);
    }

    #[test]
    fn ranges_fall_into_prefixes_that_cover_them_exactly() {
        for (start, end) in
            [(0_u32, 0_u32), (0, u32::MAX), (1, 6), (5, 5), (0x0a00_0001, 0x0a00_ffff)]
        {
            let span = Span { start: start.into(), end: end.into() };
            let mut next = u128::from(start);
            for (address, length) in span.prefixes(true) {
                assert_eq!(Span::bits(address), next);
                next += 1_u128 << (32 - u32::from(length));
            }
            assert_eq!(next, u128::from(end) + 1);
        }
        assert_eq!(Span::full(false).prefixes(false), [("::".parse().unwrap(), 0)]);
    }

    #[test]
    fn a_union_holds_what_its_spans_hold() {
        let span = |start, end| Span { start, end };
        let spans = vec![span(5, 9), span(0, 1), span(7, 12), span(20, 20), span(6, 7), span(9, 9)];
        assert_eq!(Span::union(spans), [span(0, 1), span(5, 12), span(20, 20)]);
        assert_eq!(Span::union(Vec::new()), []);
    }
}
