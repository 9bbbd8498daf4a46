//! What error notifications of the peer mean, in words and codes (RFC 7296 §3.10.1).

use alloc::{format, string::String, vec::Vec};

use sa_store::TrafficSelector;

use crate::{
    config::ChildConfig,
    event::{Failure, FailureCode},
    wire::{Notify, NotifyType},
};

/// The failure that a notification of the peer reports, with what to look at.
pub(crate) fn failure_of(notify: &Notify<'_>, context: &str) -> Failure {
    let (code, hint) = match notify.kind {
        NotifyType::NO_PROPOSAL_CHOSEN => {
            (FailureCode::NoProposalChosen, "compare the proposals of both sides")
        }
        NotifyType::INVALID_KE_PAYLOAD => {
            (FailureCode::InvalidKe, "the peer wants a key exchange method that we do not offer")
        }
        NotifyType::AUTHENTICATION_FAILED => (
            FailureCode::AuthenticationFailed,
            "compare the shared keys and the identities of both sides; the peer's log says which \
             of them it did not accept",
        ),
        NotifyType::TS_UNACCEPTABLE => {
            (FailureCode::TsUnacceptable, "compare the networks of both sides")
        }
        NotifyType::NO_ADDITIONAL_SAS => {
            (FailureCode::NoAdditionalSas, "the peer accepts no more children")
        }
        NotifyType::SINGLE_PAIR_REQUIRED => {
            (FailureCode::TsUnacceptable, "the peer wants one address on each side")
        }
        NotifyType::TEMPORARY_FAILURE => {
            (FailureCode::TemporaryFailure, "the peer was busy each time we asked")
        }
        NotifyType::CHILD_SA_NOT_FOUND => {
            (FailureCode::ChildSaNotFound, "the peer has lost the child")
        }
        NotifyType::INVALID_SYNTAX => {
            (FailureCode::InvalidSyntax, "the peer did not understand our message")
        }
        NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD => {
            (FailureCode::UnsupportedCriticalPayload, "the peer needs an extension")
        }
        NotifyType::INVALID_MAJOR_VERSION => {
            (FailureCode::InvalidMajorVersion, "the peer does not speak IKEv2")
        }
        _ => (FailureCode::PeerError, "the peer's log says more"),
    };
    Failure::new(code, format!("the peer answered {context} with {}: {hint}", notify.kind))
}

/// As [`failure_of`] for a child: with what we offered, so that both sides can be compared.
pub(crate) fn failure_of_child(
    notify: &Notify<'_>,
    context: &str,
    config: &ChildConfig,
) -> Failure {
    let mut failure = failure_of(notify, context);
    match failure.code {
        FailureCode::TsUnacceptable => failure.message.push_str(&format!(
            " (we offered {} on our side and {} on the peer's)",
            list(&config.local),
            list(&config.remote)
        )),
        FailureCode::NoProposalChosen | FailureCode::InvalidKe => {
            let ours: Vec<_> = config.proposals.iter().map(|it| format!("{it}")).collect();
            failure.message.push_str(&format!(" (we offered {} for ESP)", ours.join(", ")));
        }
        _ => {}
    }
    failure
}

/// Says that the two ends differ in the key exchange (PFS) of a child, and what to change: IKE_AUTH
/// negotiates none (RFC 7296 §1.2), so it shows when the child is rekeyed. `certain`: nothing else
/// can differ.
pub(crate) fn explain_key_exchange(failure: &mut Failure, config: &ChildConfig, certain: bool) {
    if !matches!(failure.code, FailureCode::NoProposalChosen | FailureCode::InvalidKe) {
        return;
    }
    let mut methods: Vec<String> = Vec::new();
    for proposal in &config.proposals {
        let of = proposal.groups.iter().map(|group| format!("{group}"));
        let none = proposal.groups.is_empty().then(|| String::from("none"));
        for method in of.chain(none) {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
    }
    failure.message.push_str(&format!(
        ". {} in the key exchange (PFS) of this child, which its first SA goes without: esp.proposals \
         here allow {}. Name the same method in esp.proposals here and in the ESP proposals of the \
         peer, or none in both",
        if certain { "The sides differ" } else { "Perhaps the sides differ" },
        methods.join(", ")
    ));
}

/// Selectors as a text.
pub(crate) fn list(selectors: &[TrafficSelector]) -> String {
    const SHOWN: usize = 8;
    let mut texts: Vec<String> =
        selectors.iter().take(SHOWN).map(|selector| format!("{selector}")).collect();
    if selectors.len() > SHOWN {
        texts.push(format!("and {} more", selectors.len() - SHOWN));
    }
    if texts.is_empty() { String::from("nothing") } else { texts.join(", ") }
}
