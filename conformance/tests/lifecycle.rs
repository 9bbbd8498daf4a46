//! Tunnels that end, peers that die, and Postern's own ends and restarts: traffic that a policy
//! protects is encrypted or stays, at every moment.

use std::time::Duration;

use conformance::failure::{Failure, ensure};
use conformance::lab::{Lab, Turn};
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::spec::{Child, Tunnel};
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::{Flow, Shape};
use conformance::{Outcome, postern, strongswan, wait};
use serde_json::Value;

/// Long enough for many packets to leave if they could.
const WHILE: Duration = Duration::from_millis(1500);

/// The usual tunnel, up, with traffic running both ways.
fn running(
    starter: Starter,
    adjust: impl Fn(&mut Tunnel),
    options: &postern::Options,
    body: impl FnOnce(&Lab, &Pair, &mut Flow) -> Outcome,
) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, starter, Family::V4, Family::V4);
        adjust(&mut ours);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start_with(
            lab,
            std::slice::from_ref(&ours),
            &[theirs],
            options,
            &strongswan::Options::default(),
        )?;
        pair.bring_up(starter, &ours)?;
        lab.net.hold_back(Side::Right)?;
        let shape = Shape { rate: 300, ..Shape::default() };
        let mut flow = lab.flow(Family::V4, &shape)?;
        flow.start()?;
        flow.flows(50, UP)?;
        body(lab, &pair, &mut flow)?;
        // Whatever happened, packets tried to pass all the time.
        let report = flow.finish()?;
        ensure(report.there.sent > 100 && report.there.doubled == 0, || format!("{report}"))
    })
}

fn defaults() -> postern::Options {
    postern::Options::default()
}

fn spi(tunnel: &Value) -> String {
    tunnel["children"][0]["spi_in"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the tunnel is up with other SPIs than before, and traffic flows again.
fn up_again(pair: &Pair, flow: &mut Flow, before: &str, limit: Duration) -> Outcome {
    pair.us.wait_tunnel("the tunnel to be up again", "site", limit, |tunnel| {
        postern::is_up(tunnel) && spi(tunnel) != before
    })?;
    flow.flows(100, UP)
}

/// Nothing leaves in clear during a while.
fn nothing_leaves(lab: &Lab, span: Duration) -> Outcome {
    std::thread::sleep(span);
    lab.no_canary_so_far().map(drop)
}

/// What strongSwan has of the tunnel is gone.
fn peer_has_nothing(pair: &Pair) -> Outcome {
    wait::until("strongSwan to have no SA", Duration::from_secs(10), || {
        let sas = pair.peer.ike_sas()?;
        if sas.is_empty() { Ok(()) } else { Err(Failure::new(format!("{sas:?}"))) }
    })
}

/// `down` deletes, holds and blocks; `up` ends it.
fn down_and_up(starter: Starter) -> Outcome {
    running(
        starter,
        |_| (),
        &defaults(),
        |lab, pair, flow| {
            let before = spi(&pair.us.tunnel("site")?);
            pair.us.must_cli(&["down", "site"])?;
            // strongSwan keeps no policy without an SA: what its side sends is clear on the wire.
            peer_has_nothing(pair)?;
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
        },
    )
}

#[test]
fn deleted_by_us() -> Outcome {
    down_and_up(Starter::Us)
}

#[test]
fn deleted_by_us_as_responder() -> Outcome {
    down_and_up(Starter::Peer)
}

/// The peer deletes the IKE SA or the child; an always-on tunnel comes back by itself.
fn deleted_by_peer(arguments: &[&str]) -> Outcome {
    running(
        Starter::Us,
        |_| (),
        &defaults(),
        |lab, pair, flow| {
            let before = spi(&pair.us.tunnel("site")?);
            pair.peer.must_swanctl(arguments)?;
            up_again(pair, flow, &before, UP)?;
            nothing_leaves(lab, Duration::ZERO)
        },
    )
}

#[test]
fn ike_deleted_by_the_peer() -> Outcome {
    deleted_by_peer(&["--terminate", "--ike", "site"])
}

#[test]
fn child_deleted_by_the_peer() -> Outcome {
    deleted_by_peer(&["--terminate", "--child", "net"])
}

/// A passive tunnel that its peer deleted blocks and waits.
#[test]
fn passive_tunnel_deleted_by_the_peer() -> Outcome {
    running(
        Starter::Peer,
        |_| (),
        &defaults(),
        |lab, pair, flow| {
            let before = spi(&pair.us.tunnel("site")?);
            pair.peer.must_swanctl(&["--terminate", "--ike", "site"])?;
            pair.us.wait_tunnel("the tunnel to be down", "site", UP, |tunnel| {
                tunnel["state"] == "down"
            })?;
            nothing_leaves(lab, WHILE)?;
            let up = pair.peer.initiate("site", "net")?;
            ensure(up.code == 0, || up.text())?;
            up_again(pair, flow, &before, UP)?;
            nothing_leaves(lab, Duration::ZERO)
        },
    )
}

/// One side asks an idle peer for signs of life, the other answers.
fn liveness(ours_s: u32, theirs_s: u32, line: &str) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        (ours.dpd_s, theirs.dpd_s) = (ours_s, theirs_s);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.bring_up(Starter::Us, &ours)?;
        wait::until(line, Duration::from_secs(20), || {
            let seen = pair.peer.log().matches(line).count();
            if seen >= 3 { Ok(()) } else { Err(format!("seen {seen} times")) }
        })?;
        let now = pair.us.tunnel("site")?;
        ensure(spi(&now) == spi(&up), || format!("the SA did not survive: {now}"))?;
        lab.exchange(Family::V4, 50, 200)?.must_be_whole()
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
    running(
        Starter::Us,
        |tunnel| tunnel.dpd_s = 2,
        &defaults(),
        |lab, pair, flow| {
            let before = spi(&pair.us.tunnel("site")?);
            lab.net.cut()?;
            let limit = Duration::from_secs(150);
            pair.us.wait_tunnel("the dead peer to be noticed", "site", limit, |tunnel| {
                tunnel["state"] != "established" && !tunnel["last_error"].is_null()
            })?;
            nothing_leaves(lab, WHILE)?;
            lab.net.mend()?;
            up_again(pair, flow, &before, Duration::from_secs(120))
        },
    )
}

/// The peer dies without a word and comes back without memory.
#[test]
fn the_peer_is_killed_and_restarts() -> Outcome {
    running(
        Starter::Us,
        |tunnel| tunnel.dpd_s = 2,
        &defaults(),
        |lab, pair, flow| {
            // The dead peer's side has no policy any more: its packets are clear on the wire.
            let before = spi(&pair.us.tunnel("site")?);
            pair.peer.kill();
            nothing_leaves(lab, WHILE)?;
            pair.peer.spawn()?;
            up_again(pair, flow, &before, Duration::from_secs(200))?;
            nothing_leaves(lab, Duration::ZERO)
        },
    )
}

/// The peer dies, comes back, and starts the tunnel itself: its INITIAL_CONTACT ends the old one.
#[test]
fn the_peer_is_killed_and_starts_anew() -> Outcome {
    running(
        Starter::Peer,
        |_| (),
        &defaults(),
        |lab, pair, flow| {
            let before = spi(&pair.us.tunnel("site")?);
            pair.peer.kill();
            pair.peer.spawn()?;
            let up = pair.peer.initiate("site", "net")?;
            ensure(up.code == 0, || up.text())?;
            up_again(pair, flow, &before, UP)?;
            let tunnel = pair.us.tunnel("site")?;
            let sas = tunnel["ike_sas"].as_array().map_or(0, Vec::len);
            ensure(sas == 1, || format!("the old IKE SA is still there: {tunnel}"))?;
            nothing_leaves(lab, Duration::ZERO)
        },
    )
}

/// Postern is killed: nothing leaves in clear, nothing clear is delivered, and a restart takes
/// over what was left.
#[test]
fn we_are_killed_and_restart() -> Outcome {
    running(
        Starter::Us,
        |_| (),
        &defaults(),
        |lab, pair, flow| {
            for _ in 0..2 {
                pair.us.kill();
                std::thread::sleep(WHILE);
                lab.no_canary_so_far()?;
                pair.us.spawn()?;
                pair.us.wait_up("site", UP)?;
                flow.flows(100, UP)?;
            }
            wait::until("one IKE SA at strongSwan", Duration::from_secs(20), || {
                let sas = pair.peer.ike_sas()?.len();
                if sas == 1 { Ok(()) } else { Err(Failure::new(format!("{sas} IKE SAs"))) }
            })?;
            ensure_protected(lab, 300)
        },
    )
}

/// A clean stop tells the peer and leaves the block in place; `--release` takes it away.
#[test]
fn a_clean_stop_stays_closed_until_released() -> Outcome {
    running(
        Starter::Us,
        |_| (),
        &defaults(),
        |lab, pair, flow| {
            pair.us.stop()?;
            peer_has_nothing(pair)?;
            nothing_leaves(lab, WHILE)?;
            pair.us.spawn()?;
            pair.us.wait_up("site", UP)?;
            flow.flows(100, UP)?;
            pair.us.stop()?;
            peer_has_nothing(pair)?;
            nothing_leaves(lab, WHILE)?;
            lab.allow_canary();
            lab.net.let_go(Side::Right)?;
            pair.us.release()?;
            flow.flows(100, UP)?;
            let gateway = lab.net.gateway(Side::Left);
            let rules = gateway.must(&["nft", "list", "ruleset"])?.stdout;
            ensure(rules.trim().is_empty(), || format!("nftables rules are left: {rules}"))?;
            let links = gateway.ip(&["-o", "link"])?.stdout;
            ensure(!links.contains("postern"), || format!("an interface is left: {links}"))?;
            let rules = gateway.ip(&["rule"])?.stdout;
            ensure(rules.lines().count() == 3, || format!("routing rules are left: {rules}"))
        },
    )
}

/// `on_stop = "open"`: a clean stop removes everything.
#[test]
fn a_clean_stop_may_open() -> Outcome {
    let options = postern::Options { gateway: "on_stop = \"open\"".to_owned(), ..defaults() };
    running(
        Starter::Us,
        |_| (),
        &options,
        |lab, pair, flow| {
            lab.no_canary_so_far()?;
            lab.allow_canary();
            lab.net.let_go(Side::Right)?;
            pair.us.stop()?;
            peer_has_nothing(pair)?;
            flow.flows(100, UP)?;
            let rules = lab.net.gateway(Side::Left).must(&["nft", "list", "ruleset"])?.stdout;
            ensure(rules.trim().is_empty(), || format!("nftables rules are left: {rules}"))
        },
    )
}

/// A reload that adds, changes and removes leaves the tunnel and the child beside it alone: same
/// SPIs, no packet lost. One with an error changes nothing and says where the error is.
#[test]
fn a_reload_touches_only_what_changed() -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        ours.children.push(Child::new("six", "fd01::/48", "fd02::/48"));
        let mut second = ours.clone();
        second.name = "second".to_owned();
        second.local.id = "left-second.example".to_owned();
        second.remote.id = "right-second.example".to_owned();
        second.children = vec![Child::new("more", "10.11.0.0/16", "10.12.0.0/16")];
        lab.net.add_gateway_address(Side::Right, "10.12.0.1")?;
        let theirs = [peer_tunnel(lab, &ours), peer_tunnel(lab, &second)];
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &theirs)?;
        let before = pair.bring_up(Starter::Us, &ours)?;
        let mut flow = lab.flow(Family::V4, &Shape::default())?;
        flow.start()?;
        flow.flows(200, UP)?;
        let options = defaults();
        let unchanged = |what: &str| {
            let now = pair.us.tunnel("site")?;
            let same = spi(&now) == spi(&before)
                && now["ike_sas"][0]["spi_i"] == before["ike_sas"][0]["spi_i"];
            ensure(same, || format!("{what} touched the tunnel: {before} became {now}"))
        };

        pair.us.reload()?;
        unchanged("a reload of the same")?;

        pair.us.write_config(&[ours.clone(), second.clone()], &options)?;
        pair.us.reload()?;
        pair.us.wait_up("second", UP)?;
        unchanged("another tunnel")?;

        let good = pair.us.config(std::slice::from_ref(&ours), &options);
        pair.us
            .write_config_text(&good.replace("mode = \"always-on\"", "mode = \"allways-on\""))?;
        let refused = pair.us.cli(&["reload"])?;
        ensure(refused.code == 1, || format!("an error was accepted: {refused:?}"))?;
        ensure(refused.text().contains("allways-on"), || format!("not said where: {refused:?}"))?;
        unchanged("a reload with an error")?;
        ensure(postern::is_up(&pair.us.tunnel("second")?), || "the second is gone".to_owned())?;

        // One child changes, the other does not.
        ours.children[1] = Child::new("six", "fd01::/64", "fd02::/64");
        pair.us.write_config(std::slice::from_ref(&ours), &options)?;
        pair.us.reload()?;
        wait::until("the second tunnel to be gone", UP, || {
            let sa = pair.us.sa()?;
            let tunnels = sa["tunnels"].as_array().map_or(0, Vec::len);
            if tunnels == 1 { Ok(()) } else { Err(Failure::new(sa.to_string())) }
        })?;
        pair.us.wait_up("site", UP)?;
        unchanged("a changed child beside it")?;
        flow.flows(200, UP)?;
        flow.finish()?.must_be_whole()?;
        ensure_protected(lab, 1000)
    })
}

/// SIGHUP reloads too.
#[test]
fn a_hangup_signal_reloads() -> Outcome {
    running(
        Starter::Us,
        |_| (),
        &defaults(),
        |lab, pair, flow| {
            let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
            ours.children.push(Child::new("six", "fd01::/48", "fd02::/48"));
            pair.us.write_config(&[ours], &defaults())?;
            let pid = pair.us.pid().ok_or_else(|| Failure::new("not running"))?.to_string();
            lab.net.wire().must(&["sh", "-c", &format!("kill -HUP {pid}")])?;
            pair.us.wait_tunnel("the second child to appear", "site", UP, |tunnel| {
                tunnel["children"].as_array().is_some_and(|children| children.len() == 2)
            })?;
            flow.flows(100, UP)
        },
    )
}

/// A daemon that has never had a tunnel blocks from its first moment.
#[test]
fn a_cold_start_is_closed_before_the_tunnel_is_up() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        lab.net.hold_back(Side::Right)?;
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let us = lab.postern(Side::Left, &[ours], &defaults())?;
        let end = |side| (lab.net.client(side), lab.net.client_address(side, Family::V4));
        let shape = Shape { count: 300, port: 7003, ..Shape::default() };
        let mut flow = Flow::prepare(end(Side::Left), end(Side::Right), &lab.canary, &shape)?;
        flow.start()?;
        wait::until("300 packets to be sent", UP, || {
            let sent = flow.look()?.iter().map(|end| end.sent).min().unwrap_or(0);
            if sent >= 300 { Ok(()) } else { Err(Failure::new(format!("{sent} sent"))) }
        })?;
        us.must_run()?;
        let report = flow.finish()?;
        ensure(report.there.lost == 300, || format!("packets left in clear: {report}"))
    })
}
