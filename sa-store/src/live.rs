//! The live registry: the hot state of every SA that runs on this node.
//!
//! Workers, backends, exporters and the command line touch one [`LiveSa`] at the same time, so
//! everything in it is an atomic. Workers do not look SAs up here per packet: they hold the
//! `Arc` through their immutable tables.
//!
//! ```text
//!   LiveTable: SaId -> Arc<LiveSa { sequence | replay window | usage | drops | events }>
//! ```

use core::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};
use std::sync::Arc;

use dashmap::DashMap;

use crate::{Direction, Esn, Lifetime, Limits, SaId, SaRecord, replay::ReplayWindow};

/// Why a packet was dropped, as operators count it (`dropped` in `postern sa --json`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum DropReason {
    /// The sequence number was seen before or is too old.
    Replay,
    /// The ICV is wrong.
    Auth,
    /// The inner packet is not what the SA protects.
    Policy,
    /// The packet, its padding or the inner header makes no sense.
    Malformed,
    /// A hard lifetime is over or the sequence numbers are used up.
    Expired,
}

impl DropReason {
    /// Every reason, in the order of the interface.
    pub const ALL: [Self; 5] =
        [Self::Replay, Self::Auth, Self::Policy, Self::Malformed, Self::Expired];
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replay => "replay",
            Self::Auth => "auth",
            Self::Policy => "policy",
            Self::Malformed => "malformed",
            Self::Expired => "expired",
        })
    }
}

impl core::error::Error for DropReason {}

/// What made an SA reach a soft or hard limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum LimitReached {
    /// Octets of inner packets.
    Bytes = 1,
    /// Packets.
    Packets = 2,
    /// Sequence numbers (soft: three quarters used; hard: none left).
    Sequence = 3,
    /// Age: said by whoever has a clock, see [`LiveSa::stop`].
    Time = 4,
}

impl LimitReached {
    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Bytes),
            2 => Some(Self::Packets),
            3 => Some(Self::Sequence),
            4 => Some(Self::Time),
            _ => None,
        }
    }
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Packets => "packets",
            Self::Sequence => "sequence numbers",
            Self::Time => "time",
        })
    }
}

/// Sequence numbers taken in one step; handed out once, by [`SequenceCounter::reserve`].
#[derive(PartialEq, Eq, Debug)]
pub struct SequenceRange {
    first: u64,
    count: u64,
}

impl SequenceRange {
    /// How many numbers are left.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.count
    }

    /// Whether none is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Iterator for SequenceRange {
    type Item = u64;

    /// Takes the lowest number out; it is never given again.
    fn next(&mut self) -> Option<u64> {
        self.count = self.count.checked_sub(1)?;
        let taken = self.first;
        self.first = self.first.wrapping_add(1);
        Some(taken)
    }
}

/// The allocator of an outbound SA's sequence numbers. It only moves forward and never wraps:
/// a number, and so an AEAD nonce, is given out once (RFC 4303 §3.3.3).
///
/// It is also the turnstile behind it. Senders that share an SA take numbers and seal side by
/// side, and would send in any order; a receiver with a small window (RFC 4303 §3.4.3 asks for no
/// more than 32) takes what was overtaken by a burst for a replay. So a sender waits for
/// [`Self::is_turn`] before it hands its packets on, and then says so with [`Self::pass_turn`].
#[derive(Debug)]
pub struct SequenceCounter {
    /// The next number to give out; `last + 1` when none is left.
    next: AtomicU64,
    /// Every number below has been handed on or never will be.
    turn: AtomicU64,
    last: u64,
}

impl SequenceCounter {
    /// A counter that starts at `next` (1 for a new SA; 0 is taken for 1).
    #[must_use]
    pub fn new(esn: Esn, next: u64) -> Self {
        let last = match esn {
            Esn::No => u64::from(u32::MAX),
            // One short of 2^64, so that `next` itself cannot wrap either.
            Esn::Yes => u64::MAX - 1,
        };
        let next = next.clamp(1, last + 1);
        Self { next: AtomicU64::new(next), turn: AtomicU64::new(next), last }
    }

    /// Takes up to `wanted` numbers in one step; fewer, down to none, when the end is near.
    pub fn reserve(&self, wanted: u64) -> SequenceRange {
        let end = self.last + 1;
        let first = self
            .next
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |next| {
                (next < end).then(|| next.saturating_add(wanted).min(end))
            })
            .unwrap_or(end);
        SequenceRange { first, count: wanted.min(end - first) }
    }

    /// The next number that will be given out.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Moves past everything below `next`, never back: what a node does that takes an SA over.
    pub fn advance_to(&self, next: u64) {
        let next = next.min(self.last + 1);
        self.next.fetch_max(next, Ordering::AcqRel);
        self.pass_turn(next);
    }

    /// Whether every number below `number` has been handed on or never will be: its packet may be
    /// sent. Stays true.
    #[must_use]
    pub fn is_turn(&self, number: u64) -> bool {
        self.turn.load(Ordering::Acquire) >= number
    }

    /// Lets `next` have its turn, never an earlier number again. Whoever took numbers has to do
    /// this for each, also for those that came to nothing.
    pub fn pass_turn(&self, next: u64) {
        self.turn.fetch_max(next, Ordering::AcqRel);
    }

    /// Lets every number that was given out so far have its turn at once: what becomes of numbers
    /// that were taken is not known any more.
    pub fn pass_all_turns(&self) {
        self.pass_turn(self.next());
    }

    /// Whether three quarters of the numbers are used: time for a rekey.
    #[must_use]
    pub fn is_soft_exhausted(&self) -> bool {
        self.next() > self.last - self.last / 4
    }

    /// Whether no number is left.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.next() > self.last
    }
}

/// What an SA has carried and dropped so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets sealed, or opened and accepted.
    pub packets: u64,
    /// Octets of their inner packets.
    pub bytes: u64,
    /// Packets dropped, indexed like [`DropReason::ALL`].
    pub dropped: [u64; 5],
    /// Dummy packets discarded.
    pub dummies: u64,
}

impl Counters {
    /// Drops for one reason.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// Both together: a tunnel's counters go on across rekeys.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = *self;
        sum.packets = sum.packets.saturating_add(other.packets);
        sum.bytes = sum.bytes.saturating_add(other.bytes);
        sum.dummies = sum.dummies.saturating_add(other.dummies);
        for (mine, theirs) in sum.dropped.iter_mut().zip(other.dropped) {
            *mine = mine.saturating_add(theirs);
        }
        sum
    }
}

/// The hot state of one SA, shared by everything that touches it.
#[derive(Debug)]
pub struct LiveSa {
    id: SaId,
    direction: Direction,
    esn: Esn,
    lifetime: Lifetime,
    /// Outbound: the allocator of sequence numbers.
    pub sequence: SequenceCounter,
    /// Inbound: the replay window.
    pub replay: ReplayWindow,
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: [AtomicU64; 5],
    dummies: AtomicU64,
    soft: AtomicU8,
    soft_taken: AtomicBool,
    hard: AtomicU8,
    hard_taken: AtomicBool,
}

impl LiveSa {
    /// The state a record starts with.
    #[must_use]
    pub fn new(record: &SaRecord) -> Self {
        let window = match record.direction {
            Direction::Inbound => record.replay_window,
            Direction::Outbound => 0,
        };
        Self {
            id: record.id,
            direction: record.direction,
            esn: record.transform.esn,
            lifetime: record.lifetime,
            sequence: SequenceCounter::new(record.transform.esn, record.next_sequence),
            replay: ReplayWindow::new(window, record.replay_floor),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: Default::default(),
            dummies: AtomicU64::new(0),
            soft: AtomicU8::new(0),
            soft_taken: AtomicBool::new(false),
            hard: AtomicU8::new(0),
            hard_taken: AtomicBool::new(false),
        }
    }

    /// Which SA this is.
    #[must_use]
    pub const fn id(&self) -> SaId {
        self.id
    }

    /// Inbound or outbound.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Whether sequence numbers have 64 bits.
    #[must_use]
    pub const fn esn(&self) -> Esn {
        self.esn
    }

    /// Takes `wanted` sequence numbers (fewer near the end) for a burst. None when the SA has
    /// stopped; when there is none left the SA stops.
    pub fn reserve(&self, wanted: u64) -> SequenceRange {
        if self.is_stopped() {
            return SequenceRange { first: 0, count: 0 };
        }
        let range = self.sequence.reserve(wanted);
        if range.is_empty() && wanted > 0 {
            self.stop(LimitReached::Sequence);
        }
        if self.sequence.is_soft_exhausted() {
            self.note_soft(LimitReached::Sequence);
        }
        range
    }

    /// Books packets and octets of inner packets before they pass. Refuses, books nothing and
    /// stops the SA when a hard limit would be exceeded; notes a soft limit that is reached.
    ///
    /// # Errors
    /// [`DropReason::Expired`] when they must not pass.
    pub fn charge(&self, packets: u64, bytes: u64) -> Result<(), DropReason> {
        if self.is_stopped() {
            return Err(DropReason::Expired);
        }
        self.book(packets, bytes).map_err(|limit| {
            self.stop(limit);
            DropReason::Expired
        })
    }

    /// Like [`Self::charge`] for a whole burst, but does not stop the SA when the burst does not
    /// fit: some of its packets still may.
    pub fn charge_burst(&self, packets: u64, bytes: u64) -> bool {
        !self.is_stopped() && self.book(packets, bytes).is_ok()
    }

    fn book(&self, packets: u64, bytes: u64) -> Result<(), LimitReached> {
        let bytes_after =
            add(&self.bytes, bytes, self.lifetime.hard.bytes).ok_or(LimitReached::Bytes)?;
        let Some(packets_after) = add(&self.packets, packets, self.lifetime.hard.packets) else {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(LimitReached::Packets);
        };
        let Limits { bytes: soft_bytes, packets: soft_packets, .. } = self.lifetime.soft;
        if soft_bytes.is_some_and(|limit| bytes_after >= limit) {
            self.note_soft(LimitReached::Bytes);
        } else if soft_packets.is_some_and(|limit| packets_after >= limit) {
            self.note_soft(LimitReached::Packets);
        }
        Ok(())
    }

    /// Counts dummy packets (RFC 4303 §2.6) that were discarded.
    pub fn count_dummies(&self, packets: u64) {
        self.dummies.fetch_add(packets, Ordering::Relaxed);
    }

    /// Counts dropped packets.
    pub fn count_drop(&self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.fetch_add(packets, Ordering::Relaxed);
        }
    }

    /// Stops the SA for good; the first reason stays.
    pub fn stop(&self, reason: LimitReached) {
        let _ = self.hard.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Whether the SA has stopped: nothing passes any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.hard.load(Ordering::Acquire) != 0
    }

    /// The soft limit that was reached: answered once, then `None`.
    pub fn take_soft_event(&self) -> Option<LimitReached> {
        take(&self.soft, &self.soft_taken)
    }

    /// The hard limit that was reached: answered once, then `None`.
    pub fn take_hard_event(&self) -> Option<LimitReached> {
        take(&self.hard, &self.hard_taken)
    }

    /// Whether a limit was reached that nobody has taken yet; cheap enough for every burst.
    #[must_use]
    pub fn has_event(&self) -> bool {
        let waits = |reason: &AtomicU8, taken: &AtomicBool| {
            reason.load(Ordering::Acquire) != 0 && !taken.load(Ordering::Acquire)
        };
        waits(&self.soft, &self.soft_taken) || waits(&self.hard, &self.hard_taken)
    }

    /// What has passed and what has been dropped.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: core::array::from_fn(|i| {
                self.dropped.get(i).map_or(0, |n| n.load(Ordering::Relaxed))
            }),
            dummies: self.dummies.load(Ordering::Relaxed),
        }
    }

    fn note_soft(&self, reason: LimitReached) {
        let _ = self.soft.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Adds and gives the sum, or changes nothing when it would exceed `limit`.
fn add(counter: &AtomicU64, amount: u64, limit: Option<u64>) -> Option<u64> {
    let Some(limit) = limit else {
        return Some(counter.fetch_add(amount, Ordering::Relaxed).wrapping_add(amount));
    };
    let fits = |now: u64| now.checked_add(amount).filter(|sum| *sum <= limit);
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        .ok()
        .map(|before| before.wrapping_add(amount))
}

fn take(reason: &AtomicU8, taken: &AtomicBool) -> Option<LimitReached> {
    let reason = LimitReached::from_code(reason.load(Ordering::Acquire))?;
    (!taken.swap(true, Ordering::AcqRel)).then_some(reason)
}

/// Every SA that runs on this node.
#[derive(Debug, Default)]
pub struct LiveTable {
    sas: DashMap<SaId, Arc<LiveSa>>,
}

impl LiveTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the state of a record and keeps it. An SA that is already there keeps its state:
    /// its sequence numbers and replay window must not start again.
    pub fn insert(&self, record: &SaRecord) -> Arc<LiveSa> {
        Arc::clone(&self.sas.entry(record.id).or_insert_with(|| Arc::new(LiveSa::new(record))))
    }

    /// The state of an SA.
    #[must_use]
    pub fn get(&self, id: SaId) -> Option<Arc<LiveSa>> {
        self.sas.get(&id).map(|sa| Arc::clone(&sa))
    }

    /// Forgets an SA; who still holds its `Arc` may finish with it.
    pub fn remove(&self, id: SaId) -> Option<Arc<LiveSa>> {
        self.sas.remove(&id).map(|(_, sa)| sa)
    }

    /// How many SAs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sas.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sas.is_empty()
    }

    /// Every SA, in the order of their ids.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Arc<LiveSa>> {
        let mut all: Vec<_> = self.sas.iter().map(|sa| Arc::clone(&sa)).collect();
        all.sort_unstable_by_key(|sa| sa.id());
        all
    }
}
