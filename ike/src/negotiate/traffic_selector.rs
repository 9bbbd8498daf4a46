//! Narrowing traffic selectors (RFC 7296 §2.9). The two sides are narrowed on their own: TSi of
//! a request against the peer's networks, TSr against ours.

use alloc::vec::Vec;

use sa_store::TrafficSelector;

/// Selectors of one payload: its count has one octet.
pub const MAX_SELECTORS: usize = 255;

/// What is both offered and configured, in the order of the offer; empty means TS_UNACCEPTABLE.
///
/// Every part of the first selector offered that the configuration allows is in the result, as
/// the RFC asks: it may be that of the packet that started the exchange. What another selector
/// of the result covers is left out.
#[must_use]
pub fn narrow(configured: &[TrafficSelector], offered: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut result: Vec<TrafficSelector> = Vec::new();
    for offer in without_covered(offered) {
        for common in configured.iter().filter_map(|own| own.intersect(&offer)) {
            if result.iter().any(|kept| kept.covers(&common)) {
                continue;
            }
            result.retain(|kept| !common.covers(kept));
            if result.len() == MAX_SELECTORS {
                return result;
            }
            result.push(common);
        }
    }
    result
}

/// Whether a responder's answer selects nothing that we did not offer, and something at all.
#[must_use]
pub fn is_subset(answer: &[TrafficSelector], offered: &[TrafficSelector]) -> bool {
    !answer.is_empty()
        && answer.iter().all(|narrowed| offered.iter().any(|offer| offer.covers(narrowed)))
}

/// What to offer: the configured selectors, and before them that of the packet that asks for the
/// SA, if they cover it. At most [`MAX_SELECTORS`].
#[must_use]
pub fn offer(
    configured: &[TrafficSelector],
    packet: Option<TrafficSelector>,
) -> Vec<TrafficSelector> {
    let packet = packet.filter(|packet| configured.iter().any(|own| own.covers(packet)));
    packet.into_iter().chain(configured.iter().copied()).take(MAX_SELECTORS).collect()
}

/// Whether narrowing took something away: worth telling the operator.
#[must_use]
pub fn is_narrowed(offered: &[TrafficSelector], result: &[TrafficSelector]) -> bool {
    !offered.iter().all(|offer| result.iter().any(|kept| kept.covers(offer)))
}

/// The selectors that no other one covers: the first of equal ones stays.
fn without_covered(selectors: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut result: Vec<TrafficSelector> = Vec::new();
    for selector in selectors.iter().take(MAX_SELECTORS) {
        if !result.iter().any(|kept| kept.covers(selector)) {
            result.retain(|kept| !selector.covers(kept));
            result.push(*selector);
        }
    }
    result
}
