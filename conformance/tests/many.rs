//! Many of everything: children, selectors, fragments, tunnels.

use std::fmt::Write as _;
use std::time::Duration;

use conformance::failure::{Failure, ensure};
use conformance::lab::{Lab, Turn};
use conformance::scenario::{Pair, Starter, ensure_protected, peer_tunnel, tunnel};
use conformance::spec::{Child, Tunnel};
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::{Flow, Shape};
use conformance::{Outcome, postern, strongswan, wait};

/// Whole traffic between two extra addresses of the clients.
fn exchange_between(lab: &Lab, left: &str, right: &str, count: u64) -> Outcome {
    let address =
        |text: &str| text.parse().map_err(|_| Failure::new(format!("{text} is no address")));
    let shape = Shape { count, port: 7001, rate: 1000, ..Shape::default() };
    let mut flow = Flow::prepare(
        (lab.net.client(Side::Left), address(left)?),
        (lab.net.client(Side::Right), address(right)?),
        &lab.canary,
        &shape,
    )?;
    flow.start()?;
    flow.has_sent(count, Duration::from_secs(20))?;
    flow.finish()?.must_be_whole().map_err(|failure| failure.while_doing(left))
}

/// Several children of one IKE SA, of both families, with several selectors, ports and protocols.
fn children(starter: Starter) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, starter, Family::V4, Family::V4);
        let mut several = Child::new("several", "10.1.3.0/24", "10.2.3.0/24");
        several.local.push("10.1.4.0/24".to_owned());
        several.remote.push("10.2.4.0/24".to_owned());
        let mut other_suite = Child::new("suite", "10.1.5.0/24", "10.2.5.0/24");
        other_suite.esp = vec!["aes128-sha256-noesn".to_owned()];
        ours.children = vec![
            Child::new("net", "10.1.0.0/24", "10.2.0.0/24"),
            Child::new("six", "fd01::/48", "fd02::/48"),
            Child::new("ports", "10.1.2.0/24[udp]", "10.2.2.0/24[udp/7001]"),
            several,
            other_suite,
        ];
        for side in [Side::Left, Side::Right] {
            for subnet in 2..=5 {
                let number = if side == Side::Left { 1 } else { 2 };
                lab.net.add_client_address(side, &format!("10.{number}.{subnet}.10"))?;
                lab.net.add_gateway_address(side, &format!("10.{number}.{subnet}.1"))?;
            }
        }
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.bring_up(starter, &ours)?;
        let listed = up["children"].as_array().map_or(0, Vec::len);
        ensure(listed == 5, || format!("five children were wanted: {up}"))?;
        lab.exchange(Family::V4, 100, 1200)?.must_be_whole()?;
        lab.exchange(Family::V6, 100, 1200)?.must_be_whole()?;
        for subnet in 2..=5 {
            let ends = (format!("10.1.{subnet}.10"), format!("10.2.{subnet}.10"));
            exchange_between(lab, &ends.0, &ends.1, 100)?;
        }
        // Selectors of one child meet crosswise.
        exchange_between(lab, "10.1.3.10", "10.2.4.10", 100)?;
        ensure_protected(lab, 1200)
    })
}

#[test]
fn children_started_by_us() -> Outcome {
    children(Starter::Us)
}

#[test]
fn children_started_by_the_peer() -> Outcome {
    children(Starter::Peer)
}

/// IKE messages larger than a packet travel in fragments (RFC 7383), theirs and ours: 64 IPv6
/// selectors a side do not fit otherwise.
fn fragments(starter: Starter) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, starter, Family::V4, Family::V6);
        let subnets = |network: &str| {
            let mut all = Vec::new();
            for number in 0..24 {
                all.push(format!("{network}:{number:x}::/64"));
            }
            all
        };
        ours.children[0].local = subnets("fd01:0:0");
        ours.children[0].remote = subnets("fd02:0:0");
        for number in 1..24 {
            lab.net.add_gateway_address(Side::Right, &format!("fd02:0:0:{number:x}::1"))?;
        }
        let theirs = peer_tunnel(lab, &ours);
        let options = strongswan::Options {
            charon: "fragment_size = 300".to_owned(),
            ..strongswan::Options::default()
        };
        let pair = Pair::start_with(
            lab,
            std::slice::from_ref(&ours),
            &[theirs],
            &postern::Options::default(),
            &options,
        )?;
        pair.bring_up(starter, &ours)?;
        lab.exchange(Family::V6, 200, 1200)?.must_be_whole()?;
        let log = pair.peer.log();
        ensure(log.contains("splitting IKE message"), || "strongSwan sent none".to_owned())?;
        ensure(log.contains("received fragment #"), || "we sent none".to_owned())?;
        ensure_protected(lab, 400)
    })
}

#[test]
fn fragments_started_by_us() -> Outcome {
    fragments(Starter::Us)
}

#[test]
fn fragments_started_by_the_peer() -> Outcome {
    fragments(Starter::Peer)
}

/// How many tunnels come up at once.
const TUNNELS: usize = 100;

/// A hundred tunnels between the same two gateways, all at once.
fn hundred(starter: Starter) -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let model = tunnel(lab, starter, Family::V4, Family::V4);
        let tunnels: Vec<Tunnel> = (0..TUNNELS)
            .map(|number| {
                let mut tunnel = model.clone();
                tunnel.name = format!("site{number}");
                tunnel.local.id = format!("left{number}.example");
                tunnel.remote.id = format!("right{number}.example");
                tunnel.psk = format!("the key of tunnel {number:03}");
                tunnel.children = vec![Child::new(
                    &format!("net{number}"),
                    &format!("10.1.{}.0/24", number + 1),
                    &format!("10.2.{}.0/24", number + 1),
                )];
                tunnel
            })
            .collect();
        for number in 1..=TUNNELS {
            lab.net.add_gateway_address(Side::Right, &format!("10.2.{number}.1"))?;
        }
        let theirs: Vec<Tunnel> = tunnels.iter().map(|tunnel| peer_tunnel(lab, tunnel)).collect();
        let mut options = strongswan::Options {
            // All of them come from one address; strongSwan would take them for an attack.
            charon: "block_threshold = 0\nikesa_table_size = 64".to_owned(),
            ..strongswan::Options::default()
        };
        if starter == Starter::Peer {
            options.child.push_str("start_action = start");
        }
        let (us, peer) = match starter {
            Starter::Us => {
                let peer = lab.strongswan(Side::Right, &theirs, &options)?;
                (lab.postern(Side::Left, &tunnels, &postern::Options::default())?, peer)
            }
            Starter::Peer => {
                let us = lab.postern(Side::Left, &tunnels, &postern::Options::default())?;
                (us, lab.strongswan(Side::Right, &theirs, &options)?)
            }
        };
        wait::until("a hundred tunnels", Duration::from_secs(90), || {
            us.must_run()?;
            let sa = us.sa()?;
            let all = sa["tunnels"].as_array().cloned().unwrap_or_default();
            let up = all.iter().filter(|tunnel| postern::is_up(tunnel)).count();
            if up == TUNNELS {
                return Ok(());
            }
            let mut text = format!("{up} are up;");
            for tunnel in all.iter().filter(|tunnel| !postern::is_up(tunnel)).take(3) {
                let _ = write!(text, " {tunnel}");
            }
            Err(Failure::new(text))
        })?;
        let children = peer.children()?.len();
        ensure(children == TUNNELS, || format!("strongSwan has {children} children"))?;
        for number in 1..=TUNNELS {
            let ends = (format!("10.1.{number}.10"), format!("10.2.{number}.10"));
            lab.net.add_client_address(Side::Left, &ends.0)?;
            lab.net.add_client_address(Side::Right, &ends.1)?;
            exchange_between(lab, &ends.0, &ends.1, 10)?;
        }
        ensure_protected(lab, 600)
    })
}

#[test]
fn a_hundred_tunnels_started_by_us() -> Outcome {
    hundred(Starter::Us)
}

#[test]
fn a_hundred_tunnels_started_by_the_peer() -> Outcome {
    hundred(Starter::Peer)
}
