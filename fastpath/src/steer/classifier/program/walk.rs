//! What the programs read of a packet: its headers, and the numbers in the place of ports.

use super::{
    super::{
        super::nft::{BY_FIRST_WORD, BY_SECOND_WORD},
        asm::{Alu, Cond, Label, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, Size},
    },
    At, FRAGMENT, FROM_NETWORK, HEADER, LENGTH, MOST_EXTENSION_HEADERS, SKB_LOAD_BYTES_RELATIVE,
    SKB_PULL_DATA, Views, WORDS, Writer,
};

impl Writer {
    /// Reads octets of a packet to the stack, or goes to `missing` when it ends before them.
    pub(super) fn read(&mut self, at: At, octets: u32, to: i16, missing: Label) {
        let (done, enough) = (self.code.label(), self.code.label());
        self.read_plain(at, octets, to);
        let code = &mut self.code;
        code.jump_if(Cond::Equal, R0, 0, done);
        // They may be in pages of their own: brought together as far as they are needed. The
        // length counts from the link's header, of which none is longer than 60 octets.
        code.load(Size::Four, R1, R6, LENGTH);
        match at {
            At::Fixed(offset) => code.set(R2, offset),
            At::Next => code.copy(R2, R9),
        }
        code.alu(Alu::Add, R2, octets + 60);
        code.jump_if_reg(Cond::AtLeast, R1, R2, enough);
        code.copy(R2, R1);
        code.bind(enough);
        code.copy(R1, R6);
        code.call_kernel(SKB_PULL_DATA);
        self.read_plain(at, octets, to);
        self.code.jump_if(Cond::Unequal, R0, 0, missing);
        self.code.bind(done);
    }

    fn read_plain(&mut self, at: At, octets: u32, to: i16) {
        let code = &mut self.code;
        code.copy(R1, R6);
        match at {
            At::Fixed(offset) => code.set(R2, offset),
            At::Next => code.copy(R2, R9),
        }
        code.stack(R3, to);
        code.set(R4, octets);
        code.set(R5, FROM_NETWORK);
        code.call_kernel(SKB_LOAD_BYTES_RELATIVE);
    }

    pub(super) fn walk_v4(&mut self, views: &Views) {
        let later = self.code.label();
        let code = &mut self.code;
        code.load(Size::One, R8, R10, HEADER + 9);
        code.load_network(Size::Two, R0, R10, HEADER + 6);
        code.alu(Alu::And, R0, 0x1fff);
        code.jump_if(Cond::Unequal, R0, 0, later);
        code.load(Size::One, R9, R10, HEADER);
        code.alu(Alu::And, R9, 0xf);
        code.alu(Alu::Left, R9, 2);
        self.numbers(views);
        self.code.bind(later);
        self.code.set(R9, 0);
        self.own(false);
        self.code.jump(views.unknown);
    }

    pub(super) fn walk_v6(&mut self, views: &Views) {
        let (done, later, blind) = (self.code.label(), self.code.label(), self.code.label());
        let pass = self.pass;
        self.read(At::Fixed(0), 40, HEADER, pass);
        self.code.load(Size::One, R8, R10, HEADER + 6);
        self.code.set(R9, 40);
        for _ in 0..MOST_EXTENSION_HEADERS {
            let (options, fragment, next) =
                (self.code.label(), self.code.label(), self.code.label());
            for kind in [0, 43, 60] {
                self.jump_if_protocol(Cond::Equal, kind, options);
            }
            self.jump_if_protocol(Cond::Equal, 44, fragment);
            self.code.jump(done);
            self.code.bind(options);
            self.read(At::Next, 2, WORDS, blind);
            self.code.load(Size::One, R8, R10, WORDS);
            self.code.load(Size::One, R0, R10, WORDS + 1);
            self.code.alu(Alu::Add, R0, 1);
            self.code.alu(Alu::Left, R0, 3);
            self.code.alu_wide(Alu::Add, R9, R0);
            self.code.jump(next);
            self.code.bind(fragment);
            self.read(At::Next, 8, WORDS, blind);
            self.code.set_wide(R0, FRAGMENT);
            self.code.alu_wide(Alu::Or, R7, R0);
            self.code.load(Size::One, R8, R10, WORDS);
            self.code.load_network(Size::Two, R0, R10, WORDS + 2);
            self.code.alu(Alu::And, R0, 0xfff8);
            self.code.jump_if(Cond::Unequal, R0, 0, later);
            self.code.alu(Alu::Add, R9, 8);
            self.code.bind(next);
        }
        self.code.bind(blind);
        self.code.set(R8, 0);
        self.code.bind(later);
        self.code.set(R9, 0);
        self.own(false);
        self.code.jump(views.unknown);
        self.code.bind(done);
        self.numbers(views);
    }

    /// Reads the numbers in the place of ports behind the offset in R9, and goes on by whether
    /// they are there.
    fn numbers(&mut self, views: &Views) {
        let [two, one, mobility, seen, none, hidden] = std::array::from_fn(|_| self.code.label());
        for (protocols, label) in [(&BY_SECOND_WORD[..], two), (&BY_FIRST_WORD, one)] {
            for protocol in protocols {
                self.jump_if_protocol(Cond::Equal, (*protocol).into(), label);
            }
        }
        self.code.jump(hidden);
        self.code.bind(two);
        self.read(At::Next, 4, WORDS, none);
        self.jump_if_protocol(Cond::Equal, 135, mobility);
        self.code.load_network(Size::Four, R9, R10, WORDS);
        self.code.jump(seen);
        self.code.bind(mobility);
        self.code.load_network(Size::Two, R9, R10, WORDS + 2);
        // The type alone.
        self.code.alu(Alu::And, R9, 0xff00);
        self.doubled();
        self.code.jump(seen);
        self.code.bind(one);
        self.read(At::Next, 2, WORDS, none);
        self.code.load_network(Size::Two, R9, R10, WORDS);
        self.doubled();
        self.code.bind(seen);
        self.own(true);
        self.code.jump(views.seen);
        // The first fragment of a flow with ports hides them in a later one.
        self.code.bind(none);
        if !views.v4 {
            self.code.copy(R0, R7);
            self.code.shift_wide(Alu::Right, R0, 32);
            self.code.set(R9, 0);
            self.code.jump_if(Cond::Unequal, R0, 0, views.unknown);
        }
        self.code.bind(hidden);
        self.code.set(R9, 0);
        self.own(true);
        self.code.jump(views.hidden);
    }

    /// Goes on at `label` when the protocol is this one. A comparison of R8 itself would tell the
    /// kernel's check what it is, which then follows the rules anew for each protocol.
    pub(super) fn jump_if_protocol(&mut self, condition: Cond, protocol: u32, label: Label) {
        const HIDE: u32 = 0x8000;
        self.code.copy_word(R0, R8);
        self.code.alu(Alu::Xor, R0, HIDE);
        self.code.jump_if(condition, R0, protocol ^ HIDE, label);
    }

    /// One number stands for both sides.
    fn doubled(&mut self) {
        self.code.copy_word(R0, R9);
        self.code.alu(Alu::Left, R0, 16);
        self.code.alu_wide(Alu::Or, R9, R0);
    }
}
