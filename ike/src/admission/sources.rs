//! Half-open IKE SAs by who asked for them: when there are too many, whose has to go (RFC 8019).
//! Every step is a look-up in an ordered set, whatever strangers do.

use alloc::collections::{BTreeMap, BTreeSet};
use core::net::IpAddr;

use crate::{output::Standing, view::IkeSaId};

/// A network within a standing: the wide ones hold narrower ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Net {
    standing: Standing,
    /// Of 128 bits; an IPv4 address stands in the last 32, and `v6` tells it from an IPv6 one.
    length: u8,
    v6: bool,
    prefix: u128,
}

/// The nets of one source, the widest first.
const LEVELS: usize = 4;

/// What counts as one source: an IPv4 address or an IPv6 /64. Around that, an IPv4 /24, which many
/// can have whole, and an IPv6 /56 and /48, which many a customer gets; around these the standing.
fn nets(standing: Standing, source: IpAddr) -> [Net; LEVELS] {
    let (v6, bits, lengths) = match source {
        IpAddr::V4(v4) => (false, u128::from(v4.to_bits()), [0, 120, 120, 128]),
        IpAddr::V6(v6) => (true, v6.to_bits(), [0, 48, 56, 64]),
    };
    lengths.map(|length| {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        // The widest has both families.
        Net { standing, length, v6: v6 && length > 0, prefix: bits & mask }
    })
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sources {
    counts: BTreeMap<Net, usize>,
    /// Each net below the one around it, by how many it has.
    ranked: BTreeSet<(Net, usize, Net)>,
    members: BTreeSet<(Net, IkeSaId)>,
}

impl Sources {
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn enter(&mut self, standing: Standing, source: IpAddr, ike: IkeSaId) {
        let nets = nets(standing, source);
        let [.., narrowest] = nets;
        if self.members.insert((narrowest, ike)) {
            self.count(nets, 1);
        }
    }

    pub(super) fn leave(&mut self, standing: Standing, source: IpAddr, ike: IkeSaId) {
        let nets = nets(standing, source);
        let [.., narrowest] = nets;
        if self.members.remove(&(narrowest, ike)) {
            self.count(nets, -1);
        }
    }

    fn count(&mut self, nets: [Net; LEVELS], more: isize) {
        let mut around = None;
        for net in nets {
            if around == Some(net) {
                continue;
            }
            let old = self.counts.get(&net).copied().unwrap_or(0);
            let new = old.saturating_add_signed(more);
            if new == 0 {
                self.counts.remove(&net);
            } else {
                self.counts.insert(net, new);
            }
            if let Some(around) = around {
                self.ranked.remove(&(around, old, net));
                if new > 0 {
                    self.ranked.insert((around, new, net));
                }
            }
            around = Some(net);
        }
    }

    /// How many have a standing.
    fn of(&self, standing: Standing) -> usize {
        self.counts.get(&everybody(standing)).copied().unwrap_or(0)
    }

    /// Whose has to go so that there are no more than `limit`: of the standing that is furthest over
    /// its part, the largest net, in that the largest one, and of that the oldest.
    pub(super) fn excess(&self, limit: usize) -> Option<IkeSaId> {
        if self.len() <= limit {
            return None;
        }
        let over = |standing: Standing| self.of(standing).saturating_sub(part(standing, limit));
        let standing = Standing::STRANGERS.into_iter().max_by_key(|standing| over(*standing))?;
        let mut net = everybody(standing);
        while let Some((_, _, within)) = self.largest(net) {
            net = within;
        }
        let mut members = self.members.range((net, IkeSaId(0))..=(net, IkeSaId(u64::MAX)));
        members.next().map(|(_, ike)| *ike)
    }

    /// The largest net in another one.
    fn largest(&self, around: Net) -> Option<(Net, usize, Net)> {
        let last = Net { length: u8::MAX, v6: true, prefix: u128::MAX, ..around };
        let last = Net { standing: Standing::Anybody, ..last };
        let first = Net { standing: Standing::Authenticated, length: 0, v6: false, prefix: 0 };
        self.ranked.range((around, 0, first)..=(around, usize::MAX, last)).next_back().copied()
    }
}

const fn everybody(standing: Standing) -> Net {
    Net { standing, length: 0, v6: false, prefix: 0 }
}

/// The part of all half-open IKE SAs that a standing has for itself.
const fn part(standing: Standing, limit: usize) -> usize {
    match standing {
        Standing::Authenticated => 0,
        Standing::Address | Standing::Prefix => limit / 4,
        Standing::Anybody => limit / 2,
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec::Vec};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Enters one and lets go who has to; gives that.
    fn call(sources: &mut Sources, all: &mut Vec<(Standing, IpAddr)>, who: (Standing, IpAddr)) {
        let ike = IkeSaId(u64::try_from(all.len()).unwrap());
        all.push(who);
        sources.enter(who.0, who.1, ike);
        while let Some(gone) = sources.excess(64) {
            let (standing, source) = all[usize::try_from(gone.0).unwrap()];
            sources.leave(standing, source, gone);
        }
    }

    #[test]
    fn the_largest_net_gives_way_and_its_oldest_first() {
        let (mut sources, mut all) = (Sources::default(), Vec::new());
        // Somebody who means it, once, among strangers from everywhere.
        call(&mut sources, &mut all, (Standing::Anybody, ip("203.0.113.9")));
        call(&mut sources, &mut all, (Standing::Anybody, ip("2001:db8:1::1")));
        for number in 0..1000_u32 {
            let v4 = ip(&format!("198.51.100.{}", number % 256));
            let v6 = ip(&format!("2001:db8:2:{:x}::1", number % 4096));
            call(&mut sources, &mut all, (Standing::Anybody, v4));
            call(&mut sources, &mut all, (Standing::Anybody, v6));
        }
        assert_eq!(sources.len(), 64);
        let left: Vec<u64> = sources.members.iter().map(|(_, ike)| ike.0).collect();
        assert!(left.contains(&0) && left.contains(&1), "{left:?}");
        // Both nets share what there is.
        let of = |net: &str| {
            let nets = nets(Standing::Anybody, ip(net));
            sources.counts.get(&nets[1]).copied().unwrap_or(0)
        };
        assert_eq!((of("198.51.100.0"), of("2001:db8:2::")), (31, 31));
        // And of the narrower ones none has more than a few.
        assert!(sources.counts.iter().filter(|(net, _)| net.length > 120).all(|it| *it.1 <= 1));
    }

    #[test]
    fn who_is_configured_keeps_a_part() {
        let (mut sources, mut all) = (Sources::default(), Vec::new());
        for number in 0..20 {
            let known = ip(&format!("192.0.2.{number}"));
            call(&mut sources, &mut all, (Standing::Address, known));
        }
        for number in 0..5000_u32 {
            let stranger = IpAddr::from(number.wrapping_mul(2_654_435_761).to_be_bytes());
            call(&mut sources, &mut all, (Standing::Anybody, stranger));
        }
        // Both are over their parts, strangers further.
        assert_eq!(sources.of(Standing::Address), 20);
        assert_eq!(sources.of(Standing::Anybody), 44);
        // Room that nobody else uses is anybody's, also that of one who calls ever again.
        let (mut sources, mut all) = (Sources::default(), Vec::new());
        for _ in 0..5000 {
            call(&mut sources, &mut all, (Standing::Address, ip("192.0.2.1")));
        }
        assert_eq!(sources.len(), 64);
        call(&mut sources, &mut all, (Standing::Anybody, ip("203.0.113.1")));
        assert_eq!(sources.of(Standing::Anybody), 1);
    }

    #[test]
    fn nothing_is_left_of_who_has_gone() {
        let mut sources = Sources::default();
        let sources_of = |number: u64| {
            if number.is_multiple_of(2) { ip("198.51.100.7") } else { ip("2001:db8::7") }
        };
        for number in 0..100 {
            sources.enter(Standing::Prefix, sources_of(number), IkeSaId(number));
        }
        for number in 0..100 {
            for _ in 0..2 {
                sources.leave(Standing::Prefix, sources_of(number), IkeSaId(number));
            }
        }
        assert_eq!((sources.len(), sources.counts.len(), sources.ranked.len()), (0, 0, 0));
        assert_eq!(sources.excess(0), None);
    }
}
