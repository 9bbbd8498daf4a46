//! Large policies: how long ten thousand selectors take from start to steering, and what becomes
//! of networks that no SA can carry.

use std::time::{Duration, Instant};

use conformance::failure::{Failure, ensure};
use conformance::lab::{Lab, Turn};
use conformance::postern::{Options, Postern};
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::spec::{Child, Start, Tunnel};
use conformance::topology::{Family, Side, Wire};
use conformance::{Outcome, wait};

/// What a policy of [`CHILDREN`] times [`NETWORKS`] selectors may take.
const LIMIT: Duration = Duration::from_secs(15);
const CHILDREN: usize = 40;
const NETWORKS: usize = 250;
/// The client behind our side.
const CLIENT: &str = "10.1.0.10";

/// The network number `n` of all: /25s between which there are gaps.
fn network(n: usize) -> String {
    format!("10.{}.{}.0/25", 100 + n / NETWORKS, n % NETWORKS)
}

/// Four tunnels of ten children, each with [`NETWORKS`] networks of the peer.
fn large(lab: &Lab) -> Vec<Tunnel> {
    let model =
        Tunnel { start: Start::Passive, ..tunnel(lab, Starter::Us, Family::V4, Family::V4) };
    let child = |number: usize| {
        let mut child = Child::new(&format!("c{number}"), "10.1.0.0/16", "10.2.0.0/16");
        child.remote = (0..NETWORKS).map(|n| network(number * NETWORKS + n)).collect();
        child
    };
    (0..4)
        .map(|number| {
            let mut tunnel = model.clone();
            tunnel.name = format!("t{number}");
            tunnel.remote.id = format!("peer{number}.example");
            tunnel.children = (number * 10..number * 10 + 10).map(child).collect();
            tunnel
        })
        .collect()
}

/// The selectors of the peers' sides that `postern sa` shows, and those nftables has.
fn selectors(lab: &Lab, us: &Postern) -> Outcome<(usize, usize)> {
    let sa = us.sa()?;
    let of = |tunnel: &serde_json::Value| {
        let children = tunnel["children"].as_array().into_iter().flatten();
        children.map(|child| child["remote"].as_array().map_or(0, Vec::len)).sum::<usize>()
    };
    let shown = sa["tunnels"].as_array().into_iter().flatten().map(of).sum();
    let rules = lab.net.gateway(Side::Left).must(&["nft", "list", "table", "inet", "postern"])?;
    Ok((shown, rules.stdout.matches("10.1.0.0/16 . 10.").count()))
}

/// Sends packets from the client, whose address is `source`, to an address where nobody answers
/// through a tunnel; says whether one was seen in clear outside.
fn leaves_in_clear(lab: &Lab, source: &str, address: &str, mark: &[u8; 8]) -> Outcome<bool> {
    let pattern: String = mark.iter().map(|octet| format!("{octet:02x}")).collect();
    let ping = ["ping", "-q", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-p", &pattern];
    let ping = [&ping[..], &["-I", source, address]].concat();
    let sent = lab.net.client(Side::Left).run(&ping, Duration::from_secs(20))?;
    ensure(sent.stdout.contains("3 packets transmitted, 0 received"), || sent.text())?;
    Ok(lab.captured()?.iter().any(|seen| !seen.with(mark).is_empty()))
}

/// The first, one in the middle and the last network: all blocked while the policy stands.
fn ensure_blocked(lab: &Lab) -> Outcome {
    let marks = [b"blocked1", b"blocked2", b"blocked3"];
    for (n, mark) in [0, CHILDREN * NETWORKS / 2 + 77, CHILDREN * NETWORKS - 1].iter().zip(marks) {
        let address = network(*n).replace(".0/25", ".9");
        ensure(!leaves_in_clear(lab, CLIENT, &address, mark)?, || {
            format!("{address} left in clear")
        })?;
    }
    Ok(())
}

#[test]
fn ten_thousand_selectors_steer_within_seconds() -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let large = large(lab);
        let mut small = vec![large[0].clone()];
        small[0].children = vec![Child::new("c0", "10.1.0.0/16", "10.100.0.0/25")];
        let options = Options::default();
        let timed = |what: &str, limit: Duration, step: &dyn Fn() -> Outcome| {
            let began = Instant::now();
            step()?;
            let took = began.elapsed();
            eprintln!("{what}: {} ms", took.as_millis());
            ensure(took < limit, || format!("{what} took {} ms", took.as_millis()))
        };
        let us = lab.postern(Side::Left, &small, &options)?;
        let all = CHILDREN * NETWORKS;
        ensure(selectors(lab, &us)? == (1, 1), || "one selector was wanted".to_owned())?;
        // Without a policy it would get through: the wire sees what is not blocked.
        let last = network(all - 1).replace(".0/25", ".9");
        ensure(leaves_in_clear(lab, CLIENT, &last, b"in_clear")?, || format!("{last} is blocked"))?;
        us.stop()?;

        us.write_config(&large, &options)?;
        timed("from the start of the process to its READY=1", LIMIT, &|| us.spawn())?;
        let has = selectors(lab, &us)?;
        ensure(has == (all, all), || format!("shown and steered: {has:?} selectors"))?;
        ensure_blocked(lab)?;

        us.write_config(&small, &options)?;
        timed("reload to one selector", LIMIT, &|| us.reload())?;
        ensure(selectors(lab, &us)? == (1, 1), || "one selector was wanted".to_owned())?;
        ensure(leaves_in_clear(lab, CLIENT, &last, b"clear_2_")?, || {
            format!("{last} is still blocked")
        })?;

        us.write_config(&large, &options)?;
        timed("reload to ten thousand selectors", LIMIT, &|| us.reload())?;
        let has = selectors(lab, &us)?;
        ensure(has == (all, all), || format!("shown and steered: {has:?} selectors"))?;
        ensure_blocked(lab)
    })
}

/// A child of more networks than one SA can carry: `check` warns, `postern sa` says it for as
/// long as it lasts, and the rest stays blocked beside an SA that works.
#[test]
fn what_no_sa_can_carry_is_said_and_stays_blocked() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        // The peer would take all of them, as one network.
        ours.children[0].local =
            (0..256).map(|n| format!("10.1.{}.{}/26", n / 4, n % 4 * 64)).collect();
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.us.wait_up(&ours.name, UP)?;
        let child = &up["children"][0];
        ensure(child["local"].as_array().is_some_and(|all| all.len() == 255), || up.to_string())?;
        let open = serde_json::json!({ "local": ["10.1.63.192/26"], "remote": [] });
        ensure(child["uncovered"] == open, || child.to_string())?;
        let shown = pair.us.must_cli(&["sa"])?.stdout;
        let said = "stays blocked: local 10.1.63.192/26; a child negotiates 255 networks a side";
        ensure(shown.contains(said), || shown.clone())?;
        let events = pair.us.must_cli(&["events"])?.stdout;
        ensure(events.contains("child-narrowed (narrowed)"), || events.clone())?;
        let warned = pair.us.log();
        ensure(warned.contains("256 networks are more than one child can negotiate"), || warned)?;

        lab.exchange(Family::V4, 100, 1200)?.must_be_whole()?;
        lab.net.add_client_address(Side::Left, "10.1.63.200")?;
        let left = leaves_in_clear(lab, "10.1.63.200", "10.2.0.10", b"no_sa_12")?;
        ensure(!left, || "it left in clear".to_owned())?;

        // As `check` advises: two children, and everything gets through.
        let rest = ours.children[0].local.split_off(200);
        let mut more = Child::new("more", &rest[0], &ours.children[0].remote[0]);
        more.local = rest;
        ours.children.push(more);
        pair.us.write_config(std::slice::from_ref(&ours), &Options::default())?;
        pair.us.reload()?;
        wait::until("both children to be whole", UP, || {
            let up = pair.us.tunnel(&ours.name)?;
            let children = up["children"].as_array().cloned().unwrap_or_default();
            let whole = |child: &serde_json::Value| {
                child["state"] == "installed"
                    && child["uncovered"] == serde_json::json!({ "local": [], "remote": [] })
            };
            let all = children.len() == 2 && children.iter().all(whole);
            if all { Ok(()) } else { Err(Failure::new(up.to_string())) }
        })?;
        lab.net.client(Side::Left).must(&[
            "ping",
            "-q",
            "-c",
            "3",
            "-W",
            "5",
            "-I",
            "10.1.63.200",
            "10.2.0.10",
        ])?;
        ensure_protected(lab, 400)
    })
}
