//! What peers want done, in turn: who is known best comes first, and among those who are known
//! equally well one network after the other, so that no flood keeps others waiting.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
};

use ike::output::{Asker, Standing};

/// A standing and a network in it: an IPv4 /24 or an IPv6 /48.
type Net = (Standing, bool, u128);

fn net(asker: Asker) -> Net {
    match asker.source {
        IpAddr::V4(v4) => (asker.standing, false, u128::from(v4.to_bits() >> 8)),
        IpAddr::V6(v6) => (asker.standing, true, v6.to_bits() >> 80),
    }
}

/// See the module. No more than `MOST` of a standing wait.
#[derive(Debug)]
pub(super) struct Fair<T, const MOST: usize> {
    jobs: BTreeMap<Net, VecDeque<T>>,
    /// By how many wait.
    sizes: BTreeSet<(Standing, usize, Net)>,
    turns: BTreeMap<Standing, VecDeque<Net>>,
    waiting: BTreeMap<Standing, usize>,
}

impl<T, const MOST: usize> Default for Fair<T, MOST> {
    fn default() -> Self {
        Self {
            jobs: BTreeMap::new(),
            sizes: BTreeSet::new(),
            turns: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }
}

impl<T, const MOST: usize> Fair<T, MOST> {
    /// Takes one in; gives the oldest of the largest network if that is one too many.
    pub(super) fn push(&mut self, asker: Asker, job: T) -> Option<T> {
        let net = net(asker);
        let jobs = self.jobs.entry(net).or_default();
        jobs.push_back(job);
        let size = jobs.len();
        self.sizes.remove(&(net.0, size - 1, net));
        self.sizes.insert((net.0, size, net));
        if size == 1 {
            self.turns.entry(net.0).or_default().push_back(net);
        }
        let waiting = self.waiting.entry(net.0).or_default();
        *waiting += 1;
        if *waiting <= MOST {
            return None;
        }
        let last = (net.0, usize::MAX, (Standing::Anybody, true, u128::MAX));
        let largest = self.sizes.range((net.0, 0, (Standing::Authenticated, false, 0))..=last);
        let (.., largest) = *{ largest }.next_back()?;
        self.take(largest)
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<T> {
        let turns = self.turns.values_mut().find(|turns| !turns.is_empty())?;
        let net = turns.pop_front()?;
        let job = self.take(net);
        if self.jobs.contains_key(&net) {
            self.turns.entry(net.0).or_default().push_back(net);
        }
        job
    }

    /// The oldest of a network.
    fn take(&mut self, net: Net) -> Option<T> {
        let jobs = self.jobs.get_mut(&net)?;
        let size = jobs.len();
        let job = jobs.pop_front();
        self.sizes.remove(&(net.0, size, net));
        if size <= 1 {
            self.jobs.remove(&net);
            if let Some(turns) = self.turns.get_mut(&net.0) {
                turns.retain(|turn| *turn != net);
            }
        } else {
            self.sizes.insert((net.0, size - 1, net));
        }
        if let Some(waiting) = self.waiting.get_mut(&net.0) {
            *waiting = waiting.saturating_sub(1);
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(standing: Standing, source: &str) -> Asker {
        Asker { standing, source: source.parse().unwrap() }
    }

    #[test]
    fn networks_take_turns_and_the_best_known_come_first() {
        let mut fair: Fair<u32, 8> = Fair::default();
        for number in 0..4 {
            assert_eq!(fair.push(asker(Standing::Anybody, "198.51.100.1"), number), None);
        }
        assert_eq!(fair.push(asker(Standing::Anybody, "2001:db8::1"), 10), None);
        assert_eq!(fair.push(asker(Standing::Address, "192.0.2.1"), 20), None);
        assert_eq!(fair.push(asker(Standing::Authenticated, "192.0.2.2"), 30), None);
        let order: Vec<u32> = std::iter::from_fn(|| fair.pop()).collect();
        assert_eq!(order, [30, 20, 0, 10, 1, 2, 3]);
        assert!(fair.jobs.is_empty() && fair.sizes.is_empty());
    }

    #[test]
    fn the_largest_network_gives_way_and_no_other_standing_does() {
        let mut fair: Fair<u32, 8> = Fair::default();
        assert_eq!(fair.push(asker(Standing::Address, "192.0.2.1"), 100), None);
        assert_eq!(fair.push(asker(Standing::Anybody, "203.0.113.5"), 200), None);
        let mut gone = Vec::new();
        for number in 0..1000_u32 {
            let source = format!("198.51.100.{}", number % 256);
            gone.extend(fair.push(asker(Standing::Anybody, &source), number));
        }
        assert_eq!(gone, (0..993).collect::<Vec<u32>>());
        let order: Vec<u32> = std::iter::from_fn(|| fair.pop()).collect();
        assert_eq!(order[..2], [100, 200]);
        assert_eq!(order.len(), 9);
    }
}
