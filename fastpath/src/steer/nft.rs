//! The nftables table that decides which clear packets are ours.
//!
//! ```text
//!   arrivals ─▶ DNAT, marks of others ─▶ prerouting ─▶ routing ┬▶ guard ─▶ SNAT ─▶ guard ─▶ out
//!                                own ─▶ ... ─▶ output ─────────┘
//! ```
//!
//! Marking is what brings packets to us; the guards stand where it did not help: behind routing, what
//! selectors cover and what has our mark leaves through the TUN interface or not at all, whatever
//! others did to marks, addresses or routing rules, and also when this process is dead. They
//! look before and behind source NAT: at what was meant, and at what the wire would show.
//!
//! One table, replaced under the cover of a second one, so that there is never a moment without
//! rules. Selectors become sets of concatenated intervals, so that thousands cost one look-up.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::{Command, Stdio},
};

use sa_store::PortRange;

use super::{
    Marks, SteeringConfig,
    counter::{self, CLEAR_DROPPED, Count, STRAYED},
};
use crate::{
    error::Error,
    policy::{Rule, Span, in_layers},
};

/// The kernel compares a new interval with all that its set has already: what one large set takes
/// grows with the square of its size. More sets than one cost a packet a look-up each.
const LARGEST_SET: usize = 2000;

/// Where the chains hook in. What others do before routing (marks of theirs, restored or wiped;
/// new destinations) has happened when we decide, as late as possible.
const LAST: i32 = 1000;
/// The same for own packets, but before others filter by the interface that a packet leaves by:
/// our mark may change it. Behind destination NAT (-100, firewalld -90), before filters (0).
const BEFORE_FILTER: i32 = -50;
/// Packets as they are on the wire on arrival, and as they were meant when they leave: NAT cannot
/// come before connection tracking (-200).
const BEFORE_NAT: i32 = -250;

/// Which of two tables; see [`replace`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The one that stays.
    First,
    /// The one that covers it while it is replaced.
    Second,
}

/// What a rule's set is keyed by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
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

    fn of(rule: &Rule) -> Self {
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
struct Family<'a> {
    v4: bool,
    interface: &'a str,
    marks: Marks,
    sets: String,
    outward: String,
    inward: String,
}

impl Family<'_> {
    const fn ip(&self) -> &'static str {
        if self.v4 { "ip" } else { "ip6" }
    }

    /// Writes `rules` into sets named after `label` and rules that use them.
    fn add(&mut self, label: &str, rules: &[Rule]) {
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
fn remote(rules: &[Rule], v4: bool) -> Option<String> {
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
fn for_fragments(rules: &[Rule]) -> Vec<Rule> {
    rules
        .iter()
        .filter(|rule| rule.verdict.is_caught() || !rule.has_ports())
        .map(|rule| Rule { local_ports: PortRange::ANY, remote_ports: PortRange::ANY, ..*rule })
        .collect()
}

/// Opaque ports are matched by the data plane; steering catches the whole protocol.
fn for_packets(rule: &Rule) -> Rule {
    let opaque = |range| if range == PortRange::OPAQUE { PortRange::ANY } else { range };
    Rule { local_ports: opaque(rule.local_ports), remote_ports: opaque(rule.remote_ports), ..*rule }
}

/// A chain that no packet comes to. That a rule with `tproxy` exists makes the kernel put fragments
/// together in front of all chains, as connection tracking does, without its table of connections.
/// Behind them it cuts what it put together again.
const DEFRAGMENT: &str = "chain defragment {\nmeta l4proto udp tproxy to :1\n}\n";

/// The whole table for `nft -f -`; it goes on counting from `dropped`.
fn ruleset(
    config: &SteeringConfig,
    place: Place,
    rules: &[Rule],
    dropped: Count,
    defragment: bool,
) -> String {
    let table = &config.nft_table;
    let tun = &config.interface;
    let marks = config.marks();
    let mut text = removal(config);
    let Count { packets, bytes } = dropped;
    let _ = writeln!(
        text,
        "table inet {table} {{\ncounter {STRAYED} {{\n}}\n\
         counter {CLEAR_DROPPED} {{\npackets {packets} bytes {bytes}\n}}"
    );
    if defragment {
        text.push_str(DEFRAGMENT);
    }
    let mut jumps = (String::new(), String::new());
    for v4 in [true, false] {
        let of_family: Vec<Rule> =
            rules.iter().filter(|rule| rule.v4 == v4).map(for_packets).collect();
        let (digit, nfproto) = if v4 { (4, "ipv4") } else { (6, "ipv6") };
        let new = || Family {
            v4,
            interface: tun,
            marks,
            sets: String::new(),
            outward: String::new(),
            inward: String::new(),
        };
        if of_family.is_empty() {
            continue;
        }
        let mut whole = new();
        whole.add(&format!("w{digit}"), &of_family);
        let mut chains = String::new();
        if of_family.iter().any(Rule::has_ports) {
            let later = if v4 { "ip frag-off & 0x1fff != 0" } else { "frag frag-off != 0" };
            let mut cut = new();
            cut.add(&format!("f{digit}"), &for_fragments(&of_family));
            text.push_str(&cut.sets);
            let _ = writeln!(chains, "chain out{digit}_cut {{\n{}}}", cut.outward);
            let _ = writeln!(chains, "chain in{digit}_cut {{\n{}}}", cut.inward);
            whole.outward.insert_str(0, &format!("{later} goto out{digit}_cut\n"));
            whole.inward.insert_str(0, &format!("{later} goto in{digit}_cut\n"));
        }
        if let Some(elements) = remote(&of_family, v4) {
            let ip = whole.ip();
            let _ = writeln!(
                text,
                "set r{digit} {{\ntype ipv{digit}_addr\nflags interval\nelements = {{\n{elements}}}\n}}"
            );
            whole.outward.insert_str(0, &format!("{ip} daddr != @r{digit} return\n"));
            whole.inward.insert_str(0, &format!("{ip} saddr != @r{digit} return\n"));
        }
        text.push_str(&whole.sets);
        text.push_str(&chains);
        let _ = writeln!(text, "chain out{digit} {{\n{}}}", whole.outward);
        let _ = writeln!(text, "chain in{digit} {{\n{}}}", whole.inward);
        let _ = writeln!(jumps.0, "meta nfproto {nfproto} jump out{digit}");
        let _ = writeln!(jumps.1, "meta nfproto {nfproto} jump in{digit}");
    }
    let everything = rules.iter().any(|rule| Kind::of(rule) == Kind::All);
    text.push_str(&chains(config, place, everything, &jumps.0, &jumps.1));
    text.push_str("}\n");
    text
}

/// The chains that packets meet. Lines that jump to what selectors cover, and to what may not
/// arrive in clear, are `jump_out` and `jump_in`; `everything` is whether a rule covers everything.
fn chains(
    config: &SteeringConfig,
    place: Place,
    everything: bool,
    jump_out: &str,
    jump_in: &str,
) -> String {
    let tun = &config.interface;
    let (ike, nat) = (config.ike_port, config.nat_port);
    let Marks { mask, protect, bypass, pass, emerged } = config.marks();
    let keep = !mask;
    // Named one by one: the look-up behind `fib` sees our own `unreachable` routes as well, and
    // what they stop must still be caught. Not anycast: the first address of an IPv6 network
    // behind the TUN interface looks like it.
    let not_ours = "fib daddr type { local, broadcast, multicast } accept";
    // Neighbour discovery (types 133 to 137) is how the outer packets find their way.
    let discovery = "icmpv6 type 133-137 ip6 hoplimit 255 accept";
    let is = |mark: u32| format!("meta mark & {mask:#010x} == {mark:#010x}");
    let set = |mark: u32| format!("meta mark set meta mark & {keep:#010x} | {mark:#010x}");
    let (is_bypass, is_protect) = (is(bypass), is(protect));
    let (set_pass, set_protect) = (set(pass), set(protect));
    // Only one of two tables takes marks away, and the other one decides behind it, so that the
    // one that is whole at a moment has the last word.
    let (prerouting, output) = match place {
        Place::First => (LAST, BEFORE_FILTER),
        Place::Second => (LAST + 1, BEFORE_FILTER + 1),
    };
    let first = |lines: String| if place == Place::First { lines } else { String::new() };
    let unmark = first(format!("meta mark & {mask:#010x} != 0 {}\n", set(0)));
    let pass_on = first(format!("oifname \"{tun}\" goto pass\noifname \"lo\" goto pass\n"));
    // Marks of packets that we do not steer are left alone wherever that is possible.
    let from_tunnel = first(if everything {
        format!("iifname \"{tun}\" {}\n", set(emerged))
    } else {
        String::new()
    });
    // What few packets need to be asked is asked behind what selectors cover, not before.
    format!(
        "chain protect {{
{not_ours}
{discovery}
{set_protect}
}}
chain arrived {{
meta l4proto 50 fib daddr type local accept
udp dport {{ {ike}, {nat} }} fib daddr type local accept
meta l4proto 17 ip frag-off & 0x1fff != 0 fib daddr type local accept
meta l4proto 17 frag frag-off != 0 fib daddr type local accept
{discovery}
counter name {CLEAR_DROPPED} drop
}}
chain clear {{
{jump_in}}}
chain arrivals {{
type filter hook prerouting priority {BEFORE_NAT}; policy accept;
iifname \"{tun}\" accept
iifname \"lo\" accept
{jump_in}}}
chain prerouting {{
type filter hook prerouting priority {prerouting}; policy accept;
iifname \"lo\" accept
{unmark}{from_tunnel}iifname != \"{tun}\" jump clear
{jump_out}}}
chain pass {{
meta mark & {mask:#010x} != 0 accept
{not_ours}
{discovery}
{set_pass}
}}
chain output {{
type route hook output priority {output}; policy accept;
{is_bypass} accept
{unmark}{jump_out}{pass_on}}}
chain guard {{
oifname \"{tun}\" accept
oifname \"lo\" accept
{is_bypass} accept
{jump_out}{is_protect} counter name {STRAYED} drop
}}
chain guard_before_nat {{
type filter hook postrouting priority {BEFORE_NAT}; policy accept;
jump guard
}}
chain guard_behind_nat {{
type filter hook postrouting priority {LAST}; policy accept;
jump guard
}}
"
    )
}

/// Makes `rules` what is steered. A transaction that replaces a table is not one moment for a
/// packet: hooks and sets change one after the other, and a packet in between meets neither the
/// old rules nor the new ones. So with `cover` the new rules stand in a second table meanwhile;
/// both tables mark and drop alike, and at any moment one of them is whole.
pub(super) fn replace(config: &SteeringConfig, rules: &[Rule], cover: bool) -> Result<(), Error> {
    // A counter that cannot be read is no reason to leave anything unprotected.
    let dropped = || counter::clear_dropped(&config.nft_table).unwrap_or_default();
    if !cover {
        return load_rules(config, Place::First, rules, dropped());
    }
    let meanwhile = meanwhile(config);
    load_rules(&meanwhile, Place::Second, rules, Count::default())?;
    let replaced = load_rules(config, Place::First, rules, dropped());
    // Refused rules do not stay in force in the second table either.
    let removed = load(&removal(&meanwhile));
    replaced.and(removed)
}

/// Loads `rules`, with whole packets to match where it matters and the kernel can.
fn load_rules(
    config: &SteeringConfig,
    place: Place,
    rules: &[Rule],
    dropped: Count,
) -> Result<(), Error> {
    let ports = rules.iter().any(|rule| for_packets(rule).has_ports());
    if ports && load(&ruleset(config, place, rules, dropped, true)).is_ok() {
        return Ok(());
    }
    load(&ruleset(config, place, rules, dropped, false))?;
    if ports {
        tracing::warn!(
            "the kernel has no nft_tproxy: fragments of protocols that a child protects some ports \
             of do not pass between its networks, whatever their ports"
        );
    }
    Ok(())
}

/// Whether a table of ours stands already, left by a process before.
pub(super) fn stands(config: &SteeringConfig) -> bool {
    load(&format!("list chain inet {} protect\n", config.nft_table)).is_ok()
}

/// Removes every table of ours, whether or not it is there.
pub(super) fn remove(config: &SteeringConfig) -> Result<(), Error> {
    load(&format!("{}{}", removal(config), removal(&meanwhile(config))))
}

/// The same steering in the second table.
fn meanwhile(config: &SteeringConfig) -> SteeringConfig {
    SteeringConfig { nft_table: format!("{}_meanwhile", config.nft_table), ..config.clone() }
}

/// Removes the table, whether or not it is there.
fn removal(config: &SteeringConfig) -> String {
    let table = &config.nft_table;
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Hands `text` to nft as one transaction.
fn load(text: &str) -> Result<(), Error> {
    let spawn = |program: &str| {
        Command::new(program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    // Services often run without sbin in PATH.
    let mut child = spawn("nft")
        .or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => spawn("/usr/sbin/nft"),
            _ => Err(error),
        })
        .map_err(Error::NftMissing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe means that nft ended early; its message says why.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(Error::NftMissing)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let first: Vec<&str> = message.lines().take(3).collect();
    Err(Error::Nft(first.join(" ")))
}
