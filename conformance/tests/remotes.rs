//! Where the peer is: names, prefixes, lists, wires that lose, addresses that change, and peers
//! that start at the same moment.

use std::time::Duration;

use conformance::failure::ensure;
use conformance::lab::{Lab, Turn};
use conformance::packet::Kind;
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::spec::Tunnel;
use conformance::strongswan::Options;
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::Shape;
use conformance::{Failure, Outcome, postern, wait};
use serde_json::Value;

/// The usual tunnel with another way to say where the peer is, up within `limit`.
fn remote(starter: Starter, address: &str, limit: Duration) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        lab.net.gateway(Side::Left).hosts("127.0.0.1 localhost\n192.0.2.2 peer.example\n")?;
        let mut ours = tunnel(lab, starter, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        ours.remote.address = address.to_owned();
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        if starter == Starter::Us {
            pair.us.wait_up("site", limit)?;
        }
        let up = pair.bring_up(starter, &ours)?;
        ensure(up["remote"]["address"] == "192.0.2.2", || format!("another peer: {up}"))?;
        lab.exchange(Family::V4, 100, 1200)?.must_be_whole()?;
        ensure_protected(lab, 200)
    })
}

#[test]
fn a_host_name() -> Outcome {
    remote(Starter::Us, "peer.example", UP)
}

/// The first address of the list never answers.
#[test]
fn the_second_of_a_list() -> Outcome {
    remote(Starter::Us, "192.0.2.77,192.0.2.2", Duration::from_secs(150))
}

#[test]
fn a_prefix() -> Outcome {
    remote(Starter::Peer, "192.0.2.0/24", UP)
}

#[test]
fn any() -> Outcome {
    remote(Starter::Peer, "any", UP)
}

/// Both sides start at the same moment: in the end packets pass whole, both ways.
#[test]
fn both_start_at_once() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        let options = Options { child: "start_action = start".to_owned(), ..Options::default() };
        // strongSwan starts with its own first load, while nobody is there yet; loading again
        // when Postern starts makes both start.
        let peer = lab.strongswan(Side::Right, &[], &Options::default())?;
        peer.write_connections(&[theirs], &options)?;
        let us = lab.postern(Side::Left, &[ours], &postern::Options::default())?;
        peer.load()?;
        us.wait_up("site", UP)?;
        // Duplicates are sorted out; then nothing may be lost.
        Pair { us, peer }.has_one_of_each()?;
        lab.exchange(Family::V4, 500, 1200)?.must_be_whole()?;
        ensure_protected(lab, 1000)
    })
}

/// A wire that loses every fifth packet: the tunnel comes up, and rekeys, all the same.
#[test]
fn a_wire_that_loses() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        lab.net.lose_every(5)?;
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.us.wait_up("site", Duration::from_secs(90))?;
        for what in ["site/net", "site", "site/net"] {
            pair.us.must_cli(&["rekey", what, "--timeout", "50"])?;
        }
        lab.net.mend()?;
        lab.exchange(Family::V4, 500, 1200)?.must_be_whole()?;
        ensure_protected(lab, 1000)
    })
}

/// An idle tunnel behind a NAT keeps its mapping open (RFC 3948 §4).
#[test]
fn keepalives_are_sent_behind_a_nat() -> Outcome {
    Lab::run(Turn::Shared, Wire::NatBefore(Side::Left), |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        lab.exchange(Family::V4, 20, 200)?.must_be_whole()?;
        wait::until("a keepalive", Duration::from_secs(40), || {
            let seen = lab.captured()?.first().map_or(0, |one| one.count(Kind::Keepalive));
            if seen > 0 { Ok(()) } else { Err(Failure::new("none")) }
        })?;
        lab.exchange(Family::V4, 20, 200)?.must_be_whole()
    })
}

/// The gateway's own address changes: the tunnel comes up again from the new one.
#[test]
fn our_address_changes() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours: Tunnel = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        ours.local.address = String::new();
        theirs.remote.address = "any".to_owned();
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        let mut flow = lab.flow(Family::V4, &Shape { rate: 300, ..Shape::default() })?;
        flow.start()?;
        flow.flows(100, UP)?;
        let gateway = lab.net.gateway(Side::Left);
        // Else the kernel takes the new address away together with the old one.
        gateway.sysctl(&[("net.ipv4.conf.all.promote_secondaries", "1")])?;
        gateway.ip_lines(
            "addr add 192.0.2.11/24 dev out
             addr del 192.0.2.1/24 dev out
             route replace default via 192.0.2.2",
        )?;
        pair.us.wait_tunnel(
            "the tunnel to be up from the new address",
            "site",
            Duration::from_secs(60),
            |tunnel: &Value| postern::is_up(tunnel) && tunnel["local"]["address"] == "192.0.2.11",
        )?;
        flow.flows(100, UP)?;
        ensure_protected(lab, 300)
    })
}
