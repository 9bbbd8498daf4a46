//! Negotiations that have to fail, and selectors that have to shrink; and that `postern sa` says
//! why.

use std::time::Duration;

use conformance::failure::ensure;
use conformance::lab::{Lab, Turn};
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::spec::Tunnel;
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::Shape;
use conformance::{Outcome, postern};

/// How long a refusal may take to show.
const SAID: Duration = Duration::from_secs(15);

/// Both sides differ as `differ` makes them; nothing comes up, `last_error` has this code, and
/// its message contains all of `words`. Nothing leaves in clear meanwhile.
fn refused(
    starter: Starter,
    differ: impl Fn(&mut Tunnel, &mut Tunnel),
    code: &str,
    words: &[&str],
) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        lab.net.hold_back(Side::Right)?;
        let mut ours = tunnel(lab, starter, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        differ(&mut ours, &mut theirs);
        let pair = Pair::start(lab, &[ours], &[theirs])?;
        let mut flow = lab.flow(Family::V4, &Shape { rate: 200, ..Shape::default() })?;
        flow.start()?;
        if starter == Starter::Peer {
            let said = pair.peer.initiate("site", "net")?;
            ensure(said.code != 0, || format!("strongSwan got its tunnel: {}", said.text()))?;
        }
        let seen = pair.us.wait_error("site", SAID)?;
        ensure(seen.0 == code, || format!("`{code}` was wanted: {seen:?}"))?;
        for word in words {
            ensure(seen.1.contains(word), || format!("`{word}` is not said: {seen:?}"))?;
        }
        let tunnel = pair.us.tunnel("site")?;
        ensure(!postern::is_up(&tunnel), || format!("it is up: {tunnel}"))?;
        let status = pair.us.cli(&["sa"])?;
        if starter == Starter::Us {
            ensure(status.code == 1, || format!("`postern sa` exits with {}", status.code))?;
        }
        ensure(status.stdout.contains(code) || status.stdout.contains(&seen.1), || {
            format!("`postern sa` does not say it: {}", status.stdout)
        })?;
        // Enough that some would have left if they could.
        flow.has_sent(100, SAID)?;
        let report = flow.finish()?;
        ensure(report.there.lost == report.there.sent, || format!("packets left: {report}"))
    })
}

fn other_key(_: &mut Tunnel, theirs: &mut Tunnel) {
    theirs.psk = "another key than ours".to_owned();
}

#[test]
fn wrong_key_started_by_us() -> Outcome {
    refused(Starter::Us, other_key, "authentication-failed", &[])
}

#[test]
fn wrong_key_started_by_the_peer() -> Outcome {
    refused(Starter::Peer, other_key, "authentication-failed", &[])
}

fn other_group(ours: &mut Tunnel, theirs: &mut Tunnel) {
    ours.ike = vec!["aes256gcm16-prfsha384-ecp384".to_owned()];
    theirs.ike = vec!["aes256gcm16-prfsha384-modp2048".to_owned()];
}

/// As initiator nobody knows what the responder would have taken, only what was offered.
#[test]
fn no_common_ike_proposal_started_by_us() -> Outcome {
    refused(Starter::Us, other_group, "no-proposal-chosen", &["ecp384"])
}

/// As responder both sides are known, and the transform that differs is named.
#[test]
fn no_common_ike_proposal_started_by_the_peer() -> Outcome {
    refused(Starter::Peer, other_group, "no-proposal-chosen", &["ecp384", "modp2048"])
}

fn other_esp(ours: &mut Tunnel, theirs: &mut Tunnel) {
    for child in &mut ours.children {
        child.esp = vec!["aes256gcm16-noesn".to_owned()];
    }
    for child in &mut theirs.children {
        child.esp = vec!["aes128-sha256-noesn".to_owned()];
    }
}

#[test]
fn no_common_esp_proposal_started_by_us() -> Outcome {
    refused(Starter::Us, other_esp, "no-proposal-chosen", &["aes256gcm16"])
}

#[test]
fn no_common_esp_proposal_started_by_the_peer() -> Outcome {
    refused(Starter::Peer, other_esp, "no-proposal-chosen", &["aes256gcm16", "aes128"])
}

fn other_networks(_: &mut Tunnel, theirs: &mut Tunnel) {
    for child in &mut theirs.children {
        child.local = vec!["10.77.0.0/16".to_owned()];
    }
}

#[test]
fn selectors_refused_started_by_us() -> Outcome {
    refused(Starter::Us, other_networks, "ts-unacceptable", &["10.2.0.0/16"])
}

#[test]
fn selectors_refused_started_by_the_peer() -> Outcome {
    refused(Starter::Peer, other_networks, "ts-unacceptable", &["10.77.0.0/16"])
}

/// One side is configured narrower; the pair that results covers what both want, and what only
/// our policy covers is held back, not sent in clear.
fn narrowed(starter: Starter, narrow_side: Side) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, starter, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        let narrow = "10.2.0.0/24".to_owned();
        match narrow_side {
            Side::Left => ours.children[0].remote = vec![narrow],
            Side::Right => theirs.children[0].local = vec![narrow],
        }
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.bring_up(starter, &ours)?;
        let child = &up["children"][0];
        ensure(child["remote"][0] == "10.2.0.0/24", || format!("not narrowed: {child}"))?;
        ensure(child["local"][0] == "10.1.0.0/16", || format!("narrowed too much: {child}"))?;
        lab.exchange(Family::V4, 200, 1200)?.must_be_whole()?;
        ensure_protected(lab, 400)?;
        if narrow_side == Side::Right {
            lab.net.hold_back(Side::Right)?;
            lab.net.add_client_address(Side::Right, "10.2.77.10")?;
            let left = (lab.net.client(Side::Left), lab.net.client_address(Side::Left, Family::V4));
            let right = (lab.net.client(Side::Right), [10, 2, 77, 10].into());
            let shape = Shape { count: 200, port: 7002, ..Shape::default() };
            let mut flow = conformance::traffic::Flow::prepare(left, right, &lab.canary, &shape)?;
            flow.start()?;
            flow.has_sent(200, UP)?;
            let report = flow.finish()?;
            ensure(report.there.lost == 200, || format!("packets left: {report}"))?;
        }
        Ok(())
    })
}

#[test]
fn the_peer_narrows_what_we_ask_for() -> Outcome {
    narrowed(Starter::Us, Side::Right)
}

#[test]
fn we_narrow_what_the_peer_asks_for() -> Outcome {
    narrowed(Starter::Peer, Side::Left)
}

#[test]
fn the_peer_asks_for_less() -> Outcome {
    narrowed(Starter::Peer, Side::Right)
}
