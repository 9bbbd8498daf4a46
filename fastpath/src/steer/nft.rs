//! The nftables table that decides which clear packets are ours.
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
    SteeringConfig,
    counter::{self, CLEAR_DROPPED, Count},
};
use crate::{
    error::Error,
    policy::{Rule, Span, in_layers},
};

/// The kernel compares a new interval with all that its set has already: what one large set takes
/// grows with the square of its size. More sets than one cost a packet a look-up each.
const LARGEST_SET: usize = 2000;

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
        let (out, drop) = if caught {
            ("goto protect", "counter name clear_dropped drop")
        } else {
            ("return", "return")
        };
        if kind == Kind::All {
            let _ = writeln!(self.outward, "iifname != \"{}\" {out}", self.interface);
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
fn ruleset(config: &SteeringConfig, rules: &[Rule], dropped: Count, defragment: bool) -> String {
    let table = &config.nft_table;
    let tun = &config.interface;
    let marks = config.marks();
    let (keep, protect, bypass, pass) = (!marks.mask, marks.protect, marks.bypass, marks.pass);
    let mask = marks.mask;
    let (ike, nat) = (config.ike_port, config.nat_port);
    let mut text = removal(config);
    let Count { packets, bytes } = dropped;
    let _ = writeln!(
        text,
        "table inet {table} {{\ncounter {CLEAR_DROPPED} {{\npackets {packets} bytes {bytes}\n}}"
    );
    if defragment {
        text.push_str(DEFRAGMENT);
    }
    let mut jumps = (String::new(), String::new());
    for v4 in [true, false] {
        let of_family: Vec<Rule> =
            rules.iter().filter(|rule| rule.v4 == v4).map(for_packets).collect();
        let (digit, ip, nfproto) = if v4 { (4, "ip", "ipv4") } else { (6, "ip6", "ipv6") };
        let new = || Family {
            v4,
            interface: tun,
            sets: String::new(),
            outward: String::new(),
            inward: String::new(),
        };
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
        text.push_str(&whole.sets);
        text.push_str(&chains);
        let _ = writeln!(text, "chain out{digit} {{\n{}}}", whole.outward);
        let _ = writeln!(text, "chain in{digit} {{\n{}}}", whole.inward);
        let _ = ip;
        let _ = writeln!(jumps.0, "meta nfproto {nfproto} jump out{digit}");
        let _ = writeln!(jumps.1, "meta nfproto {nfproto} jump in{digit}");
    }
    let (jump_out, jump_in) = jumps;
    // Named one by one: the look-up behind `fib` sees our own `unreachable` routes as well, and
    // what they stop must still be caught.
    let not_ours = "fib daddr type { local, broadcast, multicast, anycast } accept";
    // Neighbour discovery (types 133 to 137) is how the outer packets find their way.
    let discovery = "icmpv6 type 133-137 ip6 hoplimit 255 accept";
    let _ = write!(
        text,
        "chain protect {{
meta mark set meta mark & {keep:#010x} | {protect:#010x}
}}
chain prerouting {{
type filter hook prerouting priority -150; policy accept;
iifname \"{tun}\" goto from_tunnel
iifname \"lo\" accept
meta l4proto 50 fib daddr type local accept
udp dport {{ {ike}, {nat} }} fib daddr type local accept
meta l4proto 17 ip frag-off & 0x1fff != 0 fib daddr type local accept
meta l4proto 17 frag frag-off != 0 fib daddr type local accept
{discovery}
{jump_in}{not_ours}
{jump_out}}}
chain from_tunnel {{
{not_ours}
{jump_out}}}
chain output {{
type route hook output priority -150; policy accept;
meta mark & {mask:#010x} == {bypass:#010x} accept
{not_ours}
{discovery}
{jump_out}meta mark & {mask:#010x} == 0 oifname {{ \"{tun}\", \"lo\" }} meta mark set meta mark & {keep:#010x} | {pass:#010x}
}}
}}
"
    );
    text
}

/// Makes `rules` what is steered. A transaction that replaces a table is not one moment for a
/// packet: hooks and sets change one after the other, and a packet in between meets neither the
/// old rules nor the new ones. So with `cover` the new rules stand in a second table meanwhile;
/// both tables mark and drop alike, and at any moment one of them is whole.
pub(super) fn replace(config: &SteeringConfig, rules: &[Rule], cover: bool) -> Result<(), Error> {
    // A counter that cannot be read is no reason to leave anything unprotected.
    let dropped = || counter::clear_dropped(&config.nft_table).unwrap_or_default();
    if !cover {
        return load_rules(config, rules, dropped());
    }
    let meanwhile = meanwhile(config);
    load_rules(&meanwhile, rules, Count::default())?;
    let replaced = load_rules(config, rules, dropped());
    // Refused rules do not stay in force in the second table either.
    let removed = load(&removal(&meanwhile));
    replaced.and(removed)
}

/// Loads `rules`, with whole packets to match where it matters and the kernel can.
fn load_rules(config: &SteeringConfig, rules: &[Rule], dropped: Count) -> Result<(), Error> {
    let ports = rules.iter().any(|rule| for_packets(rule).has_ports());
    if ports && load(&ruleset(config, rules, dropped, true)).is_ok() {
        return Ok(());
    }
    load(&ruleset(config, rules, dropped, false))?;
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
