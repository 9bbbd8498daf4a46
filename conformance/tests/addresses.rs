//! Inner and outer addresses, NAT between the peers, and which traffic a policy means.

use std::time::Duration;

use conformance::failure::ensure;
use conformance::lab::{Lab, Turn};
use conformance::packet::Kind;
use conformance::postern::Options;
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel, usual};
use conformance::spec::{Child, End, Start, Tunnel};
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::{Canary, Flow, Report, Shape};
use conformance::{Outcome, postern, strongswan};

macro_rules! pairs {
    ($($name:ident: $outer:ident, $inner:ident;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn started_by_us() -> Outcome {
                let families = (Family::$outer, Family::$inner);
                usual(Starter::Us, families, Wire::Direct, |_| (), |_| Ok(()))
            }

            #[test]
            fn started_by_the_peer() -> Outcome {
                let families = (Family::$outer, Family::$inner);
                usual(Starter::Peer, families, Wire::Direct, |_| (), |_| Ok(()))
            }
        }
    )*};
}

pairs! {
    ipv4_in_ipv4: V4, V4;
    ipv6_in_ipv4: V4, V6;
    ipv4_in_ipv6: V6, V4;
    ipv6_in_ipv6: V6, V6;
}

/// The gateway behind the NAT starts; both sides notice who is behind it, and ESP goes in UDP.
fn nat_before(side: Side) -> Outcome {
    let starter = if side == Side::Left { Starter::Us } else { Starter::Peer };
    let (local, remote) = (side == Side::Left, side == Side::Right);
    usual(
        starter,
        (Family::V4, Family::V4),
        Wire::NatBefore(side),
        |_| (),
        |up| {
            let nat = &up["ike_sas"][0]["nat"];
            // strongSwan's user-space ESP always claims to be behind a NAT, so `remote` is true
            // either way; only `local` can tell.
            ensure(nat["local"] == local && (nat["remote"] == true || !remote), || {
                format!("local behind NAT {local}, remote {remote} expected: {up}")
            })?;
            ensure(up["children"][0]["encap"] == "udp", || format!("ESP in UDP wanted: {up}"))
        },
    )
}

#[test]
fn behind_a_nat() -> Outcome {
    nat_before(Side::Left)
}

#[test]
fn peer_behind_a_nat() -> Outcome {
    nat_before(Side::Right)
}

/// A NAT that forgets its mapping and picks another port: the tunnel goes on.
#[test]
fn the_nat_of_the_peer_changes_its_mapping() -> Outcome {
    Lab::run(Turn::Shared, Wire::NatBefore(Side::Right), |lab| {
        let mut ours = tunnel(lab, Starter::Peer, Family::V4, Family::V4);
        ours.remote.address = "any".to_owned();
        let mut theirs = peer_tunnel(lab, &ours);
        theirs.remote.address = lab.net.seen(Side::Left, Family::V4);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Peer, &ours)?;
        let mut flow = lab.flow(Family::V4, &Shape::default())?;
        flow.start()?;
        flow.flows(200, UP)?;
        // New mappings get other ports; flushing the rules and connections makes all of them new.
        lab.net.wire().nft(
            "table ip nat { chain post {\ntype nat hook postrouting priority 100\n\
             oifname \"left\" udp dport 4500 masquerade to :30000-31000\n}\n}",
        )?;
        // In this order: a second address of the network would go with the first one.
        lab.net.wire().ip(&["addr", "del", "192.0.2.254/24", "dev", "left"])?;
        lab.net.wire().ip(&["addr", "add", "192.0.2.253/24", "dev", "left"])?;
        lab.net.gateway(Side::Left).ip(&["route", "replace", "default", "via", "192.0.2.253"])?;
        flow.flows(500, UP)?;
        ensure_protected(lab, 400)
    })
}

/// Everything goes through the tunnel, the peer is behind a router, and which address to call from
/// is left to the routes: they are asked past the policy that covers the peer.
#[test]
fn a_full_tunnel_finds_the_address_it_calls_from() -> Outcome {
    usual(
        Starter::Us,
        (Family::V4, Family::V4),
        Wire::NatBefore(Side::Left),
        |tunnel| {
            tunnel.local.address = String::new();
            tunnel.children = vec![Child::new("net", "10.1.0.0/16", "0.0.0.0/0")];
        },
        |up| ensure(up["local"]["address"] == "172.31.0.1", || format!("the outer one: {up}")),
    )
}

/// `encap = "always"` puts ESP into UDP without any NAT.
#[test]
fn udp_is_forced() -> Outcome {
    usual(
        Starter::Us,
        (Family::V4, Family::V4),
        Wire::Direct,
        |tunnel| tunnel.force_udp = true,
        |up| ensure(up["children"][0]["encap"] == "udp", || format!("ESP in UDP wanted: {up}")),
    )
}

/// A tunnel between the two gateways themselves: IKE and ESP may not loop into it.
fn host_to_host(starter: Starter, family: Family) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let length = if family == Family::V4 { 32 } else { 128 };
        let [left, right] = [Side::Left, Side::Right].map(|side| lab.net.outer(side, family));
        let mut ours = tunnel(lab, starter, family, family);
        let whole = |address: &str| format!("{address}/{length}");
        ours.children = vec![Child::new("net", &whole(&left), &whole(&right))];
        let theirs = peer_tunnel(lab, &ours);
        let options = strongswan::Options { hosts: true, ..Default::default() };
        let pair = Pair::start_with(
            lab,
            std::slice::from_ref(&ours),
            &[theirs],
            &postern::Options::default(),
            &options,
        )?;
        pair.bring_up(starter, &ours)?;
        let end = |side: Side, address: &str| {
            address
                .parse()
                .map(|ip| (lab.net.gateway(side), ip))
                .map_err(|_| conformance::Failure::new(format!("{address} is no address")))
        };
        let shape = Shape::default();
        let ends = (end(Side::Left, &left)?, end(Side::Right, &right)?);
        let mut flow = Flow::prepare(ends.0, ends.1, &lab.canary, &shape)?;
        flow.start()?;
        flow.flows(300, UP)?;
        // IKE still reaches the peer although the policy covers it.
        pair.us.must_cli(&["rekey", "site"])?;
        flow.flows(300, UP)?;
        flow.finish()?.must_be_whole()?;
        ensure_protected(lab, 600)
    })
}

#[test]
fn host_to_host_started_by_us() -> Outcome {
    host_to_host(Starter::Us, Family::V4)
}

#[test]
fn host_to_host_started_by_the_peer() -> Outcome {
    host_to_host(Starter::Peer, Family::V4)
}

#[test]
fn host_to_host_ipv6() -> Outcome {
    host_to_host(Starter::Us, Family::V6)
}

/// The usual tunnel, up, for scenarios about what it covers.
fn with_tunnel(adjust: impl Fn(&mut Tunnel), body: impl FnOnce(&Lab, &Pair) -> Outcome) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        adjust(&mut ours);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        body(lab, &pair)
    })
}

/// 500 packets each way between the left client and another address of the right client.
fn to_other(lab: &Lab, address: [u8; 4], canary: &Canary, port: u16) -> Outcome<Report> {
    between(lab, [10, 1, 0, 10], address, canary, port)
}

/// 500 packets each way between these addresses of the clients.
fn between(
    lab: &Lab,
    left: [u8; 4],
    address: [u8; 4],
    canary: &Canary,
    port: u16,
) -> Outcome<Report> {
    let shape = Shape { count: 500, port, ..Shape::default() };
    let left = (lab.net.client(Side::Left), left.into());
    let right = (lab.net.client(Side::Right), address.into());
    let mut flow = Flow::prepare(left, right, canary, &shape)?;
    flow.start()?;
    flow.has_sent(500, Duration::from_secs(20))?;
    flow.finish()
}

/// Everything goes into the tunnel, the way to the peer itself and connected networks do not.
#[test]
fn everything_through_the_tunnel() -> Outcome {
    with_tunnel(
        |tunnel| tunnel.children = vec![Child::new("net", "10.1.0.0/16", "0.0.0.0/0")],
        |lab, pair| {
            lab.net.add_client_address(Side::Right, "198.51.100.10")?;
            to_other(lab, [198, 51, 100, 10], &lab.canary, 7001)?.must_be_whole()?;
            pair.us.must_cli(&["rekey", "site"])?;
            pair.us.must_cli(&["rekey", "site/net"])?;
            to_other(lab, [198, 51, 100, 10], &lab.canary, 7001)?.must_be_whole()?;
            // The client and its gateway share a network, which the policy does not name.
            lab.net.client(Side::Left).must(&["ping", "-c", "1", "-W", "2", "10.1.0.1"])?;
            ensure_protected(lab, 2000)
        },
    )
}

/// What no selector covers keeps the way it had: clear, both ways, beside the tunnel.
#[test]
fn uncovered_traffic_keeps_its_way() -> Outcome {
    with_tunnel(
        |_| (),
        |lab, _| {
            lab.net.add_client_address(Side::Right, "203.0.113.10")?;
            let clear = Canary::new(0x8000);
            // The peer's side would answer 10.1.0.0/16 through its own policy: only one way there.
            let report = to_other(lab, [203, 0, 113, 10], &clear, 7002)?;
            ensure(report.there.lost == 0, || format!("uncovered packets were lost: {report}"))?;
            lab.net.add_client_address(Side::Left, "172.20.0.10")?;
            between(lab, [172, 20, 0, 10], [203, 0, 113, 10], &clear, 7002)?.must_be_whole()?;
            lab.exchange(Family::V4, 300, 1200)?.must_be_whole()?;
            for captured in lab.captured()? {
                let seen = captured.with(clear.bytes()).len();
                ensure(seen >= 1500, || format!("{seen} of 1500 in clear: {}", captured.title))?;
            }
            ensure_protected(lab, 600)
        },
    )
}

/// `bypass` selectors stay clear inside a protected network, and only they do.
#[test]
fn bypass_selectors_stay_clear() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        for child in &mut ours.children {
            child.bypass = vec!["10.2.9.0/24".to_owned()];
        }
        lab.net.add_client_address(Side::Right, "10.2.9.10")?;
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        let clear = Canary::new(0x8000);
        // strongSwan knows no bypass here and answers through the tunnel: only one way is clear.
        let report = to_other(lab, [10, 2, 9, 10], &clear, 7002)?;
        ensure(report.there.lost == 0, || format!("bypassed packets were lost: {report}"))?;
        lab.exchange(Family::V4, 300, 1200)?.must_be_whole()?;
        for captured in lab.captured()? {
            let seen = captured.with(clear.bytes()).len();
            ensure(seen == 500, || format!("{seen} of 500 in clear: {}", captured.title))?;
        }
        ensure_protected(lab, 600)
    })
}

/// A process that finds tunnels no more opens what the last one left blocked; one that finds others
/// blocks those.
#[test]
fn a_restart_takes_over_with_another_configuration() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let us = lab.postern(Side::Left, std::slice::from_ref(&ours), &Options::default())?;
        let clear = Canary::new(0x8000);
        let arrives = |wanted: bool| {
            let there = to_other(lab, [10, 2, 0, 10], &clear, 7003)?.there;
            let lost = if wanted { 0 } else { there.sent };
            ensure(there.sent >= 500 && there.lost == lost, || format!("{there}"))
        };
        us.kill();
        arrives(false)?;
        for child in &mut ours.children {
            child.remote = vec!["10.9.0.0/16".to_owned()];
        }
        us.write_config(std::slice::from_ref(&ours), &Options::default())?;
        us.spawn()?;
        arrives(true)?;
        for child in &mut ours.children {
            child.remote = vec!["10.2.0.0/16".to_owned()];
        }
        us.write_config(&[ours], &Options::default())?;
        us.reload()?;
        us.kill();
        arrives(false)?;
        us.write_config(&[], &Options::default())?;
        us.spawn()?;
        arrives(true)
    })
}

/// Own networks that are named to stay reachable beside a tunnel for everything leave its
/// protection for each other only.
#[test]
fn own_networks_stay_clear_beside_a_tunnel_for_everything() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        ours.children = vec![Child::new("net", "10.1.0.0/16", "0.0.0.0/0")];
        let theirs = peer_tunnel(lab, &ours);
        for child in &mut ours.children {
            child.bypass = vec!["10.1.0.0/16".to_owned()];
        }
        lab.net.add_client_address(Side::Right, "198.51.100.10")?;
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        to_other(lab, [198, 51, 100, 10], &lab.canary, 7001)?.must_be_whole()?;
        lab.net.client(Side::Left).must(&["ping", "-c", "1", "-W", "2", "10.1.0.1"])?;
        ensure_protected(lab, 1000)
    })
}

/// What one child leaves clear and another one protects does not leave while the other one is down.
#[test]
fn a_bypass_leaves_what_another_child_protects() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        let mut other = Tunnel { name: "other".to_owned(), start: Start::Passive, ..ours.clone() };
        other.remote = End { address: "192.0.2.77".to_owned(), id: "other.example".to_owned() };
        other.children = vec![Child::new("part", "10.1.0.0/16", "10.2.9.0/24")];
        for child in &mut ours.children {
            child.bypass = vec!["10.2.9.0/24".to_owned()];
        }
        lab.net.add_client_address(Side::Right, "10.2.9.10")?;
        let pair = Pair::start(lab, &[ours.clone(), other], &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        let there = to_other(lab, [10, 2, 9, 10], &lab.canary, 7001)?.there;
        ensure(there.sent >= 500 && there.lost == there.sent, || format!("{there}"))?;
        lab.exchange(Family::V4, 300, 1200)?.must_be_whole()?;
        ensure_protected(lab, 600)
    })
}

/// A more specific route elsewhere does not win over a policy, whenever it appears.
#[test]
fn a_more_specific_route_does_not_win() -> Outcome {
    with_tunnel(
        |_| (),
        |lab, _| {
            let mut flow = lab.flow(Family::V4, &Shape::default())?;
            flow.start()?;
            flow.flows(200, UP)?;
            let gateway = lab.net.gateway(Side::Left);
            gateway.ip(&["route", "add", "10.2.0.0/24", "via", "192.0.2.2", "dev", "out"])?;
            gateway.ip(&["route", "add", "10.2.0.10/32", "via", "192.0.2.2", "dev", "out"])?;
            flow.flows(500, UP)?;
            flow.finish()?.must_be_whole()?;
            ensure_protected(lab, 1000)
        },
    )
}

/// The gateway itself reaches the protected network, from an address inside its own.
#[test]
fn the_gateways_own_traffic_is_protected() -> Outcome {
    with_tunnel(
        |_| (),
        |lab, pair| {
            let gateway = lab.net.gateway(Side::Left);
            gateway.must(&["ping", "-c", "3", "-i", "0.2", "-W", "2", "10.2.0.10"])?;
            let child = pair.us.child("site", "net")?;
            let counted = child["packets_in"].as_u64().unwrap_or(0);
            ensure(counted >= 3, || format!("the answers came another way: {child}"))?;
            for captured in lab.captured()? {
                let clear: Vec<_> =
                    captured.packets.iter().filter(|packet| packet.kind == Kind::Clear).collect();
                ensure(clear.is_empty(), || format!("in clear: {:?}", clear.first()))?;
            }
            Ok(())
        },
    )
}

/// Without an SA nothing leaves, and clear packets that arrive for a protected network are
/// dropped.
#[test]
fn nothing_passes_without_an_sa() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Peer, Family::V4, Family::V4);
        let us = lab.postern(Side::Left, &[ours], &postern::Options::default())?;
        let report = lab.exchange(Family::V4, 500, 200)?;
        ensure(report.there.lost == 500, || format!("clear packets left: {report}"))?;
        ensure(report.back.lost == 500, || format!("clear arrivals were delivered: {report}"))?;
        let counted = us.sa()?["dropped"]["clear"].as_u64().unwrap_or(0);
        ensure(counted >= 500, || format!("{counted} clear arrivals were counted"))?;
        Ok(())
    })
}
