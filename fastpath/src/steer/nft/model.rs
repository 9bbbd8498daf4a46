//! The table as data. Its text is what nftables loads, and tests follow packets through the same
//! data, so that what they judge is what stands in the kernel.

use std::fmt::{self, Display, Formatter};

use sa_store::PortRange;

use super::super::counter::{CLEAR_DROPPED, Count, STRAYED};
use crate::policy::Span;

/// Everything between the braces of the table.
#[derive(Debug)]
pub(super) struct Table {
    /// What the counter of clear arrivals goes on from.
    pub dropped: Count,
    /// Sets of rules, in no order.
    pub sets: Vec<Set>,
    /// Sets of the peers' addresses.
    pub peers: Vec<Peers>,
    /// Chains, each behind those that it leads to.
    pub chains: Vec<Chain>,
}

/// A set of concatenated intervals.
#[derive(Debug)]
pub(super) struct Set {
    pub name: String,
    pub v4: bool,
    pub key: Key,
    pub elements: Vec<Element>,
}

/// A set of addresses.
#[derive(Debug)]
pub(super) struct Peers {
    pub name: String,
    pub v4: bool,
    pub spans: Vec<Span>,
}

/// What a set is keyed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    /// Addresses.
    Addresses,
    /// Addresses and protocol.
    Protocol,
    /// Addresses, protocol and ports.
    Ports,
    /// Addresses, protocol, ICMP type and code.
    Icmp,
    /// Addresses, protocol, mobility header type and an octet behind it that means nothing.
    Mobility,
}

/// An element of a set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element {
    pub local: Span,
    pub remote: Span,
    pub protocol: u8,
    /// Local and remote ports; the first one alone where the key has one number only.
    pub ports: [PortRange; 2],
}

/// A chain.
#[derive(Debug)]
pub(super) struct Chain {
    pub name: String,
    pub hook: Option<Hook>,
    pub lines: Vec<Line>,
}

/// Where a chain meets packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hook {
    /// Packets that arrived.
    Prerouting(i32),
    /// Own packets; a new mark routes them anew.
    Output(i32),
    /// Packets that leave.
    Postrouting(i32),
}

/// One rule of nftables: what it matches, and what happens then.
#[derive(Clone, Debug)]
pub(super) struct Line(pub Vec<Match>, pub Vec<Action>);

/// What a line matches. A line with something in it that a packet does not have does not match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Match {
    /// Our bits of the mark are, or are not, these.
    Mark { mask: u32, value: u32, is: bool },
    /// It came through an interface, or not.
    From { interface: String, is: bool },
    /// It leaves through an interface.
    To(String),
    /// It came through the interface with this index. Names of others could be anything.
    FromIndex(u32),
    /// It leaves through the interface with this index.
    ToIndex(u32),
    /// It is not known yet through which interface it leaves.
    Unrouted,
    /// IPv4, or IPv6.
    Family { v4: bool },
    /// Protocols.
    Protocols(Vec<u8>),
    /// The protocol can be told: not so where IPv6 extension headers end too early.
    ProtocolSeen,
    /// The first, or the second, 16 bits of the next layer are there.
    Word { second: bool },
    /// A fragment that is not the first.
    Later { v4: bool },
    /// An IPv6 packet with a fragment header.
    Fragment,
    /// The peer's address is not in a set. The peer is where it goes to when `outward`.
    NotTo { peers: String, v4: bool, outward: bool },
    /// An element of a set fits; the source is local when `outward`.
    In { set: String, v4: bool, key: Key, outward: bool },
    /// The destination is an address of this machine.
    ToUs,
    /// The destination is a broadcast or multicast address.
    ToMany,
    /// UDP to one of these ports.
    UdpTo(Vec<u16>),
    /// Neighbour discovery, from this link.
    Discovery,
}

/// What happens to a packet that a line matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// Our bits of the mark, which are all but `keep`, become `value`.
    SetMark {
        keep: u32,
        value: u32,
    },
    Count(&'static str),
    /// See [`super::DEFRAGMENT`].
    Tproxy,
}

impl Key {
    pub(super) const fn letter(self) -> char {
        match self {
            Self::Addresses => 'a',
            Self::Protocol => 'p',
            Self::Ports => 't',
            Self::Icmp => 'i',
            Self::Mobility => 'm',
        }
    }

    /// As a packet is matched; `outward` also as the set is declared.
    fn text(self, v4: bool, outward: bool) -> String {
        let ip = ip(v4);
        let (local, remote) = if outward { ("s", "d") } else { ("d", "s") };
        let addresses = format!("{ip} {local}addr . {ip} {remote}addr");
        match self {
            Self::Addresses => addresses,
            Self::Protocol => format!("{addresses} . meta l4proto"),
            Self::Ports => {
                format!("{addresses} . meta l4proto . th {local}port . th {remote}port")
            }
            // Type and code are the first two octets, where others have their source port.
            Self::Icmp => format!("{addresses} . meta l4proto . th sport"),
            Self::Mobility => format!("{addresses} . meta l4proto . th dport"),
        }
    }
}

const fn ip(v4: bool) -> &'static str {
    if v4 { "ip" } else { "ip6" }
}

/// A name in quotes. nftables takes a star at the end for "whatever begins so".
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('*', "\\*"))
}

fn list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    match items.as_slice() {
        [one] => one.clone(),
        all => format!("{{ {} }}", all.join(", ")),
    }
}

struct Range(bool, Span);

impl Display for Range {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(v4, span) = *self;
        let (start, end) = (Span::address(v4, span.start), Span::address(v4, span.end));
        if start == end { write!(f, "{start}") } else { write!(f, "{start}-{end}") }
    }
}

fn ports(f: &mut Formatter<'_>, range: PortRange) -> fmt::Result {
    if range.start == range.end {
        write!(f, " . {}", range.start)
    } else {
        write!(f, " . {}-{}", range.start, range.end)
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Count { packets, bytes } = self.dropped;
        writeln!(f, "counter {STRAYED} {{\n}}")?;
        writeln!(f, "counter {CLEAR_DROPPED} {{\npackets {packets} bytes {bytes}\n}}")?;
        self.sets.iter().try_for_each(|set| set.fmt(f))?;
        self.peers.iter().try_for_each(|peers| peers.fmt(f))?;
        self.chains.iter().try_for_each(|chain| chain.fmt(f))
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let key = self.key.text(self.v4, true);
        writeln!(f, "set {} {{\ntypeof {key}\nflags interval\nelements = {{", self.name)?;
        for element in &self.elements {
            let (local, remote) = (Range(self.v4, element.local), Range(self.v4, element.remote));
            write!(f, "{local} . {remote}")?;
            if self.key != Key::Addresses {
                write!(f, " . {}", element.protocol)?;
            }
            let [first, second] = element.ports;
            match self.key {
                Key::Addresses | Key::Protocol => {}
                Key::Icmp | Key::Mobility => ports(f, first)?,
                Key::Ports => {
                    ports(f, first)?;
                    ports(f, second)?;
                }
            }
            f.write_str(",\n")?;
        }
        f.write_str("}\n}\n")
    }
}

impl Display for Peers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digit = if self.v4 { 4 } else { 6 };
        writeln!(f, "set {} {{\ntype ipv{digit}_addr\nflags interval", self.name)?;
        f.write_str("elements = {\n")?;
        for span in &self.spans {
            writeln!(f, "{},", Range(self.v4, *span))?;
        }
        f.write_str("}\n}\n")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "chain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            let (kind, name, priority) = match hook {
                Hook::Prerouting(priority) => ("filter", "prerouting", priority),
                Hook::Output(priority) => ("route", "output", priority),
                Hook::Postrouting(priority) => ("filter", "postrouting", priority),
            };
            writeln!(f, "type {kind} hook {name} priority {priority}; policy accept;")?;
        }
        self.lines.iter().try_for_each(|line| line.fmt(f))?;
        f.write_str("}\n")
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let matches = self.0.iter().map(ToString::to_string);
        let words: Vec<String> = matches.chain(self.1.iter().map(ToString::to_string)).collect();
        writeln!(f, "{}", words.join(" "))
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let equal = |is: bool| if is { "==" } else { "!=" };
        match self {
            Self::Mark { mask, value, is } => {
                write!(f, "meta mark & {mask:#010x} {} {value:#010x}", equal(*is))
            }
            Self::From { interface, is } => {
                write!(f, "iifname {} {}", equal(*is), quoted(interface))
            }
            Self::To(interface) => write!(f, "oifname {}", quoted(interface)),
            Self::FromIndex(index) => write!(f, "iif {index}"),
            Self::ToIndex(index) => write!(f, "oif {index}"),
            Self::Unrouted => f.write_str("oif 0"),
            Self::Family { v4 } => {
                write!(f, "meta nfproto {}", if *v4 { "ipv4" } else { "ipv6" })
            }
            Self::Protocols(protocols) => write!(f, "meta l4proto {}", list(protocols)),
            Self::ProtocolSeen => f.write_str("meta l4proto 0-255"),
            Self::Word { second: false } => f.write_str("th sport 0-65535"),
            Self::Word { second: true } => f.write_str("th dport 0-65535"),
            Self::Later { v4: true } => f.write_str("ip frag-off & 0x1fff != 0"),
            Self::Later { v4: false } => f.write_str("frag frag-off != 0"),
            Self::Fragment => f.write_str("exthdr frag exists"),
            Self::NotTo { peers, v4, outward } => {
                let side = if *outward { "daddr" } else { "saddr" };
                write!(f, "{} {side} != @{peers}", ip(*v4))
            }
            Self::In { set, v4, key, outward } => {
                write!(f, "{} @{set}", key.text(*v4, *outward))
            }
            Self::ToUs => f.write_str("fib daddr type local"),
            Self::ToMany => f.write_str("fib daddr type { broadcast, multicast }"),
            Self::UdpTo(ports) => write!(f, "udp dport {}", list(ports)),
            Self::Discovery => f.write_str("icmpv6 type 133-137 ip6 hoplimit 255"),
        }
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::SetMark { keep, value } => {
                write!(f, "meta mark set meta mark & {keep:#010x} | {value:#010x}")
            }
            Self::Count(counter) => write!(f, "counter name {counter}"),
            Self::Tproxy => f.write_str("tproxy to :1"),
        }
    }
}
