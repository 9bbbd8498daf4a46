//! The books: which numbered packet came to what.
//!
//! A packet may be lost by the network. Otherwise it must arrive, unless one of the two gateways
//! reported the tunnel down at some moment between its sending and its end. No packet arrives
//! twice, however often the network delivers it.

use sa_store::Instant;

/// A packet that left.
#[derive(Clone, Debug)]
struct Entry {
    sent: Instant,
    side: u8,
    child: u8,
    /// Copies that are under way and not later than the network's usual delay.
    copies: u8,
    delivered: bool,
}

/// What became of all packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Offered to a gateway.
    pub offered: u64,
    /// Arrived.
    pub delivered: u64,
    /// Lost by the network.
    pub network: u64,
    /// Not carried while the tunnel was reported down.
    pub down: u64,
    /// Lost although they must not be.
    pub lost: u64,
}

/// What the arrival of a copy came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrived {
    /// As it must be.
    Well,
    /// The packet was delivered before.
    Twice,
    /// All copies have come and none was taken.
    Lost {
        /// When it was sent.
        sent: Instant,
    },
}

/// The books of a run.
#[derive(Debug, Default)]
pub struct Book {
    entries: Vec<Entry>,
    tally: Tally,
}

impl Book {
    /// A fresh number for a packet that a side offers now to a child.
    pub fn number(&mut self, sent: Instant, side: usize, child: usize) -> u64 {
        self.tally.offered += 1;
        let small = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        let (side, child) = (small(side), small(child));
        self.entries.push(Entry { sent, side, child, copies: 0, delivered: false });
        self.entries.len() as u64 - 1
    }

    /// Which side sent a packet through which child.
    #[must_use]
    pub fn origin(&self, number: u64) -> Option<(usize, usize)> {
        let entry = self.entries.get(usize::try_from(number).ok()?)?;
        Some((usize::from(entry.side), usize::from(entry.child)))
    }

    /// A packet left in so many copies that will arrive in time.
    pub fn sent(&mut self, number: u64, copies: usize) {
        if copies == 0 {
            self.tally.network += 1;
        } else if let Some(entry) = self.entry(number) {
            entry.copies = u8::try_from(copies).unwrap_or(u8::MAX);
        }
    }

    /// A packet was not carried by a gateway.
    pub const fn refused(&mut self, excused: bool) {
        if excused {
            self.tally.down += 1;
        } else {
            self.tally.lost += 1;
        }
    }

    /// One copy of a packet arrived and was taken or not. `timely` is false for copies that come
    /// later than the network's usual delay: nobody misses those.
    pub fn arrived(&mut self, number: u64, taken: bool, timely: bool) -> Arrived {
        let mut delivered = 0;
        let Some(entry) = self.entry(number) else { return Arrived::Twice };
        if timely {
            entry.copies = entry.copies.saturating_sub(1);
        }
        let twice = taken && entry.delivered;
        if taken && !entry.delivered {
            entry.delivered = true;
            delivered = 1;
        }
        let lost = timely && entry.copies == 0 && !entry.delivered;
        let sent = entry.sent;
        self.tally.delivered += delivered;
        match (twice, lost) {
            (true, _) => Arrived::Twice,
            (false, true) => Arrived::Lost { sent },
            (false, false) => Arrived::Well,
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(number).ok()?)
    }

    /// What became of all packets so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_doubles_are_told_apart() {
        let mut book = Book::default();
        let sent = Instant::from_nanos(5);
        let [one, two, three] = [(); 3].map(|()| book.number(sent, 0, 1));
        book.sent(one, 2);
        assert_eq!(book.arrived(one, false, true), Arrived::Well);
        assert_eq!(book.arrived(one, false, true), Arrived::Lost { sent });
        book.sent(two, 2);
        assert_eq!(book.arrived(two, true, true), Arrived::Well);
        assert_eq!(book.arrived(two, false, true), Arrived::Well);
        assert_eq!(book.arrived(two, false, false), Arrived::Well);
        assert_eq!(book.arrived(two, true, false), Arrived::Twice);
        book.sent(three, 0);
        let Tally { offered, delivered, network, down, lost } = book.tally();
        assert_eq!((offered, delivered, network, down, lost), (3, 1, 1, 0, 0));
    }
}
