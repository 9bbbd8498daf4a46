//! Key exchange in the rekey of a child (PFS). IKE_AUTH does not negotiate it, so sides that
//! differ agree until the first rekey.

use std::time::Duration;

use conformance::course::What;
use conformance::failure::ensure;
use conformance::lab::{Lab, Turn};
use conformance::scenario::{Pair, Starter, ensure_protected, peer_tunnel, tunnel};
use conformance::topology::{Family, Wire};
use conformance::traffic::Shape;
use conformance::{Outcome, postern};

/// How long one rekey may take.
const REKEYED: Duration = Duration::from_secs(15);

/// We have the defaults, the peer what is named: the child outlives rekeys of either side, the
/// first of them by `first`.
fn defaults_outlive(first: Starter, theirs_esp: &str, wants: Option<&str>) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, first, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        ours.children[0].esp.clear();
        theirs.children[0].esp = theirs_esp.split(',').map(str::to_owned).collect();
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let mut before = What::Child.spis(&pair.bring_up(first, &ours)?);
        let other = if first == Starter::Us { Starter::Peer } else { Starter::Us };
        for who in [first, other] {
            match who {
                Starter::Us => pair.us.must_cli(&["rekey", "site/net"])?,
                Starter::Peer => pair.peer.must_swanctl(&["--rekey", "--child", "net"])?,
            };
            let fresh = |tunnel: &serde_json::Value| {
                let now = What::Child.spis(tunnel);
                now != before && !now.0.is_empty() && postern::is_up(tunnel)
            };
            let what = format!("a rekey by {who:?}");
            let tunnel = pair.us.wait_tunnel(&what, "site", REKEYED, fresh)?;
            before = What::Child.spis(&tunnel);
            lab.exchange(Family::V4, 50, 400)?.must_be_whole()?;
        }
        pair.has_one_of_each()?;
        let log = pair.peer.log();
        let selected = log.lines().filter(|line| line.contains("selected proposal: ESP:"));
        let (mut with, mut all) = (0, 0);
        for line in selected {
            all += 1;
            with += usize::from(wants.is_some_and(|method| line.contains(method)));
        }
        // That of IKE_AUTH has none.
        let expected = if wants.is_some() { 2 } else { 0 };
        ensure(all >= 3 && with == expected, || {
            format!("{with} of {all} proposals with {wants:?}, {expected} wanted: {log}")
        })?;
        ensure_protected(lab, 200)
    })
}

#[test]
fn a_peer_that_wants_it_first_rekey_by_us() -> Outcome {
    defaults_outlive(Starter::Us, "aes256gcm16-ecp384", Some("ECP_384"))
}

#[test]
fn a_peer_that_wants_it_first_rekey_by_the_peer() -> Outcome {
    defaults_outlive(Starter::Peer, "aes128-sha256-modp2048", Some("MODP_2048"))
}

#[test]
fn a_peer_that_wants_none() -> Outcome {
    defaults_outlive(Starter::Us, "aes256gcm16", None)?;
    defaults_outlive(Starter::Peer, "aes256gcm16", None)
}

#[test]
fn a_peer_that_takes_both() -> Outcome {
    defaults_outlive(Starter::Us, "aes256gcm16-ecp384-none", Some("ECP_384"))?;
    defaults_outlive(Starter::Peer, "aes256gcm16-ecp384,aes256gcm16", Some("ECP_384"))
}

/// Both sides insist on something else: it is said with the first rekey, the old SA carries the
/// traffic to its end, and then the child begins anew. Nothing leaves in clear.
#[test]
fn sides_that_differ() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        ours.children[0].esp = vec!["aes256gcm16-ecp384".to_owned()];
        ours.children[0].rekey_s = 5;
        let mut theirs = peer_tunnel(lab, &ours);
        theirs.children[0].esp = vec!["aes256gcm16".to_owned()];
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let first = What::Child.spis(&pair.bring_up(Starter::Us, &ours)?);
        let told = pair.us.wait_error("site", REKEYED)?;
        for word in ["key exchange (PFS)", "esp.proposals", "ecp384"] {
            ensure(told.1.contains(word), || format!("`{word}` is not said: {told:?}"))?;
        }
        let mut flow = lab.flow(Family::V4, &Shape { rate: 200, ..Shape::default() })?;
        flow.start()?;
        flow.flows(400, REKEYED)?;
        let report = flow.finish()?;
        report.must_be_whole()?;
        let now = What::Child.spis(&pair.us.tunnel("site")?);
        ensure(now == first, || format!("{now:?} instead of {first:?}"))?;
        // 5 s and 30 s more is the end of the first SA.
        let anew = |tunnel: &serde_json::Value| {
            postern::is_up(tunnel) && What::Child.spis(tunnel) != first
        };
        pair.us.wait_tunnel("the child to begin anew", "site", Duration::from_secs(60), anew)?;
        lab.exchange(Family::V4, 50, 400)?.must_be_whole()?;
        let tries = pair.peer.log().matches("parsed CREATE_CHILD_SA request").count();
        ensure((2..=12).contains(&tries), || format!("{tries} requests for a child in 40 s"))?;
        ensure_protected(lab, 400)
    })
}
