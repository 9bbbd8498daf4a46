//! Dead peers, dead wires, and our own death: it is noticed in time, nothing leaves in clear
//! meanwhile, and the tunnel comes back.

use std::time::{Duration, Instant};

use conformance::course::{
    Course, WHILE, ike_spis, nothing_leaves, peer_has_nothing, spi, up_again,
};
use conformance::failure::{Failure, ensure};
use conformance::lab::{Lab, Turn};
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::Shape;
use conformance::{Outcome, strongswan, wait};

/// How often a strongSwan that is in a hurry asks for signs of life, in seconds.
const HASTY_DPD: u32 = 2;
/// What a strongSwan in a hurry waits for an answer: 1 s, 1.5 s and 2.25 s, 4.75 s in all.
const HASTY: &str = "retransmit_timeout = 1\nretransmit_base = 1.5\nretransmit_tries = 2";
/// When it knows at the latest, with a second for its own timers, on a machine of any speed.
const HASTY_KNOWS: Duration = Duration::from_secs(2 * HASTY_DPD as u64 + 5 + 1);

fn hasty(child: &str) -> strongswan::Options {
    strongswan::Options {
        charon: HASTY.to_owned(),
        child: child.to_owned(),
        ..strongswan::Options::default()
    }
}

/// One side asks an idle peer for signs of life, the other answers.
fn liveness(ours_s: u32, theirs_s: u32, line: &str) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        (ours.dpd_s, theirs.dpd_s) = (ours_s, theirs_s);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.bring_up(Starter::Us, &ours)?;
        signs_of_life(&pair, line)?;
        let now = pair.us.tunnel("site")?;
        ensure(spi(&now) == spi(&up), || format!("the SA did not survive: {now}"))?;
        lab.exchange(Family::V4, 50, 200)?.must_be_whole()
    })
}

fn signs_of_life(pair: &Pair, line: &str) -> Outcome {
    wait::until(line, Duration::from_secs(30), || {
        let seen = pair.peer.log().matches(line).count();
        if seen >= 3 { Ok(()) } else { Err(format!("seen {seen} times")) }
    })
}

#[test]
fn we_ask_for_signs_of_life() -> Outcome {
    liveness(2, 0, "parsed INFORMATIONAL request")
}

#[test]
fn we_give_signs_of_life() -> Outcome {
    liveness(0, 2, "parsed INFORMATIONAL response")
}

/// A dead wire is noticed and said; when it is mended, the tunnel comes back.
#[test]
fn a_dead_wire_is_noticed() -> Outcome {
    Course { dpd_s: 2, ..Course::by(Starter::Us) }.run(|lab, pair, flow| {
        let before = spi(&pair.us.tunnel("site")?);
        lab.net.cut()?;
        let limit = Duration::from_secs(150);
        pair.us.wait_tunnel("the dead peer to be noticed", "site", limit, |tunnel| {
            tunnel["state"] != "established" && !tunnel["last_error"].is_null()
        })?;
        nothing_leaves(lab, WHILE)?;
        lab.net.mend()?;
        up_again(pair, flow, &before, Duration::from_secs(120)).map(drop)
    })
}

/// The peer dies without a word and comes back without memory.
#[test]
fn the_peer_is_killed_and_restarts() -> Outcome {
    Course { dpd_s: 2, ..Course::by(Starter::Us) }.run(|lab, pair, flow| {
        // The dead peer's side has no policy any more: its packets are clear on the wire.
        let before = spi(&pair.us.tunnel("site")?);
        pair.peer.kill();
        nothing_leaves(lab, WHILE)?;
        pair.peer.spawn()?;
        up_again(pair, flow, &before, Duration::from_secs(200))?;
        nothing_leaves(lab, Duration::ZERO)
    })
}

/// The peer dies, comes back, and starts the tunnel itself: its INITIAL_CONTACT ends the old one.
#[test]
fn the_peer_is_killed_and_starts_anew() -> Outcome {
    Course::by(Starter::Peer).run(|lab, pair, flow| {
        let before = spi(&pair.us.tunnel("site")?);
        pair.peer.kill();
        pair.peer.spawn()?;
        let up = pair.peer.initiate("site", "net")?;
        ensure(up.code == 0, || up.text())?;
        ike_spis(&up_again(pair, flow, &before, UP)?)?;
        nothing_leaves(lab, Duration::ZERO)
    })
}

/// Postern is killed: nothing leaves in clear, nothing clear is delivered, and a restart takes
/// over what was left.
#[test]
fn we_are_killed_and_restart() -> Outcome {
    Course::by(Starter::Us).run(|lab, pair, flow| {
        for _ in 0..2 {
            pair.us.kill();
            nothing_leaves(lab, WHILE)?;
            pair.us.spawn()?;
            pair.us.wait_up("site", UP)?;
            flow.flows(100, UP)?;
        }
        wait::until("one IKE SA at strongSwan", UP, || {
            let sas = pair.peer.ike_sas()?.len();
            if sas == 1 { Ok(()) } else { Err(Failure::new(format!("{sas} IKE SAs"))) }
        })?;
        ensure_protected(lab, 300)
    })
}

/// Postern is killed as the passive end and restarts. It waits; strongSwan misses the signs of
/// life, gives its SAs up and starts anew.
#[test]
fn we_are_killed_as_responder_and_restart() -> Outcome {
    let course = Course {
        peer_dpd_s: HASTY_DPD,
        theirs: hasty("dpd_action = restart"),
        ..Course::by(Starter::Peer)
    };
    course.run(|lab, pair, flow| {
        for round in 1..=2 {
            let before = pair.us.tunnel("site")?;
            pair.us.kill();
            nothing_leaves(lab, WHILE)?;
            pair.us.spawn()?;
            let now = up_again(pair, flow, &spi(&before), 3 * HASTY_KNOWS)?;
            ensure(now["ike_sas"][0]["initiator"] == false, || format!("we called: {now}"))?;
            let given_up = pair.peer.log().matches("giving up after 2 retransmits").count();
            ensure(given_up == round, || format!("strongSwan gave up {given_up} times"))?;
            pair.has_one_of_each()?;
        }
        ensure_protected(lab, 300)
    })
}

/// The same against a strongSwan that asks for no signs of life: it would keep its dead SAs until
/// it rekeys. `postern up` does not wait for that, and its INITIAL_CONTACT ends what strongSwan
/// had.
#[test]
fn we_are_killed_as_responder_of_a_peer_that_does_not_notice() -> Outcome {
    Course::by(Starter::Peer).run(|lab, pair, flow| {
        let before = pair.us.tunnel("site")?;
        pair.us.kill();
        nothing_leaves(lab, WHILE)?;
        pair.us.spawn()?;
        // What strongSwan still sends belongs to no SA of ours, is counted, and is not delivered.
        let received = flow.look()?.map(|end| end.received);
        wait::until("ESP for no SA to be counted", UP, || {
            let sa = pair.us.sa()?;
            let counted = sa["no_sa"].as_u64().is_some_and(|count| count >= 100);
            if counted { Ok(()) } else { Err(Failure::new(sa.to_string())) }
        })?;
        nothing_leaves(lab, Duration::ZERO)?;
        let later = flow.look()?.map(|end| end.received);
        ensure(received == later, || format!("packets pass: {received:?} became {later:?}"))?;
        let waiting = pair.us.tunnel("site")?;
        ensure(waiting["state"] == "down", || format!("a passive tunnel called: {waiting}"))?;
        let kept = pair.peer.ike_sas()?.len();
        ensure(kept == 1, || format!("strongSwan has {kept} IKE SAs"))?;
        pair.us.must_cli(&["up", "site"])?;
        up_again(pair, flow, &spi(&before), UP)?;
        pair.has_one_of_each()?;
        ensure_protected(lab, 300)
    })
}

/// strongSwan asks for signs of life and gets them; when Postern is killed and stays dead, it
/// notices within the time it was told to, and nothing leaves in clear before and after.
#[test]
fn our_death_is_noticed() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        theirs.dpd_s = HASTY_DPD;
        let pair = Pair::start_with(
            lab,
            std::slice::from_ref(&ours),
            &[theirs],
            &conformance::postern::Options::default(),
            &hasty(""),
        )?;
        let up = pair.bring_up(Starter::Us, &ours)?;
        signs_of_life(&pair, "parsed INFORMATIONAL response")?;
        let alive = pair.us.tunnel("site")?;
        let same = spi(&alive) == spi(&up) && ike_spis(&alive)? == ike_spis(&up)?;
        ensure(same, || format!("the SA did not survive: {up} became {alive}"))?;

        lab.net.hold_back(Side::Right)?;
        let mut flow = lab.flow(Family::V4, &Shape { rate: 300, ..Shape::default() })?;
        flow.start()?;
        flow.flows(100, UP)?;
        pair.us.kill();
        let died = Instant::now();
        peer_has_nothing(&pair, 3 * HASTY_KNOWS)?;
        println!("strongSwan noticed after {:.1} s", died.elapsed().as_secs_f32());
        let log = pair.peer.log();
        ensure(log.contains("giving up after 2 retransmits"), || "it did not give up".to_owned())?;
        nothing_leaves(lab, WHILE)?;
        let report = flow.finish()?;
        ensure(report.there.lost > 100 && report.back.lost > 100, || format!("{report}"))?;
        ensure_protected(lab, 100)
    })
}
