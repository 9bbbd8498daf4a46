//! Counts requests that cross: both ends asked on one IKE SA before either had heard the other.
//! A run in which none do would prove nothing about collisions (RFC 7296 §2.8, §2.25).

use ike::wire::{ExchangeType, Header};
use sa_store::{IkeSpi, Instant};

/// A CREATE_CHILD_SA request without its response.
#[derive(Debug)]
struct Open {
    sa: (IkeSpi, IkeSpi),
    message_id: u32,
    /// Whether it is to replace the IKE SA.
    for_ike: bool,
    sent: Instant,
    arrived: Option<Instant>,
    counted: bool,
}

/// How often requests of both ends crossed, by what they were for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Crossed {
    /// Both for children.
    pub children: u64,
    /// Both to replace the IKE SA.
    pub ike: u64,
    /// One of each.
    pub mixed: u64,
}

/// The newest request of each side, and how many have crossed.
#[derive(Debug, Default)]
pub(super) struct Crossing {
    open: [Option<Open>; 2],
    pub(super) count: Crossed,
}

fn read(octets: &[u8]) -> Option<Header> {
    let (header, _) = Header::parse(octets).ok()?;
    (header.exchange == ExchangeType::CREATE_CHILD_SA).then_some(header)
}

impl Crossing {
    /// A side sends a message. `for_ike` says whether it is replacing its IKE SA with these SPIs.
    pub(super) fn sent(
        &mut self,
        now: Instant,
        side: usize,
        octets: &[u8],
        for_ike: impl FnOnce(IkeSpi, IkeSpi) -> bool,
    ) {
        let Some(header) = read(octets).filter(|header| !header.response) else { return };
        let (sa, message_id) = ((header.spi_i, header.spi_r), header.message_id);
        let Some(open) = self.open.get_mut(side) else { return };
        if open.as_ref().is_none_or(|open| (open.sa, open.message_id) != (sa, message_id)) {
            let for_ike = for_ike(header.spi_i, header.spi_r);
            let (sent, arrived, counted) = (now, None, false);
            *open = Some(Open { sa, message_id, for_ike, sent, arrived, counted });
        }
    }

    /// A message arrives at a side.
    pub(super) fn arrived(&mut self, now: Instant, side: usize, octets: &[u8]) {
        let Some(header) = read(octets) else { return };
        let [a, b] = &mut self.open;
        let (own, theirs) = if side == 0 { (a, b) } else { (b, a) };
        let same = |open: &Open| {
            (open.sa, open.message_id) == ((header.spi_i, header.spi_r), header.message_id)
        };
        if header.response {
            if own.as_ref().is_some_and(same) {
                *own = None;
            }
            return;
        }
        let Some(theirs) = theirs.as_mut().filter(|open| same(open) && open.arrived.is_none())
        else {
            return;
        };
        theirs.arrived = Some(now);
        let Some(own) = own.as_mut().filter(|own| own.sa == theirs.sa && !own.counted) else {
            return;
        };
        if own.arrived.is_none_or(|arrived| arrived > theirs.sent) {
            (own.counted, theirs.counted) = (true, true);
            let count = match (own.for_ike, theirs.for_ike) {
                (false, false) => &mut self.count.children,
                (true, true) => &mut self.count.ike,
                (true, false) | (false, true) => &mut self.count.mixed,
            };
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use ike::wire::encode_message;

    use super::*;

    fn request(message_id: u32, initiator: bool) -> Vec<u8> {
        let header = Header {
            spi_i: IkeSpi(1),
            spi_r: IkeSpi(2),
            exchange: ExchangeType::CREATE_CHILD_SA,
            initiator,
            response: false,
            message_id,
        };
        encode_message(&header, &[]).unwrap_or_default()
    }

    #[test]
    fn only_requests_that_did_not_know_of_each_other_cross() {
        let at = Instant::from_nanos;
        let (a, b) = (request(5, true), request(9, false));
        for (for_ike, expected) in [
            ([false, false], Crossed { children: 1, ..Crossed::default() }),
            ([true, true], Crossed { ike: 1, ..Crossed::default() }),
            ([true, false], Crossed { mixed: 1, ..Crossed::default() }),
            ([false, true], Crossed { mixed: 1, ..Crossed::default() }),
        ] {
            let mut crossing = Crossing::default();
            crossing.sent(at(1), 0, &a, |_, _| for_ike[0]);
            crossing.sent(at(2), 1, &b, |_, _| for_ike[1]);
            crossing.arrived(at(3), 0, &b);
            crossing.arrived(at(4), 1, &a);
            assert_eq!(crossing.count, expected);
        }
        let mut crossing = Crossing::default();
        crossing.sent(at(1), 0, &a, |_, _| false);
        crossing.arrived(at(2), 1, &a);
        crossing.sent(at(3), 1, &b, |_, _| false);
        crossing.arrived(at(4), 0, &b);
        assert_eq!(crossing.count, Crossed::default());
    }
}
