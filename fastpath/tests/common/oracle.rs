//! What becomes of a packet by ordered policies (RFC 4301 §4.4.1), told from the selectors as they
//! are written and from a packet as it was made: nothing here is code of the data plane.

use std::net::IpAddr;

use hw_offload::{Policy, PolicyAction};
use proptest::prelude::*;
use sa_store::{ChildId, DomainId, OffloadIntent, PortRange, TrafficSelector, TunnelId};

/// A packet, by what it was made of.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) v4: bool,
    /// Last octets of the addresses.
    pub(crate) source: u8,
    pub(crate) destination: u8,
    /// Sent by the local side, or by the peer's.
    pub(crate) outward: bool,
    /// Extension headers (IPv6) in front of the fragment header, and behind it.
    pub(crate) headers: (Vec<u8>, Vec<u8>),
    pub(crate) part: Part,
    /// The next layer protocol.
    pub(crate) protocol: u8,
    /// The first octets of the next layer, which may be too few for ports.
    pub(crate) upper: Vec<u8>,
}

/// Which part of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Whole,
    First,
    Later,
}

/// What a packet must come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    /// It stays clear.
    Clear,
    /// It is protected or discarded.
    Caught,
}

/// Protocols with ports (RFC 4301 §4.4.1.1).
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// The addresses of the two sides end in a small number each.
pub(crate) fn address(v4: bool, local: bool, last: u8) -> IpAddr {
    let site = if local { 1 } else { 2 };
    if v4 {
        IpAddr::from([10, site, 0, 32 + last])
    } else {
        IpAddr::from([0xfd00 + u16::from(site), 0, 0, 0, 0, 0, 0, 0x20 + u16::from(last)])
    }
}

impl Packet {
    pub(crate) fn source(&self) -> IpAddr {
        address(self.v4, self.outward, self.source)
    }

    pub(crate) fn destination(&self) -> IpAddr {
        address(self.v4, !self.outward, self.destination)
    }

    /// Whether a fragment hides what flow it is of: a later one, and a first one whose headers go
    /// on in the next.
    pub(crate) fn flow_is_hidden(&self) -> bool {
        self.part == Part::Later
            || self.part == Part::First
                && !self.v4
                && has_ports(self.protocol)
                && self.numbers().is_none()
    }

    /// The two numbers that selectors call ports, where the packet shows them.
    fn numbers(&self) -> Option<(u16, u16)> {
        if self.part == Part::Later {
            return None;
        }
        let word = |at: usize| -> Option<u16> {
            Some(u16::from_be_bytes([*self.upper.get(at)?, *self.upper.get(at + 1)?]))
        };
        match self.protocol {
            one if WITH_PORTS.contains(&one) => Some((word(0)?, word(2)?)),
            1 | 58 => Some((word(0)?, word(0)?)),
            135 => {
                let kind = word(2)? & 0xff00;
                Some((kind, kind))
            }
            _ => None,
        }
    }

    /// The packet as it is on the wire; `tag` is the identification or the flow label.
    pub(crate) fn bytes(&self, tag: u16) -> Vec<u8> {
        if self.v4 { self.v4_bytes(tag) } else { self.v6_bytes(tag) }
    }

    fn payload(&self) -> Vec<u8> {
        let mut payload = self.upper.clone();
        // All fragments but the last are multiples of eight octets long.
        if self.part == Part::First {
            payload.resize(payload.len().next_multiple_of(8), 0x5a);
        }
        payload
    }

    fn v4_bytes(&self, tag: u16) -> Vec<u8> {
        let payload = self.payload();
        let len = u16::try_from(20 + payload.len()).unwrap();
        let position: u16 = match self.part {
            Part::Whole => 0,
            Part::First => 0x2000,
            Part::Later => 3,
        };
        let mut bytes = vec![0x45, 0];
        bytes.extend(len.to_be_bytes());
        bytes.extend(tag.to_be_bytes());
        bytes.extend(position.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        for address in [self.source(), self.destination()] {
            let IpAddr::V4(v4) = address else { unreachable!() };
            bytes.extend(v4.octets());
        }
        let mut sum: u32 =
            bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        bytes[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn v6_bytes(&self, tag: u16) -> Vec<u8> {
        let (before, behind) = &self.headers;
        let mut types = before.clone();
        if self.part != Part::Whole {
            types.push(44);
            // A later fragment says what follows the fragment header in the first one, but has
            // none of it.
            types.extend(if self.part == Part::Later {
                &behind[..behind.len().min(1)]
            } else {
                behind
            });
        }
        let real =
            if self.part == Part::Later { types.len().min(before.len() + 1) } else { types.len() };
        let mut next = types.clone();
        if self.part != Part::Later || behind.is_empty() {
            next.push(self.protocol);
        }
        let mut payload = Vec::new();
        for (number, kind) in types.iter().take(real).enumerate() {
            let following = next.get(number + 1).copied().unwrap_or(59);
            match kind {
                44 => {
                    let position: u16 = if self.part == Part::Later { 24 } else { 1 };
                    payload.extend([following, 0]);
                    payload.extend(position.to_be_bytes());
                    payload.extend([0, 0, tag.to_be_bytes()[0], tag.to_be_bytes()[1]]);
                }
                // A routing header that has been used up; options: padding.
                43 => payload.extend([following, 0, 4, 0, 0, 0, 0, 0]),
                _ => payload.extend([following, 0, 1, 4, 0, 0, 0, 0]),
            }
        }
        payload.extend(self.payload());
        let mut bytes = vec![0x60, 0];
        bytes.extend(tag.to_be_bytes());
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend([next[0], 64]);
        for address in [self.source(), self.destination()] {
            let IpAddr::V6(v6) = address else { unreachable!() };
            bytes.extend(v6.octets());
        }
        bytes.extend(payload);
        bytes
    }

    /// Numbers of our side and the peer's.
    fn sides(&self) -> (IpAddr, IpAddr, Option<(u16, u16)>) {
        let numbers = self.numbers();
        if self.outward {
            (self.source(), self.destination(), numbers)
        } else {
            let swapped = numbers.map(|(source, destination)| (destination, source));
            (self.destination(), self.source(), swapped)
        }
    }
}

fn has_ports(protocol: u8) -> bool {
    WITH_PORTS.contains(&protocol) || matches!(protocol, 1 | 58 | 135)
}

fn in_range(selector: &TrafficSelector, address: IpAddr) -> bool {
    match (selector.start(), selector.end(), address) {
        (IpAddr::V4(start), IpAddr::V4(end), IpAddr::V4(at)) => start <= at && at <= end,
        (IpAddr::V6(start), IpAddr::V6(end), IpAddr::V6(at)) => start <= at && at <= end,
        _ => false,
    }
}

/// ANY, OPAQUE or a range; a range with no protocol is one of ports.
fn number_fits(selector: &TrafficSelector, protocol: u8, number: Option<u16>) -> bool {
    match selector.ports() {
        PortRange::ANY => true,
        PortRange::OPAQUE => number.is_none(),
        range => {
            let meant = selector.protocol() != 0 || WITH_PORTS.contains(&protocol);
            meant && number.is_some_and(|number| range.start <= number && number <= range.end)
        }
    }
}

fn side_fits(selector: &TrafficSelector, at: IpAddr, protocol: u8, number: Option<u16>) -> bool {
    in_range(selector, at)
        && (selector.protocol() == 0 || selector.protocol() == protocol)
        && number_fits(selector, protocol, number)
}

/// The number of the first policy that matches what a packet shows.
pub(crate) fn first(policies: &[Policy], packet: &Packet) -> Option<usize> {
    let (local, remote, numbers) = packet.sides();
    let hit = |policy: &Policy| {
        policy.local.iter().any(|ours| {
            side_fits(ours, local, packet.protocol, numbers.map(|(local, _)| local))
                && policy.remote.iter().any(|theirs| {
                    side_fits(theirs, remote, packet.protocol, numbers.map(|(_, remote)| remote))
                })
        })
    };
    policies.iter().position(hit)
}

/// Whether packets of some flow between two addresses, of one protocol or an unknown one, fit.
fn some_flow_fits(ours: &TrafficSelector, theirs: &TrafficSelector, protocol: Option<u8>) -> bool {
    let of = |protocol: u8| {
        let fit = |local: Option<u16>, remote: Option<u16>| {
            number_fits(ours, protocol, local) && number_fits(theirs, protocol, remote)
        };
        let compatible = |selector: &TrafficSelector| {
            selector.protocol() == 0 || selector.protocol() == protocol
        };
        let interesting =
            |selector: &TrafficSelector| [selector.ports().start, selector.ports().end];
        let marks: Vec<u16> = interesting(ours)
            .into_iter()
            .chain(interesting(theirs))
            .flat_map(|at| [at, at & 0xff00, at.saturating_add(0xff) & 0xff00])
            .collect();
        let visible = match protocol {
            1 | 58 => marks.iter().any(|at| fit(Some(*at), Some(*at))),
            135 => marks.iter().filter(|at| **at & 0xff == 0).any(|at| fit(Some(*at), Some(*at))),
            one if WITH_PORTS.contains(&one) => {
                marks.iter().any(|at| marks.iter().any(|other| fit(Some(*at), Some(*other))))
            }
            _ => false,
        };
        compatible(ours) && compatible(theirs) && (visible || fit(None, None))
    };
    match protocol {
        Some(protocol) => of(protocol),
        None => (1..=255).any(of),
    }
}

/// What ordered policies say of a packet. Of a fragment that hides its flow: what is caught of
/// flows that it may belong to stands; a bypass opens only what is certainly its own.
pub(crate) fn expected(policies: &[Policy], packet: &Packet) -> Expected {
    let caught = |policy: &Policy| !matches!(policy.action, PolicyAction::Bypass);
    if !packet.flow_is_hidden() {
        return match first(policies, packet).and_then(|at| policies.get(at)) {
            Some(policy) if caught(policy) => Expected::Caught,
            _ => Expected::Clear,
        };
    }
    // Of IPv6 fragments the first alone says the protocol (RFC 8200 §4.5).
    let protocol = packet.v4.then_some(packet.protocol);
    let (local, remote, _) = packet.sides();
    for policy in policies {
        let pairs = policy
            .local
            .iter()
            .flat_map(|ours| policy.remote.iter().map(move |theirs| (ours, theirs)));
        for (ours, theirs) in
            pairs.filter(|(ours, theirs)| in_range(ours, local) && in_range(theirs, remote))
        {
            if caught(policy) {
                if some_flow_fits(ours, theirs, protocol) {
                    return Expected::Caught;
                }
            } else {
                // No packet shows ports where a policy names a protocol that has none.
                let named = ours.protocol() != 0 || theirs.protocol() != 0;
                let opaque = named && protocol.is_some_and(|protocol| !has_ports(protocol));
                let all = |selector: &TrafficSelector| {
                    let ports = selector.ports();
                    (ports == PortRange::ANY || ports == PortRange::OPAQUE && opaque)
                        && (selector.protocol() == 0 || Some(selector.protocol()) == protocol)
                };
                if all(ours) && all(theirs) {
                    return Expected::Clear;
                }
            }
        }
    }
    Expected::Clear
}

const PROTOCOLS: [u8; 12] = [1, 6, 6, 6, 17, 17, 47, 50, 51, 58, 132, 135];

/// Numbers that ranges begin and end at, and their neighbours.
const NUMBERS: [u16; 16] =
    [0, 1, 79, 80, 81, 443, 499, 500, 1023, 1024, 0x0800, 0x08ff, 0x0900, 4500, 9000, 65_535];

fn number() -> impl Strategy<Value = u16> {
    proptest::sample::select(&NUMBERS[..])
}

fn range() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        9 => Just(PortRange::ANY),
        3 => Just(PortRange::OPAQUE),
        4 => (number(), number()).prop_map(|(a, b)| PortRange { start: a.min(b), end: a.max(b) }),
    ]
}

fn selector(local: bool) -> impl Strategy<Value = TrafficSelector> {
    let protocol = prop_oneof![2 => Just(0_u8), 1 => proptest::sample::select(&PROTOCOLS[..])];
    (any::<bool>(), 0..4_u8, 0..4_u8, protocol, range()).prop_map(
        move |(v4, a, b, protocol, ports)| {
            let (start, end) = (address(v4, local, a.min(b)), address(v4, local, a.max(b)));
            TrafficSelector::new(protocol, start, end, ports).unwrap()
        },
    )
}

/// A policy; its number is its child's.
pub(crate) fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let selectors = |local| proptest::collection::vec(selector(local), 2..6);
    let policy = (0..5_u8, selectors(true), selectors(false));
    proptest::collection::vec(policy, 1..10).prop_map(|policies| {
        let policy = |(number, (kind, local, remote))| Policy {
            domain: DomainId(0),
            action: match kind {
                0 => PolicyAction::Discard,
                1 | 2 => PolicyAction::Bypass,
                _ => PolicyAction::Protect {
                    tunnel: TunnelId(1),
                    child: ChildId(number),
                    peers: Vec::new(),
                    offload: OffloadIntent::Auto,
                },
            },
            local,
            remote,
        };
        policies.into_iter().zip(0_u32..).map(|(kind, number)| policy((number, kind))).collect()
    })
}

/// A packet between the two sides.
pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let part = prop_oneof![4 => Just(Part::Whole), 1 => Just(Part::First), 1 => Just(Part::Later)];
    let header = || {
        prop_oneof![
            3 => Just(Vec::new()),
            1 => proptest::collection::vec(proptest::sample::select(&[43_u8, 60][..]), 1..4),
        ]
    };
    let hop_by_hop = any::<bool>();
    let upper = (number(), number(), prop_oneof![6 => Just(24_usize), 1 => 0..5_usize]);
    (
        any::<(bool, bool)>(),
        (0..4_u8, 0..4_u8),
        (hop_by_hop, header(), header()),
        part,
        proptest::sample::select(&PROTOCOLS[..]),
        upper,
    )
        .prop_map(
            |(
                (v4, outward),
                (source, destination),
                (hop, mut before, behind),
                part,
                protocol,
                (a, b, len),
            )| {
                if hop {
                    before.insert(0, 0);
                }
                let mut upper = vec![0x17; 24];
                upper[..2].copy_from_slice(&a.to_be_bytes());
                upper[2..4].copy_from_slice(&b.to_be_bytes());
                if protocol == 51 {
                    // A TCP header behind AH, which nobody may look at.
                    let tcp = std::mem::replace(&mut upper, vec![0; 24]);
                    upper[..2].copy_from_slice(&[6, 4]);
                    upper.extend(tcp);
                }
                match part {
                    // Of AH the kernel wants to see two octets.
                    Part::Whole if len < 5 => {
                        upper.truncate(if protocol == 51 { len.max(2) } else { len })
                    }
                    // Headers that go on in the next fragment.
                    Part::First if len < 5 && !v4 && !behind.is_empty() && protocol != 51 => {
                        upper.clear();
                    }
                    _ => {}
                }
                Packet {
                    v4,
                    source,
                    destination,
                    outward,
                    headers: if v4 { (Vec::new(), Vec::new()) } else { (before, behind) },
                    part,
                    protocol,
                    upper,
                }
            },
        )
}
