//! A small assembler for BPF (RFC 9669): instructions, labels, functions.

/// A register: R0 has results, R1 to R5 arguments, R6 to R9 stay over calls, R10 is the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reg(u8);

pub(super) const R0: Reg = Reg(0);
pub(super) const R1: Reg = Reg(1);
pub(super) const R2: Reg = Reg(2);
pub(super) const R3: Reg = Reg(3);
pub(super) const R4: Reg = Reg(4);
pub(super) const R5: Reg = Reg(5);
pub(super) const R6: Reg = Reg(6);
pub(super) const R7: Reg = Reg(7);
pub(super) const R8: Reg = Reg(8);
pub(super) const R9: Reg = Reg(9);
pub(super) const R10: Reg = Reg(10);

/// What a jump compares by, unsigned (RFC 9669 §4.3); the value is the operation's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cond {
    Equal = 0x10,
    Greater = 0x20,
    AtLeast = 0x30,
    Unequal = 0x50,
    Less = 0xa0,
}

/// Octets of a load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    One = 0x10,
    Two = 0x08,
    Four = 0x00,
    Eight = 0x18,
}

/// Operations on the lower 32 bits, which clear the upper ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Alu {
    Add = 0x00,
    Or = 0x40,
    And = 0x50,
    Left = 0x60,
    Right = 0x70,
    Xor = 0xa0,
    Move = 0xb0,
}

/// A place in the program, known before it is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

const LOAD: u8 = 0x60 | 0x01;
const STORE: u8 = 0x60 | 0x03;
const ALU: u8 = 0x04;
const ALU64: u8 = 0x07;
const JUMP: u8 = 0x05;
const JUMP_WORD: u8 = 0x06;
const JUMP_ALWAYS: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const FROM_REGISTER: u8 = 0x08;
/// Octets of the network to a number.
const TO_NUMBER: u8 = 0xdc;
/// A call with this as its source register is one of the program's own functions.
const OWN: u8 = 1;

/// One instruction, 8 octets in the program.
#[derive(Clone, Copy, Debug, Default)]
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    number: u32,
}

/// A jump leads too far, or nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooFar;

/// A program under construction.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    labels: Vec<Option<usize>>,
    /// Instructions that lead to a label.
    leading: Vec<(usize, Label)>,
}

impl Assembler {
    /// A label that is not bound yet.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Binds a label to what comes next.
    pub(super) fn bind(&mut self, label: Label) {
        let here = self.code.len();
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(here);
        }
    }

    /// Instructions so far.
    pub(super) const fn len(&self) -> usize {
        self.code.len()
    }

    fn push(&mut self, code: u8, to: Reg, from: u8, number: u32) {
        self.code.push(Instruction { code, to: to.0, from, offset: 0, number });
    }

    /// `to = number`.
    pub(super) fn set(&mut self, to: Reg, number: u32) {
        self.alu(Alu::Move, to, number);
    }

    /// `to = number`, of 64 bits.
    pub(super) fn set_wide(&mut self, to: Reg, number: u64) {
        let Ok(number) = u32::try_from(number) else {
            self.push(0x18, to, 0, number as u32);
            return self.push(0, R0, 0, (number >> 32) as u32);
        };
        self.set(to, number);
    }

    /// `to = from`, all 64 bits.
    pub(super) fn copy(&mut self, to: Reg, from: Reg) {
        self.push(ALU64 | Alu::Move as u8 | FROM_REGISTER, to, from.0, 0);
    }

    /// `to = from`, the lower 32 bits.
    pub(super) fn copy_word(&mut self, to: Reg, from: Reg) {
        self.push(ALU | Alu::Move as u8 | FROM_REGISTER, to, from.0, 0);
    }

    /// `to = from + number`, for places on the stack.
    pub(super) fn stack(&mut self, to: Reg, at: i16) {
        self.copy(to, R10);
        self.push(ALU64 | Alu::Add as u8, to, 0, i32::from(at) as u32);
    }

    /// `to = to OP number`.
    pub(super) fn alu(&mut self, operation: Alu, to: Reg, number: u32) {
        self.push(ALU | operation as u8, to, 0, number);
    }

    /// `to = to OP from`, of 64 bits.
    pub(super) fn alu_wide(&mut self, operation: Alu, to: Reg, from: Reg) {
        self.push(ALU64 | operation as u8 | FROM_REGISTER, to, from.0, 0);
    }

    /// `to = to OP number`, of 64 bits; the number is one without a sign.
    pub(super) fn shift_wide(&mut self, operation: Alu, to: Reg, bits: u32) {
        self.push(ALU64 | operation as u8, to, 0, bits);
    }

    /// `to = *(base + offset)`.
    pub(super) fn load(&mut self, size: Size, to: Reg, base: Reg, offset: i16) {
        let code = LOAD | size as u8;
        self.code.push(Instruction { code, to: to.0, from: base.0, offset, number: 0 });
    }

    /// The same, of a number as the network has it.
    pub(super) fn load_network(&mut self, size: Size, to: Reg, base: Reg, offset: i16) {
        self.load(size, to, base, offset);
        let bits = match size {
            Size::One => return,
            Size::Two => 16,
            Size::Four => 32,
            Size::Eight => 64,
        };
        self.push(TO_NUMBER, to, 0, bits);
    }

    /// `*(base + offset) = from`, four octets.
    pub(super) fn store(&mut self, base: Reg, offset: i16, from: Reg) {
        self.code.push(Instruction { code: STORE, to: base.0, from: from.0, offset, number: 0 });
    }

    /// Goes on at `label` when the lower 32 bits of `left` compare to a number like this.
    pub(super) fn jump_if(&mut self, condition: Cond, left: Reg, right: u32, label: Label) {
        self.leading.push((self.code.len(), label));
        self.push(JUMP_WORD | condition as u8, left, 0, right);
    }

    /// Goes on at `label` when `left` compares to `right` like this.
    pub(super) fn jump_if_reg(&mut self, condition: Cond, left: Reg, right: Reg, label: Label) {
        self.leading.push((self.code.len(), label));
        self.push(JUMP | condition as u8 | FROM_REGISTER, left, right.0, 0);
    }

    /// Goes on at `label` when all 64 bits are zero, as of a pointer to nothing.
    pub(super) fn jump_if_zero(&mut self, register: Reg, label: Label) {
        self.leading.push((self.code.len(), label));
        self.push(JUMP | Cond::Equal as u8, register, 0, 0);
    }

    /// Goes on at `label`.
    pub(super) fn jump(&mut self, label: Label) {
        self.leading.push((self.code.len(), label));
        self.push(JUMP_ALWAYS, R0, 0, 0);
    }

    /// Calls a function of the kernel.
    pub(super) fn call_kernel(&mut self, number: u32) {
        self.push(CALL, R0, 0, number);
    }

    /// Calls a function of the program, which may be far away.
    pub(super) fn call(&mut self, function: Label) {
        self.leading.push((self.code.len(), function));
        self.push(CALL, R0, OWN, 0);
    }

    /// Returns.
    pub(super) fn exit(&mut self) {
        self.push(EXIT, R0, 0, 0);
    }

    /// The program as the kernel takes it.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, TooFar> {
        for (at, label) in &self.leading {
            let target = self.labels.get(label.0).copied().flatten().ok_or(TooFar)?;
            let (target, next) = (target as i64, *at as i64 + 1);
            let distance = target - next;
            let instruction = self.code.get_mut(*at).ok_or(TooFar)?;
            if instruction.code == CALL {
                instruction.number = i32::try_from(distance).map_err(|_| TooFar)? as u32;
            } else {
                instruction.offset = i16::try_from(distance).map_err(|_| TooFar)?;
            }
        }
        let encoded = |one: &Instruction| {
            // The first of the two registers has the half octet that this machine counts first.
            let registers = if cfg!(target_endian = "little") {
                one.from << 4 | one.to
            } else {
                one.to << 4 | one.from
            };
            let [a, b] = one.offset.to_ne_bytes();
            let [c, d, e, f] = one.number.to_ne_bytes();
            [one.code, registers, a, b, c, d, e, f]
        };
        Ok(self.code.iter().flat_map(encoded).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(assembler: Assembler) -> Vec<[u8; 8]> {
        let bytes = assembler.finish().unwrap();
        bytes.chunks(8).map(|chunk| chunk.try_into().unwrap()).collect()
    }

    /// Octets as `bpf_insn` of the kernel's headers has them on a machine that counts from the
    /// low end.
    #[cfg(target_endian = "little")]
    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut code = Assembler::default();
        code.copy(R6, R1);
        code.load(Size::Four, R0, R6, 16);
        code.load_network(Size::Two, R3, R10, -6);
        code.set(R2, 0x8000_0001);
        code.set_wide(R4, 0x1122_3344_5566_7788);
        code.alu(Alu::And, R7, 0x0f00_0000);
        code.stack(R3, -48);
        code.store(R6, 8, R2);
        code.call_kernel(68);
        code.exit();
        assert_eq!(
            words(code),
            [
                [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
                [0x61, 0x60, 16, 0, 0, 0, 0, 0],
                [0x69, 0xa3, 0xfa, 0xff, 0, 0, 0, 0],
                [0xdc, 0x03, 0, 0, 16, 0, 0, 0],
                [0xb4, 0x02, 0, 0, 1, 0, 0, 0x80],
                [0x18, 0x04, 0, 0, 0x88, 0x77, 0x66, 0x55],
                [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11],
                [0x54, 0x07, 0, 0, 0, 0, 0, 0x0f],
                [0xbf, 0xa3, 0, 0, 0, 0, 0, 0],
                [0x07, 0x03, 0, 0, 0xd0, 0xff, 0xff, 0xff],
                [0x63, 0x26, 8, 0, 0, 0, 0, 0],
                [0x85, 0, 0, 0, 68, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
        );
    }

    #[test]
    fn labels_lead_forward_and_backward_and_functions_may_be_far() {
        let mut code = Assembler::default();
        let (end, far) = (code.label(), code.label());
        code.jump_if(Cond::AtLeast, R2, 0xac10_0000, end);
        code.call(far);
        code.bind(end);
        code.exit();
        for _ in 0..40_000 {
            code.set(R0, 0);
        }
        code.bind(far);
        code.exit();
        let words = words(code);
        assert_eq!(words[0][0], 0x36);
        assert_eq!(u32::from_ne_bytes(words[0][4..].try_into().unwrap()), 0xac10_0000);
        assert_eq!(i16::from_ne_bytes([words[0][2], words[0][3]]), 1);
        assert_eq!(i32::from_ne_bytes(words[1][4..].try_into().unwrap()), 40_001);
        assert_eq!(words[1][0], 0x85);
    }

    #[test]
    fn a_jump_that_is_too_long_or_leads_nowhere_is_an_error() {
        let mut code = Assembler::default();
        let end = code.label();
        code.jump(end);
        for _ in 0..40_000 {
            code.set(R0, 0);
        }
        code.bind(end);
        code.exit();
        assert_eq!(code.finish(), Err(TooFar));
        let mut code = Assembler::default();
        let unbound = code.label();
        code.jump(unbound);
        assert_eq!(code.finish(), Err(TooFar));
    }
}
