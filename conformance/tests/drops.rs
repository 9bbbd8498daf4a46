//! Packets that must not pass: each is dropped for its own reason and counted for it, exactly,
//! where `postern sa --json` shows it.

use std::path::Path;
use std::time::Duration;

use conformance::command::require;
use conformance::failure::{Failure, Outcome, ensure};
use conformance::lab::{Lab, Turn};
use conformance::scenario::{Pair, Starter, ensure_protected, peer_tunnel, tunnel};
use conformance::spec::Tunnel;
use conformance::strongswan::{self, KEYS_LOGGED};
use conformance::topology::{Family, Side, Wire};
use conformance::{postern, wait};
use serde_json::Value;

const PYTHON: &str = "/usr/bin/python3";
const LIMIT: Duration = Duration::from_secs(30);

/// The usual tunnel, passive, with a peer whose keys are known.
fn with_known_keys(
    adjust: impl Fn(&mut Tunnel),
    body: impl FnOnce(&Lab, &Pair, &Tunnel) -> Outcome,
) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Peer, Family::V4, Family::V4);
        adjust(&mut ours);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start_with(
            lab,
            std::slice::from_ref(&ours),
            &[theirs],
            &postern::Options::default(),
            &strongswan::Options { charon: KEYS_LOGGED.to_owned(), ..Default::default() },
        )?;
        body(lab, &pair, &ours)
    })
}

/// Sends packets as `forge.py` makes them, in the name of strongSwan and with its keys.
fn forge(lab: &Lab, pair: &Pair, orders: &[&str]) -> Outcome {
    let python = std::env::var("POSTERN_SCAPY_PYTHON").unwrap_or_else(|_| PYTHON.to_owned());
    require(&python)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/forge.py");
    let script = script.display().to_string();
    let child = pair.us.child("site", "net")?;
    let spi = child["spi_in"].as_str().unwrap_or_default();
    let key = pair.peer.sending_key(true)?;
    let mac = lab.net.gateway(Side::Left).must(&["cat", "/sys/class/net/out/address"])?.stdout;
    let outer = [Side::Right, Side::Left].map(|side| lab.net.outer(side, Family::V4));
    let inner = [Side::Right, Side::Left].map(|side| lab.net.client_address(side, Family::V4));
    let inner = inner.map(|address| address.to_string());
    let mut argv = vec![python.as_str(), &script, "left", mac.trim(), &outer[0], &outer[1], spi];
    // Behind every number that strongSwan has used, and within the window of those it will.
    argv.extend([key.as_str(), "2000", &inner[0], &inner[1]]);
    argv.extend(orders);
    let sent = lab.net.wire().run(&argv, LIMIT)?;
    let wanted: u32 =
        orders.iter().filter_map(|order| order.split_once('=')?.1.parse::<u32>().ok()).sum();
    ensure(sent.stdout.trim() == wanted.to_string(), || sent.text())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(u64::MAX)
}

/// Waits until counters are as wanted; more than wanted is as wrong as less.
fn expect<const N: usize>(
    what: [&str; N],
    wanted: [u64; N],
    look: impl Fn() -> Outcome<[u64; N]>,
) -> Outcome {
    wait::until("the counters", LIMIT, || {
        let seen = look()?;
        if seen == wanted {
            return Ok(());
        }
        Err(Failure::new(format!("{what:?}: {seen:?}, not {wanted:?}")))
    })
}

#[test]
fn every_reason_is_counted_apart_and_exactly() -> Outcome {
    with_known_keys(
        |_| (),
        |lab, pair, ours| {
            // Clear packets of a child without an SA.
            let target = lab.net.client_address(Side::Right, Family::V4).to_string();
            let ping = ["ping", "-q", "-c", "4", "-i", "0.1", "-W", "1", &target];
            let lost = lab.net.client(Side::Left).run(&ping, LIMIT)?;
            ensure(lost.code == 1, || format!("a ping passed without an SA: {}", lost.text()))?;
            expect(["held back"], [4], || Ok([number(&pair.us.sa()?["dropped"]["policy"])]))?;

            pair.bring_up(Starter::Peer, ours)?;
            forge(
                lab,
                pair,
                &[
                    "valid=5",
                    "again=7",
                    "source=9",
                    "destination=11",
                    "changed=12",
                    "garbage=3",
                    "family=4",
                    "transport=5",
                    "padding=6",
                    "length=7",
                    "ragged=8",
                    "dummy=10",
                    "stranger=13",
                    "stub=14",
                    "empty=15",
                ],
            )?;
            expect(
                ["packets_in", "replay", "policy", "auth", "malformed", "expired"],
                [5, 7, 9 + 11, 12, 3 + 4 + 5 + 6 + 7 + 8, 0],
                || {
                    let child = pair.us.child("site", "net")?;
                    let dropped = &child["dropped"];
                    Ok([
                        number(&child["packets_in"]),
                        number(&dropped["replay"]),
                        number(&dropped["policy"]),
                        number(&dropped["auth"]),
                        number(&dropped["malformed"]),
                        number(&dropped["expired"]),
                    ])
                },
            )?;
            expect(["no_sa", "malformed"], [13, 14 + 15], || {
                let sa = pair.us.sa()?;
                Ok([number(&sa["no_sa"]), number(&sa["dropped"]["malformed"])])
            })?;
            // The real peer is not hurt by what was sent in its name.
            lab.exchange(Family::V4, 200, 1200)?.must_be_whole()?;
            ensure_protected(lab, 400)
        },
    )
}

/// A peer that answers no rekey goes on sending: behind the hard limit nothing passes.
#[test]
fn nothing_passes_behind_a_hard_limit() -> Outcome {
    with_known_keys(
        |ours| {
            if let Some(child) = ours.children.first_mut() {
                child.rekey_packets = 50;
            }
        },
        |lab, pair, ours| {
            pair.bring_up(Starter::Peer, ours)?;
            pair.peer.freeze()?;
            forge(lab, pair, &["valid=400"])?;
            // Ten percent behind the soft limit; once the SA is gone its SPI is a stranger's.
            wait::until("every packet to be counted", LIMIT, || {
                let (sa, child) = (pair.us.sa()?, pair.us.child("site", "net")?);
                let passed = number(&child["packets_in"]);
                let expired = number(&child["dropped"]["expired"]);
                let no_sa = number(&sa["no_sa"]);
                let seen = format!("{passed} passed, {expired} expired, {no_sa} for no SA");
                if (passed, expired + no_sa) == (55, 345) && expired > 0 {
                    Ok(())
                } else {
                    Err(Failure::new(seen))
                }
            })
        },
    )
}

/// Sends datagrams to the IKE port of the left gateway: `HEX=COUNT` each.
const SEND: &str = "
import socket, sys
to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for order in sys.argv[1:]:
    octets, count = order.split('=')
    for _ in range(int(count)):
        to.sendto(bytes.fromhex(octets), ('192.0.2.1', 500))
";

/// An IKE header in hexadecimal, and what follows it.
fn message(spis: &str, next: u8, version: u8, exchange: (u8, u8, u32), body: &str) -> String {
    let (kind, flags, id) = exchange;
    let length = 28 + body.len() / 2;
    format!("{spis}{next:02x}{version:02x}{kind:02x}{flags:02x}{id:08x}{length:08x}{body}")
}

/// Every datagram on the IKE port that changes nothing is counted, for its reason, exactly once.
#[test]
fn ike_datagrams_are_counted_by_what_is_wrong_with_them() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.bring_up(Starter::Us, &ours)?;
        lab.net.wire().ip(&["addr", "add", "192.0.2.100/24", "dev", "br0"])?;
        let spi = |key: &str| up["ike_sas"][0][key].as_str().unwrap_or_default().to_owned();
        let known = format!("{}{}", spi("spi_i"), spi("spi_r"));
        let (strange, first) =
            ("00112233445566778899aabbccddeeff", "00112233445566770000000000000000");
        // INFORMATIONAL from the responder, IKE_SA_INIT from an initiator.
        let (informational, init) = ((37, 0x00, 0), (34, 0x08, 0));
        let sealed = format!("{:04x}{:04x}{}", 0x2900, 4 + 48, "5a".repeat(48));
        let short = message(strange, 0, 0x20, informational, "");
        let cases: Vec<(&str, Vec<String>)> = vec![
            (
                "malformed",
                vec![
                    short.get(..54).unwrap_or_default().to_owned(),
                    format!("{short}00"),
                    // A request without any payload, and one with half a payload.
                    message(first, 0, 0x20, init, ""),
                    message(first, 33, 0x20, init, "0000"),
                    "20".to_owned(),
                ],
            ),
            ("ikev1", vec![message(first, 1, 0x10, (2, 0, 0), "")]),
            ("version", vec![message(first, 33, 0x30, init, "")]),
            ("unknown-spi", vec![message(strange, 0, 0x20, informational, "")]),
            (
                "unexpected",
                // With the responder's SPI already, without a flag, and with a later Message ID.
                vec![
                    message(strange, 33, 0x20, init, ""),
                    message(first, 33, 0x20, (34, 0x00, 0), ""),
                    message(first, 33, 0x20, (34, 0x08, 1), ""),
                ],
            ),
            (
                "unauthentic",
                vec![
                    message(&known, 46, 0x20, informational, &sealed),
                    message(&known, 0, 0x20, informational, ""),
                ],
            ),
            ("window", vec![message(&known, 46, 0x20, (37, 0x00, 4000), &sealed)]),
        ];
        let before = pair.us.sa()?["ike_dropped"].clone();
        let mut wanted = before.clone();
        for (place, (reason, datagrams)) in cases.iter().enumerate() {
            // Never more at once than the daemon has room for.
            let count = 30 + place as u64;
            let orders: Vec<String> =
                datagrams.iter().map(|octets| format!("{octets}={count}")).collect();
            let mut argv = vec![PYTHON, "-c", SEND];
            argv.extend(orders.iter().map(String::as_str));
            let sent = lab.net.wire().run(&argv, LIMIT)?;
            ensure(sent.code == 0, || sent.text())?;
            let sum = number(&before[*reason]) + count * datagrams.len() as u64;
            wanted[*reason] = Value::from(sum);
            // All of the reasons: none is counted twice, or for another.
            wait::until("the datagrams to be counted", LIMIT, || {
                let seen = pair.us.sa()?["ike_dropped"].clone();
                if seen == wanted {
                    Ok(())
                } else {
                    Err(Failure::new(format!("{reason}: {seen}, not {wanted}")))
                }
            })?;
        }
        pair.us.must_cli(&["rekey", "site"])?;
        lab.exchange(Family::V4, 200, 1200)?.must_be_whole()?;
        ensure_protected(lab, 400)
    })
}
