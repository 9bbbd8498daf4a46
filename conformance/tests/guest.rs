//! The judge itself, before it judges: two guests, kernel to kernel.
//!
//! Raw ESP with ESN, negotiated by strongSwan on both sides, over IPv4 and IPv6, rekeyed under
//! traffic, and with sequence numbers that cross 2^32. What fails here is the guest's fault, not
//! Postern's.

use std::time::Duration;

use conformance::failure::{Outcome, ensure};
use conformance::guest::Guest;
use conformance::lab::{Lab, Turn};
use conformance::packet::Kind;
use conformance::scenario::{Starter, peer_tunnel, tunnel};
use conformance::strongswan::Options;
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::Shape;

#[test]
fn two_kernels_speak_esn_over_raw_esp() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        for child in &mut ours.children {
            child.local.push(lab.net.inner(Side::Left, Family::V6));
            child.remote.push(lab.net.inner(Side::Right, Family::V6));
            child.esp = vec!["aes256gcm16-esn".to_owned()];
        }
        let theirs = peer_tunnel(lab, &ours);
        let left = lab.guest(Side::Left, &[ours], &Options::default())?;
        let right = lab.guest(Side::Right, &[theirs], &Options::default())?;
        left.initiate("site", "net")?;
        lab.exchange(Family::V6, 50, 1200)?.must_be_whole()?;
        let state = right.xfrm_state()?;
        ensure(state.matches("flag af-unspec esn").count() == 2, || {
            format!("both SAs should have ESN:\n{state}")
        })?;

        let mut flow = lab.flow(Family::V4, &Shape { rate: 300, ..Shape::default() })?;
        flow.start()?;
        for _ in 0..3 {
            flow.flows(50, Duration::from_secs(20))?;
            rekeyed(&left, "--child net", " spi-in=")?;
            flow.flows(50, Duration::from_secs(20))?;
            rekeyed(&right, "--ike site", " initiator-spi=")?;
        }
        flow.flows(50, Duration::from_secs(20))?;
        flow.finish()?.must_be_whole()?;
        for seen in lab.no_canary_so_far()? {
            ensure(seen.count(Kind::Esp) > 300 && seen.count(Kind::EspInUdp) == 0, || {
                format!("{} saw {:?}", seen.title, seen.kinds())
            })?;
        }
        Ok(())
    })
}

/// Asks for a rekey and waits until the SPIs that strongSwan lists are others than before.
fn rekeyed(guest: &Guest, what: &str, key: &str) -> Outcome {
    let spis = || -> Outcome<Vec<String>> {
        let listed = guest.must("swanctl --list-sas --raw")?;
        let behind = listed.split(key).skip(1);
        Ok(behind.filter_map(|text| text.split_whitespace().next()).map(str::to_owned).collect())
    };
    let before = spis()?;
    guest.must(&format!("swanctl --rekey {what}"))?;
    conformance::wait::until(what, Duration::from_secs(20), || match spis() {
        Ok(now) if now.len() == before.len() && now.iter().all(|spi| !before.contains(spi)) => {
            Ok(())
        }
        Ok(now) => Err(format!("{before:?}, then {now:?}")),
        Err(failure) => Err(failure.to_string()),
    })
}

/// The same by hand, a few packets before the low half of the sequence number wraps.
#[test]
fn two_kernels_cross_2_to_the_32() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let (mac, key) = ("5c".repeat(64), "a7".repeat(24));
        let mut ends = Vec::new();
        for (side, n, other) in [(Side::Left, 1, 2), (Side::Right, 2, 1)] {
            let guest = Guest::instead_of(&lab.net, side)?;
            guest.must(&format!(
                "set -e\n\
                 esp() {{ ip xfrm state add src 2001:db8:0:f::$1 dst 2001:db8:0:f::$2 proto esp \
                   spi 0x10000$1$2 reqid 1 mode tunnel flag af-unspec esn replay-window 64 $3 \
                   auth-trunc 'hmac(sha512)' 0x{mac} 256 enc 'cbc(aes)' 0x{key}; }}\n\
                 esp {n} {other} 'replay-oseq 0xfffffff0'\n\
                 esp {other} {n} 'replay-seq 0xffffffef'\n\
                 tmpl() {{ ip xfrm policy add dir $1 src 10.$2.0.0/16 dst 10.$3.0.0/16 tmpl \
                   src 2001:db8:0:f::$2 dst 2001:db8:0:f::$3 proto esp reqid 1 mode tunnel; }}\n\
                 tmpl out {n} {other}\ntmpl in {other} {n}\ntmpl fwd {other} {n}\n"
            ))?;
            ends.push(guest);
        }
        lab.exchange(Family::V4, 60, 900)?.must_be_whole()?;
        for end in &ends {
            let state = end.xfrm_state()?;
            ensure(state.contains("seq-hi 0x1") && state.contains("oseq-hi 0x1"), || {
                format!("the high halves should be 1:\n{state}")
            })?;
        }
        Ok(())
    })
}
