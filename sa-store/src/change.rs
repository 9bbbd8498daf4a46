//! The journal: every mutation of the databases as a value, without keys.
//!
//! The databases change by changes only, so whoever has read all of them has the same databases.
//!
//! That is less than it takes to carry an SA on elsewhere. Of an SA, [`SadEntry`] has what tells it
//! from others and where it runs; not in it are its keys, selectors, mode, limits, replay window and
//! handling of inner headers ([`crate::SaRecord`]), nor the sequence numbers and counters that packets
//! move ([`crate::live`]). Of its end there is only that it came, not why.

use std::{collections::VecDeque, net::SocketAddr};

use crate::{
    SaId, TunnelId,
    pad::{Pad, PadEntry},
    sad::{Sad, SadEntry},
    spd::{Spd, SpdEntry},
};

/// One mutation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// An SA was installed.
    SaInstalled(SadEntry),
    /// An outbound SA carries its child's traffic from now on.
    SaActivated(SaId),
    /// The outer addresses of an SA changed.
    SaMoved {
        /// Which SA.
        sa: SaId,
        /// Our end.
        local: SocketAddr,
        /// The peer's end.
        remote: SocketAddr,
    },
    /// An SA is gone.
    SaRemoved(SaId),
    /// These are the policies from now on.
    PoliciesSet(Vec<SpdEntry>),
    /// A tunnel's peer is this one.
    PeerSet(PadEntry),
    /// A tunnel is gone.
    PeerRemoved(TunnelId),
}

/// The databases of a node and the newest changes of them.
#[derive(Debug)]
pub struct Databases {
    sad: Sad,
    spd: Spd,
    pad: Pad,
    journal: VecDeque<Change>,
    /// Changes ever.
    written: u64,
    keep: usize,
}

impl Databases {
    /// Empty databases that keep the newest `keep` changes for readers.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Self {
            sad: Sad::default(),
            spd: Spd::default(),
            pad: Pad::default(),
            journal: VecDeque::new(),
            written: 0,
            keep: keep.max(1),
        }
    }

    /// Mutates the databases and writes it down.
    pub fn apply(&mut self, change: Change) {
        match &change {
            Change::SaInstalled(entry) => self.sad.insert(entry.clone()),
            Change::SaActivated(sa) => self.sad.activate(*sa),
            Change::SaMoved { sa, local, remote } => self.sad.relocate(*sa, *local, *remote),
            Change::SaRemoved(sa) => self.sad.remove(*sa),
            Change::PoliciesSet(entries) => self.spd = Spd::new(entries.clone()),
            Change::PeerSet(entry) => self.pad.set(entry.clone()),
            Change::PeerRemoved(tunnel) => self.pad.remove(*tunnel),
        }
        if self.journal.len() == self.keep {
            self.journal.pop_front();
        }
        self.journal.push_back(change);
        self.written += 1;
    }

    /// Changes ever made: what a reader gives as `since` next time.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The changes after the first `since`, oldest first; `None` when the reader came too late
    /// and some of them are not kept any more.
    #[must_use]
    pub fn changes(&self, since: u64) -> Option<impl Iterator<Item = &Change>> {
        let new = usize::try_from(self.written.saturating_sub(since)).ok()?;
        let skip = self.journal.len().checked_sub(new)?;
        Some(self.journal.iter().skip(skip))
    }

    /// What is installed.
    #[must_use]
    pub const fn sad(&self) -> &Sad {
        &self.sad
    }

    /// What happens to packets.
    #[must_use]
    pub const fn spd(&self) -> &Spd {
        &self.spd
    }

    /// Who may be whose peer.
    #[must_use]
    pub const fn pad(&self) -> &Pad {
        &self.pad
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ChildId, Direction, Encapsulation, Esn, EspCipher, EspSpi, EspSuite, EspTransform,
        IdentityPattern, PairId, Path,
    };

    fn entry(id: u64, child: u32) -> SadEntry {
        let suite = EspSuite::new(EspCipher::ChaCha20Poly1305, None).unwrap();
        SadEntry {
            id: SaId(id),
            pair: PairId(id / 2),
            tunnel: TunnelId(1),
            child: ChildId(child),
            direction: if id.is_multiple_of(2) { Direction::Inbound } else { Direction::Outbound },
            spi: EspSpi::new(0x1000 + u32::try_from(id).unwrap()).unwrap(),
            local: "192.0.2.1:500".parse().unwrap(),
            remote: "192.0.2.2:500".parse().unwrap(),
            encapsulation: Encapsulation::None,
            transform: EspTransform { suite, esn: Esn::Yes },
            path: Path::Inline,
            active: false,
        }
    }

    #[test]
    fn replaying_the_journal_gives_the_same_databases() {
        let mut node = Databases::new(100);
        for id in 2..8 {
            node.apply(Change::SaInstalled(entry(id, u32::from(id > 5))));
        }
        node.apply(Change::SaActivated(SaId(3)));
        node.apply(Change::SaActivated(SaId(7)));
        node.apply(Change::SaActivated(SaId(5)));
        node.apply(Change::SaRemoved(SaId(2)));
        let moved = "198.51.100.9:4500".parse().unwrap();
        node.apply(Change::SaMoved { sa: SaId(3), local: moved, remote: moved });
        node.apply(Change::PeerSet(PadEntry {
            tunnel: TunnelId(1),
            name: "site-b".into(),
            remote_id: IdentityPattern::Any,
        }));
        let active: Vec<u64> = node.sad().iter().filter(|sa| sa.active).map(|sa| sa.id.0).collect();
        assert_eq!(active, [5, 7]);
        assert!(node.sad().of_pair(PairId(1), Direction::Inbound).is_none());
        assert_eq!(node.sad().of_pair(PairId(1), Direction::Outbound).unwrap().local, moved);
        assert!(node.pad().authorizes(TunnelId(1), &"b.example".parse().unwrap()));

        let mut copy = Databases::new(1);
        node.changes(0).unwrap().cloned().for_each(|change| copy.apply(change));
        assert_eq!((copy.sad(), copy.spd(), copy.pad()), (node.sad(), node.spd(), node.pad()));
        assert_eq!(copy.written(), node.written());
    }

    #[test]
    fn a_reader_that_is_too_late_is_told() {
        let mut node = Databases::new(2);
        for id in 2..6 {
            node.apply(Change::SaRemoved(SaId(id)));
        }
        assert!(node.changes(1).is_none());
        assert_eq!(node.changes(2).unwrap().count(), 2);
        assert_eq!(node.changes(4).unwrap().count(), 0);
    }
}
