//! Numbered packets, and what must become of them.

use std::{net::SocketAddr, time::Duration};

use sa_store::Instant;

use super::{Happening, World};
use crate::{
    book::Arrived,
    device::{Sent, Verdict},
    network::{Content, Datagram},
    packet,
    trace::name,
    want,
};

/// Packets are sent this often around IKE messages, and otherwise.
const DENSE: Duration = Duration::from_millis(40);
const SPARSE: Duration = Duration::from_secs(3);

/// How long after an IKE message packets are sent densely.
const DENSE_FOR: Duration = Duration::from_millis(1500);

/// How many packets at once.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    dense_until: Instant,
    round: u64,
}

impl World {
    /// All children that any side may have.
    pub(super) fn lanes(&self) -> usize {
        self.scenario.children + 1
    }

    pub(super) fn start_traffic(&mut self) {
        self.traffic.round += 1;
        let round = self.traffic.round;
        for side in 0..2 {
            for child in 0..self.lanes() {
                let late = Duration::from_millis(self.random.below(40));
                self.at(self.now + late, Happening::Traffic { side, child, round });
            }
        }
    }

    /// IKE talks: packets are sent densely for a while.
    pub(super) fn stir(&mut self) {
        let dense = self.traffic.dense_until > self.now;
        self.traffic.dense_until = self.now + DENSE_FOR;
        if !dense {
            self.start_traffic();
        }
    }

    pub(super) fn traffic(&mut self, side: usize, child: usize, round: u64) {
        if round != self.traffic.round {
            return;
        }
        let pause = if self.traffic.dense_until > self.now { DENSE } else { SPARSE };
        let nanos = u64::try_from(pause.as_nanos()).unwrap_or(1);
        let next = self.now + pause / 2 + Duration::from_nanos(self.random.below(nanos));
        self.at(next, Happening::Traffic { side, child, round });
        // Only what both operators want to be protected the same way.
        if self.nodes.iter().all(|node| node.powered && node.want.children.contains(&child)) {
            self.send(side, child);
        }
    }

    /// One side sends one packet through a child.
    pub(crate) fn send(&mut self, side: usize, child: usize) {
        let now = self.now;
        let number = self.book.number(now, side, child);
        let inner = packet::numbered(want::host(side, child), want::host(1 - side, child), number);
        let Some(node) = self.nodes.get(side) else { return };
        let mut core = node.device.core();
        let told = core.has_policies();
        let sent = core.send(now, &inner);
        drop(core);
        match sent {
            Sent::Sealed { source, destination, udp, esp } => {
                let content =
                    if udp { Content::EspInUdp(esp, number) } else { Content::RawEsp(esp, number) };
                self.sends_again(side, child);
                let copies = self.transmit(side, Datagram { source, destination, content });
                self.book.sent(number, copies);
            }
            Sent::NotCovered if told && self.protects(side, child) => {
                self.violation(format!("packet {number} left {} in clear", name(side)));
            }
            // The gateway has not got that far with its configuration.
            Sent::NotCovered => self.book.refused(true),
            other => {
                let excused = self.was_down(now, child) || self.cannot_send(side, child);
                self.book.refused(excused);
                if !excused {
                    let what = format!("{} did not send packet {number}: {other:?}", name(side));
                    self.violation(what);
                }
            }
        }
    }

    /// Whether a gateway has been told to protect a child: its policies are in place.
    fn protects(&self, side: usize, child: usize) -> bool {
        self.nodes.get(side).is_some_and(|node| {
            node.gateway.databases().spd().entries().iter().any(|entry| {
                let (local, remote) = (want::host(side, child), want::host(1 - side, child));
                entry.local.iter().any(|selector| selector.contains_address(local.into()))
                    && entry.remote.iter().any(|selector| selector.contains_address(remote.into()))
            })
        })
    }

    /// Whether a side reported a child down at some moment from `since` on.
    fn was_down(&mut self, since: Instant, child: usize) -> bool {
        for side in 0..2 {
            self.look(side);
        }
        self.nodes.iter().any(|node| node.was_down(since, child))
    }

    pub(super) fn arrive_esp(
        &mut self,
        side: usize,
        source: SocketAddr,
        esp: &[u8],
        number: u64,
        timely: bool,
    ) {
        let now = self.now;
        let verdict = match self.nodes.get(side) {
            Some(node) if node.powered => node.device.core().receive(now, source, esp),
            _ => Verdict::UnknownSpi,
        };
        let taken = matches!(verdict, Verdict::Inner(_));
        if let Verdict::Inner(inner) = &verdict {
            let genuine = self.book.origin(number).is_some_and(|(from, child)| {
                from != side
                    && *inner
                        == packet::numbered(
                            want::host(from, child),
                            want::host(side, child),
                            number,
                        )
            });
            if !genuine {
                self.violation(format!("{} took something nobody sent: {inner:02x?}", name(side)));
            }
        }
        match self.book.arrived(number, taken, timely) {
            Arrived::Well => {}
            Arrived::Twice => {
                self.violation(format!("{} delivered packet {number} twice", name(side)));
            }
            Arrived::Lost { sent } => {
                let spi = esp::peek_spi(esp);
                let wanted = self.book.origin(number).map(|(_, child)| child).filter(|child| {
                    self.nodes.iter().all(|node| node.want.children.contains(child))
                });
                let excused = wanted.is_none_or(|child| self.was_down(sent, child))
                    || self.cannot_receive(side, spi);
                self.book.refused(excused);
                if !excused {
                    self.violation(format!(
                        "packet {number} of {sent:?} to {} was lost: {verdict:?}, SPI {spi:?}",
                        name(side)
                    ));
                }
            }
        }
    }
}
