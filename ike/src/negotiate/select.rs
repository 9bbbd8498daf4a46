//! Offering, choosing and checking proposals. As strongSwan does it: the first of our proposals
//! that has something in common with any of the peer's, and within it our order of algorithms.

use alloc::{string::ToString, vec, vec::Vec};

use sa_store::{EspSpi, EspSuite, EspTransform, IkeSpi, KeGroup};

use super::{
    mismatch::{Difference, MAX_PAIRS, Mismatch, ProposalDiff},
    own::{Common, Differences, Own, Pfs, of_esp, of_ike},
};
use crate::{
    config::{EspProposal, IkeProposal, IkeSuite},
    wire::{
        KeyExchange, MAX_PROPOSALS, Proposal, ProtocolId, SecurityAssociation, Spi, TransformType,
    },
};

/// What was agreed for an IKE SA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeChoice {
    /// The algorithms.
    pub suite: IkeSuite,
    /// The peer's SPI in its proposal; `None` in IKE_SA_INIT, where the header has it.
    pub peer_spi: Option<IkeSpi>,
    number: u8,
    common: Common,
}

/// What was agreed for a Child SA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EspChoice {
    /// The algorithms.
    pub transform: EspTransform,
    /// The key exchange method of the child's own exchange, if it has one.
    pub group: Option<KeGroup>,
    /// The SPI of packets that we send.
    pub peer_spi: EspSpi,
    number: u8,
    common: Common,
}

impl IkeChoice {
    /// The SA payload that answers; `spi` is ours when an IKE SA is rekeyed.
    #[must_use]
    pub fn answer(&self, spi: Option<IkeSpi>) -> SecurityAssociation {
        let spi = spi.map_or(Spi::None, Spi::Ike);
        answer(self.number, ProtocolId::IKE, spi, &self.common)
    }
}

impl EspChoice {
    /// The SA payload that answers, with our inbound SPI.
    #[must_use]
    pub fn answer(&self, spi: EspSpi) -> SecurityAssociation {
        answer(self.number, ProtocolId::ESP, spi.into(), &self.common)
    }
}

fn answer(number: u8, protocol: ProtocolId, spi: Spi, common: &Common) -> SecurityAssociation {
    let transforms = common.transforms();
    SecurityAssociation { proposals: vec![Proposal { number, protocol, spi, transforms }] }
}

/// The SA payload that offers an IKE SA; `spi` is ours when one is rekeyed. AEAD ciphers and
/// others stand in proposals of their own.
#[must_use]
pub fn ike_offer(configured: &[IkeProposal], spi: Option<IkeSpi>) -> SecurityAssociation {
    offer(&of_ike(configured), &spi.map_or(Spi::None, Spi::Ike))
}

/// The SA payload that offers a Child SA, with our inbound SPI.
#[must_use]
pub fn esp_offer(configured: &[EspProposal], spi: EspSpi, pfs: Pfs) -> SecurityAssociation {
    offer(&of_esp(configured, pfs), &spi.into())
}

fn offer(own: &[Own], spi: &Spi) -> SecurityAssociation {
    let proposals = own
        .iter()
        .zip(1..=u8::try_from(MAX_PROPOSALS).unwrap_or(u8::MAX))
        .map(|(own, number)| own.to_wire(number, spi.clone()))
        .collect();
    SecurityAssociation { proposals }
}

/// Chooses among a peer's proposals for an IKE SA. `rekey`: each must carry an SPI.
///
/// # Errors
/// Nothing fits: NO_PROPOSAL_CHOSEN.
pub fn select_ike(
    configured: &[IkeProposal],
    offered: &SecurityAssociation,
    rekey: bool,
) -> Result<IkeChoice, Mismatch> {
    let (number, common, spi) =
        select(of_ike(configured).iter().zip(1..), &offered.proposals, |spi| {
            ike_spi_fits(spi, rekey)
        })?;
    ike_choice(number, common, &spi)
}

/// As [`select_ike`] for the first IKE SA, without a word about what differs: everybody may ask,
/// and words are expensive.
#[must_use]
pub fn find_ike(configured: &[IkeProposal], offered: &SecurityAssociation) -> Option<IkeChoice> {
    let own = of_ike(configured);
    let mut pairs = own.iter().flat_map(|ours| offered.proposals.iter().map(move |it| (ours, it)));
    let (number, common, spi) = pairs.find_map(|(ours, theirs)| {
        let common = ours.common(theirs, &mut Differences::new(false))?;
        ike_spi_fits(&theirs.spi, false).then_some((theirs.number, common, &theirs.spi))
    })?;
    ike_choice(number, common, spi).ok()
}

/// Chooses among a peer's proposals for a Child SA.
///
/// # Errors
/// Nothing fits: NO_PROPOSAL_CHOSEN.
pub fn select_esp(
    configured: &[EspProposal],
    offered: &SecurityAssociation,
    pfs: Pfs,
) -> Result<EspChoice, Mismatch> {
    let (number, common, spi) =
        select(of_esp(configured, pfs).iter().zip(1..), &offered.proposals, |spi| {
            spi.esp().is_some()
        })?;
    esp_choice(number, common, &spi)
}

/// Holds the responder's choice against our offer for an IKE SA.
///
/// # Errors
/// The answer is not one of the things we offered, or not exactly one.
pub fn check_ike(
    configured: &[IkeProposal],
    answer: &SecurityAssociation,
    rekey: bool,
) -> Result<IkeChoice, Mismatch> {
    let (number, common, spi) = check(&of_ike(configured), answer, |spi| ike_spi_fits(spi, rekey))?;
    ike_choice(number, common, &spi)
}

/// Holds the responder's choice against our offer for a Child SA.
///
/// # Errors
/// The answer is not one of the things we offered, or not exactly one.
pub fn check_esp(
    configured: &[EspProposal],
    answer: &SecurityAssociation,
    pfs: Pfs,
) -> Result<EspChoice, Mismatch> {
    let (number, common, spi) = check(&of_esp(configured, pfs), answer, |spi| spi.esp().is_some())?;
    esp_choice(number, common, &spi)
}

/// What the KE payload of a request means once a proposal is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeDecision {
    /// There is no key exchange.
    None,
    /// The payload is of the chosen method.
    Use(KeGroup),
    /// The payload is missing or of another method: INVALID_KE_PAYLOAD names this one.
    Retry(KeGroup),
}

/// Decides about the KE payload of a request (RFC 7296 §1.2, §1.3).
#[must_use]
pub fn ke_decision(chosen: Option<KeGroup>, payload: Option<&KeyExchange<'_>>) -> KeDecision {
    match (chosen, payload.and_then(KeyExchange::known_group)) {
        (None, _) => KeDecision::None,
        (Some(group), Some(sent)) if sent == group => KeDecision::Use(group),
        (Some(group), _) => KeDecision::Retry(group),
    }
}

/// The method of the KE payload that a request for a Child SA comes with, as a preference.
#[must_use]
pub fn sent_method(payload: Option<&KeyExchange<'_>>) -> Pfs {
    match payload.map(KeyExchange::known_group) {
        None => Pfs::Sent(None),
        Some(Some(group)) => Pfs::Sent(Some(group)),
        Some(None) => Pfs::Configured,
    }
}

/// Whether one of the proposals of a peer has a key exchange.
#[must_use]
pub fn has_key_exchange(offered: &SecurityAssociation) -> bool {
    let all = offered.proposals.iter().flat_map(|proposal| &proposal.transforms);
    { all }.any(|transform| transform.kind == TransformType::KE && transform.id != 0)
}

/// The method to send a KE payload for at first.
#[must_use]
pub fn first_group(configured: &[IkeProposal]) -> Option<KeGroup> {
    configured.iter().find_map(|proposal| proposal.groups.first().copied())
}

/// Whether we offer a method: an INVALID_KE_PAYLOAD that asks for another one is not obeyed.
#[must_use]
pub fn offers_group(configured: &[IkeProposal], group: KeGroup) -> bool {
    configured.iter().any(|proposal| proposal.groups.contains(&group))
}

const fn ike_spi_fits(spi: &Spi, rekey: bool) -> bool {
    if rekey { spi.ike().is_some() } else { matches!(spi, Spi::None) }
}

fn ike_choice(number: u8, common: Common, spi: &Spi) -> Result<IkeChoice, Mismatch> {
    let suite = EspSuite::new(common.cipher, common.integrity);
    let (Some(suite), Some(prf), Some(group)) = (suite, common.prf, common.group) else {
        return Err(incomplete());
    };
    let suite = IkeSuite { suite, prf, group };
    Ok(IkeChoice { suite, peer_spi: spi.ike(), number, common })
}

fn esp_choice(number: u8, common: Common, spi: &Spi) -> Result<EspChoice, Mismatch> {
    let suite = EspSuite::new(common.cipher, common.integrity);
    let (Some(suite), Some(esn), Some(peer_spi)) = (suite, common.esn, spi.esp()) else {
        return Err(incomplete());
    };
    let transform = EspTransform { suite, esn };
    Ok(EspChoice { transform, group: common.group, peer_spi, number, common })
}

/// Our own configuration lacks a kind of transform: nothing can be agreed on.
fn incomplete() -> Mismatch {
    Mismatch { broken_answer: Some("our own proposal is incomplete"), ..Mismatch::default() }
}

/// `own` comes with the places among our proposals.
fn select<'o>(
    own: impl IntoIterator<Item = (&'o Own, usize)>,
    theirs: &[Proposal],
    spi_fits: impl Fn(&Spi) -> bool,
) -> Result<(u8, Common, Spi), Mismatch> {
    let mut mismatch = Mismatch { their_proposals: theirs.len(), ..Mismatch::default() };
    for (ours, our_number) in own {
        for proposal in theirs {
            let mut differences = Differences::new(mismatch.pairs.len() < MAX_PAIRS);
            let differences = match ours.common(proposal, &mut differences) {
                Some(common) if spi_fits(&proposal.spi) => {
                    return Ok((proposal.number, common, proposal.spi.clone()));
                }
                Some(_) => vec![Difference {
                    what: "SPI",
                    ours: "one that may exist".to_string(),
                    theirs: alloc::format!("{:?}", proposal.spi),
                }],
                None => differences.into_list(),
            };
            if mismatch.pairs.len() < MAX_PAIRS {
                mismatch.pairs.push(ProposalDiff {
                    ours: ours.to_string(),
                    our_number,
                    their_number: proposal.number,
                    differences,
                });
            }
        }
    }
    Err(mismatch)
}

fn check(
    own: &[Own],
    answer: &SecurityAssociation,
    spi_fits: impl Fn(&Spi) -> bool,
) -> Result<(u8, Common, Spi), Mismatch> {
    let broken = |what| Mismatch {
        broken_answer: Some(what),
        their_proposals: answer.proposals.len(),
        ..Mismatch::default()
    };
    let [proposal] = answer.proposals.as_slice() else {
        return Err(broken("it does not hold exactly one proposal"));
    };
    let mut kinds: Vec<TransformType> = Vec::new();
    for transform in &proposal.transforms {
        if kinds.contains(&transform.kind) {
            return Err(broken("it leaves a choice open"));
        }
        kinds.push(transform.kind);
    }
    let at = usize::from(proposal.number).checked_sub(1);
    let Some(ours) = at.and_then(|at| own.get(at)) else {
        return Err(broken("it has the number of no proposal"));
    };
    select([(ours, usize::from(proposal.number))], &answer.proposals, spi_fits)
}
