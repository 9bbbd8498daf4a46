//! The events that are kept for readers.

use std::collections::VecDeque;

use super::handle::TimedEvent;

/// Events kept.
const EVENTS: usize = 1000;
/// The same for those that come in any number: what strangers can cause, and every repetition of a
/// message to peers that are silent. However many there are, the others stay.
const NOISE: usize = 200;

/// The newest events of both kinds.
#[derive(Debug, Default)]
pub(super) struct Kept {
    events: VecDeque<TimedEvent>,
    noise: VecDeque<TimedEvent>,
}

impl Kept {
    /// Keeps an event, for as long as there are not many newer ones of its kind.
    pub(super) fn push(&mut self, event: TimedEvent) {
        let noise = event.record.stranger || event.record.kind == "retransmitting";
        let (ring, most) =
            if noise { (&mut self.noise, NOISE) } else { (&mut self.events, EVENTS) };
        if ring.len() >= most {
            ring.pop_front();
        }
        ring.push_back(event);
    }

    /// What is kept of the events behind this number, oldest first.
    pub(super) fn since(&self, since: u64) -> Vec<TimedEvent> {
        let all = self.events.iter().chain(&self.noise);
        let newer = |event: &&TimedEvent| event.record.sequence > since;
        let mut found: Vec<TimedEvent> = all.filter(newer).cloned().collect();
        found.sort_by_key(|event| event.record.sequence);
        found
    }
}

#[cfg(test)]
mod tests {
    use gateway::read_model::EventRecord;
    use sa_store::Instant;

    use super::*;

    fn event(sequence: u64, kind: &'static str, stranger: bool) -> TimedEvent {
        let record = EventRecord {
            sequence,
            at: Instant::ZERO,
            tunnel: None,
            child: None,
            kind,
            code: None,
            stranger,
            message: String::new(),
        };
        TimedEvent { unix_ms: 0, record }
    }

    #[test]
    fn what_comes_in_any_number_does_not_wash_out_the_rest() {
        let mut kept = Kept::default();
        kept.push(event(1, "ike-established", false));
        for sequence in 2..5000 {
            let (kind, stranger) =
                if sequence % 2 == 0 { ("failed", true) } else { ("retransmitting", false) };
            kept.push(event(sequence, kind, stranger));
        }
        kept.push(event(5000, "failed", false));
        let numbers: Vec<u64> = kept.since(0).iter().map(|one| one.record.sequence).collect();
        let noise = 5000 - NOISE as u64..5000;
        assert_eq!(numbers, [1].into_iter().chain(noise).chain([5000]).collect::<Vec<_>>());
        assert_eq!(kept.since(4999).len(), 1);
        for sequence in 5001..8000 {
            kept.push(event(sequence, "down", false));
        }
        assert_eq!(kept.since(5000).len(), EVENTS, "the newest of the others too");
    }
}
