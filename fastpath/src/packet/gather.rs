//! Putting fragments together again, for SAs that may not carry later fragments.
//!
//! A later fragment shows no ports. An SA whose selectors have ports must not carry it unless
//! both ends agreed to that (RFC 4301 §7.3), and a receiver could not tell that it belongs there.
//! So such an SA carries datagrams whole, and where one is too long for the path, the outer packet
//! is fragmented.
//!
//! Fragments reach a worker as the kernel makes them, one behind the other and through one queue
//! of the interface (it hashes fragments by addresses and protocol). So little is kept: some
//! datagrams at a time, each as far as it has come without a gap.
//!
//! IPv4 only. Over IPv6 a whole packet would not get further than the peer: nobody but the sender
//! may cut it again (RFC 8200 §5).

use super::header::{finish_ipv4, set_word, word};

/// Datagrams under way at a time.
const DATAGRAMS: usize = 4;
/// For how long they may be; nanoseconds. The kernel cuts a datagram in one go.
const PATIENCE: u64 = 1_000_000_000;
/// The longest IPv4 packet.
const LONGEST: usize = 65_535;

/// What tells the fragments of a datagram from others (RFC 791 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    addresses: [u8; 8],
    id: u16,
    protocol: u8,
}

/// A fragment of an IPv4 packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment<'p> {
    key: Key,
    header: &'p [u8],
    payload: &'p [u8],
    /// Octets of the datagram before this fragment's.
    offset: usize,
    more: bool,
}

impl<'p> Fragment<'p> {
    /// Reads a fragment; `None` if the packet is whole, not IPv4, or makes no sense.
    pub(crate) fn read(packet: &'p [u8]) -> Option<Self> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let position = u16::from_be_bytes([fixed[6], fixed[7]]);
        if fixed[0] >> 4 != 4 || position & 0x3fff == 0 {
            return None;
        }
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        let header_len = usize::from(fixed[0] & 0xf) * 4;
        let key = Key {
            addresses: *packet.get(12..)?.first_chunk()?,
            id: u16::from_be_bytes([fixed[4], fixed[5]]),
            protocol: fixed[9],
        };
        let (header, payload) = packet.get(..total)?.split_at_checked(header_len)?;
        let (offset, more) = (usize::from(position & 0x1fff) * 8, position & 0x2000 != 0);
        // All but the last are multiples of eight octets long.
        let sound = header_len >= 20 && !payload.is_empty() && (!more || payload.len() % 8 == 0);
        sound.then_some(Self { key, header, payload, offset, more })
    }

    /// Whether it has the ports.
    pub(crate) const fn is_first(&self) -> bool {
        self.offset == 0
    }
}

/// What became of a later fragment.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Later<'g> {
    /// Its datagram is not put together here.
    Unknown,
    /// It belongs to one that is.
    Kept,
    /// With it, the packet is whole.
    Whole(&'g [u8]),
}

/// A datagram as far as it has come; `key` is `None` where there is none.
struct Pending {
    key: Option<Key>,
    since: u64,
    /// The header of the first fragment and the payload so far.
    packet: Vec<u8>,
    header_len: usize,
}

/// Datagrams under way. Made once; allocates nothing later.
pub(crate) struct Gatherer {
    pending: [Pending; DATAGRAMS],
}

impl Gatherer {
    pub(crate) fn new() -> Self {
        let packet = || Vec::with_capacity(LONGEST);
        let empty = || Pending { key: None, since: 0, packet: packet(), header_len: 0 };
        Self { pending: core::array::from_fn(|_| empty()) }
    }

    /// Starts with a first fragment that came at `now`. True if that cost another datagram that
    /// was still under way.
    pub(crate) fn first(&mut self, fragment: &Fragment<'_>, now: u64) -> bool {
        // Its own place when it comes again, an empty one, or the oldest.
        let place = self.pending.iter_mut().min_by_key(|pending| match pending.key {
            Some(key) if key == fragment.key => (0, 0),
            None => (1, 0),
            Some(_) => (2, pending.since),
        });
        let Some(place) = place else { return false };
        let lost = place.key.is_some();
        place.key = Some(fragment.key);
        place.since = now;
        place.header_len = fragment.header.len();
        place.packet.clear();
        place.packet.extend_from_slice(fragment.header);
        place.append(fragment.payload);
        lost
    }

    /// Takes a later fragment that came at `now`.
    pub(crate) fn later(&mut self, fragment: &Fragment<'_>, now: u64) -> Later<'_> {
        let fresh = |pending: &&mut Pending| {
            pending.key == Some(fragment.key) && now.saturating_sub(pending.since) <= PATIENCE
        };
        let Some(pending) = self.pending.iter_mut().find(fresh) else { return Later::Unknown };
        let so_far = pending.packet.len() - pending.header_len;
        if fragment.offset != so_far || !pending.append(fragment.payload) {
            // A gap, or more than a packet can be: it will not become whole any more.
            pending.key = None;
            return Later::Unknown;
        }
        if fragment.more {
            return Later::Kept;
        }
        pending.key = None;
        let packet = &mut pending.packet;
        let total = u16::try_from(packet.len()).unwrap_or(u16::MAX);
        let flags = word(packet, 6).unwrap_or(0) & 0xc000;
        set_word(packet, 2, total);
        set_word(packet, 6, flags);
        finish_ipv4(packet);
        Later::Whole(packet)
    }
}

impl Pending {
    /// Adds payload, if there is room.
    fn append(&mut self, payload: &[u8]) -> bool {
        let fits = self.packet.len() + payload.len() <= LONGEST;
        if fits {
            self.packet.extend_from_slice(payload);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{header::shape, segment::Fragments},
        *,
    };
    use etherparse::PacketBuilder;

    fn datagram(id: u16, octets: usize) -> Vec<u8> {
        let body: Vec<u8> = (0..octets).map(|i| (i * 7) as u8).collect();
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64)
            .udp(53, 54)
            .write(&mut packet, &body)
            .unwrap();
        set_word(&mut packet, 4, id);
        set_word(&mut packet, 6, 0);
        finish_ipv4(&mut packet);
        packet
    }

    fn cut(packet: &[u8]) -> Vec<Vec<u8>> {
        let plan = Fragments::plan(packet, &shape(packet).unwrap(), 1003).unwrap();
        (0..plan.count)
            .map(|index| {
                let mut fragment = vec![0; plan.header_len];
                let part = plan.write(packet, index, &mut fragment).unwrap();
                fragment.extend_from_slice(&packet[part]);
                fragment
            })
            .collect()
    }

    /// What comes out of fragments that come in one after the other.
    fn gather(gatherer: &mut Gatherer, fragments: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut whole = Vec::new();
        for bytes in fragments {
            let fragment = Fragment::read(bytes).unwrap();
            if fragment.is_first() {
                gatherer.first(&fragment, 5);
            } else if let Later::Whole(packet) = gatherer.later(&fragment, 5) {
                whole.push(packet.to_vec());
            }
        }
        whole
    }

    #[test]
    fn what_was_cut_becomes_whole() {
        let mut gatherer = Gatherer::new();
        for octets in [1000, 2777, 65_507] {
            let packet = datagram(octets as u16, octets);
            let parts = cut(&packet);
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            assert_eq!(gather(&mut gatherer, &parts), [packet], "{octets}");
        }
        assert!(Fragment::read(&datagram(1, 100)).is_none(), "is whole");
    }

    #[test]
    fn datagrams_that_come_mixed_are_kept_apart() {
        let packets: Vec<Vec<u8>> = (0..3).map(|id| datagram(id, 1500 + usize::from(id))).collect();
        let parts: Vec<Vec<Vec<u8>>> = packets.iter().map(|packet| cut(packet)).collect();
        let mixed: Vec<&[u8]> =
            (0..2).flat_map(|part| parts.iter().map(move |of| of[part].as_slice())).collect();
        assert_eq!(gather(&mut Gatherer::new(), &mixed), packets);
    }

    #[test]
    fn nothing_is_made_of_fragments_with_a_gap_or_of_old_ones() {
        let parts = cut(&datagram(9, 3000));
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let mut gatherer = Gatherer::new();
        assert!(gather(&mut gatherer, &[parts[0], parts[2], parts[1], parts[3]]).is_empty());
        assert!(gather(&mut gatherer, &parts[1..]).is_empty());
        let last = Fragment::read(parts[3]).unwrap();
        assert!(gather(&mut gatherer, &parts[..3]).is_empty());
        assert_eq!(gatherer.later(&last, 6 + PATIENCE), Later::Unknown, "is of another datagram");
    }

    #[test]
    fn too_many_at_a_time_cost_the_oldest() {
        let mut gatherer = Gatherer::new();
        let parts: Vec<Vec<Vec<u8>>> =
            (0..=DATAGRAMS as u16).map(|id| cut(&datagram(id, 1500))).collect();
        for (now, of) in parts.iter().enumerate() {
            let first = Fragment::read(&of[0]).unwrap();
            assert_eq!(gatherer.first(&first, now as u64), now == DATAGRAMS);
        }
        for (number, of) in parts.iter().enumerate() {
            let whole =
                matches!(gatherer.later(&Fragment::read(&of[1]).unwrap(), 9), Later::Whole(_));
            assert_eq!(whole, number > 0, "{number}");
        }
    }

    #[test]
    fn fragments_that_make_more_than_a_packet_make_none() {
        let mut gatherer = Gatherer::new();
        let parts = cut(&datagram(3, 65_507));
        let mut last = parts.last().unwrap().clone();
        // One more of full length behind the end.
        let at = word(&last, 6).unwrap();
        let (all, mut more) = (parts.len(), parts[1].clone());
        set_word(&mut last, 6, at | 0x2000);
        let short = last.len() - 20;
        last.truncate(20 + short / 8 * 8);
        let len = last.len() as u16;
        set_word(&mut last, 2, len);
        set_word(&mut more, 6, (at & 0x1fff) + (len - 20) / 8);
        let mut stream: Vec<&[u8]> = parts[..all - 1].iter().map(Vec::as_slice).collect();
        stream.extend([last.as_slice(), more.as_slice()]);
        assert!(gather(&mut gatherer, &stream).is_empty());
    }
}
