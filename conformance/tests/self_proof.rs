//! The harness proves itself before it judges anything: what it says of two strongSwans and of
//! no IPsec at all has to be right.

use std::time::Duration;

use conformance::failure::{Failure, ensure};
use conformance::lab::{Lab, Turn};
use conformance::missed::Missed;
use conformance::packet::Kind;
use conformance::scenario::{Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::strongswan::Options;
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::Shape;
use conformance::{Outcome, wait};

/// Without any daemon, the same topology carries the same traffic in clear, and the capture finds
/// the canary in every packet of it: what "no canary" means elsewhere rests on this.
#[test]
fn without_ipsec_the_capture_finds_the_canary() -> Outcome {
    for family in [Family::V4, Family::V6] {
        Lab::run(Turn::Shared, Wire::Direct, |lab| {
            lab.allow_canary();
            lab.exchange(family, 300, 1400)?.must_be_whole()?;
            for captured in lab.captured()? {
                let seen = captured.with(lab.canary.bytes()).len();
                ensure(seen == 600, || format!("{} saw {seen} of 600", captured.title))?;
                ensure(captured.count(Kind::Clear) >= 600, || format!("{:?}", captured.kinds()))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A scenario whose payload leaves in clear fails, and says so.
#[test]
fn a_leak_fails_the_scenario() -> Outcome {
    let ended = Lab::run(Turn::Shared, Wire::Direct, |lab| {
        lab.exchange(Family::V4, 20, 100)?.must_be_whole()
    });
    let said = ended.err().map(|failure| failure.to_string()).unwrap_or_default();
    ensure(said.contains("carried the canary in clear"), || format!("it said: {said}"))
}

/// What a peer sends in clear is not held against Postern, which drops it; what Postern lets in is,
/// and so is what it sends.
#[test]
fn clear_packets_are_held_against_who_sent_or_took_them() -> Outcome {
    let judged = |covered: bool, held_back: Side| {
        let ended = Lab::run(Turn::Shared, Wire::Direct, |lab| {
            let mut ours = tunnel(lab, Starter::Peer, Family::V4, Family::V4);
            if !covered {
                for child in &mut ours.children {
                    child.remote = vec!["10.99.0.0/16".to_owned()];
                }
            }
            lab.postern(Side::Left, &[ours], &Default::default())?;
            // One way only.
            lab.net.hold_back(held_back)?;
            lab.exchange(Family::V4, 50, 200).map(drop)
        });
        ended.err().map(|failure| failure.to_string()).unwrap_or_default()
    };
    let said = judged(true, Side::Left);
    ensure(said.is_empty(), || format!("clear packets of the peer were ours: {said}"))?;
    let said = judged(false, Side::Left);
    ensure(said.contains("were let in"), || format!("what was let in was not seen: {said}"))?;
    let said = judged(false, Side::Right);
    ensure(said.contains("carried the canary"), || format!("a leak was not seen: {said}"))
}

/// The counting is exact: what the wire drops is missing, and nothing else.
#[test]
fn lost_packets_are_counted() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        lab.allow_canary();
        lab.net.lose(30)?;
        let report = lab.exchange(Family::V4, 1000, 200)?;
        lab.net.mend()?;
        let captured = lab.captured()?;
        let arrived = |at: usize, way: fn(&conformance::traffic::Report) -> u64| {
            // Each capture holds what its gateway sent and what reached it from the wire.
            let seen = captured.get(at).map_or(0, |one| one.with(lab.canary.bytes()).len());
            (seen as u64, 2000 - way(&report))
        };
        for (seen, counted) in [arrived(0, |r| r.back.lost), arrived(1, |r| r.there.lost)] {
            ensure(seen == counted, || format!("{seen} in the capture, {counted} by {report}"))?;
        }
        ensure((200..400).contains(&report.there.lost), || format!("30 % expected: {report}"))?;
        ensure(report.must_be_whole().is_err(), || "loss was accepted".to_owned())
    })
}

/// A panic inside a scenario leaves no namespace behind.
#[test]
fn a_panic_is_cleaned_up() -> Outcome {
    let mut name = String::new();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Lab::run(Turn::Shared, Wire::Direct, |lab| {
            lab.net.gateway(Side::Left).name().clone_into(&mut name);
            std::panic::resume_unwind(Box::new("on purpose"))
        })
    }));
    ensure(ended.is_err() && !name.is_empty(), || "the panic was swallowed".to_owned())?;
    let left = conformance::command::must(&["ip", "netns", "list"])?.stdout;
    ensure(!left.contains(&name), || format!("{name} is left: {left}"))
}

/// Two strongSwans through the same topology: up, traffic, and rekeying by either side under
/// load, with the losses counted.
fn two_strongswans(wire: Wire, families: (Family, Family), rekeys: usize) -> Outcome {
    let turn = if rekeys > 0 { Turn::Alone } else { Turn::Shared };
    Lab::run(turn, wire, |lab| {
        let (outer, inner) = families;
        let left = tunnel(lab, Starter::Us, outer, inner);
        let right = peer_tunnel(lab, &left);
        let b = lab.strongswan(Side::Right, std::slice::from_ref(&right), &Options::default())?;
        let a = lab.strongswan(Side::Left, &[left], &Options::default())?;
        let up = a.initiate("site", "net")?;
        ensure(up.code == 0, || up.text())?;
        lab.exchange(inner, 200, 1200)?.must_be_whole()?;
        if rekeys > 0 {
            let missed = Missed::by_both(&b, &a)?;
            let mut flow = lab.flow(inner, &Shape::default())?;
            flow.start()?;
            flow.flows(200, UP)?;
            for round in 0..rekeys {
                for who in [&a, &b] {
                    let before = who.children()?;
                    who.must_swanctl(&["--rekey", "--child", "net"])?;
                    wait::until("a new child", Duration::from_secs(10), || {
                        let now = who.children()?;
                        if now.last().map(|child| &child.1["spi-in"])
                            == before.last().map(|child| &child.1["spi-in"])
                        {
                            Err(Failure::new(format!("round {round}: {now:?}")))
                        } else {
                            Ok(())
                        }
                    })?;
                    flow.flows(200, UP)?;
                }
            }
            let report = flow.finish()?;
            report.must_reach(1000)?;
            missed.must_be_whole(&report)?;
        }
        ensure_protected(lab, 400)
    })
}

#[test]
fn two_strongswans_ipv4() -> Outcome {
    two_strongswans(Wire::Direct, (Family::V4, Family::V4), 0)
}

#[test]
fn two_strongswans_ipv6_in_ipv6() -> Outcome {
    two_strongswans(Wire::Direct, (Family::V6, Family::V6), 0)
}

#[test]
fn two_strongswans_ipv6_in_ipv4_behind_nat() -> Outcome {
    two_strongswans(Wire::NatBefore(Side::Left), (Family::V4, Family::V6), 0)
}

#[test]
fn two_strongswans_rekey_without_loss() -> Outcome {
    two_strongswans(Wire::Direct, (Family::V4, Family::V4), 5)
}

/// What strongSwan misses itself is no excuse for more than a few: frozen for a while, it makes
/// the judgement fail.
#[test]
fn a_strongswan_that_does_not_read_is_no_excuse() -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let left = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let right = peer_tunnel(lab, &left);
        let b = lab.strongswan(Side::Right, std::slice::from_ref(&right), &Options::default())?;
        let a = lab.strongswan(Side::Left, &[left], &Options::default())?;
        let up = a.initiate("site", "net")?;
        ensure(up.code == 0, || up.text())?;
        let missed = Missed::by_both(&b, &a)?;
        // A socket takes 212,992 octets, with what the kernel counts for each packet.
        let mut flow = lab.flow(Family::V4, &Shape { rate: 2000, ..Shape::default() })?;
        flow.start()?;
        flow.flows(200, UP)?;
        let before = b.missed()?;
        b.freeze()?;
        wait::until("the socket of a frozen strongSwan to overflow", UP, || {
            let now = b.missed()?;
            if now > before + 100 { Ok(()) } else { Err(Failure::new(format!("{now}"))) }
        })?;
        b.thaw()?;
        flow.flows(200, UP)?;
        let said = missed.must_be_whole(&flow.finish()?).err().map(|why| why.to_string());
        ensure(said.as_deref().is_some_and(|said| said.contains("at its own socket")), || {
            format!("it said: {said:?}")
        })
    })
}
