//! IKE message fragmentation (RFC 7383).

use alloc::{vec, vec::Vec};

use crate::{
    keys::{OpenError, Opened, Opener, SealError, Sealer},
    wire::{
        EncodeError, Fault, FragmentNumber, Header, MAX_MESSAGE_LEN, Payload, PayloadType,
        Protected, WireError, encode_payloads,
    },
};

/// Fragments of one message that are taken, and sent, at most.
pub const MAX_FRAGMENTS: u16 = 64;
/// Octets of payloads that a reassembled message may have.
pub const MAX_REASSEMBLED_LEN: usize = 65_536;
/// Header, generic payload header, and the two numbers of an SKF payload.
const PREFIX_LEN: usize = 28 + 4 + 4;
/// The least octets of payloads in a fragment: below it the limit is no sensible one.
const MIN_PART_LEN: usize = 64;

/// Seals a message so that no datagram is longer than `max_len` octets (the IKE message alone,
/// without IP and UDP headers and non-ESP marker): one datagram if it fits, fragments otherwise.
///
/// # Errors
/// See [`SealError`]; a message that would need more than [`MAX_FRAGMENTS`] cannot be written.
pub fn seal(
    sealer: &mut Sealer,
    header: &Header,
    payloads: &[Payload<'_>],
    max_len: usize,
) -> Result<Vec<Vec<u8>>, SealError> {
    let (first, inner) = encode_payloads(payloads)?;
    // An SK payload lacks the two numbers. Padding is at most a block less one octet.
    let block = sealer.block_len();
    let fixed = PREFIX_LEN + sealer.overhead();
    let whole = inner.len().saturating_add(fixed - 4).saturating_add(block - 1);
    if whole <= max_len {
        return Ok(vec![sealer.seal_inner(header, first, None, &inner)?]);
    }
    let room = max_len.saturating_sub(fixed).saturating_sub(block - 1).max(MIN_PART_LEN);
    let total = u16::try_from(inner.len().div_ceil(room))
        .ok()
        .filter(|total| *total <= MAX_FRAGMENTS)
        .ok_or(EncodeError::MessageTooLong)?;
    inner
        .chunks(room)
        .zip(1..=total)
        .map(|(part, number)| {
            // Only the first fragment names the first payload (RFC 7383 §2.5).
            let first = if number == 1 { first } else { PayloadType::NONE };
            sealer.seal_inner(header, first, Some(FragmentNumber { number, total }), part)
        })
        .collect()
}

/// Puts one message at a time together. An IKE SA has one for requests and one for responses,
/// or one for whatever it waits for: a fragment of a newer message ends the older one, and so
/// does a message that comes whole.
#[derive(Debug)]
pub struct Reassembly {
    partial: Option<Partial>,
    limit: usize,
}

impl Default for Reassembly {
    fn default() -> Self {
        Self { partial: None, limit: MAX_REASSEMBLED_LEN }
    }
}

#[derive(Debug)]
struct Partial {
    message_id: u32,
    total: u16,
    first: PayloadType,
    parts: Vec<Option<Vec<u8>>>,
    octets: usize,
}

/// What a fragment came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// More fragments are needed.
    Incomplete,
    /// The fragment was here already, or its message was split into fewer pieces than one that
    /// is already being put together (RFC 7383 §2.6): dropped without looking inside.
    Ignored,
    /// The message is complete.
    Complete(Opened),
}

impl Reassembly {
    /// Takes a protected part with its Message ID: opens a whole message, stores a fragment.
    /// Nothing is stored before its ICV is verified (RFC 7383 §2.6).
    ///
    /// # Errors
    /// Not authentic, or more than the caps allow: what was stored before stays. A whole message
    /// whose padding is wrong, which ends what was stored.
    pub fn add(
        &mut self,
        opener: &Opener,
        message_id: u32,
        protected: &Protected<'_>,
    ) -> Result<Progress, OpenError> {
        let Some(fragment) = protected.fragment else {
            let opened = opener.open(protected);
            if opened != Err(OpenError::NotAuthentic) {
                self.clear();
            }
            return opened.map(Progress::Complete);
        };
        let too_many = OpenError::Malformed(WireError::Malformed(PayloadType::SKF, Fault::Count));
        if fragment.total > MAX_FRAGMENTS || fragment.number > fragment.total {
            return Err(too_many);
        }
        if self.is_known(message_id, fragment) {
            return Ok(Progress::Ignored);
        }
        let opened = opener.open(protected)?;
        let mut partial = match self.partial.take() {
            Some(partial)
                if partial.message_id == message_id && partial.total == fragment.total =>
            {
                partial
            }
            // Another message, or the sender splits it finer now: start again.
            _ => Partial::new(message_id, fragment.total),
        };
        let octets = partial.octets.saturating_add(opened.octets.len());
        if octets > self.limit.min(MAX_REASSEMBLED_LEN).min(MAX_MESSAGE_LEN) {
            self.partial = Some(partial);
            return Err(too_many);
        }
        partial.octets = octets;
        if fragment.number == 1 {
            partial.first = opened.first;
        }
        if let Some(part) = partial.parts.get_mut(usize::from(fragment.number) - 1) {
            *part = Some(opened.octets);
        }
        if partial.parts.iter().any(Option::is_none) {
            self.partial = Some(partial);
            return Ok(Progress::Incomplete);
        }
        let mut whole = Vec::with_capacity(octets);
        partial.parts.iter().flatten().for_each(|part| whole.extend_from_slice(part));
        Ok(Progress::Complete(Opened { first: partial.first, octets: whole }))
    }

    /// Forgets an unfinished message: the exchange is over.
    pub fn clear(&mut self) {
        self.partial = None;
    }

    /// From now on no message may have more octets of payloads than this, nor more than
    /// [`MAX_REASSEMBLED_LEN`].
    pub const fn limit(&mut self, octets: usize) {
        self.limit = octets;
    }

    /// Octets that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.octets)
    }

    fn is_known(&self, message_id: u32, fragment: FragmentNumber) -> bool {
        let Some(partial) = &self.partial else { return false };
        if partial.message_id != message_id {
            return false;
        }
        let slot = usize::from(fragment.number).checked_sub(1);
        fragment.total < partial.total
            || (fragment.total == partial.total
                && slot.and_then(|slot| partial.parts.get(slot)).is_some_and(Option::is_some))
    }
}

impl Partial {
    fn new(message_id: u32, total: u16) -> Self {
        let parts = core::iter::repeat_with(|| None).take(usize::from(total)).collect();
        Self { message_id, total, first: PayloadType::NONE, parts, octets: 0 }
    }
}
