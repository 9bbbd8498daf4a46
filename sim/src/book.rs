//! The books: which numbered packet came to what.
//!
//! A packet may be lost by the network. Otherwise it must arrive, unless one of the two gateways
//! reported the tunnel down at some moment between its sending and its end.

use std::collections::BTreeMap;

use sa_store::Instant;

/// A packet under way.
#[derive(Clone, Debug)]
struct Entry {
    sent: Instant,
    copies: usize,
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

/// The books of a run.
#[derive(Debug, Default)]
pub struct Book {
    next: u64,
    open: BTreeMap<u64, Entry>,
    tally: Tally,
}

impl Book {
    /// A fresh number for a packet that is offered now.
    pub const fn number(&mut self) -> u64 {
        self.next += 1;
        self.tally.offered += 1;
        self.next
    }

    /// A packet left in so many copies that will arrive.
    pub fn sent(&mut self, number: u64, sent: Instant, copies: usize) {
        if copies == 0 {
            self.tally.network += 1;
        } else {
            self.open.insert(number, Entry { sent, copies, delivered: false });
        }
    }

    /// A packet was not taken by its own gateway.
    pub const fn refused(&mut self, excused: bool) {
        if excused {
            self.tally.down += 1;
        } else {
            self.tally.lost += 1;
        }
    }

    /// One copy of a packet arrived and was taken or not; `excused` says whether the tunnel was
    /// reported down since a time. True when the packet is lost and must not be.
    pub fn arrived(
        &mut self,
        number: u64,
        taken: bool,
        excused: impl FnOnce(Instant) -> bool,
    ) -> bool {
        let Some(entry) = self.open.get_mut(&number) else { return false };
        entry.copies -= 1;
        if taken && !entry.delivered {
            entry.delivered = true;
            self.tally.delivered += 1;
        }
        if entry.copies > 0 {
            return false;
        }
        let (delivered, sent) = (entry.delivered, entry.sent);
        self.open.remove(&number);
        if delivered {
            return false;
        }
        let excused = excused(sent);
        self.refused(excused);
        !excused
    }

    /// What became of all packets so far.
    #[must_use]
    pub const fn tally(&self) -> Tally {
        self.tally
    }
}
