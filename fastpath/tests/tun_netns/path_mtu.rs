//! Who is believed about the room on the way to a peer, and how much.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Header, Icmpv4Type, PacketBuilder,
    icmpv4::{DestUnreachableHeader, RedirectCode, RedirectHeader},
};
use sa_store::Encapsulation;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    common::{
        Capture, Namespace, eventually,
        sites::{Pairing, Sites},
    },
    transfer,
};

const KINDS: [(Encapsulation, bool); 4] = [
    (Encapsulation::Udp, true),
    (Encapsulation::None, true),
    (Encapsulation::Udp, false),
    (Encapsulation::None, false),
];

fn kinds() -> impl Iterator<Item = Pairing> {
    let with = |(encapsulation, outer_v4)| Pairing { encapsulation, outer_v4, ..Pairing::nets() };
    KINDS.into_iter().map(with)
}

fn a_and_b(v4: bool) -> (IpAddr, IpAddr) {
    let texts = if v4 { ["192.0.2.1", "192.0.2.2"] } else { ["2001:db8::1", "2001:db8::2"] };
    let [a, b] = texts.map(|text| text.parse().unwrap());
    (a, b)
}

/// The outer IP packets of ESP that gateway a sent.
fn esp_of_a(wire: &Capture, pairing: &Pairing) -> Vec<Vec<u8>> {
    let (a, _) = a_and_b(pairing.outer_v4);
    let raw = pairing.encapsulation == Encapsulation::None;
    let is = |packet: &[u8]| match a {
        IpAddr::V4(a) => {
            packet[0] == 0x45
                && packet[12..16] == a.octets()
                && packet[9] == if raw { 50 } else { 17 }
        }
        IpAddr::V6(a) => {
            packet[0] >> 4 == 6
                && packet[8..24] == a.octets()
                && packet[6] == if raw { 50 } else { 17 }
        }
    };
    let frames = wire.frames().into_iter().filter(|frame| frame.len() > 54);
    frames.map(|frame| frame[14..].to_vec()).filter(|packet| is(packet)).collect()
}

/// What a router would quote of an outer packet of a, or of one that never was.
fn quote(pairing: &Pairing, ports: (u16, u16), spi: u32, sequence: u32) -> Vec<u8> {
    let (a, b) = a_and_b(pairing.outer_v4);
    let builder = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 60),
        (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 60),
        _ => unreachable!("one family"),
    };
    let mut esp = [spi.to_be_bytes(), sequence.to_be_bytes()].concat();
    esp.resize(1400, 7);
    let mut packet = Vec::new();
    if pairing.encapsulation == Encapsulation::Udp {
        builder.udp(ports.0, ports.1).write(&mut packet, &esp).unwrap();
    } else {
        builder.write(&mut packet, 50.into(), &esp).unwrap();
    }
    packet
}

/// Sends ICMP messages from `space` to gateway a.
fn send(space: &Namespace, v4: bool, messages: Vec<Vec<u8>>) {
    let (a, _) = a_and_b(v4);
    space.within(move || {
        let (domain, protocol) =
            if v4 { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        for message in messages {
            socket.send_to(&message, &SocketAddr::from((a, 0)).into()).unwrap();
        }
    });
}

fn icmp_v4(kind: Icmpv4Type, quote: &[u8]) -> Vec<u8> {
    let quote = &quote[..548.min(quote.len())];
    [&Icmpv4Header::with_checksum(kind, quote).to_bytes()[..], quote].concat()
}

/// An error that claims `mtu`.
fn too_big(v4: bool, mtu: u16, quote: &[u8]) -> Vec<u8> {
    if v4 {
        let next_hop_mtu = mtu;
        let code = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
        return icmp_v4(Icmpv4Type::DestinationUnreachable(code), quote);
    }
    // The kernel writes the checksum.
    [&[2, 0, 0, 0, 0, 0][..], &mtu.to_be_bytes(), &quote[..1200.min(quote.len())]].concat()
}

/// Whether client a gets a packet of `len` octets with DF through, whole.
fn passes(sites: &Sites, len: usize) -> bool {
    let options = format!("ping -n -c 1 -W 2 -M do -s {}", len - 28);
    // The client must not remember what it was told before.
    sites.a.client.exec("ip route flush cache");
    sites.a.client.exec(&format!("{options} 10.2.0.2")).0
}

#[test]
fn an_icmp_error_that_anybody_can_make_up_changes_nothing() {
    for pairing in kinds() {
        let v4 = pairing.outer_v4;
        let kind = format!("{}, v4 {v4}", pairing.encapsulation);
        let mut sites = Sites::new();
        sites.up(&pairing, 1);
        assert!(passes(&sites, 1390), "{kind}: control");
        let least = if v4 { 552 } else { 1280 };
        let ports = (4500, 4500);
        let mut elsewhere = quote(&pairing, ports, 0x1101, 1);
        elsewhere[if v4 { 16 } else { 24 }] ^= 0x40;
        let mut from_elsewhere = quote(&pairing, ports, 0x1101, 1);
        from_elsewhere[if v4 { 15 } else { 23 }] ^= 0x40;
        let quotes = [
            quote(&pairing, ports, 0x0bad_cafe, 1),
            // An SPI of the other direction, and one that is right, with numbers never sent.
            quote(&pairing, ports, 0x2102, 1),
            quote(&pairing, ports, 0x1101, 0),
            quote(&pairing, ports, 0x1101, 1000),
            quote(&pairing, ports, 0x1101, u32::MAX),
            // IKE behind its marker.
            quote(&pairing, ports, 0, 1),
            elsewhere,
            from_elsewhere,
        ];
        let mut wrong_ports = Vec::new();
        if pairing.encapsulation == Encapsulation::Udp {
            wrong_ports.push(quote(&pairing, (500, 500), 0x1101, 1));
            wrong_ports.push(quote(&pairing, (4500, 4501), 0x1101, 1));
            wrong_ports.push(quote(&pairing, (4501, 4500), 0x1101, 1));
        }
        // Of the other encapsulation.
        let other = Pairing {
            encapsulation: match pairing.encapsulation {
                Encapsulation::Udp => Encapsulation::None,
                Encapsulation::None => Encapsulation::Udp,
            },
            ..pairing.clone()
        };
        let others = [quote(&other, ports, 0x1101, 1)];
        let all = quotes.into_iter().chain(wrong_ports).chain(others);
        let mut messages = Vec::new();
        for quote in all {
            for mtu in [least, least - 1, 68, 0, 1300] {
                messages.push(too_big(v4, mtu, &quote));
            }
        }
        send(&sites.b.gateway, v4, messages);
        // What the kernel would learn only shows when it refuses something.
        for round in 0..3 {
            assert!(passes(&sites, 1390), "{kind}: full packets do not pass, round {round}");
        }
        transfer(&sites.a.client, &sites.b.client, "10.2.0.2", 500_000);
        if v4 {
            let (_, route) = sites.a.gateway.exec("ip route get 192.0.2.2");
            assert!(!route.contains("mtu"), "the kernel believes it: {route}");
        }
        sites.a.release();
        sites.b.release();
    }
}

#[test]
fn no_icmp_error_stops_sending_or_turns_packets_elsewhere() {
    for pairing in kinds() {
        let v4 = pairing.outer_v4;
        let mut sites = Sites::new();
        sites.up(&pairing, 1);
        assert!(sites.a.client.pings("10.2.0.2"));
        // A true packet: the first one of the tunnel.
        let true_quote = quote(&pairing, (4500, 4500), 0x1101, 1);
        let mut messages = Vec::new();
        if v4 {
            use DestUnreachableHeader as Code;
            for code in
                [Code::Network, Code::Host, Code::Protocol, Code::Port, Code::HostProhibited]
            {
                messages.push(icmp_v4(Icmpv4Type::DestinationUnreachable(code), &true_quote));
            }
            let redirect = RedirectHeader {
                code: RedirectCode::RedirectForHost,
                gateway_internet_address: [192, 0, 2, 77],
            };
            messages.push(icmp_v4(Icmpv4Type::Redirect(redirect), &true_quote));
            // A kernel that was told so by an answer to a ping believes it; we do not ask it.
            let mut echo_reply = Vec::new();
            PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 60)
                .icmpv4_echo_reply(1, 1)
                .write(&mut echo_reply, &[7; 1400])
                .unwrap();
            messages.push(too_big(true, 552, &echo_reply));
        } else {
            for (kind, code) in [(1, 0), (1, 1), (1, 3), (1, 4), (3, 0), (4, 1)] {
                messages.push([&[kind, code, 0, 0, 0, 0, 0, 0][..], &true_quote[..1200]].concat());
            }
        }
        let flood: Vec<_> = messages.iter().cycle().take(600).cloned().collect();
        let before = sites.a.handle().counters();
        let forger = {
            let name = sites.b.gateway.name.clone();
            std::thread::spawn(move || {
                let space = std::mem::ManuallyDrop::new(Namespace { name });
                for part in flood.chunks(20) {
                    send(&space, v4, part.to_vec());
                }
            })
        };
        let (_, text) = sites.a.client.exec("ping -n -q -c 200 -i 0.002 -W 1 10.2.0.2");
        forger.join().unwrap();
        assert!(text.contains(" 0% packet loss"), "{}, v4 {v4}: {text}", pairing.encapsulation);
        assert!(passes(&sites, 1390), "{}, v4 {v4}", pairing.encapsulation);
        assert_eq!(sites.a.handle().counters().send_failed, before.send_failed);
        sites.a.release();
        sites.b.release();
    }
}

#[test]
fn a_router_with_less_room_is_believed_for_a_while() {
    for pairing in kinds() {
        let v4 = pairing.outer_v4;
        let kind = format!("{}, v4 {v4}", pairing.encapsulation);
        let (mut sites, router) = Sites::routed(1300);
        sites.up(&pairing, 1);
        assert!(sites.a.client.pings("10.2.0.2"), "{kind}: control");
        let (wire, behind) = (Capture::start(&sites.a.gateway), Capture::start(&sites.b.gateway));
        // The first packet teaches the gateway, the next one its client.
        for address in ["10.2.0.2", "[fd02::2]"] {
            transfer(&sites.a.client, &sites.b.client, address, 500_000);
        }
        eventually("a packet that fits", || passes(&sites, 1200));
        assert!(!passes(&sites, 1290), "{kind}: its ESP packet has more than 1300 octets");
        let arrived = esp_of_a(&behind, &pairing);
        let longest = arrived.iter().map(Vec::len).max().unwrap();
        assert!((1240..=1300).contains(&longest), "{kind}: the longest that arrived has {longest}");
        if v4 {
            let whole = arrived.iter().all(|packet| packet[6] & 0x20 == 0 && packet[7] == 0);
            assert!(whole, "{kind}: nothing was cut");
        }
        let lost = esp_of_a(&wire, &pairing).iter().filter(|packet| packet.len() > 1300).count();
        assert!((1..200).contains(&lost), "{kind}: {lost} packets were lost to learn it");
        drop((wire, behind));
        // The way grows.
        router.ip("link set side2 mtu 1500");
        sites.b.gateway.ip("link set wan mtu 1500");
        eventually("full packets to pass again", || passes(&sites, 1390));
        sites.a.release();
        sites.b.release();
    }
}

/// Below the floor packets get no smaller; over IPv4 routers may cut them then.
#[test]
fn a_path_below_the_floor_gets_packets_that_may_be_cut() {
    for pairing in kinds().filter(|pairing| pairing.outer_v4) {
        let (mut sites, _router) = Sites::routed(700);
        sites.up(&pairing, 1);
        let behind = Capture::start(&sites.b.gateway);
        for address in ["10.2.0.2", "[fd02::2]"] {
            transfer(&sites.a.client, &sites.b.client, address, 300_000);
        }
        eventually("a long packet to pass", || passes(&sites, 1200));
        let cut = |packet: &Vec<u8>| packet[6] & 0x20 != 0;
        assert!(esp_of_a(&behind, &pairing).iter().any(cut), "{}", pairing.encapsulation);
        drop(behind);
        sites.a.release();
        sites.b.release();
    }
}

/// Somebody on the way who sees packets can quote them.
#[test]
fn who_sees_packets_makes_them_no_smaller_than_the_floor_and_not_for_long() {
    for pairing in kinds() {
        let v4 = pairing.outer_v4;
        let kind = format!("{}, v4 {v4}", pairing.encapsulation);
        let mut sites = Sites::new();
        sites.up(&pairing, 1);
        let wire = Capture::start(&sites.a.gateway);
        assert!(passes(&sites, 1390), "{kind}: control");
        let claim = if v4 { 68 } else { 1280 };
        let mut seen = Vec::new();
        // Whoever is quick enough: what was sent seconds ago is not believed.
        eventually("to be believed", || {
            let full = esp_of_a(&wire, &pairing).into_iter().rfind(|packet| packet.len() > 1300);
            if let Some(packet) = full {
                seen = packet;
                send(&sites.b.gateway, v4, vec![too_big(v4, claim, &seen)]);
            }
            !passes(&sites, 1390)
        });
        assert!(passes(&sites, 1180), "{kind}: what fits the floor passes");
        transfer(&sites.a.client, &sites.b.client, "10.2.0.2", 300_000);
        let start = std::time::Instant::now();
        eventually("full packets to pass again", || passes(&sites, 1390));
        assert!(start.elapsed() < std::time::Duration::from_secs(30), "{kind}");
        // Old by now: nobody is to store packets and use them later.
        send(&sites.b.gateway, v4, vec![too_big(v4, claim, &seen)]);
        assert!((0..3).all(|_| passes(&sites, 1390)), "{kind}: an old quote");
        drop(wire);
        sites.a.release();
        sites.b.release();
    }
}
