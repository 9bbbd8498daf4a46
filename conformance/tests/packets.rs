//! Sizes, bulk traffic, and packets that were never meant well.

use std::time::Duration;

use conformance::command::Dialogue;
use conformance::failure::{Failure, ensure};
use conformance::lab::{Lab, Turn};
use conformance::netns::Namespace;
use conformance::packet::Kind;
use conformance::postern::{self, beside_the_tests};
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::spec::Tunnel;
use conformance::tcp::transfer;
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::Shape;
use conformance::{Outcome, wait};
use serde_json::Value;

/// The usual tunnel, started by us.
fn up(
    turn: Turn,
    families: (Family, Family),
    adjust: impl Fn(&mut Tunnel),
    body: impl FnOnce(&Lab, &Pair) -> Outcome,
) -> Outcome {
    Lab::run(turn, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, families.0, families.1);
        adjust(&mut ours);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        body(lab, &pair)
    })
}

/// TCP passes in bulk, nothing outside is fragmented, and nothing is clear.
fn bulk(outer: Family, inner: Family) -> Outcome {
    up(
        Turn::Shared,
        (outer, inner),
        |_| (),
        |lab, _| {
            transfer(lab, inner, 8)?;
            for captured in lab.no_canary_so_far()? {
                ensure(captured.count(Kind::Fragment) == 0, || {
                    format!("{} saw fragments: {:?}", captured.title, captured.kinds())
                })?;
            }
            ensure_protected(lab, 5000)
        },
    )
}

#[test]
fn tcp_in_bulk_ipv4() -> Outcome {
    bulk(Family::V4, Family::V4)
}

#[test]
fn tcp_in_bulk_ipv6_in_ipv4() -> Outcome {
    bulk(Family::V4, Family::V6)
}

#[test]
fn tcp_in_bulk_ipv4_in_ipv6() -> Outcome {
    bulk(Family::V6, Family::V4)
}

/// A client that sends more than fits and forbids fragmentation is told how much fits, and that
/// much passes (RFC 1191, RFC 4443 §3.2).
fn too_big(family: Family) -> Outcome {
    up(
        Turn::Shared,
        (Family::V4, family),
        |_| (),
        |lab, _| {
            let client = lab.net.client(Side::Left);
            let address = lab.net.client_address(Side::Right, family).to_string();
            let headers = if family == Family::V4 { 28 } else { 48 };
            let ping = |size: usize| {
                let size = size.to_string();
                let argv = ["ping", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &address];
                client.run(&argv, Duration::from_secs(5))
            };
            let full = 1500 - headers;
            let said = wait::until("to be told the size", Duration::from_secs(10), || {
                let said = ping(full)?;
                if said.text().contains("mtu") { Ok(said) } else { Err(Failure::new(said.text())) }
            })?;
            let text = said.text();
            let digits: String = text
                .split_once("mtu")
                .map(|(_, rest)| rest.trim_start_matches([' ', '=', ':']))
                .unwrap_or_default()
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            let mtu: usize =
                digits.parse().map_err(|_| Failure::new(format!("no size is said: {text}")))?;
            ensure((1280..1500).contains(&mtu), || format!("{mtu} is no sensible size: {text}"))?;
            // strongSwan's TUN takes 1400 octets; the answer has to fit there too.
            let fits = ping(mtu.min(1400) - headers)?;
            ensure(fits.code == 0, || format!("{mtu} was said and does not fit: {}", fits.text()))?;
            for captured in lab.captured()? {
                ensure(captured.count(Kind::Clear) == 0, || format!("{:?}", captured.kinds()))?;
            }
            Ok(())
        },
    )
}

#[test]
fn a_client_is_told_what_fits_ipv4() -> Outcome {
    too_big(Family::V4)
}

#[test]
fn a_client_is_told_what_fits_ipv6() -> Outcome {
    too_big(Family::V6)
}

/// Sends packets of a capture once more, out of the wire's port towards the left gateway.
const REPLAY: &str = "
import sys
from scapy.all import Ether, IP, UDP, PcapReader, sendp
kept = []
for frame in PcapReader(sys.argv[1]):
    if UDP in frame and frame[UDP].dport == 4500 and frame[IP].dst == '192.0.2.1':
        payload = bytes(frame[UDP].payload)
        if len(payload) > 60 and payload[:4] != b'\\0\\0\\0\\0':
            kept.append(frame)
kept = kept[:int(sys.argv[2])]
if sys.argv[3] == 'changed':
    for number, frame in enumerate(kept):
        payload = bytearray(bytes(frame[UDP].payload))
        # A sequence number of the future and a changed tag: new, and not authentic.
        payload[5] ^= 1
        payload[-1] ^= 0x80
        frame[UDP].remove_payload()
        frame = frame / bytes(payload)
        del frame[UDP].chksum
        kept[number] = Ether(bytes(frame))
# A capture on veth holds checksums that were left to the device.
for number, frame in enumerate(kept):
    del frame[UDP].chksum
    kept[number] = Ether(bytes(frame))
sendp(kept, iface='left', verbose=False)
print(len(kept))
";

/// Replayed packets and changed ones are dropped, counted apart, and never delivered; the traffic
/// beside them is not hurt.
#[test]
fn replayed_and_changed_packets_are_dropped_and_counted() -> Outcome {
    up(
        Turn::Shared,
        (Family::V4, Family::V4),
        |_| (),
        |lab, pair| {
            let mut flow = lab.flow(Family::V4, &Shape { rate: 200, ..Shape::default() })?;
            flow.start()?;
            flow.flows(150, UP)?;
            let file = lab.folder(Side::Left)?.join("replay.pcap");
            std::fs::copy(lab.capture_file(Side::Left), &file)?;
            let file = file.display().to_string();
            for (manner, counter) in [("same", "replay"), ("changed", "auth")] {
                let argv = ["/usr/bin/python3", "-c", REPLAY, &file, "100", manner];
                let sent = lab.net.wire().run(&argv, Duration::from_secs(30))?;
                ensure(sent.stdout.trim() == "100", || format!("not replayed: {}", sent.text()))?;
                wait::until("the drops to be counted", Duration::from_secs(10), || {
                    let child = pair.us.child("site", "net")?;
                    let counted = child["dropped"][counter].as_u64().unwrap_or(0);
                    if counted >= 100 { Ok(()) } else { Err(Failure::new(child.to_string())) }
                })?;
            }
            flow.flows(100, UP)?;
            flow.finish()?.must_be_whole()?;
            ensure_protected(lab, 500)
        },
    )
}

/// What the sockets of the IKE ports had no room for, as the kernel counts it.
fn socket_drops(gateway: &Namespace) -> Outcome<u64> {
    let listed = gateway.must(&["cat", "/proc/net/udp"])?.stdout;
    let drops = listed.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = words.get(1)?.split_once(':')?;
        // 500 and 4500.
        if ["01F4", "1194"].contains(&port) { words.last()?.parse::<u64>().ok() } else { None }
    });
    Ok(drops.sum())
}

/// Datagrams of any content on the IKE ports: the tunnel beside them loses nothing, the daemon
/// lives, and every one of them is counted for what it was.
#[test]
fn noise_hurts_nobody() -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        // Its like is the peer: strongSwan's sockets have room for a tenth of a second, and it is
        // not what is judged here.
        let mut ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        ours.force_udp = true;
        let theirs = peer_tunnel(lab, &ours);
        let peer = lab.postern(Side::Right, &[theirs], &postern::Options::default())?;
        let us = lab.postern(Side::Left, &[ours], &postern::Options::default())?;
        us.wait_up("site", UP)?;
        peer.wait_up("site", UP)?;
        lab.net.wire().ip(&["addr", "add", "192.0.2.100/24", "dev", "br0"])?;
        let mut flow = lab.flow(Family::V4, &Shape::default())?;
        flow.start()?;
        flow.flows(200, UP)?;
        let tool = beside_the_tests("pt-flood")?.display().to_string();
        let argv = [tool.as_str(), "noise", "192.0.2.1", "50000", "10000"];
        let sent = lab.net.wire().run(&argv, Duration::from_secs(60))?;
        ensure(sent.stdout.lines().last() == Some("50000"), || sent.text())?;
        flow.flows(500, UP)?;
        flow.finish()?.must_be_whole()?;
        wait::until("every datagram to be counted", UP, || {
            let (sa, unseen) = (us.sa()?, socket_drops(lab.net.gateway(Side::Left))?);
            let number = |value: &Value| value.as_u64().unwrap_or(0);
            let ike = sa["ike_dropped"].as_object().map_or(0, |all| all.values().map(number).sum());
            let [no_sa, neither] = [&sa["no_sa"], &sa["dropped"]["malformed"]].map(number);
            let malformed = number(&sa["ike_dropped"]["malformed"]);
            let whole = ike + no_sa + neither + unseen == 50_000;
            if whole && no_sa > 5000 && malformed > 5000 {
                return Ok(());
            }
            Err(Failure::new(format!(
                "{ike} IKE ({}), {no_sa} ESP, {neither} of neither, {unseen} unseen",
                sa["ike_dropped"]
            )))
        })?;
        us.must_cli(&["rekey", "site"])?;
        ensure_protected(lab, 1000)
    })
}

/// Resident memory of a process in KiB, now or at its highest.
fn memory(pid: u32, key: &str) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(key));
    let digits = line.and_then(|line| line.split_whitespace().nth(1));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Failure::new(format!("no {key} of process {pid}")))
}

/// A million forged IKE_SA_INIT cost at most 16 MiB, long ones included; a good set-up during a
/// flood takes at most three seconds, through the cookie that it is asked for.
#[test]
fn a_flood_of_forged_requests_is_survived() -> Outcome {
    // How many, how many in a second, and of how many octets.
    const STEADY: (u64, u64, u64) = (200_000, 20_000, 0);
    const SHORT: (u64, u64, u64) = (800_000, 40_000, 0);
    const LONG: (u64, u64, u64) = (60_000, 10_000, 4000);
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Peer, Family::V4, Family::V4);
        ours.ike = vec!["aes256gcm16-prfsha256-x25519".to_owned()];
        let theirs = peer_tunnel(lab, &ours);
        // Every address may try: the forged ones are not told apart by where they come from.
        ours.remote.address = "any".to_owned();
        let us = lab.postern(Side::Left, &[ours], &postern::Options::default())?;
        let peer = lab.strongswan(Side::Right, &[theirs], &Default::default())?;
        lab.net.wire().ip(&["addr", "add", "192.0.2.100/24", "dev", "br0"])?;
        lab.net.wire().ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"])?;
        let gateway = lab.net.gateway(Side::Left);
        gateway.ip(&["route", "add", "198.18.0.0/15", "via", "192.0.2.100"])?;
        let pid = us.pid().ok_or_else(|| Failure::new("posternd is not running"))?;
        let before = memory(pid, "VmRSS")?;
        // A capture of the flood would cost more than the flood.
        lab.search_captures()?;
        let tool = beside_the_tests("pt-flood")?.display().to_string();
        let forge = |(count, rate, length): (u64, u64, u64)| {
            let [count, rate, length] = [count, rate, length].map(|number| number.to_string());
            [&*tool, "init", "192.0.2.1", &count, &rate, &length].map(str::to_owned)
        };
        let wire = lab.net.wire();

        // A steady flood in the background, and the good set-up in the middle of it.
        let steady = forge(STEADY);
        let steady = wire.inside(&steady.each_ref().map(String::as_str));
        let steady = Dialogue::start("pt-flood", &steady, false)?;
        steady.hear_about("begun", UP)?;
        let begun = std::time::Instant::now();
        let done = peer.initiate("site", "net")?;
        let took = begun.elapsed();
        ensure(done.code == 0, || format!("no set-up during the flood: {}", done.text()))?;
        ensure(took < Duration::from_secs(3), || format!("the set-up took {took:?}"))?;
        ensure(done.text().contains("COOKIE"), || format!("no cookie: {}", done.text()))?;
        ensure(steady.rest().is_empty(), || "the flood was over before".to_owned())?;
        steady.hear(Duration::from_secs(60))?;

        for (flood, least) in [(SHORT, 950_000), (LONG, 950_000 + LONG.0 * 9 / 10)] {
            let line = forge(flood);
            let done = wire.run(&line.each_ref().map(String::as_str), Duration::from_secs(120))?;
            ensure(done.code == 0, || done.text())?;
            // Nearly every one was looked at, and not left in a full queue on its way.
            wait::until("the forged requests to be refused", UP, || {
                let (sa, unseen) = (us.sa()?, socket_drops(gateway)?);
                let counted = &sa["ike_dropped"];
                if counted["cookie"].as_u64().is_some_and(|refused| refused >= least) {
                    return Ok(());
                }
                Err(Failure::new(format!("{least} wanted, {unseen} unseen: {counted}")))
            })?;
        }
        let most = memory(pid, "VmHWM")?;
        let grown = most.saturating_sub(before);
        ensure(grown <= 16 * 1024, || format!("memory grew by {grown} KiB from {before} KiB"))?;
        us.must_run()?;
        lab.capture_again()?;
        lab.exchange(Family::V4, 200, 1200)?.must_be_whole()?;
        ensure_protected(lab, 200)
    })
}
