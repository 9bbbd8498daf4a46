//! The events that are kept for readers.

use std::collections::{HashMap, VecDeque};

use super::handle::TimedEvent;

/// Events kept.
const EVENTS: usize = 1000;
/// The same for those that come in any number: what strangers can cause, and every repetition of a
/// message to peers that are silent. However many there are, the others stay.
const NOISE: usize = 200;

/// The newest events of both kinds.
#[derive(Debug, Default)]
pub(super) struct Kept {
    events: Ring,
    noise: Ring,
}

impl Kept {
    /// Keeps an event, for as long as there are not many newer ones of its kind.
    pub(super) fn push(&mut self, event: TimedEvent) {
        let noise = event.record.stranger || event.record.kind == "retransmitting";
        if noise {
            self.noise.push(event, NOISE);
        } else {
            self.events.push(event, EVENTS);
        }
    }

    /// What is kept of the events behind this number, oldest first.
    pub(super) fn since(&self, since: u64) -> Vec<TimedEvent> {
        let all = self.events.kept.iter().chain(&self.noise.kept);
        let newer = |event: &&TimedEvent| event.record.sequence > since;
        let mut found: Vec<TimedEvent> = all.filter(newer).cloned().collect();
        found.sort_by_key(|event| event.record.sequence);
        found
    }
}

/// Events in which every tunnel has a fair share: when there is no room, the tunnel that has most
/// of it gives its oldest one.
#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<TimedEvent>,
    /// How many are of each tunnel.
    of: HashMap<Option<String>, usize>,
}

impl Ring {
    fn push(&mut self, event: TimedEvent, most: usize) {
        *self.of.entry(event.record.tunnel.clone()).or_default() += 1;
        self.kept.push_back(event);
        if self.kept.len() > most {
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        let largest = self.of.values().copied().max().unwrap_or(0);
        let of = |event: &TimedEvent| self.of.get(&event.record.tunnel).copied().unwrap_or(0);
        let oldest = self.kept.iter().position(|event| of(event) == largest).unwrap_or(0);
        let Some(gone) = self.kept.remove(oldest) else { return };
        if let Some(count) = self.of.get_mut(&gone.record.tunnel) {
            *count -= 1;
            if *count == 0 {
                self.of.remove(&gone.record.tunnel);
            }
        }
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

    #[test]
    fn no_tunnel_washes_out_the_events_of_another() {
        let mut kept = Kept::default();
        let mut number = 0;
        let mut push = |kept: &mut Kept, tunnel: &str, kind| {
            number += 1;
            let mut one = event(number, kind, false);
            one.record.tunnel = Some(tunnel.to_owned());
            kept.push(one);
        };
        for _ in 0..50 {
            push(&mut kept, "quiet", "child-rekeyed");
        }
        for _ in 0..10_000 {
            push(&mut kept, "loud", "child-installed");
        }
        for _ in 0..300 {
            push(&mut kept, "new", "child-installed");
        }
        for _ in 0..10_000 {
            push(&mut kept, "loud", "child-down");
        }
        let all = kept.since(0);
        let of = |tunnel: &str| {
            all.iter().filter(|event| event.record.tunnel.as_deref() == Some(tunnel)).count()
        };
        assert_eq!((of("quiet"), of("new"), of("loud")), (50, 300, 650));
        assert_eq!(all.last().map(|event| event.record.kind), Some("child-down"));
        assert_eq!(kept.events.of.len(), 3);
    }
}
