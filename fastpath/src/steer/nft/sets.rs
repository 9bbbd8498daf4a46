//! What rules match: sets of concatenated intervals, and the lines that use them.

use std::fmt::Write as _;

use sa_store::PortRange;

use super::super::Marks;
use crate::policy::{Rule, Span, in_layers};

/// The kernel compares a new interval with all that its set has already: what one large set takes
/// grows with the square of its size. More sets than one cost a packet a look-up each.
const LARGEST_SET: usize = 2000;

/// What a rule's set is keyed by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything to everything: no set, one rule.
    All,
    /// Addresses.
    Addresses,
    /// Addresses and protocol.
    Protocol,
    /// Addresses, protocol and ports.
    Ports,
    /// Addresses, protocol, ICMP type and code.
    Icmp,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Addresses, Self::Protocol, Self::Ports, Self::Icmp, Self::All];

    pub(super) fn of(rule: &Rule) -> Self {
        let full = Span::full(rule.v4);
        if rule.has_ports() {
            if is_icmp(rule.protocol) { Self::Icmp } else { Self::Ports }
        } else if rule.protocol != 0 {
            Self::Protocol
        } else if rule.local == full && rule.remote == full {
            Self::All
        } else {
            Self::Addresses
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::All => 'e',
            Self::Addresses => 'a',
            Self::Protocol => 'p',
            Self::Ports => 't',
            Self::Icmp => 'i',
        }
    }

    /// The key of the set, as the declaration has it and as a packet is matched.
    fn key(self, ip: &str, outward: bool) -> String {
        let (local, remote) = if outward { ("s", "d") } else { ("d", "s") };
        let addresses = format!("{ip} {local}addr . {ip} {remote}addr");
        match self {
            Self::All | Self::Addresses => addresses,
            Self::Protocol => format!("{addresses} . meta l4proto"),
            Self::Ports => {
                format!("{addresses} . meta l4proto . th {local}port . th {remote}port")
            }
            // Type and code are the first two octets, where others have their source port.
            Self::Icmp => format!("{addresses} . meta l4proto . th sport"),
        }
    }
}

const fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, 1 | 58)
}

fn range(text: &mut String, v4: bool, span: Span) {
    let (start, end) = (Span::address(v4, span.start), Span::address(v4, span.end));
    // Writing to a string cannot fail.
    let _ = if start == end { write!(text, "{start}") } else { write!(text, "{start}-{end}") };
}

fn ports(text: &mut String, range: PortRange) {
    let _ = if range.start == range.end {
        write!(text, "{}", range.start)
    } else {
        write!(text, "{}-{}", range.start, range.end)
    };
}

/// The rule as an element of a set; `None` when no packet can match it.
fn element(rule: &Rule, kind: Kind) -> Option<String> {
    let icmp = rule.local_ports.intersect(rule.remote_ports);
    if kind == Kind::Icmp && icmp.is_none() {
        return None;
    }
    let mut text = String::new();
    range(&mut text, rule.v4, rule.local);
    text.push_str(" . ");
    range(&mut text, rule.v4, rule.remote);
    if !matches!(kind, Kind::All | Kind::Addresses) {
        let _ = write!(text, " . {}", rule.protocol);
    }
    if kind == Kind::Ports {
        text.push_str(" . ");
        ports(&mut text, rule.local_ports);
        text.push_str(" . ");
        ports(&mut text, rule.remote_ports);
    }
    if let (Kind::Icmp, Some(range)) = (kind, icmp) {
        text.push_str(" . ");
        ports(&mut text, range);
    }
    text.push_str(",\n");
    Some(text)
}

/// Text under construction: set declarations, and the rules of the two directions.
pub(super) struct Family<'a> {
    pub(super) v4: bool,
    pub(super) interface: &'a str,
    pub(super) marks: Marks,
    pub(super) sets: String,
    pub(super) outward: String,
    pub(super) inward: String,
}

impl Family<'_> {
    pub(super) const fn ip(&self) -> &'static str {
        if self.v4 { "ip" } else { "ip6" }
    }

    /// Writes `rules` into sets named after `label` and rules that use them.
    pub(super) fn add(&mut self, label: &str, rules: &[Rule]) {
        for (number, layer) in in_layers(rules).iter().enumerate() {
            for caught in [true, false] {
                for kind in Kind::ALL {
                    let rules = layer
                        .iter()
                        .filter(|r| r.verdict.is_caught() == caught && Kind::of(r) == kind);
                    let elements: Vec<String> = rules.filter_map(|r| element(r, kind)).collect();
                    let class = if caught { 'p' } else { 'b' };
                    for (part, elements) in elements.chunks(LARGEST_SET).enumerate() {
                        let name = format!("{label}_{number}{class}{}{part}", kind.letter());
                        self.rule(&name, kind, caught, &elements.concat());
                    }
                }
            }
        }
    }

    fn rule(&mut self, name: &str, kind: Kind, caught: bool, elements: &str) {
        let ip = self.ip();
        let (out, drop) =
            if caught { ("goto protect", "goto arrived") } else { ("return", "return") };
        if kind == Kind::All {
            // What comes out of a tunnel would go back into it. Older kernels do not know any
            // more behind routing where a packet came from; its mark tells.
            let Marks { mask, emerged, .. } = self.marks;
            let _ = writeln!(
                self.outward,
                "meta mark & {mask:#010x} != {emerged:#010x} iifname != \"{}\" {out}",
                self.interface
            );
            let _ = writeln!(self.inward, "{drop}");
            return;
        }
        let _ = writeln!(
            self.sets,
            "set {name} {{\ntypeof {}\nflags interval\nelements = {{\n{elements}}}\n}}",
            kind.key(ip, true)
        );
        let _ = writeln!(self.outward, "{} @{name} {out}", kind.key(ip, true));
        let _ = writeln!(self.inward, "{} @{name} {drop}", kind.key(ip, false));
    }
}

/// The elements of a set with every address of a peer's side that a rule catches; `None` when
/// that says nothing. Most clear packets are to none of them, which one cheap look-up tells.
pub(super) fn remote(rules: &[Rule], v4: bool) -> Option<String> {
    let caught = rules.iter().filter(|rule| rule.verdict.is_caught());
    let spans = Span::union(caught.map(|rule| rule.remote).collect());
    if spans.is_empty() || spans.contains(&Span::full(v4)) {
        return None;
    }
    let mut text = String::new();
    for span in spans {
        range(&mut text, v4, span);
        text.push_str(",\n");
    }
    Some(text)
}

/// Later fragments show no ports, so the kernel is asked to put packets together before they are
/// matched ([`DEFRAGMENT`]). Where it cannot, and a rule protects some ports, fragments of the
/// protocol are caught whatever their ports were, and the data plane drops those it cannot place.
pub(super) fn for_fragments(rules: &[Rule]) -> Vec<Rule> {
    rules
        .iter()
        .filter(|rule| rule.verdict.is_caught() || !rule.has_ports())
        .map(|rule| Rule { local_ports: PortRange::ANY, remote_ports: PortRange::ANY, ..*rule })
        .collect()
}

/// Opaque ports are matched by the data plane; steering catches the whole protocol.
pub(super) fn for_packets(rule: &Rule) -> Rule {
    let opaque = |range| if range == PortRange::OPAQUE { PortRange::ANY } else { range };
    Rule { local_ports: opaque(rule.local_ports), remote_ports: opaque(rule.remote_ports), ..*rule }
}
