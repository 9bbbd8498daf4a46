//! Rekeying under load: no packet is lost, whoever rekeys what.

use std::time::Duration;

use conformance::command::Dialogue;
use conformance::course::What;
use conformance::failure::ensure;
use conformance::lab::{Lab, Turn};
use conformance::missed::Missed;
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::topology::{Family, Ike, Side, Wire};
use conformance::traffic::Shape;
use conformance::{Failure, Outcome, postern, strongswan, wait};
use serde_json::Value;

/// How many rekeys of each kind from each side.
const ROUNDS: usize = 20;
/// Packets a second each way that are wanted at least.
const RATE: u64 = 1000;
/// How long one rekey may take.
const REKEYED: Duration = Duration::from_secs(15);

/// One side asks for a rekey.
fn rekey_by(what: What, who: Starter, pair: &Pair) -> Outcome {
    match (who, what) {
        (Starter::Us, What::Child) => pair.us.must_cli(&["rekey", "site/net"]).map(drop),
        (Starter::Us, What::Ike) => pair.us.must_cli(&["rekey", "site"]).map(drop),
        (Starter::Peer, What::Child) => {
            pair.peer.must_swanctl(&["--rekey", "--child", "net"]).map(drop)
        }
        (Starter::Peer, What::Ike) => {
            pair.peer.must_swanctl(&["--rekey", "--ike", "site"]).map(drop)
        }
    }
}

/// Rekeys `ROUNDS` times under numbered traffic and counts every packet.
fn rekey(what: What, who: Starter, starter: Starter, esp: &str) -> Outcome {
    rekey_over(Wire::Direct, what, who, starter, esp)
}

fn rekey_over(wire: Wire, what: What, who: Starter, starter: Starter, esp: &str) -> Outcome {
    Lab::run(Turn::Alone, wire, |lab| {
        let mut ours = tunnel(lab, starter, Family::V4, Family::V4);
        for child in &mut ours.children {
            child.esp = vec![esp.to_owned()];
        }
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let mut before = what.spis(&pair.bring_up(starter, &ours)?);
        let missed = Missed::by(&pair.peer)?;
        let mut flow = lab.flow(Family::V4, &Shape::default())?;
        flow.start()?;
        flow.flows(200, UP)?;
        for round in 1..=ROUNDS {
            rekey_by(what, who, &pair)
                .map_err(|failure| failure.while_doing(&format!("rekey {round}")))?;
            let fresh = |tunnel: &Value| {
                let now = what.spis(tunnel);
                now != before && !now.0.is_empty() && postern::is_up(tunnel)
            };
            let tunnel = pair.us.wait_tunnel(&format!("rekey {round}"), "site", REKEYED, fresh)?;
            before = what.spis(&tunnel);
            flow.flows(100, UP)?;
        }
        let report = flow.finish()?;
        report.must_reach(RATE)?;
        missed.must_be_whole(&report)?;
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

/// How two rekeys of the same SA meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meeting {
    /// Both ends get the other's request while they wait for the answer to their own, then both
    /// answers, then whatever the other deletes (RFC 7296 §2.8.1, §2.8.2).
    Crossing,
    /// Both ask, but one is through before the other's request arrives (RFC 7296 §2.25).
    Late,
}

#[test]
fn child_by_the_peer_of_one_behind_a_nat() -> Outcome {
    rekey_over(Wire::NatBefore(Side::Left), What::Child, Starter::Peer, Starter::Us, PLAIN)
}

#[test]
fn ike_by_us_with_a_peer_behind_a_nat() -> Outcome {
    rekey_over(Wire::NatBefore(Side::Right), What::Ike, Starter::Us, Starter::Peer, PLAIN)
}

/// What happens, one after the other.
const MEETINGS: [Meeting; 3] = [Meeting::Crossing, Meeting::Late, Meeting::Crossing];

/// How long one step of a meeting may take: both ends send again what was stopped.
const STEP: Duration = Duration::from_secs(40);

/// Both sides rekey at the same moment, over and over.
fn crosswise(what: What) -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        if what == What::Ike {
            // `postern rekey` would rekey the children too.
            ours.ike_rekey_s = 5;
        }
        let tireless = strongswan::Options {
            charon: "retransmit_timeout = 1\nretransmit_base = 1\nretransmit_tries = 60".to_owned(),
            ..strongswan::Options::default()
        };
        let pair = Pair::start_with(
            lab,
            std::slice::from_ref(&ours),
            &[theirs],
            &postern::Options::default(),
            &tireless,
        )?;
        pair.bring_up(Starter::Us, &ours)?;
        let missed = Missed::by(&pair.peer)?;
        let mut flow = lab.flow(Family::V4, &Shape::default())?;
        flow.start()?;
        flow.flows(200, UP)?;
        for (round, meeting) in MEETINGS.iter().enumerate() {
            meet(what, *meeting, lab, &pair)
                .map_err(|failure| failure.while_doing(&format!("meeting {round}, {meeting:?}")))?;
            flow.flows(100, UP)?;
        }
        pair.has_one_of_each()?;
        let report = flow.finish()?;
        report.must_reach(RATE)?;
        missed.must_be_whole(&report)?;
        ensure_protected(lab, 1000)
    })
}

/// Makes both ends rekey at once for certain: the wire holds IKE back until both have asked, then
/// until both have answered, then until both have got the answers.
fn meet(what: What, meeting: Meeting, lab: &Lab, pair: &Pair) -> Outcome {
    let decided = collisions(pair, what);
    if what == What::Ike {
        pair.us.wait_tunnel("our rekey to be near", "site", STEP, |tunnel| {
            tunnel["ike_sas"][0]["rekey_in_s"].as_u64().is_some_and(|left| (2..=4).contains(&left))
        })?;
    }
    let before = what.spis(&pair.us.tunnel("site")?);
    lab.net.hold_ike(Ike::Creates)?;
    rekey_by(what, Starter::Peer, pair)?;
    let line = pair.us.cli_line(&["rekey", "site/net"]);
    let argv: Vec<&str> = line.iter().map(String::as_str).collect();
    // It waits for the outcome, of which the wire decides.
    let _waiting = match what {
        What::Child => Some(Dialogue::start("postern", &argv, false)?),
        What::Ike => None,
    };
    both(lab, "both ends to ask")?;
    if meeting == Meeting::Crossing {
        lab.net.hold_ike(Ike::Answers)?;
        both(lab, "both ends to answer")?;
        lab.net.hold_ike(Ike::Deletes)?;
        both(lab, "both ends to get the answer")?;
    }
    lab.net.mend()?;
    pair.us.wait_tunnel("the successor", "site", STEP, |tunnel| {
        let now = what.spis(tunnel);
        now != before && !now.0.is_empty() && postern::is_up(tunnel)
    })?;
    if meeting == Meeting::Crossing {
        wait::until("strongSwan to decide a collision", STEP, || {
            if collisions(pair, what) > decided { Ok(()) } else { Err("it did not") }
        })?;
    }
    pair.uses_one_of_each()?;
    if what == What::Child {
        // Nothing of this meeting may be under way in the next: strongSwan's request was answered,
        // and ours waits for its turn behind what was sent before. An IKE SA takes with it what
        // was under way.
        wait::until("strongSwan to have all its answers", STEP, || {
            let log = pair.peer.log();
            let asked = log.matches("generating CREATE_CHILD_SA request").count();
            let answered = log.matches("parsed CREATE_CHILD_SA response").count();
            if asked == answered { Ok(()) } else { Err(format!("{answered} of {asked}")) }
        })?;
        rekey_by(what, Starter::Us, pair)?;
    }
    pair.uses_one_of_each()
}

/// Waits until the wire has counted messages of both ends.
fn both(lab: &Lab, what: &str) -> Outcome {
    wait::until(what, STEP, || {
        let (left, right) = lab.net.ike_counted()?;
        if left > 0 && right > 0 { Ok(()) } else { Err(Failure::new(format!("{left}, {right}"))) }
    })
}

/// How often strongSwan has decided between its own successor and ours, after it found both ends
/// rekeying the same SA.
fn collisions(pair: &Pair, what: What) -> usize {
    let (found, decided) = match what {
        What::Child => {
            ("detected CHILD_REKEY collision with CHILD_REKEY", "CHILD_SA rekey collision ")
        }
        What::Ike => ("detected IKE_REKEY collision with IKE_REKEY", "IKE_SA rekey collision "),
    };
    let log = pair.peer.log();
    log.matches(found).count().min(log.matches(decided).count())
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
        let missed = Missed::by(&pair.peer)?;
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
        missed.must_be_whole(&flow.finish()?)?;
        ensure_protected(lab, 1000)
    })
}
