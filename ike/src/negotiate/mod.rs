//! Agreeing on algorithms and traffic (RFC 7296 §2.7, §2.9, §3.3).
//!
//! - [`parse_ike`] and [`parse_esp`] read strongSwan's keyword strings.
//! - [`ike_offer`] and [`esp_offer`] write what we propose; [`select_ike`] and [`select_esp`]
//!   choose among what a peer proposes; [`check_ike`] and [`check_esp`] hold a peer's choice
//!   against what we proposed.
//! - A [`Mismatch`] says, proposal by proposal, which transform differed.
//! - [`traffic_selector`] narrows and verifies selectors.

mod edits;
mod keyword;
mod mismatch;
mod names;
mod own;
mod select;
pub mod traffic_selector;

pub use edits::edit_distance;
pub use keyword::{
    ProposalError, default_esp_proposals, default_ike_proposals, parse_esp, parse_ike,
};
pub use mismatch::{Difference, Mismatch, ProposalDiff};
pub use own::Pfs;
pub use select::{
    EspChoice, IkeChoice, KeDecision, check_esp, check_ike, esp_offer, find_ike, first_group,
    has_key_exchange, ike_offer, ke_decision, offers_group, select_esp, select_ike, sent_method,
};

#[cfg(test)]
mod tests;
