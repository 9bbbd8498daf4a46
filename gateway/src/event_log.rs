//! The ring of events that readers catch up from.

use std::collections::VecDeque;

use crate::read_model::EventRecord;

/// The newest events.
#[derive(Debug)]
pub(crate) struct EventLog {
    kept: VecDeque<EventRecord>,
    limit: usize,
    last: u64,
}

impl EventLog {
    pub(crate) fn new(limit: usize) -> Self {
        Self { kept: VecDeque::new(), limit: limit.max(1), last: 0 }
    }

    /// Numbers an event and keeps it.
    pub(crate) fn push(&mut self, mut event: EventRecord) -> EventRecord {
        self.last += 1;
        event.sequence = self.last;
        if self.kept.len() == self.limit {
            self.kept.pop_front();
        }
        self.kept.push_back(event.clone());
        event
    }

    /// Events with a sequence above `since`, oldest first.
    pub(crate) fn since(&self, since: u64) -> Vec<EventRecord> {
        let first = self.last - self.kept.len() as u64;
        let skip = usize::try_from(since.saturating_sub(first)).unwrap_or(usize::MAX);
        self.kept.iter().skip(skip).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use sa_store::Instant;

    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_and_numbers_go_on() {
        let mut log = EventLog::new(3);
        for _ in 0..5 {
            log.push(EventRecord {
                sequence: 0,
                at: Instant::ZERO,
                tunnel: None,
                child: None,
                kind: "failed",
                code: None,
                stranger: false,
                message: String::new(),
            });
        }
        let numbers = |since| log.since(since).iter().map(|e| e.sequence).collect::<Vec<_>>();
        assert_eq!(numbers(0), [3, 4, 5]);
        assert_eq!(numbers(3), [4, 5]);
        assert_eq!(numbers(9), [0u64; 0]);
    }
}
