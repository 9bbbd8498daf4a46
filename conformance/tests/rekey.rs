//! Rekeying under load: no packet is lost, whoever rekeys what.

use std::time::Duration;

use conformance::Outcome;
use conformance::failure::ensure;
use conformance::lab::{Lab, Turn};
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::topology::{Family, Wire};
use conformance::traffic::Shape;
use serde_json::Value;

/// How many rekeys of each kind from each side.
const ROUNDS: usize = 20;
/// Packets a second each way that are wanted at least.
const RATE: u64 = 1000;
/// How long one rekey may take.
const REKEYED: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Child,
    Ike,
}

impl What {
    /// The SPIs that identify what is rekeyed.
    fn spis(self, tunnel: &Value) -> (String, String) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match self {
            Self::Child => {
                let child = &tunnel["children"][0];
                (text(&child["spi_in"]), text(&child["spi_out"]))
            }
            Self::Ike => {
                // The newest IKE SA is the one in charge; an old one may still be deleting.
                let sas = tunnel["ike_sas"].as_array().cloned().unwrap_or_default();
                let usable = |sa: &&Value| sa["state"] != "deleting" && sa["state"] != "rekeying";
                let sa = sas.iter().rev().find(usable).cloned().unwrap_or(Value::Null);
                (text(&sa["spi_i"]), text(&sa["spi_r"]))
            }
        }
    }

    fn rekey_by(self, who: Starter, pair: &Pair) -> Outcome {
        match (who, self) {
            (Starter::Us, Self::Child) => pair.us.must_cli(&["rekey", "site/net"]).map(drop),
            (Starter::Us, Self::Ike) => pair.us.must_cli(&["rekey", "site"]).map(drop),
            (Starter::Peer, Self::Child) => {
                pair.peer.must_swanctl(&["--rekey", "--child", "net"]).map(drop)
            }
            (Starter::Peer, Self::Ike) => {
                pair.peer.must_swanctl(&["--rekey", "--ike", "site"]).map(drop)
            }
        }
    }
}

/// Rekeys `ROUNDS` times under numbered traffic and counts every packet.
fn rekey(what: What, who: Starter, starter: Starter, esp: &str) -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, starter, Family::V4, Family::V4);
        for child in &mut ours.children {
            child.esp = vec![esp.to_owned()];
        }
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let mut before = what.spis(&pair.bring_up(starter, &ours)?);
        let mut flow = lab.flow(Family::V4, &Shape::default())?;
        flow.start()?;
        flow.flows(200, UP)?;
        for round in 1..=ROUNDS {
            what.rekey_by(who, &pair)
                .map_err(|failure| failure.while_doing(&format!("rekey {round}")))?;
            let fresh = |tunnel: &Value| {
                let now = what.spis(tunnel);
                now != before && !now.0.is_empty() && conformance::postern::is_up(tunnel)
            };
            let tunnel = pair.us.wait_tunnel(&format!("rekey {round}"), "site", REKEYED, fresh)?;
            before = what.spis(&tunnel);
            flow.flows(100, UP)?;
        }
        let report = flow.finish()?;
        report.must_reach(RATE)?;
        report.must_be_whole()?;
        pair.has_one_of_each()?;
        let child = pair.us.child("site", "net")?;
        for (counter, least) in
            [("packets_out", report.there.sent), ("packets_in", report.back.sent)]
        {
            let counted = child[counter].as_u64().unwrap_or(0);
            ensure(counted >= least, || format!("{counter}: {least} or more wanted: {child}"))?;
        }
        ensure_protected(lab, 2000)
    })
}

const PFS: &str = "aes256gcm16-ecp256-noesn";
const PLAIN: &str = "aes256gcm16-noesn";

#[test]
fn child_by_us() -> Outcome {
    rekey(What::Child, Starter::Us, Starter::Us, PLAIN)
}

#[test]
fn child_by_us_with_a_key_exchange() -> Outcome {
    rekey(What::Child, Starter::Us, Starter::Peer, PFS)
}

#[test]
fn child_by_the_peer() -> Outcome {
    rekey(What::Child, Starter::Peer, Starter::Us, PLAIN)
}

#[test]
fn child_by_the_peer_with_a_key_exchange() -> Outcome {
    rekey(What::Child, Starter::Peer, Starter::Peer, PFS)
}

#[test]
fn ike_by_us() -> Outcome {
    rekey(What::Ike, Starter::Us, Starter::Us, PLAIN)
}

#[test]
fn ike_by_us_as_responder() -> Outcome {
    rekey(What::Ike, Starter::Us, Starter::Peer, PLAIN)
}

#[test]
fn ike_by_the_peer() -> Outcome {
    rekey(What::Ike, Starter::Peer, Starter::Us, PLAIN)
}

#[test]
fn ike_by_the_peer_as_initiator() -> Outcome {
    rekey(What::Ike, Starter::Peer, Starter::Peer, PLAIN)
}

/// Both sides rekey at the same moment, over and over (RFC 7296 §2.8.1, §2.8.2, §2.25).
fn crosswise(what: What) -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        let mut flow = lab.flow(Family::V4, &Shape::default())?;
        flow.start()?;
        flow.flows(200, UP)?;
        for round in 1..=10 {
            let before = what.spis(&pair.us.tunnel("site")?);
            // `swanctl` only hands the wish over, so that both requests cross on the wire.
            what.rekey_by(Starter::Peer, &pair)?;
            what.rekey_by(Starter::Us, &pair).or_else(|failure| {
                // The peer's rekey may already have replaced what ours was about.
                let now = what.spis(&pair.us.tunnel("site")?);
                if now == before { Err(failure) } else { Ok(()) }
            })?;
            pair.us.wait_tunnel(&format!("rekey {round}"), "site", REKEYED, |tunnel| {
                what.spis(tunnel) != before && conformance::postern::is_up(tunnel)
            })?;
            flow.flows(100, UP)?;
        }
        let report = flow.finish()?;
        report.must_be_whole()?;
        pair.has_one_of_each()?;
        ensure_protected(lab, 1000)
    })
}

#[test]
fn children_crosswise() -> Outcome {
    crosswise(What::Child)
}

#[test]
fn ike_crosswise() -> Outcome {
    crosswise(What::Ike)
}

/// Rekeying by the lifetimes in the configurations, of both sides, without a command.
#[test]
fn by_lifetime() -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        ours.ike_rekey_s = 7;
        theirs.ike_rekey_s = 9;
        for (tunnel, seconds) in [(&mut ours, 4), (&mut theirs, 5)] {
            for child in &mut tunnel.children {
                child.rekey_s = seconds;
            }
        }
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.bring_up(Starter::Us, &ours)?;
        let mut flow = lab.flow(Family::V4, &Shape::default())?;
        flow.start()?;
        for (what, rounds) in [(What::Child, 3), (What::Ike, 2)] {
            let mut before = what.spis(&up);
            for round in 1..=rounds {
                let doing = format!("{what:?} rekey {round} by lifetime");
                let tunnel =
                    pair.us.wait_tunnel(&doing, "site", Duration::from_secs(30), |tunnel| {
                        let now = what.spis(tunnel);
                        now != before && !now.0.is_empty()
                    })?;
                before = what.spis(&tunnel);
            }
        }
        flow.finish()?.must_be_whole()?;
        ensure_protected(lab, 1000)
    })
}
