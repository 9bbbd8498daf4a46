//! Packets on their way through the table, as the kernel takes them.

use super::model::{Action, Chain, Key, Line, Match, Table};
use crate::policy::Span;

/// A packet as nftables sees it: the fields of `struct nft_pktinfo` and what its expressions read.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub v4: bool,
    pub source: u128,
    pub destination: u128,
    /// `meta l4proto`; nothing where the headers of IPv6 cannot be walked.
    pub protocol: Option<u8>,
    /// The next layer as far as `th` reads it.
    pub upper: Vec<u8>,
    /// The offset of a fragment is not 0.
    pub later: bool,
    /// There is a fragment header (IPv6).
    pub fragment: bool,
    pub hop_limit: u8,
    pub mark: u32,
    pub from: String,
    pub to: Option<String>,
    /// What `fib daddr type` says.
    pub to_us: bool,
    pub to_many: bool,
}

impl Seen {
    /// Reads a packet as `nft_set_pktinfo_ipv4` and `ipv6_find_hdr` do.
    pub(super) fn read(packet: &[u8]) -> Self {
        let v4 = packet[0] >> 4 == 4;
        let number = |range: std::ops::Range<usize>| {
            packet[range].iter().fold(0_u128, |all, octet| all << 8 | u128::from(*octet))
        };
        let (source, destination) =
            if v4 { (number(12..16), number(16..20)) } else { (number(8..24), number(24..40)) };
        let mut seen = Self {
            v4,
            source,
            destination,
            protocol: None,
            upper: Vec::new(),
            later: false,
            fragment: false,
            hop_limit: packet[if v4 { 8 } else { 7 }],
            mark: 0,
            from: "lan".to_owned(),
            to: None,
            to_us: false,
            to_many: false,
        };
        if v4 {
            seen.protocol = Some(packet[9]);
            seen.later = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
            if !seen.later {
                seen.upper = packet[usize::from(packet[0] & 0xf) * 4..].to_vec();
            }
            return seen;
        }
        let (mut next, mut at) = (packet[6], 40);
        // What the kernel takes for extension headers; at AH it stops because it is told to.
        while matches!(next, 0 | 43 | 44 | 60) {
            let Some(header) = packet.get(at..at + 2) else { return seen };
            if next == 44 {
                let Some(position) = packet.get(at + 2..at + 4) else { return seen };
                seen.fragment = true;
                if u16::from_be_bytes([position[0], position[1]]) & 0xfff8 != 0 {
                    seen.later = true;
                    let told = !matches!(header[0], 0 | 43 | 44 | 51 | 60);
                    seen.protocol = told.then_some(header[0]);
                    return seen;
                }
                at += 8;
            } else {
                at += (usize::from(header[1]) + 1) * 8;
            }
            next = header[0];
        }
        // It reads two octets of AH before it stops there.
        if next == 51 && packet.get(at..at + 2).is_none() {
            return seen;
        }
        seen.protocol = Some(next);
        seen.upper = packet.get(at..).unwrap_or(&[]).to_vec();
        seen
    }

    fn word(&self, second: bool) -> Option<u16> {
        let at = if second { 2 } else { 0 };
        self.protocol?;
        Some(u16::from_be_bytes([*self.upper.get(at)?, *self.upper.get(at + 1)?]))
    }
}

/// What becomes of a packet in a chain with a hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It goes on, with this mark.
    Passes(u32),
    Dropped,
}

enum Step {
    /// The end of a chain, or `return`.
    Back,
    Accepted,
    Dropped,
}

impl Table {
    /// Sends a packet through the chain of a hook.
    pub(super) fn pass(&self, chain: &str, packet: &Seen) -> Outcome {
        let mut packet = packet.clone();
        match self.walk(chain, &mut packet, 0) {
            Step::Dropped => Outcome::Dropped,
            Step::Back | Step::Accepted => Outcome::Passes(packet.mark),
        }
    }

    fn chain(&self, name: &str) -> &Chain {
        self.chains.iter().find(|chain| chain.name == name).unwrap()
    }

    fn walk(&self, chain: &str, packet: &mut Seen, depth: usize) -> Step {
        // NFT_JUMP_STACK_SIZE
        assert!(depth < 16, "chains lead too deep");
        'lines: for Line(matches, actions) in &self.chain(chain).lines {
            if !matches.iter().all(|wanted| self.matches(wanted, packet) == Some(true)) {
                continue;
            }
            for action in actions {
                match action {
                    Action::Accept => return Step::Accepted,
                    Action::Drop => return Step::Dropped,
                    Action::Return => return Step::Back,
                    Action::Goto(to) => return self.walk(to, packet, depth + 1),
                    Action::Jump(to) => match self.walk(to, packet, depth + 1) {
                        Step::Back => {}
                        end => return end,
                    },
                    Action::SetMark { keep, value } => packet.mark = packet.mark & keep | value,
                    Action::Count(_) => {}
                    Action::Tproxy => continue 'lines,
                }
            }
        }
        Step::Back
    }

    /// Nothing where the packet does not have what is asked for.
    fn matches(&self, wanted: &Match, packet: &Seen) -> Option<bool> {
        Some(match wanted {
            Match::Mark { mask, value, is } => (packet.mark & mask == *value) == *is,
            Match::From { interface, is } => (packet.from == *interface) == *is,
            Match::To(interface) => packet.to.as_ref() == Some(interface),
            Match::FromIndex(index) => packet.from == format!("if{index}"),
            Match::ToIndex(index) => packet.to.as_ref() == Some(&format!("if{index}")),
            Match::Unrouted => packet.to.is_none(),
            Match::Family { v4 } => packet.v4 == *v4,
            Match::Protocols(protocols) => protocols.contains(&packet.protocol?),
            Match::ProtocolSeen => packet.protocol.is_some(),
            Match::Word { second } => packet.word(*second).is_some(),
            Match::Later { v4 } => packet.v4 == *v4 && packet.later,
            Match::Fragment => packet.fragment,
            Match::NotTo { peers, v4, outward } => {
                let peers = self.peers.iter().find(|set| set.name == *peers).unwrap();
                let peer = if *outward { packet.destination } else { packet.source };
                packet.v4 == *v4 && !peers.spans.iter().any(|span| span.contains(peer))
            }
            Match::In { set, v4, key, outward } => {
                packet.v4 == *v4 && self.holds(set, *key, *outward, packet)?
            }
            Match::ToUs => packet.to_us,
            Match::ToMany => packet.to_many,
            Match::UdpTo(ports) => packet.protocol? == 17 && ports.contains(&packet.word(true)?),
            Match::Discovery => {
                packet.protocol? == 58
                    && (133..=137).contains(packet.upper.first()?)
                    && packet.hop_limit == 255
            }
        })
    }

    fn holds(&self, set: &str, key: Key, outward: bool, packet: &Seen) -> Option<bool> {
        let set = self.sets.iter().find(|known| known.name == set).unwrap();
        assert_eq!(set.key, key);
        let (local, remote) = if outward {
            (packet.source, packet.destination)
        } else {
            (packet.destination, packet.source)
        };
        let protocol = if key == Key::Addresses { None } else { Some(packet.protocol?) };
        let numbers = match key {
            Key::Addresses | Key::Protocol => Vec::new(),
            Key::Ports => vec![packet.word(!outward)?, packet.word(outward)?],
            Key::Icmp => vec![packet.word(false)?],
            Key::Mobility => vec![packet.word(true)?],
        };
        Some(set.elements.iter().any(|element| {
            let within = |span: Span, at: u128| span.start <= at && at <= span.end;
            within(element.local, local)
                && within(element.remote, remote)
                && protocol.is_none_or(|protocol| protocol == element.protocol)
                && numbers
                    .iter()
                    .zip(element.ports)
                    .all(|(number, range)| range.start <= *number && *number <= range.end)
        }))
    }
}
