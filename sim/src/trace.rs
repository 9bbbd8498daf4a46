//! What a reader of a failed run wants to see.

use std::fmt::Write as _;

use gateway::read_model::EventRecord;
use ike::wire::{HEADER_LEN, Header};
use sa_store::Instant;

/// Lines that are kept when nobody asked for all.
const KEPT: usize = 60;

/// The story of a run: events always, every IKE message when somebody asked.
#[derive(Debug)]
pub(crate) struct Trace {
    everything: bool,
    lines: std::collections::VecDeque<(Instant, Line)>,
}

#[derive(Debug)]
enum Line {
    Event(usize, EventRecord),
    Text(String),
}

impl Trace {
    pub(crate) fn new(everything: bool) -> Self {
        Self { everything, lines: std::collections::VecDeque::new() }
    }

    fn push(&mut self, at: Instant, line: Line) {
        if !self.everything && self.lines.len() >= KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back((at, line));
    }

    /// An event of a gateway.
    pub(crate) fn event(&mut self, side: usize, event: EventRecord) {
        self.push(event.at, Line::Event(side, event));
    }

    /// Something that the world did.
    pub(crate) fn note(&mut self, now: Instant, text: impl FnOnce() -> String) {
        self.push(now, Line::Text(text()));
    }

    /// Something that is only worth a line when every line is wanted.
    pub(crate) fn detail(&mut self, now: Instant, text: impl FnOnce() -> String) {
        if self.everything {
            self.push(now, Line::Text(text()));
        }
    }

    /// All kept lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(at, line): &(Instant, Line)| match line {
            Line::Event(side, event) => format!(
                "{at:?} {}   {} {} {}: {}",
                name(*side),
                event.kind,
                event.child.as_deref().unwrap_or("-"),
                event.code.as_deref().unwrap_or("ok"),
                event.message
            ),
            Line::Text(text) => format!("{at:?} {text}"),
        };
        self.lines.iter().map(line).collect()
    }
}

/// An IKE message as one line of a ladder.
pub(crate) fn message(octets: &[u8]) -> String {
    let Ok((header, first)) = Header::parse(octets) else {
        return format!("{} octets that are no IKE message", octets.len());
    };
    let mut text = format!("{}", header.exchange);
    let kind = if header.response { "response" } else { "request" };
    let role = if header.initiator { "i" } else { "r" };
    let _ = write!(
        text,
        " {kind} {} from {role} [{:.8} {:.8}] first {first}, {} octets",
        header.message_id,
        header.spi_i.to_string(),
        header.spi_r.to_string(),
        octets.len().saturating_sub(HEADER_LEN),
    );
    text
}

/// A or B.
pub(crate) const fn name(side: usize) -> &'static str {
    if side == 0 { "A" } else { "B" }
}
