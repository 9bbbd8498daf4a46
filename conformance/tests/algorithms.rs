//! Every algorithm of this stage against strongSwan, each started by either side.

use conformance::failure::ensure;
use conformance::lab::{Lab, Turn};
use conformance::postern::beside_the_tests;
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel, usual};
use conformance::topology::{Family, Side, Wire};
use conformance::{Failure, Outcome, wait};
use serde_json::Value;

/// One tunnel with exactly this IKE and this ESP proposal.
fn suite(starter: Starter, ike: &str, esp: &str) -> Outcome {
    usual(
        starter,
        (Family::V4, Family::V4),
        Wire::Direct,
        |tunnel| {
            tunnel.ike = vec![ike.to_owned()];
            for child in &mut tunnel.children {
                child.esp = vec![format!("{esp}-noesn")];
            }
        },
        |up| {
            let ike_sa = up["ike_sas"].get(0).cloned().unwrap_or(Value::Null);
            let child = up["children"].get(0).cloned().unwrap_or(Value::Null);
            // What a keyword leaves unsaid, the status says: the PRF that goes with an HMAC.
            let chosen = ike_sa["proposal"].as_str().unwrap_or_default();
            let said = ["256", "384", "512"].iter().fold(chosen.to_owned(), |said, bits| {
                said.replace(&format!("-sha{bits}-prfsha{bits}"), &format!("-sha{bits}"))
            });
            ensure(said == ike, || format!("{ike} was wanted: {ike_sa}"))?;
            ensure(ike_sa["initiator"] == (starter == Starter::Us), || format!("{ike_sa}"))?;
            let chosen = child["proposal"].as_str().unwrap_or_default();
            ensure(chosen.trim_end_matches("-noesn") == esp, || format!("{esp} wanted: {child}"))?;
            ensure(child["esn"] == false, || format!("strongSwan's data path has no ESN: {child}"))
        },
    )
}

macro_rules! suites {
    ($($name:ident: $ike:literal, $esp:literal;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn started_by_us() -> Outcome {
                suite(Starter::Us, $ike, $esp)
            }

            #[test]
            fn started_by_the_peer() -> Outcome {
                suite(Starter::Peer, $ike, $esp)
            }
        }
    )*};
}

suites! {
    aes128gcm_x25519: "aes128gcm16-prfsha256-x25519", "aes128gcm16";
    aes256gcm_ecp384: "aes256gcm16-prfsha384-ecp384", "aes256gcm16";
    chacha20_ecp256: "chacha20poly1305-prfsha512-ecp256", "chacha20poly1305";
    chacha20_sha256_x25519: "chacha20poly1305-prfsha256-x25519", "chacha20poly1305";
    aes256gcm_sha512_modp3072: "aes256gcm16-prfsha512-modp3072", "aes256gcm16";
    aes128gcm_sha384_modp2048: "aes128gcm16-prfsha384-modp2048", "aes128gcm16";
    aes128_sha256_modp2048: "aes128-sha256-modp2048", "aes128-sha256";
    aes128_sha384_ecp384: "aes128-sha384-ecp384", "aes128-sha384";
    aes128_sha512_ecp256: "aes128-sha512-ecp256", "aes128-sha512";
    aes256_sha256_x25519: "aes256-sha256-x25519", "aes256-sha256";
    aes256_sha384_modp3072: "aes256-sha384-modp3072", "aes256-sha384";
    aes256_sha512_modp2048: "aes256-sha512-modp2048", "aes256-sha512";
}

/// The responder's choice among several proposals is the one both want, whoever chooses; and a
/// key exchange group the responder did not get a share for costs one INVALID_KE_PAYLOAD round.
fn another_group_is_asked_for(starter: Starter) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, starter, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        let (first, second) = ("aes256gcm16-prfsha384-modp3072", "aes256gcm16-prfsha384-ecp256");
        let both = vec![first.to_owned(), second.to_owned()];
        let one = vec![second.to_owned()];
        (ours.ike, theirs.ike) = match starter {
            Starter::Us => (both, one),
            Starter::Peer => (one, both),
        };
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.bring_up(starter, &ours)?;
        ensure(up["ike_sas"][0]["proposal"] == second, || format!("{second} wanted: {up}"))?;
        lab.exchange(Family::V4, 100, 1200)?.must_be_whole()?;
        let log = pair.peer.log();
        ensure(log.contains("INVAL_KE"), || "no INVALID_KE_PAYLOAD was exchanged".to_owned())?;
        ensure_protected(lab, 200)
    })
}

#[test]
fn another_group_is_asked_for_by_the_peer() -> Outcome {
    another_group_is_asked_for(Starter::Us)
}

#[test]
fn another_group_is_asked_for_by_us() -> Outcome {
    another_group_is_asked_for(Starter::Peer)
}

/// A peer that is being flooded asks us for a cookie, and gets it with the rest unchanged.
#[test]
fn a_cookie_is_asked_for_by_the_peer() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let mut theirs = peer_tunnel(lab, &ours);
        // What is forged fits as well.
        theirs.ike.push("aes256gcm16-prfsha256-x25519".to_owned());
        theirs.remote.address = "any".to_owned();
        let peer = lab.strongswan(Side::Right, &[theirs], &Default::default())?;
        lab.net.wire().ip(&["addr", "add", "192.0.2.100/24", "dev", "br0"])?;
        lab.net.wire().ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"])?;
        let tool = beside_the_tests("pt-flood")?.display().to_string();
        let few = [tool.as_str(), "init", "192.0.2.2", "200", "1000"];
        let sent = lab.net.wire().run(&few, UP)?;
        ensure(sent.code == 0, || sent.text())?;
        wait::until("strongSwan to ask for cookies", UP, || {
            let log = peer.log();
            if log.contains("[ N(COOKIE) ]") { Ok(()) } else { Err(Failure::new("not yet")) }
        })?;
        let us = lab.postern(Side::Left, &[ours], &Default::default())?;
        us.wait_up("site", UP)?;
        ensure(peer.log().contains("IKE_SA_INIT request 0 [ N(COOKIE) SA"), || peer.log())?;
        lab.exchange(Family::V4, 100, 1200)?.must_be_whole()?;
        ensure_protected(lab, 200)
    })
}
