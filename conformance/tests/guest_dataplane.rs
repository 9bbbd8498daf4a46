//! The data plane against a kernel's ESP with keys set by hand, where negotiation cannot lead:
//! over the wrap of the low half of extended sequence numbers.
//!
//! Both directions of a pair start sixteen packets before a multiple of 2^32. A sender that
//! forgets to carry, or a receiver that guesses the high half wrong, loses everything behind it.

use std::time::Duration;

use conformance::command::Dialogue;
use conformance::failure::{Failure, Outcome, ensure};
use conformance::guest::Guest;
use conformance::lab::{Lab, Turn};
use conformance::packet::Kind;
use conformance::postern::beside_the_tests;
use conformance::topology::{Family, Side, Wire};

const ANSWER: Duration = Duration::from_secs(30);

/// A suite in Postern's words and in the kernel's.
struct Suite {
    name: &'static str,
    key: String,
    mac: Option<String>,
    kernel: String,
}

#[test]
fn aes_gcm_crosses_2_to_the_32_over_ipv4() -> Outcome {
    let key = "a7".repeat(36);
    let kernel = format!("aead 'rfc4106(gcm(aes))' 0x{key} 128");
    crosses(&Suite { name: "aes256gcm16", key, mac: None, kernel }, Family::V4)
}

#[test]
fn chacha20_poly1305_crosses_2_to_the_32_over_ipv6() -> Outcome {
    let key = "3b".repeat(36);
    let kernel = format!("aead 'rfc7539esp(chacha20,poly1305)' 0x{key} 128");
    crosses(&Suite { name: "chacha20poly1305", key, mac: None, kernel }, Family::V6)
}

#[test]
fn aes_cbc_hmac_sha512_crosses_2_to_the_32_over_ipv6() -> Outcome {
    let (key, mac) = ("a7".repeat(24), "5c".repeat(64));
    let kernel = format!("auth-trunc 'hmac(sha512)' 0x{mac} 256 enc 'cbc(aes)' 0x{key}");
    crosses(&Suite { name: "aes192-sha512", key, mac: Some(mac), kernel }, Family::V6)
}

fn crosses(suite: &Suite, outer: Family) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let (ours, theirs) = (lab.net.outer(Side::Left, outer), lab.net.outer(Side::Right, outer));
        let guest = Guest::instead_of(&lab.net, Side::Right)?;
        guest.must(&format!(
            "set -e\n\
             esp() {{ ip xfrm state add src $1 dst $2 proto esp spi $3 reqid 1 mode tunnel \
               flag af-unspec esn replay-window 64 $4 {kernel}; }}\n\
             esp {theirs} {ours} 0x10000001 'replay-oseq 0xfffffff0'\n\
             esp {ours} {theirs} 0x10000002 'replay-seq 0xffffffef'\n\
             for net in 4 6; do\n\
               [ $net = 4 ] && here=10.2.0.0/16 there=10.1.0.0/16 || {{ here=fd02::/48; there=fd01::/48; }}\n\
               ip xfrm policy add dir out src $here dst $there tmpl src {theirs} dst {ours} proto esp reqid 1 mode tunnel\n\
               ip xfrm policy add dir in src $there dst $here tmpl src {ours} dst {theirs} proto esp reqid 1 mode tunnel\n\
               ip xfrm policy add dir fwd src $there dst $here tmpl src {ours} dst {theirs} proto esp reqid 1 mode tunnel\n\
             done\n",
            kernel = suite.kernel,
        ))?;

        let program = beside_the_tests("examples/dataplane_lines").map_err(|_| {
            Failure::new("dataplane_lines is not built: run `cargo build -p fastpath --examples`")
        })?;
        let program = program.display().to_string();
        let argv = lab.net.gateway(Side::Left).inside(&[&program]);
        let mut plane = Dialogue::start("dataplane_lines", &argv, false)?;
        for (name, direction, spi, words) in [
            ("in1", "in", "10000001", "floor=4294967279 next=1"),
            ("out1", "out", "10000002", "floor=0 next=4294967280"),
        ] {
            tell(
                &mut plane,
                &format!(
                    "sa {name} {direction} spi={spi} local={ours}|4500 remote={theirs}|4500 encap=none \
                     suite={} esn=1 key={} mac={} window=1024 {words} \
                     local_ts=10.1.0.0/16,fd01::/48 remote_ts=10.2.0.0/16,fd02::/48",
                    suite.name,
                    suite.key,
                    suite.mac.as_deref().unwrap_or("-"),
                ),
            )?;
        }
        tell(&mut plane, "start")?;

        lab.exchange(Family::V4, 40, 1300)?.must_be_whole()?;
        lab.exchange(Family::V6, 40, 1300)?.must_be_whole()?;
        let state = guest.xfrm_state()?;
        ensure(state.contains("seq-hi 0x1") && state.contains("oseq-hi 0x1"), || {
            format!("the kernel's high halves should be 1:\n{state}")
        })?;
        for seen in lab.no_canary_so_far()? {
            ensure(seen.count(Kind::Esp) >= 160 && seen.count(Kind::EspInUdp) == 0, || {
                format!("{} saw {:?}", seen.title, seen.kinds())
            })?;
        }
        Ok(())
    })
}

fn tell(plane: &mut Dialogue, line: &str) -> Outcome {
    plane.say(line)?;
    let answer = plane.hear(ANSWER)?;
    ensure(answer == "ok", || format!("dataplane_lines answered `{answer}` to `{line}`"))
}
