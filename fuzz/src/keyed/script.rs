//! An input as a list of instructions.

/// Reads instructions; when they are used up every answer is 0.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    /// Over an input.
    #[must_use]
    pub const fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Whether there is nothing left.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next octet.
    pub fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        *first
    }

    /// The next two octets as a number.
    pub fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    /// A length of one octet and that many octets, fewer at the end.
    pub fn octets(&mut self) -> &'a [u8] {
        let length = usize::from(self.octet()).min(self.rest.len());
        let (head, tail) = self.rest.split_at(length);
        self.rest = tail;
        head
    }
}
