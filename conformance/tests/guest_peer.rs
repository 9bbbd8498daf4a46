//! Postern against a kernel's ESP: what strongSwan's user-space ESP cannot judge.
//!
//! The peer is a guest with Debian's kernel and strongSwan: protocol 50 and extended sequence
//! numbers, over the four pairs of inner and outer addresses, either side starting and rekeying.

use std::time::Duration;

use conformance::course::What;
use conformance::failure::{Outcome, ensure};
use conformance::guest::Guest;
use conformance::lab::{Lab, Turn};
use conformance::packet::Kind;
use conformance::postern::Postern;
use conformance::scenario::{Starter, UP, peer_tunnel, tunnel};
use conformance::strongswan::Options;
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::Shape;

/// How long traffic may take to come through an emulated machine.
const FLOWS: Duration = Duration::from_secs(30);

#[test]
fn aes_gcm_with_esn_ipv4_in_ipv4_started_by_us() -> Outcome {
    raw_esp("aes256gcm16-esn", Starter::Us, Family::V4, Family::V4)
}

#[test]
fn chacha20_poly1305_with_esn_ipv6_in_ipv6_started_by_the_kernel() -> Outcome {
    raw_esp("chacha20poly1305-esn", Starter::Peer, Family::V6, Family::V6)
}

#[test]
fn aes_cbc_hmac_with_esn_ipv6_in_ipv4_started_by_us() -> Outcome {
    raw_esp("aes256-sha512-esn", Starter::Us, Family::V4, Family::V6)
}

#[test]
fn aes_cbc_hmac_with_esn_ipv4_in_ipv6_started_by_the_kernel() -> Outcome {
    raw_esp("aes128-sha256-esn", Starter::Peer, Family::V6, Family::V4)
}

#[test]
fn aes_gcm_without_esn_ipv4_in_ipv6_started_by_us() -> Outcome {
    raw_esp("aes128gcm16-noesn", Starter::Us, Family::V6, Family::V4)
}

/// One tunnel, packets of every size up to the MTU of the TUN interface, and what both sides and the wire know of it afterwards.
fn raw_esp(esp: &str, starter: Starter, outer: Family, inner: Family) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let (us, peer) = up(lab, esp, starter, outer, inner)?;
        lab.exchange(inner, 1500, 1340)?.must_be_whole()?;

        let child = us.child("site", "net")?;
        let shown = |key: &str| child.get(key).cloned().unwrap_or_default();
        ensure(shown("encap") == "none" && shown("esn") == esp.ends_with("-esn"), || {
            format!("raw ESP, {esp}: {child}")
        })?;
        let state = peer.xfrm_state()?;
        let with_esn = state.matches("flag af-unspec esn").count();
        ensure(with_esn == if esp.ends_with("-esn") { 2 } else { 0 }, || {
            format!("{with_esn} SAs of the kernel have ESN:\n{state}")
        })?;
        ensure(!state.contains("espinudp"), || format!("ESP in UDP in the kernel:\n{state}"))?;
        only_raw_esp(lab, 3000)
    })
}

/// Five rekeys of each kind from each side under numbered traffic, and not one packet missing.
#[test]
fn rekeys_from_both_sides_lose_nothing() -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let (us, peer) = up(lab, "aes256gcm16-esn", Starter::Us, Family::V4, Family::V4)?;
        let mut flow = lab.flow(Family::V4, &Shape { rate: 500, ..Shape::default() })?;
        flow.start()?;
        for round in 1..=5 {
            for what in [What::Child, What::Ike] {
                for who in [Starter::Peer, Starter::Us] {
                    let before = what.spis(&us.tunnel("site")?);
                    flow.flows(100, FLOWS)?;
                    match (who, what) {
                        (Starter::Peer, What::Child) => {
                            peer.must("swanctl --rekey --child net").map(drop)?;
                        }
                        (Starter::Peer, What::Ike) => {
                            peer.must("swanctl --rekey --ike site").map(drop)?;
                        }
                        (Starter::Us, What::Child) => {
                            us.must_cli(&["rekey", "site/net"]).map(drop)?;
                        }
                        // Rekeys the child as well.
                        (Starter::Us, What::Ike) => us.must_cli(&["rekey", "site"]).map(drop)?,
                    }
                    let doing = format!("rekey {round} of {what:?} by {who:?}");
                    us.wait_tunnel(&doing, "site", UP, |tunnel| {
                        let now = what.spis(tunnel);
                        now.0 != before.0 && now.1 != before.1 && !now.0.is_empty()
                    })?;
                }
            }
        }
        flow.flows(200, FLOWS)?;
        flow.finish()?.must_be_whole()?;
        only_raw_esp(lab, 4000)
    })
}

/// A guest on the right, Postern on the left, and a tunnel between them.
fn up(
    lab: &Lab,
    esp: &str,
    starter: Starter,
    outer: Family,
    inner: Family,
) -> Outcome<(std::rc::Rc<Postern>, std::rc::Rc<Guest>)> {
    let mut ours = tunnel(lab, starter, outer, inner);
    for child in &mut ours.children {
        child.esp = vec![esp.to_owned()];
    }
    let theirs = peer_tunnel(lab, &ours);
    let peer = lab.guest(Side::Right, &[theirs], &Options::default())?;
    let us = lab.postern(Side::Left, &[ours], &conformance::postern::Options::default())?;
    if starter == Starter::Peer {
        peer.initiate("site", "net")?;
    }
    us.wait_up("site", UP)?;
    Ok((us, peer))
}

fn only_raw_esp(lab: &Lab, at_least: usize) -> Outcome {
    for seen in lab.no_canary_so_far()? {
        ensure(seen.count(Kind::Esp) >= at_least && seen.count(Kind::EspInUdp) == 0, || {
            format!("{} saw {:?}, {at_least} of raw ESP wanted", seen.title, seen.kinds())
        })?;
    }
    Ok(())
}
