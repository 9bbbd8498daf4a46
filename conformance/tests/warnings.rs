//! What the system itself puts in the way is said by the daemon, with the command that helps, until
//! it is set right.

use std::time::Duration;

use conformance::failure::{Failure, Outcome, ensure};
use conformance::lab::{Lab, Turn};
use conformance::postern::{Options, Postern};
use conformance::scenario::{Pair, Starter, ensure_protected, peer_tunnel, tunnel};
use conformance::topology::{Family, Side, Wire};
use serde_json::Value;

/// The warnings of `postern sa --json`; `postern sa` has to show the same.
fn warnings(us: &Postern) -> Outcome<Vec<String>> {
    let sa = us.sa()?;
    let list = sa["warnings"].as_array().ok_or_else(|| Failure::new(sa.to_string()))?;
    let list: Vec<String> = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let shown = us.cli(&["sa"])?.stdout;
    for warning in &list {
        ensure(shown.lines().any(|line| *line == format!("warning: {warning}")), || shown.clone())?;
    }
    let lines = shown.lines().filter(|line| line.starts_with("warning:")).count();
    ensure(lines == list.len(), || format!("{list:?} in {shown}"))?;
    Ok(list)
}

/// The setting that a warning asks for: what stands behind `sysctl -w`.
fn asked_for(warning: &str) -> Outcome<(&str, &str)> {
    warning
        .split_once("sysctl -w ")
        .and_then(|(_, command)| command.split_whitespace().next()?.split_once('='))
        .ok_or_else(|| Failure::new(format!("no command in `{warning}`")))
}

fn logged(us: &Postern, warning: &str) -> usize {
    us.log().lines().filter(|line| line.contains("WARN") && line.contains(warning)).count()
}

#[test]
fn forwarding_and_strict_source_checks_are_told_until_they_are_set_right() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let gateway = lab.net.gateway(Side::Left);
        gateway.sysctl(&[
            ("net.ipv4.ip_forward", "0"),
            ("net.ipv6.conf.all.forwarding", "0"),
            ("net.ipv4.conf.all.rp_filter", "1"),
        ])?;
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        for child in &mut ours.children {
            child.local.push(lab.net.inner(Side::Left, Family::V6));
            child.remote.push(lab.net.inner(Side::Right, Family::V6));
        }
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        let target = lab.net.client_address(Side::Right, Family::V4).to_string();
        let ping = ["ping", "-q", "-c", "2", "-i", "0.2", "-W", "1", &target];
        let lost = lab.net.client(Side::Left).run(&ping, Duration::from_secs(10))?;
        ensure(lost.code != 0, || "a ping was forwarded with forwarding off".to_owned())?;

        let mut told = warnings(&pair.us)?;
        ensure(told.len() == 3, || format!("{told:?}"))?;
        for warning in &told {
            let count = logged(&pair.us, warning);
            ensure(count == 1, || format!("logged {count} times: {warning}"))?;
        }
        // Each command does what its warning says, and only that.
        while let Some(warning) = told.pop() {
            gateway.sysctl(&[asked_for(&warning)?])?;
            let left = warnings(&pair.us)?;
            ensure(left == told, || format!("{left:?} instead of {told:?} without {warning}"))?;
        }
        for family in [Family::V4, Family::V6] {
            lab.exchange(family, 200, 1200)?.must_be_whole()?;
        }

        // What goes wrong again is told again: at once in the status, and in the log at the next
        // look at the system, such as that of a reload which changes what is steered.
        let reload = |bypass: &[String]| {
            let mut changed = ours.clone();
            changed.children.iter_mut().for_each(|child| child.bypass = bypass.to_vec());
            pair.us.write_config(&[changed], &Options::default())?;
            pair.us.reload()
        };
        reload(&["10.2.77.0/24".to_owned()])?;
        gateway.sysctl(&[("net.ipv4.conf.all.rp_filter", "1")])?;
        let again = warnings(&pair.us)?;
        let [warning] = again.as_slice() else { return Err(Failure::new(format!("{again:?}"))) };
        reload(&[])?;
        let count = logged(&pair.us, warning);
        ensure(count == 2, || format!("logged {count} times: {warning}"))?;
        ensure_protected(lab, 400)
    })
}

#[test]
fn a_policy_over_the_peer_itself_bears_no_strict_source_check_on_the_wire() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let gateway = lab.net.gateway(Side::Left);
        gateway.sysctl(&[("net.ipv4.conf.out.rp_filter", "1")])?;
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let us = lab.postern(Side::Left, std::slice::from_ref(&ours), &Options::default())?;
        ensure(warnings(&us)?.is_empty(), || "it harms nobody so far".to_owned())?;
        for child in &mut ours.children {
            child.local = vec![lab.net.outer(Side::Left, Family::V4)];
            child.remote = vec![lab.net.outer(Side::Right, Family::V4)];
        }
        us.write_config(&[ours], &Options::default())?;
        us.reload()?;
        let told = warnings(&us)?;
        let [warning] = told.as_slice() else { return Err(Failure::new(format!("{told:?}"))) };
        ensure(warning.contains("rp_filter of out"), || warning.clone())?;
        gateway.sysctl(&[asked_for(warning)?])?;
        ensure(warnings(&us)?.is_empty(), || "it was set right".to_owned())
    })
}
