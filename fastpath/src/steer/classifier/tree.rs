//! From ordered rules to functions that find the first one that matches.
//!
//! Addresses are looked up by halving: where rules begin and end on one side, the rules fall into
//! those below and those above, until few are left, which are asked one after the other. What a
//! place in the tree has decided already is not asked again.

use sa_store::PortRange;

use super::asm::{Alu, Assembler, Cond, Label, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Reg, Size};
use crate::policy::{Rule, Span, Verdict};

/// What a function of [`Tree::emit`] returns: nothing catches the packet.
pub(super) const CLEAR: u32 = 0;
/// It is caught, but for what is exempt.
pub(super) const CAUGHT: u32 = 1;
/// It is caught by a rule that names something exempt.
pub(super) const NAMED: u32 = 2;

/// Rules that are asked one after the other without halving them further.
const FEW: usize = 4;
/// Rules that can be asked one after the other: the kernel follows a program no further than 8,192
/// jumps in a row, and a rule has up to ten.
const MOST_IN_A_ROW: usize = 700;
/// Rules in all places of a tree together; a rule may stand in many.
const MOST_PLACES: usize = 40_000;
/// Instructions of one function at most, as far as they can be told: jumps reach 32,767 far.
const LARGEST_FUNCTION: usize = 10_000;

/// The rules cannot be made into a program that the kernel takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooMany;

/// A rule, and what it comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    /// The rule.
    pub rule: Rule,
    /// [`CLEAR`], [`CAUGHT`] or [`NAMED`].
    pub result: u32,
    /// It matches nothing that came through this interface.
    pub but_from: Option<u32>,
    /// It matches only what leaves through this interface, of arrivals what came through it.
    pub only_by: Option<u32>,
}

impl Entry {
    /// Whether every packet between the addresses of a region matches.
    fn ends(&self, region: &Region) -> bool {
        self.rule.is_wide()
            && self.but_from.is_none()
            && self.only_by.is_none()
            && self.rule.local.covers(region.local)
            && self.rule.remote.covers(region.remote)
    }
}

/// Addresses that a place in the tree is about.
#[derive(Clone, Copy, Debug)]
struct Region {
    local: Span,
    remote: Span,
}

/// A side of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Local,
    Remote,
}

impl Region {
    const fn of(&self, side: Side) -> Span {
        match side {
            Side::Local => self.local,
            Side::Remote => self.remote,
        }
    }

    const fn with(self, side: Side, span: Span) -> Self {
        match side {
            Side::Local => Self { local: span, ..self },
            Side::Remote => Self { remote: span, ..self },
        }
    }
}

const fn span_of(rule: &Rule, side: Side) -> Span {
    match side {
        Side::Local => rule.local,
        Side::Remote => rule.remote,
    }
}

#[derive(Debug)]
enum Node {
    /// Asked in order.
    Row(Vec<Entry>),
    /// Addresses of a side from `at` on, and those before.
    Halves { side: Side, at: u128, low: Box<Place>, high: Box<Place> },
}

#[derive(Debug)]
struct Place {
    region: Region,
    /// Instructions at most.
    size: usize,
    node: Node,
}

/// Rules of one family as a tree.
#[derive(Debug)]
pub(super) struct Tree {
    v4: bool,
    root: Place,
}

impl Tree {
    /// A tree of rules in their order.
    pub(super) fn new(v4: bool, entries: &[Entry]) -> Result<Self, TooMany> {
        let region = Region { local: Span::full(v4), remote: Span::full(v4) };
        let mut places = MOST_PLACES;
        Ok(Self { v4, root: Self::place(v4, region, entries, &mut places)? })
    }

    fn place(
        v4: bool,
        region: Region,
        entries: &[Entry],
        places: &mut usize,
    ) -> Result<Place, TooMany> {
        let mut here: Vec<Entry> = Vec::new();
        for entry in entries.iter().filter(|entry| {
            entry.rule.local.overlaps(region.local) && entry.rule.remote.overlaps(region.remote)
        }) {
            here.push(*entry);
            if entry.ends(&region) {
                break;
            }
        }
        // Clear is what comes out at the end anyhow.
        while here.last().is_some_and(|entry| entry.result == CLEAR) {
            here.pop();
        }
        let split = if here.len() > FEW { best_split(&region, &here) } else { None };
        let Some((side, at)) = split else {
            if here.len() > MOST_IN_A_ROW {
                return Err(TooMany);
            }
            *places = places.checked_sub(here.len()).ok_or(TooMany)?;
            let each = if v4 { 15 } else { 43 };
            return Ok(Place { region, size: here.len() * each + 2, node: Node::Row(here) });
        };
        let span = region.of(side);
        let below = Span { start: span.start, end: at.saturating_sub(1) };
        let above = Span { start: at, end: span.end };
        let low = Self::place(v4, region.with(side, below), &here, places)?;
        let high = Self::place(v4, region.with(side, above), &here, places)?;
        let size = 8 + low.size + high.size;
        let node = Node::Halves { side, at, low: Box::new(low), high: Box::new(high) };
        Ok(Place { region, size, node })
    }

    /// Writes the function `label`: arguments are the IP header (R1), the protocol (R2), the
    /// numbers in the place of ports of our side (R3) and the peer's (R4), and interfaces (R5): in
    /// the low half the one that the packet came through, in the high half the one that
    /// [`Entry::only_by`] is about.
    pub(super) fn emit(&self, label: Label, code: &mut Assembler) {
        let mut functions = vec![(label, &self.root)];
        while let Some((label, place)) = functions.pop() {
            code.bind(label);
            self.prologue(code);
            self.emit_place(place, code, &mut functions);
        }
    }

    fn prologue(&self, code: &mut Assembler) {
        if self.v4 {
            code.load_network(Size::Four, R6, R1, 16);
            code.load_network(Size::Four, R7, R1, 12);
        } else {
            for (register, offset) in [(R6, 24), (R7, 32), (R8, 8), (R9, 16)] {
                code.load_network(Size::Eight, register, R1, offset);
            }
        }
    }

    fn emit_place<'a>(
        &self,
        place: &'a Place,
        code: &mut Assembler,
        functions: &mut Vec<(Label, &'a Place)>,
    ) {
        match &place.node {
            Node::Row(entries) => {
                let rest = entries.iter().all(|entry| !self.emit_entry(entry, &place.region, code));
                if rest {
                    code.set(R0, CLEAR);
                    code.exit();
                }
            }
            Node::Halves { side, at, low, high } => {
                let above = code.label();
                self.jump_if_from(*side, *at, above, code);
                self.emit_child(low, code, functions);
                code.bind(above);
                self.emit_child(high, code, functions);
            }
        }
    }

    fn emit_child<'a>(
        &self,
        place: &'a Place,
        code: &mut Assembler,
        functions: &mut Vec<(Label, &'a Place)>,
    ) {
        if place.size > LARGEST_FUNCTION {
            // The arguments are where they were.
            let function = code.label();
            code.call(function);
            code.exit();
            functions.push((function, place));
        } else {
            self.emit_place(place, code, functions);
        }
    }

    const fn registers(&self, side: Side) -> (Reg, Reg) {
        match (self.v4, side) {
            // The second one is not used.
            (true, Side::Remote) => (R6, R6),
            (true, Side::Local) => (R7, R7),
            (false, Side::Remote) => (R6, R7),
            (false, Side::Local) => (R8, R9),
        }
    }

    /// Goes to `label` when the address of a side is `at` or behind.
    fn jump_if_from(&self, side: Side, at: u128, label: Label, code: &mut Assembler) {
        let (high, low) = self.registers(side);
        if self.v4 {
            return code.jump_if(Cond::AtLeast, high, at as u32, label);
        }
        let (upper, lower) = ((at >> 64) as u64, at as u64);
        code.set_wide(R0, upper);
        if lower == 0 {
            return code.jump_if_reg(Cond::AtLeast, high, R0, label);
        }
        let before = code.label();
        code.jump_if_reg(Cond::Greater, high, R0, label);
        code.jump_if_reg(Cond::Less, high, R0, before);
        code.set_wide(R0, lower);
        code.jump_if_reg(Cond::AtLeast, low, R0, label);
        code.bind(before);
    }

    /// Goes to `label` when the address of a side is before `at`.
    fn jump_if_before(&self, side: Side, at: u128, label: Label, code: &mut Assembler) {
        if self.v4 {
            return code.jump_if(Cond::Less, self.registers(side).0, at as u32, label);
        }
        let behind = code.label();
        self.jump_if_from(side, at, behind, code);
        code.jump(label);
        code.bind(behind);
    }

    /// Writes what returns the result of an entry that matches, and goes on behind it else;
    /// whether it always matches.
    fn emit_entry(&self, entry: &Entry, region: &Region, code: &mut Assembler) -> bool {
        let next = code.label();
        let rule = &entry.rule;
        let before = code.len();
        for side in [Side::Remote, Side::Local] {
            let (span, within) = (span_of(rule, side), region.of(side));
            if span.start > within.start {
                self.jump_if_before(side, span.start, next, code);
            }
            if span.end < within.end {
                self.jump_if_from(side, span.end.saturating_add(1), next, code);
            }
        }
        if rule.protocol != 0 {
            code.jump_if(Cond::Unequal, R2, rule.protocol.into(), next);
        }
        for (register, ports) in [(R3, rule.local_ports), (R4, rule.remote_ports)] {
            if ports != PortRange::ANY {
                code.jump_if(Cond::Less, register, ports.start.into(), next);
                code.jump_if(Cond::Greater, register, ports.end.into(), next);
            }
        }
        if let Some(interface) = entry.but_from {
            code.jump_if(Cond::Equal, R5, interface, next);
        }
        if let Some(interface) = entry.only_by {
            code.copy(R0, R5);
            code.shift_wide(Alu::Right, R0, 32);
            code.jump_if(Cond::Unequal, R0, interface, next);
        }
        let always = code.len() == before;
        code.set(R0, entry.result);
        code.exit();
        code.bind(next);
        always
    }
}

/// Where rules of a region are told apart best: in the middle of where they begin and end, on the
/// side where more do.
fn best_split(region: &Region, entries: &[Entry]) -> Option<(Side, u128)> {
    let edges = |side: Side| {
        let span = region.of(side);
        let mut edges: Vec<u128> = entries
            .iter()
            .flat_map(|entry| {
                let own = span_of(&entry.rule, side);
                let behind = (own.end < span.end).then(|| own.end.saturating_add(1));
                let start = (own.start > span.start).then_some(own.start);
                [start, behind].into_iter().flatten()
            })
            .collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    };
    let (local, remote) = (edges(Side::Local), edges(Side::Remote));
    let (side, edges) =
        if local.len() > remote.len() { (Side::Local, local) } else { (Side::Remote, remote) };
    edges.get(edges.len() / 2).map(|at| (side, *at))
}

/// What a rule comes to when it matches; `named` where it names something exempt.
pub(super) const fn result(rule: &Rule, named: bool) -> u32 {
    match (rule.verdict, named) {
        (Verdict::Bypass | Verdict::Connected(_), _) => CLEAR,
        (Verdict::Protect(..) | Verdict::Discard, false) => CAUGHT,
        (Verdict::Protect(..) | Verdict::Discard, true) => NAMED,
    }
}
