//! Our proposals in the form they have on the wire, and how one of the peer's is held against
//! them.

use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use sa_store::{Esn, EspCipher, IntegrityAlgorithm, KeGroup, PrfAlgorithm};

use super::{mismatch::Difference, names};
use crate::{
    config::{EspProposal, IkeProposal},
    wire::{Proposal, ProtocolId, Spi, Transform, TransformType},
};

/// Whether a Child SA gets a key exchange of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pfs {
    /// Never: the child that IKE_AUTH makes takes its keys from the IKE SA (RFC 7296 §1.2), and
    /// groups do not count, neither ours nor the peer's.
    No,
    /// As configured: CREATE_CHILD_SA.
    Configured,
    /// As configured, answering a CREATE_CHILD_SA request whose KE payload is of this method, or
    /// that has none. Of what is configured the peer gets what it has sent: it is spared to ask
    /// again (RFC 7296 §1.3).
    Sent(Option<KeGroup>),
}

/// One proposal of ours: ciphers are all AEAD or none is.
#[derive(PartialEq, Eq)]
pub(super) struct Own {
    pub(super) protocol: ProtocolId,
    ciphers: Vec<EspCipher>,
    integrity: Vec<IntegrityAlgorithm>,
    prfs: Vec<PrfAlgorithm>,
    groups: Vec<KeGroup>,
    esn: Vec<Esn>,
    /// For ESP in IKE_AUTH: what the peer says about groups is not looked at.
    ignore_groups: bool,
}

/// What two proposals have in common, transform by transform.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Common {
    pub(super) cipher: EspCipher,
    pub(super) integrity: Option<IntegrityAlgorithm>,
    pub(super) prf: Option<PrfAlgorithm>,
    pub(super) group: Option<KeGroup>,
    pub(super) esn: Option<Esn>,
    /// The peer wrote INTEG NONE, and the answer repeats it.
    pub(super) integrity_none: bool,
    /// The peer wrote KE NONE, and the answer repeats it.
    pub(super) group_none: bool,
}

/// What two proposals do not have in common. The words take a hundred times as long as finding
/// out: strangers get none.
pub(super) struct Differences {
    words: bool,
    some: bool,
    list: Vec<Difference>,
}

impl Differences {
    pub(super) const fn new(words: bool) -> Self {
        Self { words, some: false, list: Vec::new() }
    }

    fn add(&mut self, difference: impl FnOnce() -> Difference) {
        self.some = true;
        if self.words {
            self.list.push(difference());
        }
    }

    /// Nothing that follows can matter.
    const fn is_enough(&self) -> bool {
        self.some && !self.words
    }

    /// All of them, if words were wanted.
    pub(super) fn into_list(self) -> Vec<Difference> {
        self.list
    }
}

/// A transform as the peer must have written it: type, ID, key length.
type Wanted = (TransformType, u16, Option<u16>);

pub(super) fn of_ike(configured: &[IkeProposal]) -> Vec<Own> {
    let mut all = Vec::new();
    for proposal in configured {
        for aead in halves(&proposal.ciphers) {
            all.push(Own {
                protocol: ProtocolId::IKE,
                ciphers: only(&proposal.ciphers, aead),
                integrity: if aead { Vec::new() } else { proposal.integrity.clone() },
                prfs: proposal.prfs.clone(),
                groups: proposal.groups.clone(),
                esn: Vec::new(),
                ignore_groups: false,
            });
        }
    }
    all
}

pub(super) fn of_esp(configured: &[EspProposal], pfs: Pfs) -> Vec<Own> {
    let mut all = Vec::new();
    for proposal in configured {
        for aead in halves(&proposal.ciphers) {
            let own = Own {
                protocol: ProtocolId::ESP,
                ciphers: only(&proposal.ciphers, aead),
                integrity: if aead { Vec::new() } else { proposal.integrity.clone() },
                prfs: Vec::new(),
                groups: groups(proposal, pfs),
                esn: proposal.esn.clone(),
                ignore_groups: pfs == Pfs::No,
            };
            // Without their key exchange two proposals may be one.
            if !all.contains(&own) {
                all.push(own);
            }
        }
    }
    if pfs == Pfs::Sent(None) {
        all.sort_by_key(|own| !own.groups.is_empty());
    }
    all
}

/// The key exchange methods of a proposal for ESP, the most preferred first.
fn groups(proposal: &EspProposal, pfs: Pfs) -> Vec<KeGroup> {
    let mut groups = if pfs == Pfs::No { Vec::new() } else { proposal.groups.clone() };
    if let Pfs::Sent(Some(sent)) = pfs {
        groups.sort_by_key(|group| *group != sent);
    }
    groups
}

/// The parts a list of ciphers has, in its order: AEAD (true) and others (false).
fn halves(ciphers: &[EspCipher]) -> Vec<bool> {
    let mut parts: Vec<bool> = Vec::with_capacity(2);
    for cipher in ciphers {
        if !parts.contains(&cipher.is_aead()) {
            parts.push(cipher.is_aead());
        }
    }
    parts
}

fn only(ciphers: &[EspCipher], aead: bool) -> Vec<EspCipher> {
    ciphers.iter().copied().filter(|cipher| cipher.is_aead() == aead).collect()
}

impl Own {
    /// The proposal as it is sent.
    pub(super) fn to_wire(&self, number: u8, spi: Spi) -> Proposal {
        let ciphers = self.ciphers.iter().map(|cipher| encryption(*cipher));
        let plain = |kind, id| Transform::new(kind, id);
        let transforms = ciphers
            .chain(self.integrity.iter().map(|it| plain(TransformType::INTEG, it.transform_id())))
            .chain(self.prfs.iter().map(|it| plain(TransformType::PRF, it.transform_id())))
            .chain(self.groups.iter().map(|it| plain(TransformType::KE, it.transform_id())))
            .chain(self.esn.iter().map(|it| plain(TransformType::ESN, it.transform_id())))
            .collect();
        Proposal { number, protocol: self.protocol, spi, transforms }
    }

    /// Holds a proposal of the peer against this one: our order decides within each type.
    pub(super) fn common(
        &self,
        theirs: &Proposal,
        differences: &mut Differences,
    ) -> Option<Common> {
        if theirs.protocol != self.protocol {
            differences.add(|| Difference {
                what: "protocol",
                ours: self.protocol.to_string(),
                theirs: theirs.protocol.to_string(),
            });
            return None;
        }
        let unknown = theirs.transforms.iter().find(|it| !self.knows(it.kind));
        if let Some(transform) = unknown {
            differences.add(|| Difference {
                what: names::kind(transform.kind),
                ours: "none".to_string(),
                theirs: names::transform(transform),
            });
        }
        let cipher = self.pick(
            theirs,
            &self.ciphers,
            |own| (TransformType::ENCR, own.transform_id(), own.key_length_attribute()),
            differences,
        );
        if differences.is_enough() {
            return None;
        }
        let prf = self.pick(
            theirs,
            &self.prfs,
            |own| (TransformType::PRF, own.transform_id(), None),
            differences,
        );
        let integrity = self.pick(
            theirs,
            &self.integrity,
            |own| (TransformType::INTEG, own.transform_id(), None),
            differences,
        );
        let group = self.pick(
            theirs,
            &self.groups,
            |own| (TransformType::KE, own.transform_id(), None),
            differences,
        );
        let esn = self.pick(
            theirs,
            &self.esn,
            |own| (TransformType::ESN, own.transform_id(), None),
            differences,
        );
        let integrity_none =
            self.accepts_none(theirs, TransformType::INTEG, &self.integrity, differences);
        let group_none = !self.ignore_groups
            && self.accepts_none(theirs, TransformType::KE, &self.groups, differences);
        let cipher = cipher.filter(|_| !differences.some)?;
        Some(Common { cipher, integrity, prf, group, esn, integrity_none, group_none })
    }

    fn knows(&self, kind: TransformType) -> bool {
        match kind {
            TransformType::ENCR | TransformType::INTEG | TransformType::KE => true,
            TransformType::PRF => self.protocol == ProtocolId::IKE,
            TransformType::ESN => self.protocol == ProtocolId::ESP,
            _ => false,
        }
    }

    /// The first of ours that the peer has too. Nothing is picked, and nothing differs, when we
    /// have none of the type: see [`Self::accepts_none`].
    fn pick<T: Copy + fmt::Display>(
        &self,
        theirs: &Proposal,
        ours: &[T],
        wire: impl Fn(&T) -> Wanted,
        differences: &mut Differences,
    ) -> Option<T> {
        let (kind, ..) = wire(ours.first()?);
        let found = ours.iter().copied().find(|own| {
            let (kind, id, bits) = wire(own);
            let fits =
                |it: &Transform| it.kind == kind && it.id == id && it.key_length() == Ok(bits);
            theirs.transforms.iter().any(fits)
        });
        if found.is_none() {
            differences.add(|| Difference {
                what: names::kind(kind),
                ours: join(ours),
                theirs: names::alternatives(theirs, kind),
            });
        }
        found
    }

    /// When we have nothing of a type, the peer must offer nothing of it, or NONE (0) among it.
    /// Whether it wrote NONE.
    fn accepts_none<T>(
        &self,
        theirs: &Proposal,
        kind: TransformType,
        ours: &[T],
        differences: &mut Differences,
    ) -> bool {
        if !ours.is_empty() {
            return false;
        }
        let none = Transform::new(kind, 0);
        let mut offered = theirs.transforms.iter().filter(|transform| transform.kind == kind);
        let has_none = offered.clone().any(|transform| *transform == none);
        if !has_none && offered.next().is_some() {
            differences.add(|| Difference {
                what: names::kind(kind),
                ours: "none".to_string(),
                theirs: names::alternatives(theirs, kind),
            });
        }
        has_none
    }
}

impl Common {
    /// The transforms of an answer.
    pub(super) fn transforms(&self) -> Vec<Transform> {
        let plain = |kind, id| Transform::new(kind, id);
        let integrity = self.integrity.map(|it| it.transform_id());
        let group = self.group.map(|it| it.transform_id());
        [encryption(self.cipher)]
            .into_iter()
            .chain(
                integrity
                    .or(self.integrity_none.then_some(0))
                    .map(|id| plain(TransformType::INTEG, id)),
            )
            .chain(self.prf.map(|it| plain(TransformType::PRF, it.transform_id())))
            .chain(group.or(self.group_none.then_some(0)).map(|id| plain(TransformType::KE, id)))
            .chain(self.esn.map(|it| plain(TransformType::ESN, it.transform_id())))
            .collect()
    }
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            join(&self.ciphers),
            join(&self.integrity),
            join(&self.prfs),
            join(&self.groups),
            join(&self.esn),
        ];
        let text: Vec<String> = lists.into_iter().filter(|list| list != "none").collect();
        f.write_str(&text.join("-"))
    }
}

fn encryption(cipher: EspCipher) -> Transform {
    let bits = cipher.key_length_attribute();
    Transform::with_key_length(TransformType::ENCR, cipher.transform_id(), bits)
}

fn join<T: fmt::Display>(list: &[T]) -> String {
    if list.is_empty() {
        return "none".to_string();
    }
    list.iter().map(|item| format!("{item}")).collect::<Vec<_>>().join("/")
}
