//! Numbered traffic between two namespaces: who got what, exactly.
//!
//! Each end runs `pt-traffic`, which sends numbered UDP packets at a steady rate and notes every
//! number that arrives. Every packet carries the canary, over and over, so that any piece of it
//! in clear is recognised in a capture. The two ends together say which numbers were lost,
//! doubled or changed in either direction.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::Dialogue;
use crate::failure::{Failure, Outcome, ensure};
use crate::netns::Namespace;
use crate::{postern, wait};

/// Octets that mark the payload of one scenario and occur nowhere else.
#[derive(Debug, Clone)]
pub struct Canary(String);

impl Canary {
    /// A canary of this process and this number.
    pub fn new(number: u32) -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        Self(format!("CANARY-{:08x}-{number:04x}-{:016x}", std::process::id(), now as u64))
    }

    /// A canary with this text.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Its octets.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The smallest payload: the canary and the packet's number.
    pub fn smallest(&self) -> usize {
        self.0.len() + 8
    }

    /// Writes packet `number`: canary, number, then the canary over and over.
    pub fn fill(&self, number: u64, payload: &mut [u8]) {
        let numbered = self.bytes().iter().copied().chain(number.to_be_bytes());
        let whole = numbered.chain(self.bytes().iter().copied().cycle());
        for (octet, value) in payload.iter_mut().zip(whole) {
            *octet = value;
        }
    }

    /// The number of a packet, when every octet of it is as [`Canary::fill`] wrote it.
    pub fn number(&self, payload: &[u8]) -> Option<u64> {
        let field = payload.get(self.0.len()..self.smallest())?;
        let number = u64::from_be_bytes(field.try_into().ok()?);
        let mut expected = vec![0; payload.len()];
        self.fill(number, &mut expected);
        (expected == payload).then_some(number)
    }
}

/// What one end has seen; a line of JSON from `pt-traffic`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EndReport {
    /// Packets handed to the network.
    pub sent: u64,
    /// Packets the network did not take (no route, blocked), counted in `sent` too.
    pub refused: u64,
    /// Different numbers received.
    pub received: u64,
    /// Packets received more than once.
    pub doubled: u64,
    /// Packets whose octets had changed, or that were not ours.
    pub corrupt: u64,
    /// One more than the highest number received.
    pub next: u64,
    /// Numbers below `next` that never came: first, last, and the time in milliseconds since the
    /// epoch at which the packet before them arrived. At most the first fifty gaps.
    pub gaps: Vec<(u64, u64, u64)>,
    /// How long sending has lasted, in milliseconds.
    pub sending_ms: u64,
    /// When the first packet was sent, in milliseconds since the epoch.
    pub first_sent_ms: u64,
}

/// One direction, put together from both ends.
#[derive(Debug, Clone)]
pub struct Direction {
    /// Packets sent.
    pub sent: u64,
    /// Packets that never arrived.
    pub lost: u64,
    /// Packets that arrived more than once.
    pub doubled: u64,
    /// Packets that arrived changed.
    pub corrupt: u64,
    /// Sent per second.
    pub rate: u64,
    /// The gaps, as in [`EndReport::gaps`].
    pub gaps: Vec<(u64, u64, u64)>,
}

impl Direction {
    fn new(sender: &EndReport, receiver: &EndReport) -> Self {
        let mut gaps = receiver.gaps.clone();
        if receiver.next < sender.sent {
            gaps.push((receiver.next, sender.sent - 1, 0));
        }
        Self {
            sent: sender.sent,
            lost: sender.sent.saturating_sub(receiver.received),
            doubled: receiver.doubled,
            corrupt: receiver.corrupt,
            rate: sender.sent.saturating_sub(1) * 1000 / sender.sending_ms.max(1),
            gaps,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent at {}/s, {} lost, {} doubled, {} changed",
            self.sent, self.rate, self.lost, self.doubled, self.corrupt
        )?;
        for (first, last, at) in self.gaps.iter().take(8) {
            let seconds = *at as f64 / 1000.0;
            write!(f, "; missing {first} to {last} (after {seconds:.3})")?;
        }
        if self.gaps.len() > 8 {
            write!(f, "; and {} gaps or more", self.gaps.len() - 8)?;
        }
        Ok(())
    }
}

/// What happened to a flow.
#[derive(Debug, Clone)]
pub struct Report {
    /// From the first end to the second.
    pub there: Direction,
    /// From the second end to the first.
    pub back: Direction,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there: {}; back: {}", self.there, self.back)
    }
}

impl Report {
    /// Fails unless every packet arrived once and unchanged, both ways.
    pub fn must_be_whole(&self) -> Outcome {
        let whole = |way: &Direction| way.lost + way.doubled + way.corrupt == 0 && way.sent > 0;
        ensure(whole(&self.there) && whole(&self.back), || format!("packets were lost: {self}"))
    }

    /// Fails unless both ends sent at least this many packets a second.
    pub fn must_reach(&self, rate: u64) -> Outcome {
        ensure(self.there.rate >= rate && self.back.rate >= rate, || {
            format!("the test itself was too slow, {rate}/s were wanted: {self}")
        })
    }
}

/// How to send.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Packets a second from each end.
    pub rate: u32,
    /// Smallest UDP payload in octets.
    pub smallest: usize,
    /// Largest UDP payload in octets; sizes go round between the two.
    pub largest: usize,
    /// UDP port at both ends.
    pub port: u16,
    /// IP protocol of the packets is always UDP; this many packets are sent, 0 means until told.
    pub count: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { rate: 1100, smallest: 64, largest: 200, port: 7001, count: 0 }
    }
}

/// Traffic between two namespaces, both ways.
#[derive(Debug)]
pub struct Flow {
    ends: [Dialogue; 2],
}

/// How long an answer of `pt-traffic` may take.
const ANSWER: Duration = Duration::from_secs(10);

impl Flow {
    /// Prepares traffic between two addresses; nothing is sent yet.
    pub fn prepare(
        first: (&Namespace, IpAddr),
        second: (&Namespace, IpAddr),
        canary: &Canary,
        shape: &Shape,
    ) -> Outcome<Self> {
        let start = |(namespace, local): (&Namespace, IpAddr), remote: IpAddr| {
            let tool = postern::beside_the_tests("pt-traffic")?;
            // The measure must not starve on a busy machine.
            let arguments = [
                "nice".to_owned(),
                "-n".to_owned(),
                "-20".to_owned(),
                tool.display().to_string(),
                SocketAddr::new(local, shape.port).to_string(),
                SocketAddr::new(remote, shape.port).to_string(),
                canary.text().to_owned(),
                shape.rate.to_string(),
                shape.smallest.to_string(),
                shape.largest.to_string(),
                shape.count.to_string(),
            ];
            let argv: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let dialogue = Dialogue::start("pt-traffic", &namespace.inside(&argv), false)?;
            dialogue.hear_about("ready", ANSWER)?;
            Ok::<_, Failure>(dialogue)
        };
        Ok(Self { ends: [start(first, second.1)?, start(second, first.1)?] })
    }

    /// Starts sending at both ends.
    pub fn start(&mut self) -> Outcome {
        self.ends.iter_mut().try_for_each(|end| end.say("start"))
    }

    /// What both ends have seen so far.
    pub fn look(&mut self) -> Outcome<[EndReport; 2]> {
        let mut look = |end: usize| -> Outcome<EndReport> {
            let end = self.ends.get_mut(end).ok_or_else(|| Failure::new("no such end"))?;
            end.say("look")?;
            Ok(serde_json::from_str(&end.hear(ANSWER)?)?)
        };
        Ok([look(0)?, look(1)?])
    }

    /// Waits until both ends have sent this many packets since the start.
    pub fn has_sent(&mut self, count: u64, limit: Duration) -> Outcome {
        wait::until("packets to be sent", limit, || match self.look() {
            Ok(ends) if ends.iter().all(|end| end.sent >= count) => Ok(()),
            Ok(ends) => Err(format!("{count} are wanted: {ends:?}")),
            Err(failure) => Err(failure.to_string()),
        })
    }

    /// Waits until both ends have received this many packets more than now.
    pub fn flows(&mut self, more: u64, limit: Duration) -> Outcome {
        let before = self.look()?;
        wait::until("traffic both ways", limit, || match self.look() {
            Err(failure) => Err(failure.to_string()),
            Ok(now) => {
                let fresh = |end: usize| {
                    now.get(end).map_or(0, |report| report.received)
                        - before.get(end).map_or(0, |report| report.received)
                };
                let (back, there) = (fresh(0), fresh(1));
                if back >= more && there >= more {
                    Ok(())
                } else {
                    Err(format!("{there} packets there, {back} back"))
                }
            }
        })
    }

    /// Stops sending, waits for stragglers, and reports.
    pub fn finish(mut self) -> Outcome<Report> {
        self.ends.iter_mut().try_for_each(|end| end.say("stop"))?;
        let mut last = self.look()?;
        // Stragglers: done when everything is there or nothing came for half a second.
        let mut quiet = 0;
        while quiet < 25 {
            let [first, second] = &last;
            if first.received >= second.sent && second.received >= first.sent {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            let now = self.look()?;
            let [now_first, now_second] = &now;
            let still =
                now_first.received == first.received && now_second.received == second.received;
            quiet = if still { quiet + 1 } else { 0 };
            last = now;
        }
        let [first, second] = &last;
        Ok(Report { there: Direction::new(first, second), back: Direction::new(second, first) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_octet_is_noticed() {
        let canary = Canary::from_text("CANARY");
        let mut payload = vec![0; 100];
        canary.fill(77, &mut payload);
        assert_eq!(canary.number(&payload), Some(77));
        payload[99] ^= 1;
        assert_eq!(canary.number(&payload), None);
        assert_eq!(canary.number(b"CANARY"), None);
    }

    #[test]
    fn a_lost_tail_counts_as_lost() {
        let sender = EndReport { sent: 10, sending_ms: 9, ..EndReport::default() };
        let receiver =
            EndReport { received: 7, next: 8, gaps: vec![(3, 3, 5)], ..EndReport::default() };
        let way = Direction::new(&sender, &receiver);
        assert_eq!((way.lost, way.rate), (3, 1000));
        assert_eq!(way.gaps, [(3, 3, 5), (8, 9, 0)]);
    }
}
