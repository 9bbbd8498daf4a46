//! Postern's own starts, stops and reloads: traffic that a policy protects is encrypted or stays,
//! at every moment.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use conformance::command::must;
use conformance::course::{Course, WHILE, nothing_leaves, peer_has_nothing, spi};
use conformance::failure::{Failure, ensure};
use conformance::lab::{Lab, Turn};
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::spec::Child;
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::{Flow, Shape};
use conformance::{Outcome, postern, wait};

fn defaults() -> postern::Options {
    postern::Options::default()
}

/// A clean stop tells the peer and leaves the block in place; `--release` takes it away.
fn a_clean_stop(signal: &str) -> Outcome {
    Course::by(Starter::Us).run(|lab, pair, flow| {
        pair.us.stop_by(signal)?;
        peer_has_nothing(pair, UP)?;
        nothing_leaves(lab, WHILE)?;
        pair.us.spawn()?;
        pair.us.wait_up("site", UP)?;
        flow.flows(100, UP)?;
        pair.us.stop_by(signal)?;
        peer_has_nothing(pair, UP)?;
        nothing_leaves(lab, WHILE)?;
        lab.allow_canary();
        lab.net.let_go(Side::Right)?;
        pair.us.release()?;
        flow.flows(100, UP)?;
        nothing_is_left(lab)?;
        let gateway = lab.net.gateway(Side::Left);
        let links = gateway.ip(&["-o", "link"])?.stdout;
        ensure(!links.contains("postern"), || format!("an interface is left: {links}"))?;
        let rules = gateway.ip(&["rule"])?.stdout;
        ensure(rules.lines().count() == 3, || format!("routing rules are left: {rules}"))
    })
}

fn nothing_is_left(lab: &Lab) -> Outcome {
    let rules = lab.net.gateway(Side::Left).must(&["nft", "list", "ruleset"])?.stdout;
    ensure(rules.trim().is_empty(), || format!("nftables rules are left: {rules}"))
}

#[test]
fn a_clean_stop_stays_closed_until_released() -> Outcome {
    a_clean_stop("TERM")
}

#[test]
fn an_interrupt_stays_closed_until_released() -> Outcome {
    a_clean_stop("INT")
}

/// `on_stop = "open"`: a clean stop removes everything.
fn a_stop_opens(signal: &str) -> Outcome {
    let ours = postern::Options { gateway: "on_stop = \"open\"".to_owned(), ..defaults() };
    Course { ours, ..Course::by(Starter::Us) }.run(|lab, pair, flow| {
        lab.no_canary_so_far()?;
        lab.allow_canary();
        lab.net.let_go(Side::Right)?;
        pair.us.stop_by(signal)?;
        peer_has_nothing(pair, UP)?;
        flow.flows(100, UP)?;
        nothing_is_left(lab)
    })
}

#[test]
fn a_clean_stop_may_open() -> Outcome {
    a_stop_opens("TERM")
}

#[test]
fn an_interrupt_may_open() -> Outcome {
    a_stop_opens("INT")
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
    Course::by(Starter::Us).run(|lab, pair, flow| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        ours.children.push(Child::new("six", "fd01::/48", "fd02::/48"));
        pair.us.write_config(&[ours], &defaults())?;
        pair.us.signal("HUP")?;
        pair.us.wait_tunnel("the second child to appear", "site", UP, |tunnel| {
            tunnel["children"].as_array().is_some_and(|children| children.len() == 2)
        })?;
        flow.flows(100, UP)
    })
}

/// A signal that comes while the daemon starts is not lost, and ends nothing half way: from the
/// moment on in which it has its lock.
#[test]
fn a_signal_while_it_starts_does_not_end_it() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let us = lab.postern(Side::Left, &[ours], &defaults())?;
        us.stop()?;
        let lock = lab.folder(Side::Left)?.join("state/posternd.lock");
        std::fs::remove_file(&lock)?;
        us.spawn_after(&format!(
            "(until [ -e '{}' ]; do :; done; kill -HUP $$) &",
            lock.display()
        ))?;
        wait::until("the reload that was asked for", UP, || {
            us.must_run()?;
            let log = us.log();
            if log.contains("reloaded: ") { Ok(()) } else { Err(Failure::new(log)) }
        })
    })
}

/// Standard error that takes nothing costs the log, and no more: tunnels come up, carry traffic and
/// are told goodbye, and commands are answered.
fn without_a_log(lab: &Lab, pair: &Pair, flow: &mut Flow, file: &Path) -> Outcome {
    pair.us.stop()?;
    peer_has_nothing(pair, UP)?;
    pair.us.spawn_telling(file)?;
    pair.us.wait_up("site", UP)?;
    flow.flows(100, UP)?;
    pair.us.must_cli(&["rekey", "site"])?;
    pair.us.signal("HUP")?;
    pair.us.must_cli(&["sa"])?;
    flow.flows(100, UP)?;
    pair.us.stop()?;
    peer_has_nothing(pair, UP)?;
    nothing_leaves(lab, WHILE)
}

#[test]
fn a_log_on_a_full_disk_hurts_nothing_else() -> Outcome {
    Course::by(Starter::Us)
        .run(|lab, pair, flow| without_a_log(lab, pair, flow, Path::new("/dev/full")))
}

#[test]
fn a_log_that_nobody_reads_hurts_nothing_else() -> Outcome {
    Course::by(Starter::Us).run(|lab, pair, flow| {
        let pipe = lab.folder(Side::Left)?.join("pipe");
        must(&["mkfifo", &pipe.display().to_string()])?;
        // Both ends are held, and there is no room from the first line on.
        let mut held = File::options().read(true).write(true).open(&pipe)?;
        held.write_all(&[b' '; 1 << 16])?;
        without_a_log(lab, pair, flow, &pipe)
    })
}

/// A daemon that has never had a tunnel blocks from its first moment, and says of its peer that it
/// does not answer.
#[test]
fn a_cold_start_is_closed_before_the_tunnel_is_up() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        lab.net.hold_back(Side::Right)?;
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let us = lab.postern(Side::Left, &[ours], &defaults())?;
        let end = |side| (lab.net.client(side), lab.net.client_address(side, Family::V4));
        let shape = Shape { rate: 300, port: 7003, ..Shape::default() };
        let mut flow = Flow::prepare(end(Side::Left), end(Side::Right), &lab.canary, &shape)?;
        flow.start()?;
        let (code, message) = us.wait_error("site", Duration::from_secs(120))?;
        let named = code == "peer-unreachable" && message.contains("192.0.2.2");
        ensure(named, || format!("the peer is not named: {code}: {message}"))?;
        wait::until("300 packets to be sent", UP, || {
            let sent = flow.look()?.iter().map(|end| end.sent).min().unwrap_or(0);
            if sent >= 300 { Ok(()) } else { Err(Failure::new(format!("{sent} sent"))) }
        })?;
        us.must_run()?;
        let there = flow.finish()?.there;
        let blocked = there.sent >= 300 && there.lost == there.sent;
        ensure(blocked, || format!("packets left in clear: {there}"))
    })
}
