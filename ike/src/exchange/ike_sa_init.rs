//! IKE_SA_INIT (RFC 7296 §1.2): algorithms, nonces, a shared secret; nobody is known yet. Cookies
//! are in [`crate::admission`].
//!
//! ```text
//! Initiator                          Responder
//! [GenerateKey]
//! HDR, SAi1, KEi, Ni, N(NAT_*)  -->
//!                               <--  HDR, N(COOKIE)                 again, with the cookie
//!                               <--  HDR, N(INVALID_KE_PAYLOAD)     again, with that method
//!                                    [GenerateAndAgree]
//!                               <--  HDR, SAr1, KEr, Nr, N(NAT_*)
//! [Agree], then IKE_AUTH
//! ```

mod answer;
mod attempt;
mod initiator;
mod responder;

use alloc::vec::Vec;

pub(crate) use answer::{Answered, Line, Reading};
pub(crate) use initiator::{Agreed, Initiating, Target, connecting, start, unreachable};
pub(crate) use responder::{HalfOpen, Opening, on_first_request};

use crate::{
    config::{EncapPolicy, Endpoints},
    sa::{channel::Spis, nat},
    shared::Shared,
    wire::{Notify, NotifyType, Payload, Payloads},
};

/// What IKE_SA_INIT leaves to IKE_AUTH.
#[derive(Debug)]
pub(crate) struct Transcript {
    /// The initiator's message as it was on the wire.
    pub(crate) request: Vec<u8>,
    /// The responder's message as it was on the wire.
    pub(crate) response: Vec<u8>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
}

/// The status notifications of both messages.
fn extensions(
    shared: &mut Shared,
    policy: EncapPolicy,
    spis: Spis,
    path: Endpoints,
    fragmentation: bool,
) -> Vec<Payload<'static>> {
    let spis = (spis.spi_i, spis.spi_r);
    let nat = nat::notifies(policy, &mut *shared.random, spis, path);
    let fragmentation = fragmentation
        .then(|| Payload::Notify(Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)));
    nat.into_iter().flatten().chain(fragmentation).collect()
}

fn does_fragmentation(payloads: &Payloads<'_>) -> bool {
    payloads.has_notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)
}
