//! What lies between the gateways: loss, duplication, delay, reordering, NAT.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use sa_store::Instant;

use crate::random::Seeded;

/// What a datagram carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// An IKE message, without non-ESP marker.
    Ike(Vec<u8>),
    /// A NAT keepalive.
    Keepalive,
    /// ESP in UDP, with the number of the packet inside for the books of the simulation.
    EspInUdp(Vec<u8>, u64),
    /// ESP as IP protocol 50.
    RawEsp(Vec<u8>, u64),
}

/// A datagram between two outer addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// From where.
    pub source: SocketAddr,
    /// To where.
    pub destination: SocketAddr,
    /// What.
    pub content: Content,
}

/// How bad the network is.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Percent of datagrams that are lost.
    pub loss: u64,
    /// Percent that arrive twice.
    pub twice: u64,
    /// Shortest time under way.
    pub delay: Duration,
    /// Longest time added to it, drawn for each datagram: they overtake each other.
    pub jitter: Duration,
}

/// A NAT in front of one side.
#[derive(Clone, Debug)]
pub struct Nat {
    inside: IpAddr,
    outside: IpAddr,
    next_port: u16,
    /// From the port inside to the port outside.
    mappings: BTreeMap<u16, u16>,
}

impl Nat {
    /// Hides `inside` behind `outside`.
    #[must_use]
    pub const fn new(inside: IpAddr, outside: IpAddr) -> Self {
        Self { inside, outside, next_port: 20_000, mappings: BTreeMap::new() }
    }

    /// Forgets all mappings: the next datagram from inside gets another port.
    pub fn rebind(&mut self) {
        self.mappings.clear();
    }

    /// Rewrites a datagram that passes; `None` if it cannot.
    fn pass(&mut self, mut datagram: Datagram) -> Option<Datagram> {
        let raw = matches!(datagram.content, Content::RawEsp(..));
        if datagram.source.ip() == self.inside {
            if raw {
                return None;
            }
            let next = &mut self.next_port;
            let port = *self.mappings.entry(datagram.source.port()).or_insert_with(|| {
                *next = next.wrapping_add(1).max(1024);
                *next
            });
            datagram.source = SocketAddr::new(self.outside, port);
        } else if datagram.destination.ip() == self.outside {
            let port = datagram.destination.port();
            let (inside, _) = self.mappings.iter().find(|(_, outside)| **outside == port)?;
            datagram.destination = SocketAddr::new(self.inside, *inside);
        }
        Some(datagram)
    }
}

/// One copy of a datagram on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy {
    /// When it arrives.
    pub at: Instant,
    /// The datagram, addresses rewritten by the NAT.
    pub datagram: Datagram,
    /// False for what somebody sends again, or damaged: nobody misses it.
    pub timely: bool,
}

/// The network.
#[derive(Clone, Debug)]
pub struct Network {
    weather: Weather,
    attacker: (u64, u64),
    nat: Option<Nat>,
    random: Seeded,
}

impl Network {
    /// A network with that weather. Somebody sends `attacker.0` percent of the datagrams again,
    /// up to a minute later, and damaged copies of `attacker.1` percent.
    #[must_use]
    pub const fn new(
        weather: Weather,
        attacker: (u64, u64),
        nat: Option<Nat>,
        random: Seeded,
    ) -> Self {
        Self { weather, attacker, nat, random }
    }

    /// The sky clears: nothing is lost or doubled any more, and nobody interferes.
    pub fn clear(&mut self) {
        (self.weather.loss, self.weather.twice, self.attacker) = (0, 0, (0, 0));
    }

    /// The NAT, if there is one.
    pub const fn nat(&mut self) -> Option<&mut Nat> {
        self.nat.as_mut()
    }

    /// The copies of a datagram that arrive, and when; none if it is lost.
    pub fn carry(&mut self, now: Instant, datagram: Datagram) -> Vec<Copy> {
        // Drawn first, so that what a NAT does changes nothing else.
        let lost = self.random.chance(self.weather.loss);
        let copies = if self.random.chance(self.weather.twice) { 2 } else { 1 };
        let arrivals = [self.arrival(now), self.arrival(now)];
        let passed = match &mut self.nat {
            Some(nat) => nat.pass(datagram),
            None => Some(datagram),
        };
        let Some(datagram) = passed else { return Vec::new() };
        let mut all = Vec::new();
        if !lost {
            for at in arrivals.into_iter().take(copies) {
                all.push(Copy { at, datagram: datagram.clone(), timely: true });
            }
        }
        if self.random.chance(self.attacker.0) {
            let at = self.arrival(now) + Duration::from_millis(self.random.between(5, 60_000));
            all.push(Copy { at, datagram: datagram.clone(), timely: false });
        }
        if self.random.chance(self.attacker.1) {
            let at = self.arrival(now);
            all.push(Copy { at, datagram: self.damaged(datagram), timely: false });
        }
        all
    }

    fn arrival(&mut self, now: Instant) -> Instant {
        let jitter = u64::try_from(self.weather.jitter.as_nanos()).unwrap_or(0);
        now + self.weather.delay + Duration::from_nanos(self.random.below(jitter + 1))
    }

    /// The same datagram with one bit turned, or cut short.
    fn damaged(&mut self, mut datagram: Datagram) -> Datagram {
        let octets = match &mut datagram.content {
            Content::Ike(octets) | Content::EspInUdp(octets, _) | Content::RawEsp(octets, _) => {
                octets
            }
            Content::Keepalive => return datagram,
        };
        let place = usize::try_from(self.random.below(octets.len() as u64)).unwrap_or(0);
        if self.random.chance(20) {
            octets.truncate(place);
        } else if let Some(octet) = octets.get_mut(place) {
            *octet ^= 1 << self.random.below(8);
        }
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(loss: u64, nat: Option<Nat>) -> Network {
        let weather = Weather {
            loss,
            twice: 10,
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(40),
        };
        Network::new(weather, (0, 0), nat, Seeded::new(3, 0))
    }

    fn datagram(source: &str, destination: &str, content: Content) -> Datagram {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Datagram { source, destination, content }
    }

    #[test]
    fn loss_and_duplication_are_what_the_weather_says() {
        let mut network = network(40, None);
        let packet = datagram("192.0.2.1:500", "192.0.2.2:500", Content::Keepalive);
        let (mut none, mut two) = (0, 0);
        for _ in 0..10_000 {
            match network.carry(Instant::ZERO, packet.clone()).len() {
                0 => none += 1,
                2 => two += 1,
                _ => {}
            }
        }
        assert!((3800..4200).contains(&none), "{none}");
        assert!((500..700).contains(&two), "{two}");
        network.clear();
        assert_eq!(network.carry(Instant::ZERO, packet).len(), 1);
    }

    #[test]
    fn a_nat_maps_both_ways_rebinds_and_holds_raw_esp_back() {
        let (inside, outside) = ("10.0.0.2".parse().unwrap(), "198.51.100.1".parse().unwrap());
        let mut network = network(0, Some(Nat::new(inside, outside)));
        network.clear();
        let carry = |network: &mut Network, packet| {
            network.carry(Instant::ZERO, packet).pop().map(|copy| copy.datagram)
        };
        let out = datagram("10.0.0.2:4500", "192.0.2.2:4500", Content::Keepalive);
        let seen = carry(&mut network, out.clone()).unwrap();
        assert_eq!(seen.source.ip(), outside);
        let back = datagram("192.0.2.2:4500", &seen.source.to_string(), Content::Keepalive);
        assert_eq!(carry(&mut network, back.clone()).unwrap().destination, out.source);
        network.nat().unwrap().rebind();
        assert_eq!(carry(&mut network, back), None);
        assert_ne!(carry(&mut network, out).unwrap().source, seen.source);
        let raw = datagram("10.0.0.2:0", "192.0.2.2:0", Content::RawEsp(Vec::new(), 1));
        assert_eq!(carry(&mut network, raw), None);
    }
}
