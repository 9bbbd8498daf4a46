//! How large packets are on their way: the segments TCP agrees on, and the super-packets that the
//! data plane takes and gives where the kernel can cut them.

use conformance::capture::Capture;
use conformance::failure::{Failure, Outcome, ensure};
use conformance::lab::{Lab, Turn};
use conformance::netns::Namespace;
use conformance::packet::Kind;
use conformance::postern::{Options, Postern};
use conformance::scenario::{Pair, Starter, UP, ensure_protected, peer_tunnel, tunnel};
use conformance::tcp::{Syn, syn, transfer};
use conformance::topology::{Family, Side, Wire};

/// The SYN and its answer as the clients on the far sides get them.
fn handshake(lab: &Lab, family: Family, name: &str) -> Outcome<[Syn; 2]> {
    let capture = |side: Side| {
        let file = lab.folder(side)?.join(format!("{name}.pcap"));
        Capture::start(lab.net.client(side), "eth", &file)
    };
    let captures = [capture(Side::Right)?, capture(Side::Left)?];
    transfer(lab, family, 1)?;
    let far = |index: usize, answer: bool| {
        let captured = captures.get(index).ok_or_else(|| Failure::new("no capture"))?.so_far()?;
        let mut all = captured.packets.iter().filter_map(syn);
        all.find(|syn| syn.answer == answer)
            .ok_or_else(|| Failure::new(format!("no SYN reached {}", captured.title)))
    };
    Ok([far(0, false)?, far(1, true)?])
}

/// A SYN, and its answer, leave the tunnel with no more than fits: the interface's 1400 octets
/// without the headers; less where the path has less room; and what is small stays as it is.
fn clamps(family: Family, headers: u16, small_path: u16) -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, family);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        let expect = |what: &str, name: &str, mss: u16| {
            let seen = handshake(lab, family, name)?;
            ensure(seen.map(|syn| syn.mss) == [mss; 2], || format!("{what}: {seen:?}, not {mss}"))
        };
        expect("the usual path", "usual", 1400 - headers)?;

        // Both ends offer little by themselves.
        let offer = |words: &[&str]| {
            [Side::Left, Side::Right].into_iter().try_for_each(|side| {
                let version = if family == Family::V4 { "-4" } else { "-6" };
                let via = lab.net.gateway_inner(side, family);
                let route = [version, "route", "replace", "default", "via", &via];
                lab.net.client(side).ip(&[&route, words].concat()).map(drop)
            })
        };
        offer(&["advmss", "1111"])?;
        expect("a small offer", "small", 1111)?;
        offer(&[])?;

        // A path with less room than the interface promises.
        lab.net.gateway(Side::Left).ip(&["link", "set", "out", "mtu", "1380"])?;
        pair.us.must_cli(&["rekey", "site/net"])?;
        expect("a narrow path", "narrow", small_path - headers)?;
        ensure_protected(lab, 5000)
    })
}

#[test]
fn the_mss_is_clamped_to_what_fits_ipv4() -> Outcome {
    // 1380 without IPv4, UDP, ESP, IV and ICV is 1320; two octets are the trailer.
    clamps(Family::V4, 40, 1318)
}

#[test]
fn the_mss_is_clamped_to_what_fits_ipv6() -> Outcome {
    clamps(Family::V6, 60, 1318)
}

/// What one gateway has counted.
#[derive(Debug, Clone, Copy)]
struct Counted {
    /// ESP packets sealed and opened.
    sealed: u64,
    opened: u64,
    /// UDP datagrams as the sockets count them: one for a super-packet.
    sent: u64,
    received: u64,
    /// Packets as the TUN interface counts them: those the data plane read, and wrote.
    read: u64,
    written: u64,
}

impl Counted {
    fn now(us: &Postern, gateway: &Namespace, outer: Family) -> Outcome<Self> {
        let child = us.child("site", "net")?;
        let packets = |key: &str| child[key].as_u64().unwrap_or(0);
        let file = |path: &str| Ok::<_, Failure>(gateway.must(&["cat", path])?.stdout);
        let tun = |name: &str| {
            let counted = file(&format!("/sys/class/net/postern0/statistics/{name}"))?;
            counted.trim().parse::<u64>().map_err(|_| Failure::new(counted))
        };
        let (received, sent) = match outer {
            Family::V4 => udp4(&file("/proc/net/snmp")?),
            Family::V6 => udp6(&file("/proc/net/snmp6")?),
        }
        .ok_or_else(|| Failure::new("the kernel does not count UDP"))?;
        Ok(Self {
            sealed: packets("packets_out"),
            opened: packets("packets_in"),
            sent,
            received,
            read: tun("tx_packets")?,
            written: tun("rx_packets")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            sealed: self.sealed - before.sealed,
            opened: self.opened - before.opened,
            sent: self.sent - before.sent,
            received: self.received - before.received,
            read: self.read - before.read,
            written: self.written - before.written,
        }
    }
}

/// `InDatagrams` and `OutDatagrams`: the second line that starts with `Udp:` has the values.
fn udp4(snmp: &str) -> Option<(u64, u64)> {
    let values = snmp.lines().filter(|line| line.starts_with("Udp:")).nth(1)?;
    let values: Vec<&str> = values.split_whitespace().collect();
    Some((values.get(1)?.parse().ok()?, values.get(4)?.parse().ok()?))
}

fn udp6(snmp6: &str) -> Option<(u64, u64)> {
    let value = |name: &str| {
        let line = snmp6.lines().find(|line| line.split_whitespace().next() == Some(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((value("Udp6InDatagrams")?, value("Udp6OutDatagrams")?))
}

/// Bulk traffic crosses the TUN interface and the sockets in super-packets, in both directions.
/// Were one of the four offloads off without a sign, its count would be that of the ESP packets.
fn offloads(outer: Family, inner: Family) -> Outcome {
    Lab::run(Turn::Alone, Wire::Direct, |lab| {
        let mut ours = tunnel(lab, Starter::Us, outer, inner);
        ours.force_udp = true;
        let mut theirs = peer_tunnel(lab, &ours);
        theirs.force_udp = true;
        let right = lab.postern(Side::Right, &[theirs], &Options::default())?;
        let left = lab.postern(Side::Left, &[ours], &Options::default())?;
        for one in [&left, &right] {
            one.wait_up("site", UP)?;
        }
        let count = || {
            Ok::<_, Failure>([
                Counted::now(&left, lab.net.gateway(Side::Left), outer)?,
                Counted::now(&right, lab.net.gateway(Side::Right), outer)?,
            ])
        };
        let [left_before, right_before] = count()?;
        transfer(lab, inner, 16)?;
        let [left_after, right_after] = count()?;
        for counted in [left_after.since(left_before), right_after.since(right_before)] {
            let Counted { sealed, opened, sent, received, read, written } = counted;
            ensure(sealed > 10_000 && opened > 10_000, || format!("few packets: {counted:?}"))?;
            for (what, packets, units) in [
                ("TUN reads (TSO)", sealed, read),
                ("UDP sends (UDP_SEGMENT)", sealed, sent),
                ("UDP receives (UDP_GRO)", opened, received),
                ("TUN writes (coalesced)", opened, written),
            ] {
                ensure(units > 0 && packets >= units * 2, || {
                    format!("{what}: {units} for {packets} packets: {counted:?}")
                })?;
            }
        }
        for captured in lab.no_canary_so_far()? {
            let long =
                captured.packets.iter().filter(|p| p.kind == Kind::EspInUdp && p.length > 3000);
            ensure(long.count() > 100, || format!("{} saw no super-packets", captured.title))?;
        }
        Ok(())
    })
}

#[test]
fn bulk_traffic_uses_every_offload_over_ipv4() -> Outcome {
    offloads(Family::V4, Family::V4)
}

#[test]
fn bulk_traffic_uses_every_offload_over_ipv6() -> Outcome {
    offloads(Family::V6, Family::V6)
}
