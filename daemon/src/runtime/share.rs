//! How many events one tunnel may tell: its peer, once authenticated, can cause them in any number
//! by bringing things up and taking them down.

use std::{collections::HashMap, time::Duration};

use gateway::read_model::EventRecord;
use ike::event::FailureCode;
use sa_store::Instant;

/// Events of one tunnel at once: more than a tunnel has children of, as a rule.
const BURST: u32 = 256;
/// Behind them, one more in this time.
const EVERY: Duration = Duration::from_secs(1);

/// Lets events of each tunnel pass at a rate that neither a log nor a reader drowns in.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Of tunnels that told something lately.
    tunnels: HashMap<String, Share>,
    /// Events that were not told, of all tunnels.
    untold: u64,
}

#[derive(Debug)]
struct Share {
    left: u32,
    /// When `left` was true.
    since: Instant,
    /// Events that were not told since the last one that was.
    untold: u64,
}

impl Share {
    /// What has come back by `now`.
    fn refill(&mut self, now: Instant) {
        let steps = now.since(self.since).as_secs() / EVERY.as_secs();
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(steps).min(BURST);
        self.since = self.since + EVERY.saturating_mul(steps);
    }
}

impl Shares {
    /// The event as it is told, or nothing when its tunnel has told too many. Numbers of events are
    /// those of the ones that are told.
    pub(super) fn admit(&mut self, mut record: EventRecord) -> Option<EventRecord> {
        let limited =
            record.tunnel.as_ref().filter(|_| !record.stranger && !was_asked_for(&record));
        if let Some(tunnel) = limited {
            if !self.tunnels.contains_key(tunnel) {
                self.forget_idle(record.at);
                let share = Share { left: BURST, since: record.at, untold: 0 };
                self.tunnels.insert(tunnel.clone(), share);
            }
            let share = self.tunnels.get_mut(tunnel)?;
            share.refill(record.at);
            let Some(left) = share.left.checked_sub(1) else {
                share.untold = share.untold.saturating_add(1);
                self.untold = self.untold.saturating_add(1);
                return None;
            };
            share.left = left;
            match std::mem::take(&mut share.untold) {
                0 => {}
                untold => record.message.push_str(&format!(
                    " ({untold} events of this tunnel before it were not told: there were too many)"
                )),
            }
        }
        record.sequence = record.sequence.saturating_sub(self.untold);
        Some(record)
    }

    /// Tunnels that have their whole share need no entry.
    fn forget_idle(&mut self, now: Instant) {
        self.tunnels.retain(|_, share| {
            share.refill(now);
            share.left < BURST || share.untold > 0
        });
    }
}

/// Whether somebody here wanted it so: no peer causes that.
fn was_asked_for(record: &EventRecord) -> bool {
    let ours = [FailureCode::DeletedByOperator, FailureCode::Reconfigured];
    record.kind == "down" || ours.iter().any(|code| record.code.as_deref() == Some(code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64, seconds: u64, tunnel: &str, kind: &'static str) -> EventRecord {
        EventRecord {
            sequence,
            at: Instant::ZERO + Duration::from_secs(seconds),
            tunnel: Some(tunnel.into()),
            child: Some("net".into()),
            kind,
            code: None,
            stranger: false,
            message: "x".into(),
        }
    }

    #[test]
    fn a_tunnel_that_comes_and_goes_tells_its_share_and_how_much_more_there_was() {
        let mut shares = Shares::default();
        let mut told = Vec::new();
        let mut number = 0;
        for second in 0..100 {
            for round in 0..100 {
                number += 1;
                let kind = if round % 2 == 0 { "child-installed" } else { "child-down" };
                told.extend(shares.admit(record(number, second, "loud", kind)));
            }
            number += 1;
            let quiet = shares.admit(record(number, second, "quiet", "child-rekeyed"));
            told.push(quiet.expect("another tunnel has a share of its own"));
        }
        assert_eq!(told.len(), 256 + 99 + 100);
        let numbers: Vec<u64> = told.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>(), "no gaps");
        let last = told.iter().rev().find(|event| event.tunnel.as_deref() == Some("loud"));
        let says = "x (99 events of this tunnel before it were not told: there were too many)";
        assert_eq!(last.map(|event| &*event.message), Some(says));
        // What an operator does is told whatever the peer did.
        assert!(shares.admit(record(number + 1, 99, "loud", "down")).is_some());
        let mut ours = record(number + 2, 99, "loud", "child-down");
        ours.code = Some("deleted-by-operator".into());
        assert!(shares.admit(ours).is_some());
        assert!(shares.admit(record(number + 3, 99, "loud", "child-down")).is_none());
    }

    #[test]
    fn nothing_is_kept_of_tunnels_that_are_quiet() {
        let mut shares = Shares::default();
        for tunnel in 0..10_000_u64 {
            let told = shares.admit(record(tunnel, tunnel, &format!("t{tunnel}"), "ike-down"));
            assert!(told.is_some());
        }
        assert!(shares.tunnels.len() < 3, "{}", shares.tunnels.len());
    }
}
