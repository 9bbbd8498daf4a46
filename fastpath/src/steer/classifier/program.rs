//! The two programs: what they read of a packet, and what they do with what the rules say.
//!
//! R6 is the packet throughout, R7 our bits of its mark with [`FRAGMENT`] above them, R8 its
//! protocol, and R9 the offset of the next layer, then the two numbers in the place of ports.

mod walk;

use super::{
    super::{
        Marks, SteeringConfig,
        nft::{View, names_exempt, needs_whole},
    },
    asm::{
        Alu, Assembler, Cond, Label, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, Reg, Size, TooFar,
    },
    tree::{CLEAR, Entry, NAMED, TooMany, Tree, result},
};
use crate::policy::{Rule, Span, Verdict};

/// Fields of `struct __sk_buff`.
const LENGTH: i16 = 0;
const MARK: i16 = 8;
const PROTOCOL: i16 = 16;
const VLAN_PRESENT: i16 = 20;
const INGRESS: i16 = 36;
const INTERFACE: i16 = 40;
const SOCKET: i16 = 168;

/// Fields of `struct bpf_sock`: the address that a socket is bound to, or connected from.
const SOURCE_V4: i16 = 24;
const SOURCE_V6: i16 = 28;

/// Functions of the kernel.
const SKB_PULL_DATA: u32 = 39;
const SKB_LOAD_BYTES_RELATIVE: u32 = 68;
/// Offsets count from the network header.
const FROM_NETWORK: u32 = 1;

/// `TC_ACT_UNSPEC`: others go on.
pub(super) const PASS: u32 = u32::MAX;
/// `TC_ACT_SHOT`.
pub(super) const DROP: u32 = 2;

/// Places on the stack: the IP header, the same with its sides exchanged, and a few octets.
const HEADER: i16 = -40;
const EXCHANGED: i16 = -80;
const WORDS: i16 = -88;

/// In R7: there is an IPv6 fragment header.
const FRAGMENT: u64 = 1 << 32;

/// EtherTypes: IPv4 and IPv6.
const ETHER_TYPES: [u16; 2] = [0x0800, 0x86dd];
/// As `esp::inner::NextLayer` walks them; more hide the protocol.
const MOST_EXTENSION_HEADERS: usize = 9;

const ICMPV6: u32 = 58;
const UDP: u32 = 17;
const ESP: u32 = 50;

/// Where packets are met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Behind routing and NAT: what is caught is dropped.
    Out,
    /// Before both: what is caught is marked.
    In,
}

/// The program for one way.
pub(super) fn program(
    config: &SteeringConfig,
    rules: &[Rule],
    tun: u32,
    way: Way,
) -> Result<Vec<u8>, TooMany> {
    let mut code = Assembler::default();
    if rules.is_empty() {
        code.set(R0, PASS);
        code.exit();
        return code.finish().map_err(|TooFar| TooMany);
    }
    let (pass, drop) = (code.label(), code.label());
    let ports = [config.ike_port, config.nat_port];
    let writer = Writer { code, way, marks: config.marks(), ports, tun, pass, drop };
    writer.write(config, rules).map_err(|TooFar| TooMany)
}

/// What writing a program can fail with: all of it is "too many rules".
impl From<TooMany> for TooFar {
    fn from(_: TooMany) -> Self {
        Self
    }
}

struct Writer {
    code: Assembler,
    way: Way,
    marks: Marks,
    /// The UDP ports that our sockets send from.
    ports: [u16; 2],
    /// Index of the TUN interface.
    tun: u32,
    pass: Label,
    drop: Label,
}

/// Where the packets of one family go on, by what they show.
struct Views {
    v4: bool,
    seen: Label,
    hidden: Label,
    /// The flow cannot be told.
    unknown: Label,
}

/// An offset behind the network header.
#[derive(Clone, Copy)]
enum At {
    Fixed(u32),
    /// In R9.
    Next,
}

impl Writer {
    fn write(mut self, config: &SteeringConfig, rules: &[Rule]) -> Result<Vec<u8>, TooFar> {
        let (v4, v6) = (self.code.label(), self.code.label());
        let here = [true, false].map(|v4| rules.iter().any(|rule| rule.v4 == v4));
        self.begin(if here[0] { v4 } else { self.pass }, if here[1] { v6 } else { self.pass });
        let mut trees = Vec::new();
        for (start, is_v4) in [(v4, true), (v6, false)] {
            let rules: Vec<Rule> = rules.iter().filter(|rule| rule.v4 == is_v4).copied().collect();
            if !rules.is_empty() {
                self.code.bind(start);
                self.family(is_v4, &rules, config, &mut trees)?;
            }
        }
        self.code.bind(self.drop);
        if self.way == Way::In {
            self.code.load(Size::Four, R0, R6, MARK);
            self.code.alu(Alu::And, R0, !self.marks.mask);
            self.code.alu(Alu::Or, R0, self.marks.protect);
            self.code.store(R6, MARK, R0);
        } else {
            self.code.set(R0, DROP);
            self.code.exit();
        }
        self.code.bind(self.pass);
        self.code.set(R0, PASS);
        self.code.exit();
        for (label, tree) in trees {
            Tree::emit(&tree, label, &mut self.code);
        }
        self.code.finish()
    }

    /// Reads the first octets, and tells the families apart.
    fn begin(&mut self, v4: Label, v6: Label) {
        let (ip, pass, drop) = (self.code.label(), self.pass, self.drop);
        let code = &mut self.code;
        code.copy(R6, R1);
        code.load(Size::Four, R7, R6, MARK);
        code.alu(Alu::And, R7, self.marks.mask);
        if self.way == Way::Out {
            // Whoever marked it: it belongs into the TUN interface, where nobody asks.
            code.jump_if(Cond::Equal, R7, self.marks.protect, drop);
            // What has a tag was asked about at the interface of its VLAN, which a rule may be
            // bound to.
            code.load(Size::Four, R0, R6, VLAN_PRESENT);
            code.jump_if(Cond::Unequal, R0, 0, pass);
        }
        code.load(Size::Four, R0, R6, PROTOCOL);
        for kind in ETHER_TYPES {
            code.jump_if(Cond::Equal, R0, u16::from_ne_bytes(kind.to_be_bytes()).into(), ip);
        }
        code.jump(pass);
        code.bind(ip);
        self.read(At::Fixed(0), 20, HEADER, pass);
        let code = &mut self.code;
        code.load(Size::One, R0, R10, HEADER);
        code.alu(Alu::Right, R0, 4);
        code.jump_if(Cond::Equal, R0, 4, v4);
        code.jump_if(Cond::Equal, R0, 6, v6);
        code.jump(pass);
    }

    /// Everything for the packets of one family.
    fn family(
        &mut self,
        v4: bool,
        rules: &[Rule],
        config: &SteeringConfig,
        trees: &mut Vec<(Label, Tree)>,
    ) -> Result<(), TooFar> {
        let whole = needs_whole(rules, v4);
        let seen = self.code.label();
        let (hidden, unknown) =
            if whole { (self.code.label(), self.code.label()) } else { (seen, seen) };
        let views = Views { v4, seen, hidden, unknown };
        if v4 {
            self.walk_v4(&views);
        } else {
            self.walk_v6(&views);
        }
        let last = if v4 { View::Cut } else { View::Blind };
        let blocks = [(View::Seen, seen), (View::Hidden, hidden), (last, unknown)];
        for (view, label) in blocks.into_iter().take(if whole { 3 } else { 1 }) {
            self.code.bind(label);
            let fragment = matches!(view, View::Cut | View::Blind);
            if fragment && self.way == Way::In {
                // The whole packet will tell; a first fragment has told already.
                let pass = self.pass;
                self.code.jump(pass);
                continue;
            }
            let entries: Vec<Entry> = rules
                .iter()
                .filter_map(|rule| view.of(rule))
                .map(|rule| Entry {
                    result: result(&rule, names_exempt(&rule, config)),
                    but_from: is_everything(&rule).then_some(self.tun),
                    only_by: self.only_by(&rule),
                    rule,
                })
                .collect();
            let function = self.code.label();
            trees.push((function, Tree::new(v4, &entries)?));
            self.judge(v4, fragment, function);
        }
        Ok(())
    }

    /// Lets go what our own sockets send: it has their mark, and is ESP or comes from their ports.
    fn own(&mut self, ports_are_read: bool) {
        if self.way == Way::In {
            return;
        }
        let (next, pass) = (self.code.label(), self.pass);
        self.code.copy_word(R0, R7);
        self.code.jump_if(Cond::Unequal, R0, self.marks.bypass, next);
        self.jump_if_protocol(Cond::Equal, ESP, pass);
        self.jump_if_protocol(Cond::Unequal, UDP, next);
        if ports_are_read {
            self.code.copy_word(R0, R9);
            self.code.alu(Alu::Right, R0, 16);
            for port in self.ports {
                self.code.jump_if(Cond::Equal, R0, port.into(), pass);
            }
        } else {
            self.code.jump(pass);
        }
        self.code.bind(next);
    }

    /// Asks the rules, in the way that a packet goes and, of what is forwarded, in the other one.
    fn judge(&mut self, v4: bool, fragment: bool, function: Label) {
        let (pass, tun) = (self.pass, self.tun);
        if fragment {
            // Our guard in nftables saw the whole packet.
            self.code.copy_word(R0, R7);
            self.code.jump_if(Cond::Equal, R0, self.marks.whole, pass);
        }
        let other = self.code.label();
        self.interfaces(INTERFACE, Some(INGRESS));
        self.ask(HEADER, false, function);
        let checks_arrivals = self.way == Way::Out && !fragment;
        self.act(v4, if checks_arrivals { other } else { pass });
        if !checks_arrivals {
            return;
        }
        self.code.bind(other);
        let own = self.code.label();
        self.code.load(Size::Four, R0, R6, INGRESS);
        self.code.jump_if(Cond::Equal, R0, 0, own);
        self.code.jump_if(Cond::Equal, R0, tun, pass);
        let sides = if v4 { [(12, 16, 4), (16, 12, 4)] } else { [(8, 24, 16), (24, 8, 16)] };
        for (from, to, octets) in sides {
            self.read(At::Fixed(from), octets, EXCHANGED + to, pass);
        }
        self.interfaces(INGRESS, None);
        self.ask(EXCHANGED, true, function);
        self.act(v4, pass);
        self.code.bind(own);
        self.before_nat(v4, function);
    }

    /// Asks once more about an own packet whose source was translated: its socket knows the
    /// address that it had.
    fn before_nat(&mut self, v4: bool, function: Label) {
        let (pass, translated) = (self.pass, self.code.label());
        self.code.load(Size::Eight, R2, R6, SOCKET);
        self.code.jump_if_zero(R2, pass);
        let (field, source, words) = if v4 { (SOURCE_V4, 12, 1) } else { (SOURCE_V6, 8, 4) };
        self.code.set(R4, 0);
        for word in (0..words).map(|number| number * 4) {
            self.code.load(Size::Four, R0, R2, field + word);
            self.code.alu_wide(Alu::Or, R4, R0);
            self.code.store(R10, EXCHANGED + source + word, R0);
            self.code.load(Size::Four, R0, R10, HEADER + source + 4 * words + word);
            self.code.store(R10, EXCHANGED + source + 4 * words + word, R0);
        }
        // Bound to none.
        self.code.jump_if(Cond::Equal, R4, 0, pass);
        for word in (0..words).map(|number| number * 4) {
            self.code.load(Size::Four, R0, R10, EXCHANGED + source + word);
            self.code.load(Size::Four, R1, R10, HEADER + source + word);
            self.code.jump_if_reg(Cond::Unequal, R0, R1, translated);
        }
        self.code.jump(pass);
        self.code.bind(translated);
        self.interfaces(INTERFACE, None);
        self.ask(EXCHANGED, false, function);
        self.act(v4, pass);
    }

    /// A connected network stays clear through its own interface. Before routing the way out is not
    /// known yet: what leaves is looked at again.
    fn only_by(&self, rule: &Rule) -> Option<u32> {
        match (rule.verdict, self.way) {
            (Verdict::Connected(index), Way::Out) => Some(index),
            _ => None,
        }
    }

    /// Sets R5: the interface that rules may be bound to, and the one that the packet came through.
    fn interfaces(&mut self, way: i16, came: Option<i16>) {
        self.code.load(Size::Four, R5, R6, way);
        self.code.shift_wide(Alu::Left, R5, 32);
        if let Some(came) = came {
            self.code.load(Size::Four, R0, R6, came);
            self.code.alu_wide(Alu::Or, R5, R0);
        }
    }

    /// Calls the function of the rules; R5 is set.
    fn ask(&mut self, header: i16, arrives: bool, function: Label) {
        let code = &mut self.code;
        code.stack(R1, header);
        code.copy(R2, R8);
        let (first, second): (Reg, Reg) = if arrives { (R4, R3) } else { (R3, R4) };
        code.copy_word(first, R9);
        code.alu(Alu::Right, first, 16);
        code.copy_word(second, R9);
        code.alu(Alu::And, second, 0xffff);
        code.call(function);
    }

    /// Does what R0 says, or goes on at `clear`.
    fn act(&mut self, v4: bool, clear: Label) {
        let (pass, drop) = (self.pass, self.drop);
        let code = &mut self.code;
        code.jump_if(Cond::Equal, R0, CLEAR, clear);
        if !v4 {
            // Neighbour discovery, from this link.
            code.jump_if(Cond::Equal, R0, NAMED, drop);
            code.jump_if(Cond::Unequal, R8, ICMPV6, drop);
            code.load(Size::One, R0, R10, HEADER + 7);
            code.jump_if(Cond::Unequal, R0, 255, drop);
            code.copy_word(R0, R9);
            code.alu(Alu::Right, R0, 24);
            code.jump_if(Cond::Less, R0, 133, drop);
            code.jump_if(Cond::Greater, R0, 137, drop);
            code.jump(pass);
        } else {
            code.jump(drop);
        }
    }
}

/// A rule from everything to everything, which what came out of a tunnel does not meet.
fn is_everything(rule: &Rule) -> bool {
    let full = Span::full(rule.v4);
    rule.is_wide() && rule.local == full && rule.remote == full && rule.verdict.is_caught()
}
