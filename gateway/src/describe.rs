//! IKE's events in words.

use ike::event::{Event, Failure};
use sa_store::TrafficSelector;

/// Kind, failure code and message of an event.
pub(crate) fn describe(event: &Event) -> (&'static str, Option<String>, String) {
    match event {
        Event::IkeEstablished { suite, remote_id, remote, initiator, .. } => {
            let role = if *initiator { "we called" } else { "the peer called" };
            let remote_id = cut(remote_id.to_string(), IDENTITY);
            ("ike-established", None, format!("{remote_id} at {remote}, {suite}; {role}"))
        }
        Event::IkeRekeyed { old, new, .. } => {
            ("ike-rekeyed", None, format!("IKE SA {old} was replaced by {new}"))
        }
        Event::IkeDown { ike, reason, .. } => {
            failure("ike-down", reason, &format!("IKE SA {ike} is gone: "))
        }
        Event::ChildInstalled { pair, transform, local, remote, .. } => (
            "child-installed",
            None,
            format!("pair {pair}, {transform}: {} === {}", list(local), list(remote)),
        ),
        Event::ChildRekeyed { old, new, .. } => {
            ("child-rekeyed", None, format!("pair {old} was replaced by {new}"))
        }
        Event::ChildDown { pair, reason, .. } => {
            failure("child-down", reason, &format!("pair {pair} is gone: "))
        }
        Event::Failed { remote, failure: reason, .. } => {
            failure("failed", reason, &format!("with {remote}: "))
        }
        Event::Retransmitting { remote, tries, .. } => (
            "retransmitting",
            None,
            format!("{remote} does not answer; the request is sent again (attempt {tries})"),
        ),
        Event::PeerMoved { old, new, .. } => {
            ("peer-moved", None, format!("the peer moved from {old} to {new}"))
        }
    }
}

fn failure(
    kind: &'static str,
    failure: &Failure,
    prefix: &str,
) -> (&'static str, Option<String>, String) {
    (kind, Some(failure.code.as_str().to_owned()), format!("{prefix}{}", failure.message))
}

/// Characters of a peer's identity that are shown.
const IDENTITY: usize = 200;
/// Selectors that are shown: a peer may answer with 255 a side.
const SELECTORS: usize = 8;
/// Characters of a message at most, whatever is in it.
pub(crate) const LONGEST: usize = 2000;

fn list(selectors: &[TrafficSelector]) -> String {
    let shown = selectors.iter().take(SELECTORS).map(ToString::to_string);
    let more = selectors.len().saturating_sub(SELECTORS);
    let more = (more > 0).then(|| format!("and {more} more"));
    shown.chain(more).collect::<Vec<_>>().join(", ")
}

/// The first `most` characters of a text.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use core::net::SocketAddr;

    use ike::{config::IkeSuite, event::FailureCode, view::IkeSaId};
    use sa_store::{
        ChildId, Esn, EspCipher, EspSuite, EspTransform, Identity, KeGroup, PairId, PrfAlgorithm,
        TunnelId,
    };

    use super::*;

    /// What a peer may say at length: an identity of thousands of octets, 255 selectors a side.
    #[test]
    fn no_text_is_as_long_as_a_peer_likes() {
        let name = format!("{}.example", "x".repeat(4000));
        let remote: SocketAddr = "192.0.2.2:500".parse().unwrap();
        let cipher = EspSuite::new(EspCipher::AesGcm16(256), None).unwrap();
        let (prf, group) = (PrfAlgorithm::HmacSha384, KeGroup::Ecp384);
        let suite = IkeSuite { suite: cipher, prf, group };
        let up = Event::IkeEstablished {
            tunnel: TunnelId(1),
            ike: IkeSaId(1),
            suite,
            remote_id: Identity::Fqdn(name),
            remote,
            initiator: true,
        };
        let networks = |side: u8| -> Vec<TrafficSelector> {
            (0..255).map(|net| format!("10.{side}.{net}.0/24").parse().unwrap()).collect()
        };
        let installed = Event::ChildInstalled {
            tunnel: TunnelId(1),
            child: ChildId(1),
            pair: PairId(1),
            transform: EspTransform { suite: cipher, esn: Esn::Yes },
            local: networks(1),
            remote: networks(2),
        };
        let failed = Event::Failed {
            tunnel: Some(TunnelId(1)),
            child: None,
            remote,
            failure: Failure::new(FailureCode::PeerError, "y".repeat(100_000)),
            stranger: false,
        };
        for (event, most, says) in [
            (up, 320, "xxx… at 192.0.2.2:500"),
            (installed, 600, "10.2.7.0/24, and 247 more"),
            (failed, LONGEST + 1, "yyy…"),
        ] {
            let (_, _, message) = describe(&event);
            let message = cut(message, LONGEST);
            assert!(message.chars().count() <= most, "{}: {message}", message.len());
            assert!(message.contains(says), "{message}");
        }
    }
}
