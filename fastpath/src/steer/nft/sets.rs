//! From rules to sets, and to the lines that look packets up in them.
//!
//! A packet does not always show what a rule asks for, so there is one list of lines for each
//! view of a packet, and in front of them what tells the views apart:
//!
//! ```text
//!   outN ┬▶ ports are seen, or are not there          rules as they stand
//!        ├▶ ports are not seen (where a rule asks)    OPAQUE matches, ranges do not
//!        ├▶ later fragment of IPv4                    whatever its flow may be
//!        └▶ later fragment of IPv6, headers cut off   whatever its flow and protocol may be
//! ```

use sa_store::PortRange;

use super::{
    super::SteeringConfig,
    chains::{ARRIVED, ARRIVED_NAMED, PROTECT, PROTECT_NAMED},
    model::{Action, Chain, Element, Key, Line, Match, Peers, Set},
};
use crate::policy::{Rule, Span, Verdict, in_layers};

/// The kernel compares a new interval with all that its set has already: what one large set takes
/// grows with the square of its size. More sets than one cost a packet a look-up each.
const LARGEST_SET: usize = 2000;

/// Protocols whose ports are seen when the second 16 bits are: those with ports, and mobility.
pub(in crate::steer) const BY_SECOND_WORD: [u8; 6] = [6, 17, 33, 132, 135, 136];
/// Those whose type and code are seen when the first 16 bits are.
pub(in crate::steer) const BY_FIRST_WORD: [u8; 2] = [1, 58];

/// What a packet shows of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::steer) enum View {
    /// Its ports, or it has none.
    Seen,
    /// No ports.
    Hidden,
    /// A fragment of a flow that cannot be told. Where the kernel puts fragments together first
    /// ([`super::DEFRAGMENT`]) hardly any come here.
    Cut,
    /// Nor can its protocol: that of a later IPv6 fragment is what the first one says (RFC 8200
    /// §4.5), and headers may end before it.
    Blind,
}

impl View {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Seen => "_seen",
            Self::Hidden => "_hidden",
            Self::Cut => "_cut",
            Self::Blind => "_blind",
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Seen => 'w',
            Self::Hidden => 'h',
            Self::Cut => 'f',
            Self::Blind => 'b',
        }
    }

    /// A rule as it is for such packets; `None` if it is none. What may belong to a flow that is
    /// caught is caught, and a bypass opens only what is certainly its own; the data plane drops
    /// what it cannot place.
    pub(in crate::steer) fn of(self, rule: &Rule) -> Option<Rule> {
        let any = |rule: &Rule| Rule {
            local_ports: PortRange::ANY,
            remote_ports: PortRange::ANY,
            ..*rule
        };
        let sides = [rule.local_ports, rule.remote_ports];
        match self {
            Self::Seen => (!sides.contains(&PortRange::OPAQUE)).then_some(*rule),
            Self::Hidden => sides
                .iter()
                .all(|ports| ports.is_any() || *ports == PortRange::OPAQUE)
                .then(|| any(rule)),
            Self::Cut => (rule.verdict.is_caught() || !rule.has_ports()).then(|| any(rule)),
            Self::Blind => (rule.verdict.is_caught() || rule.is_wide())
                .then(|| Rule { protocol: 0, ..any(rule) }),
        }
    }
}

/// What a rule's set is keyed by; `None` where it covers everything: no set, one line.
fn key(rule: &Rule) -> Option<Key> {
    let full = Span::full(rule.v4);
    match rule.protocol {
        1 | 58 if rule.has_ports() => Some(Key::Icmp),
        135 if rule.has_ports() => Some(Key::Mobility),
        _ if rule.has_ports() => Some(Key::Ports),
        0 if rule.local == full && rule.remote == full => None,
        0 => Some(Key::Addresses),
        _ => Some(Key::Protocol),
    }
}

/// The rule as an element of a set; `None` when no packet can match it.
fn element(rule: &Rule, key: Key) -> Option<Element> {
    let both = rule.local_ports.intersect(rule.remote_ports);
    let ports = match key {
        Key::Addresses | Key::Protocol => [PortRange::ANY; 2],
        Key::Ports => [rule.local_ports, rule.remote_ports],
        // One number stands for both sides.
        Key::Icmp => [both?; 2],
        // Packets have the type in the high octet, and no rule sees the low one.
        Key::Mobility => {
            let range = both?;
            let first = range.start.checked_next_multiple_of(0x100)?;
            let last = range.end | 0xff;
            (first <= range.end).then_some([PortRange { start: first, end: last }; 2])?
        }
    };
    Some(Element { local: rule.local, remote: rule.remote, protocol: rule.protocol, ports })
}

/// Whether a rule names what is exempt from rules that only cover it: ESP and UDP to our ports,
/// which our own sockets take, and neighbour discovery.
pub(in crate::steer) fn names_exempt(rule: &Rule, config: &SteeringConfig) -> bool {
    let ours = |port: u16| rule.local_ports.contains(port);
    match rule.protocol {
        50 => true,
        17 => !rule.local_ports.is_any() && (ours(config.ike_port) || ours(config.nat_port)),
        58 => [rule.local_ports, rule.remote_ports]
            .iter()
            .any(|types| !types.is_any() && types.start >> 8 <= 137 && 133 <= types.end >> 8),
        _ => false,
    }
}

/// The sets and chains of one family of addresses.
pub(super) struct Family<'a> {
    v4: bool,
    config: &'a SteeringConfig,
    pub sets: Vec<Set>,
    pub peers: Option<Peers>,
    pub chains: Vec<Chain>,
    /// Whether a rule covers everything.
    pub everything: bool,
}

/// Lines for what leaves, and for what arrives.
#[derive(Default)]
struct Lines {
    out: Vec<Line>,
    into: Vec<Line>,
}

impl Lines {
    /// The same lines, or the same but for the chain that they lead to, in both.
    fn both(&mut self, matches: &[Match], action: impl Fn(&str) -> Action) {
        self.out.push(Line(matches.to_vec(), vec![action("out")]));
        self.into.push(Line(matches.to_vec(), vec![action("in")]));
    }
}

impl<'a> Family<'a> {
    /// `rules` of one family, as sets and chains `outN` and `inN`.
    pub(super) fn new(v4: bool, rules: &[Rule], config: &'a SteeringConfig) -> Self {
        let (sets, chains) = (Vec::new(), Vec::new());
        let mut family = Self { v4, config, sets, peers: None, chains, everything: false };
        let digit = family.digit();
        let mut lines = Lines::default();
        if let Some(spans) = remote(rules, v4) {
            let name = format!("r{digit}");
            let peers = |outward| Match::NotTo { peers: name.clone(), v4, outward };
            lines.out.push(Line(vec![peers(true)], vec![Action::Return]));
            lines.into.push(Line(vec![peers(false)], vec![Action::Return]));
            family.peers = Some(Peers { name: name.clone(), v4, spans });
        }
        let opaque = rules.iter().any(|rule| View::Seen.of(rule).is_none());
        let whole = if needs_whole(rules, v4) {
            family.tell_apart(rules, opaque, &mut lines)
        } else {
            View::Seen
        };
        let whole = family.add(whole, rules);
        lines.out.extend(whole.out);
        lines.into.extend(whole.into);
        family.chain("", lines);
        family
    }

    /// The chain that catches what fragments may belong to.
    pub(super) fn unknown(&self) -> String {
        let view = if self.v4 { View::Cut } else { View::Blind };
        format!("out{}{}", self.digit(), view.suffix())
    }

    const fn digit(&self) -> char {
        if self.v4 { '4' } else { '6' }
    }

    /// Writes the lines that send packets to chains of their views, and those chains. Returns the
    /// view of what is left.
    fn tell_apart(&mut self, rules: &[Rule], opaque: bool, lines: &mut Lines) -> View {
        let (v4, digit) = (self.v4, self.digit());
        let goto =
            |view: View| move |way: &str| Action::Goto(format!("{way}{digit}{}", view.suffix()));
        let unknown = if v4 { View::Cut } else { View::Blind };
        let seen =
            [(&BY_SECOND_WORD[..], true), (&BY_FIRST_WORD, false)].map(|(protocols, second)| {
                [Match::Protocols(protocols.to_vec()), Match::Word { second }]
            });
        lines.both(&[Match::Later { v4 }], goto(unknown));
        if v4 {
            self.view(View::Cut, rules);
            if !opaque {
                return View::Seen;
            }
            self.view(View::Seen, rules);
            seen.iter().for_each(|matches| lines.both(matches, goto(View::Seen)));
            return View::Hidden;
        }
        // What shows no ports in its first fragment has headers that go on in later ones.
        let first = |way: &str| Action::Goto(format!("{way}{digit}_first"));
        lines.both(&[Match::Fragment], first);
        let other = if opaque { View::Hidden } else { View::Seen };
        let mut of_first = Lines::default();
        for matches in &seen {
            of_first.both(matches, goto(View::Seen));
            if opaque {
                lines.both(matches, goto(View::Seen));
            }
        }
        for protocols in [&BY_SECOND_WORD[..], &BY_FIRST_WORD] {
            of_first.both(&[Match::Protocols(protocols.to_vec())], goto(View::Blind));
        }
        of_first.both(&[Match::ProtocolSeen], goto(other));
        of_first.both(&[], goto(View::Blind));
        lines.both(&[Match::ProtocolSeen], goto(other));
        self.view(View::Seen, rules);
        if opaque {
            self.view(View::Hidden, rules);
        }
        self.view(View::Blind, rules);
        self.chain("_first", of_first);
        View::Blind
    }

    /// A chain of its own for a view.
    fn view(&mut self, view: View, rules: &[Rule]) {
        let lines = self.add(view, rules);
        self.chain(view.suffix(), lines);
    }

    fn chain(&mut self, suffix: &str, lines: Lines) {
        let digit = self.digit();
        for (way, lines) in [("out", lines.out), ("in", lines.into)] {
            self.chains.push(Chain { name: format!("{way}{digit}{suffix}"), hook: None, lines });
        }
    }

    /// Writes rules as `view` has them into sets, and returns the lines that use them.
    fn add(&mut self, view: View, rules: &[Rule]) -> Lines {
        let rules: Vec<Rule> = rules.iter().filter_map(|rule| view.of(rule)).collect();
        let mut lines = Lines::default();
        for (number, layer) in in_layers(&rules).iter().enumerate() {
            let mut targets: Vec<Target> =
                layer.iter().map(|rule| Target::of(rule, self.config)).collect();
            targets.sort_unstable();
            targets.dedup();
            for target in targets {
                let of_target = layer.iter().filter(|rule| Target::of(rule, self.config) == target);
                let mut keyed: Vec<(Option<Key>, Vec<Element>)> =
                    KEYS.into_iter().map(|key| (key, Vec::new())).collect();
                for rule in of_target {
                    let key = key(rule);
                    let Some((_, list)) = keyed.iter_mut().find(|(known, _)| *known == key) else {
                        continue;
                    };
                    match key {
                        Some(key) => list.extend(element(rule, key)),
                        None => self.all(target, &mut lines),
                    }
                }
                for (key, elements) in keyed {
                    let Some(key) = key else { continue };
                    for (part, elements) in elements.chunks(LARGEST_SET).enumerate() {
                        let (digit, kind) = (self.digit(), key.letter());
                        let (view, class) = (view.letter(), target.letters());
                        let name = format!("{view}{digit}_{number}{class}{kind}{part}");
                        self.set(name, key, elements.to_vec(), target, &mut lines);
                    }
                }
            }
        }
        lines
    }

    fn set(
        &mut self,
        name: String,
        key: Key,
        elements: Vec<Element>,
        target: Target,
        lines: &mut Lines,
    ) {
        let v4 = self.v4;
        let matched = |outward| vec![Match::In { set: name.clone(), v4, key, outward }];
        let (out, into) = target.actions();
        if let Target::Connected(index) = target {
            // Before routing the way out is not known yet; the guard looks again.
            for way in [Match::Unrouted, Match::ToIndex(index)] {
                let through = [matched(true), vec![way]].concat();
                lines.out.push(Line(through, vec![out.clone()]));
            }
            let through = [matched(false), vec![Match::FromIndex(index)]].concat();
            lines.into.push(Line(through, vec![into]));
        } else {
            lines.out.push(Line(matched(true), vec![out]));
            lines.into.push(Line(matched(false), vec![into]));
        }
        self.sets.push(Set { name, v4, key, elements });
    }

    /// A rule from everything to everything.
    fn all(&mut self, target: Target, lines: &mut Lines) {
        self.everything = true;
        // What comes out of a tunnel would go back into it. Older kernels do not know any more
        // behind routing where a packet came from; its mark tells.
        let marks = self.config.marks();
        let emerged = Match::Mark { mask: marks.mask, value: marks.emerged, is: false };
        let from = Match::From { interface: self.config.interface.clone(), is: false };
        let (out, into) = target.actions();
        lines.out.push(Line(vec![emerged, from], vec![out]));
        lines.into.push(Line(Vec::new(), vec![into]));
    }
}

const KEYS: [Option<Key>; 6] = [
    Some(Key::Addresses),
    Some(Key::Protocol),
    Some(Key::Ports),
    Some(Key::Icmp),
    Some(Key::Mobility),
    None,
];

/// Where a rule leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Target {
    /// It is caught, but for what is exempt.
    Caught,
    /// It is caught, and names something exempt.
    Named,
    /// It is open.
    Open,
    /// It is open through the interface with this index.
    Connected(u32),
}

impl Target {
    fn of(rule: &Rule, config: &SteeringConfig) -> Self {
        match rule.verdict {
            Verdict::Bypass => Self::Open,
            Verdict::Connected(index) => Self::Connected(index),
            Verdict::Protect(..) | Verdict::Discard if names_exempt(rule, config) => Self::Named,
            Verdict::Protect(..) | Verdict::Discard => Self::Caught,
        }
    }

    /// What sets of it have in their names.
    fn letters(self) -> String {
        match self {
            Self::Caught => "p".to_owned(),
            Self::Named => "n".to_owned(),
            Self::Open => "b".to_owned(),
            Self::Connected(index) => format!("c{index}"),
        }
    }

    fn actions(self) -> (Action, Action) {
        let goto = |chain: &str| Action::Goto(chain.to_owned());
        match self {
            Self::Caught => (goto(PROTECT), goto(ARRIVED)),
            Self::Named => (goto(PROTECT_NAMED), goto(ARRIVED_NAMED)),
            Self::Open | Self::Connected(_) => (Action::Return, Action::Return),
        }
    }
}

/// Whether rules ask for something that not every fragment shows.
pub(in crate::steer) fn needs_whole(rules: &[Rule], v4: bool) -> bool {
    rules.iter().any(|rule| rule.v4 == v4 && (rule.has_ports() || !v4 && rule.protocol != 0))
}

/// Every address of a peer's side that a rule catches; `None` when that says nothing. Most clear
/// packets are to none of them, which one cheap look-up tells.
fn remote(rules: &[Rule], v4: bool) -> Option<Vec<Span>> {
    let caught = rules.iter().filter(|rule| rule.verdict.is_caught());
    let spans = Span::union(caught.map(|rule| rule.remote).collect());
    let says_something = !spans.is_empty() && !spans.contains(&Span::full(v4));
    says_something.then_some(spans)
}
