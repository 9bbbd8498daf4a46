//! Deletes from either side: what goes, what stays, and what comes back by itself.

use std::time::Duration;

use conformance::Outcome;
use conformance::course::{
    Course, WHILE, ike_spis, nothing_leaves, peer_has_nothing, spi, up_again,
};
use conformance::failure::ensure;
use conformance::scenario::{Starter, UP};
use serde_json::Value;

/// `down` deletes, holds and blocks; `up` ends it.
fn down_and_up(starter: Starter) -> Outcome {
    Course::by(starter).run(|lab, pair, flow| {
        let before = spi(&pair.us.tunnel("site")?);
        pair.us.must_cli(&["down", "site"])?;
        // strongSwan keeps no policy without an SA: what its side sends is clear on the wire.
        peer_has_nothing(pair, UP)?;
        let state = pair.us.tunnel("site")?["state"].clone();
        ensure(state == "down", || format!("the state is {state} after `down`"))?;
        let status = pair.us.cli(&["sa"])?.code;
        let always_on = starter == Starter::Us;
        ensure(!always_on || status == 1, || format!("`postern sa` exits with {status}"))?;
        nothing_leaves(lab, WHILE)?;
        if starter == Starter::Us {
            pair.us.must_cli(&["up", "site"])?;
            up_again(pair, flow, &before, UP)?;
        } else {
            let refused = pair.peer.initiate("site", "net")?;
            ensure(refused.code != 0, || "a tunnel held down was set up".to_owned())?;
        }
        nothing_leaves(lab, Duration::ZERO)
    })
}

#[test]
fn by_us() -> Outcome {
    down_and_up(Starter::Us)
}

#[test]
fn by_us_as_responder() -> Outcome {
    down_and_up(Starter::Peer)
}

/// The peer deletes the IKE SA; an always-on tunnel comes back by itself.
#[test]
fn ike_by_the_peer() -> Outcome {
    Course::by(Starter::Us).run(|lab, pair, flow| {
        let before = pair.us.tunnel("site")?;
        pair.peer.must_swanctl(&["--terminate", "--ike", "site"])?;
        let now = up_again(pair, flow, &spi(&before), UP)?;
        let other = ike_spis(&now)? != ike_spis(&before)?;
        ensure(other, || format!("the deleted IKE SA is still shown: {now}"))?;
        nothing_leaves(lab, Duration::ZERO)
    })
}

/// A passive tunnel that its peer deleted blocks and waits.
#[test]
fn ike_by_the_peer_of_a_passive_tunnel() -> Outcome {
    Course::by(Starter::Peer).run(|lab, pair, flow| {
        let before = spi(&pair.us.tunnel("site")?);
        pair.peer.must_swanctl(&["--terminate", "--ike", "site"])?;
        pair.us
            .wait_tunnel("the tunnel to be down", "site", UP, |tunnel| tunnel["state"] == "down")?;
        nothing_leaves(lab, WHILE)?;
        let up = pair.peer.initiate("site", "net")?;
        ensure(up.code == 0, || up.text())?;
        up_again(pair, flow, &before, UP)?;
        nothing_leaves(lab, Duration::ZERO)
    })
}

/// `down` of a child alone deletes it at the peer, holds it and blocks what it covered, on an IKE
/// SA that stays; `up` ends it.
#[test]
fn child_by_us() -> Outcome {
    Course::by(Starter::Us).run(|lab, pair, flow| {
        let before = pair.us.tunnel("site")?;
        pair.us.must_cli(&["down", "site/net"])?;
        let children = pair.peer.children()?;
        ensure(children.is_empty(), || format!("strongSwan still has {children:?}"))?;
        nothing_leaves(lab, WHILE)?;
        let without = pair.us.tunnel("site")?;
        ensure(without["children"][0]["state"] == "trap", || format!("not held: {without}"))?;
        same_ike_sa(&before, &without)?;
        pair.us.must_cli(&["up", "site/net"])?;
        let now = up_again(pair, flow, &spi(&before), UP)?;
        same_ike_sa(&before, &now)?;
        pair.has_one_of_each()?;
        nothing_leaves(lab, Duration::ZERO)
    })
}

/// The peer deletes a child alone; an always-on tunnel asks for it again on the same IKE SA.
#[test]
fn child_by_the_peer() -> Outcome {
    Course::by(Starter::Us).run(|lab, pair, flow| {
        let before = pair.us.tunnel("site")?;
        pair.peer.must_swanctl(&["--terminate", "--child", "net"])?;
        let now = up_again(pair, flow, &spi(&before), UP)?;
        same_ike_sa(&before, &now)?;
        pair.has_one_of_each()?;
        nothing_leaves(lab, Duration::ZERO)
    })
}

/// The peer deletes a child of a passive tunnel: the IKE SA stays, what the child covered is
/// blocked, and it is the peer's to ask for the child again, on the same IKE SA.
#[test]
fn child_by_the_peer_of_a_passive_tunnel() -> Outcome {
    Course::by(Starter::Peer).run(|lab, pair, flow| {
        let before = pair.us.tunnel("site")?;
        pair.peer.must_swanctl(&["--terminate", "--child", "net"])?;
        let without = pair.us.wait_tunnel("the child to be gone", "site", UP, |tunnel| {
            tunnel["children"][0]["state"] == "trap"
        })?;
        same_ike_sa(&before, &without)?;
        // The last packets may still be on their way for a moment.
        nothing_leaves(lab, WHILE)?;
        let received = flow.look()?.map(|end| end.received);
        nothing_leaves(lab, WHILE)?;
        let waited = pair.us.tunnel("site")?;
        ensure(waited["children"][0]["state"] == "trap", || format!("not passive: {waited}"))?;
        let later = flow.look()?.map(|end| end.received);
        ensure(received == later, || format!("packets pass: {received:?} became {later:?}"))?;
        let up = pair.peer.initiate("site", "net")?;
        ensure(up.code == 0, || up.text())?;
        let now = up_again(pair, flow, &spi(&before), UP)?;
        same_ike_sa(&before, &now)?;
        pair.has_one_of_each()?;
        nothing_leaves(lab, Duration::ZERO)
    })
}

fn same_ike_sa(before: &Value, now: &Value) -> Outcome {
    let same = ike_spis(before)? == ike_spis(now)?;
    ensure(same, || format!("the IKE SA did not stay: {before} became {now}"))
}
