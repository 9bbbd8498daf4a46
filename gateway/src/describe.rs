//! IKE's events in words.

use ike::event::{Event, Failure};
use sa_store::TrafficSelector;

/// Kind, failure code and message of an event.
pub(crate) fn describe(event: &Event) -> (&'static str, Option<String>, String) {
    match event {
        Event::IkeEstablished { suite, remote_id, remote, initiator, .. } => {
            let role = if *initiator { "we called" } else { "the peer called" };
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

fn list(selectors: &[TrafficSelector]) -> String {
    selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
