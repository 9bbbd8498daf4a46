//! Outer headers: all four pairs of families, raw and in UDP, and what goes into sockets.

use esp::{
    BuildError, InboundSa, OutboundOptions, OutboundSa, OutputForm, SealSource, outer_headers_len,
    peek_spi,
    udp::{NAT_KEEPALIVE, NON_ESP_MARKER, UdpPayload, classify},
};
use sa_store::{DfPolicy, Direction, Encapsulation, Esn, Mode, SaRecord};

use super::{
    Engines, LiveSa, SPI, cbc, gcm, inbound, ipv4, ipv4_checksum, ipv6, open, outbound_of, record,
    seal, seal_inner, suites,
};

fn whole_packets(encapsulation: Encapsulation, v6: bool, df: DfPolicy) -> OutboundSa {
    let mut record = record(gcm(), Esn::No, Direction::Outbound);
    record.encapsulation = encapsulation;
    record.df = df;
    if v6 {
        record.local = "[2001:db8:1::1]:4500".parse().unwrap();
        record.remote = "[2001:db8:1::2]:4501".parse().unwrap();
    }
    let mut how = OutboundOptions::new([0; 16]);
    how.output = OutputForm::Packet;
    outbound_of(&record, &how)
}

fn word(octets: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([octets[at], octets[at + 1]]))
}

#[test]
fn inner_and_outer_families_pair_freely() {
    for encapsulation in [Encapsulation::None, Encapsulation::Udp] {
        for outer_v6 in [false, true] {
            for inner in [ipv4(101, 0x48), ipv6(101, 0x48)] {
                let sa = whole_packets(encapsulation, outer_v6, DfPolicy::Copy);
                let (packet, sealed) =
                    seal(&sa, SealSource::Parts { head: &inner, body: &[] }).unwrap();
                assert_eq!(packet.len(), sealed.len);
                assert_eq!(packet.len(), sa.outer_len(inner.len()));
                let udp = encapsulation == Encapsulation::Udp;
                let ip_len = if outer_v6 { 40 } else { 20 };
                let protocol = if udp { 17 } else { 50 };
                if outer_v6 {
                    assert_eq!(packet[0] >> 4, 6);
                    assert_eq!(packet[0] << 4 | packet[1] >> 4, 0x48);
                    assert_eq!(word(&packet, 4), packet.len() - 40);
                    assert_eq!((packet[6], packet[7]), (protocol, 64));
                    assert_eq!(packet[8..12], [0x20, 1, 0xd, 0xb8]);
                    assert_eq!((packet[23], packet[39]), (1, 2));
                } else {
                    assert_eq!((packet[0], packet[1]), (0x45, 0x48));
                    assert_eq!(word(&packet, 2), packet.len());
                    assert_eq!((packet[8], packet[9]), (64, protocol));
                    assert_eq!(packet[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
                    assert_eq!(ipv4_checksum(&packet[..20]), 0);
                }
                let esp = if udp {
                    let datagram = &packet[ip_len..];
                    assert_eq!((word(datagram, 0), word(datagram, 2)), (4500, 4501));
                    assert_eq!(word(datagram, 4), datagram.len());
                    if outer_v6 {
                        assert_eq!(udp_v6_sum(&packet), 0, "the checksum holds");
                        assert_ne!(word(datagram, 6), 0);
                    } else {
                        assert_eq!(word(datagram, 6), 0);
                    }
                    assert_eq!(classify(&datagram[8..]), UdpPayload::Esp(&datagram[8..]));
                    &datagram[8..]
                } else {
                    &packet[ip_len..]
                };
                assert_eq!(packet.len() - esp.len(), outer_headers_len(!outer_v6, encapsulation));
                assert_eq!(peek_spi(esp).unwrap().get(), SPI);
                assert_eq!(open(&inbound(gcm(), Esn::No), esp, Some(0x48)), Ok(inner));
            }
        }
    }
}

/// RFC 8200 §8.1: the sum over pseudo header and datagram, 0 if the checksum is right.
fn udp_v6_sum(packet: &[u8]) -> u16 {
    let datagram = &packet[40..];
    let len = u32::try_from(datagram.len()).unwrap();
    let mut all = packet[8..40].to_vec();
    all.extend(len.to_be_bytes());
    all.extend([0, 0, 0, 17]);
    all.extend(datagram);
    if all.len() % 2 == 1 {
        all.push(0);
    }
    ipv4_checksum(&all)
}

#[test]
fn the_udp_checksum_over_ipv6_holds_for_every_length() {
    let sa = whole_packets(Encapsulation::Udp, true, DfPolicy::Copy);
    for len in 28..200 {
        let packet = seal_inner(&sa, &ipv4(len, 0));
        assert_eq!(udp_v6_sum(&packet), 0, "{len}");
    }
}

#[test]
fn the_df_bit_follows_the_policy() {
    let mut may_fragment = ipv4(80, 0);
    may_fragment[6] = 0;
    for (policy, inner, expected) in [
        (DfPolicy::Copy, ipv4(80, 0), true),
        (DfPolicy::Copy, may_fragment.clone(), false),
        (DfPolicy::Copy, ipv6(80, 0), true),
        (DfPolicy::Set, may_fragment, true),
        (DfPolicy::Clear, ipv4(80, 0), false),
        (DfPolicy::Clear, ipv6(80, 0), false),
    ] {
        let sa = whole_packets(Encapsulation::None, false, policy);
        let mut ids = Vec::new();
        for _ in 0..2 {
            let source = SealSource::Parts { head: &inner, body: &[] };
            let (packet, sealed) = seal(&sa, source).unwrap();
            assert_eq!(sealed.dont_fragment, expected);
            assert_eq!(packet[6] & 0x40 != 0, expected, "{policy:?}");
            assert_eq!(ipv4_checksum(&packet[..20]), 0);
            ids.push(word(&packet, 4));
        }
        // Packets that may be fragmented need an identification each (RFC 6864).
        assert_eq!(ids[0] != ids[1], !expected);
    }
}

#[test]
fn sockets_get_the_payload_alone() {
    for suite in suites() {
        let sa = super::outbound(suite, Esn::No);
        let inner = ipv4(99, 0);
        let packet = seal_inner(&sa, &inner);
        assert_eq!(peek_spi(&packet).unwrap().get(), SPI);
        assert_eq!(packet.len() + 20, sa.outer_len(99));
    }
}

#[test]
fn an_sa_moves_to_other_addresses_and_keeps_its_numbers() {
    let sa = whole_packets(Encapsulation::Udp, false, DfPolicy::Copy);
    let inner = ipv4(80, 0);
    assert_eq!(seal_inner(&sa, &inner)[28..36], [0xc0, 0xff, 0xee, 1, 0, 0, 0, 1]);
    let moved = sa
        .with_addresses("198.51.100.1:4500".parse().unwrap(), "203.0.113.9:1024".parse().unwrap())
        .unwrap();
    let packet = seal_inner(&moved, &inner);
    assert_eq!(packet[12..20], [198, 51, 100, 1, 203, 0, 113, 9]);
    assert_eq!(word(&packet, 22), 1024);
    assert_eq!(packet[32..36], [0, 0, 0, 2], "the sequence goes on");
    let mixed = sa.with_addresses("198.51.100.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
    assert_eq!(mixed.map(|_| ()), Err(BuildError::AddressFamily));
}

#[test]
fn datagrams_on_the_encapsulation_port_are_told_apart() {
    assert_eq!(classify(&NAT_KEEPALIVE), UdpPayload::Keepalive);
    let ike = [&NON_ESP_MARKER[..], b"ike"].concat();
    assert_eq!(classify(&ike), UdpPayload::Ike(b"ike"));
    assert_eq!(classify(&NON_ESP_MARKER), UdpPayload::Ike(b""));
    assert_eq!(classify(&[0, 0, 1, 0]), UdpPayload::Esp(&[0, 0, 1, 0]));
    for stub in [&[][..], &[0], &[0xfe], &[0, 0, 0], &[0xff, 0xff]] {
        assert_eq!(classify(stub), UdpPayload::Malformed);
    }
    assert_eq!(peek_spi(&[0, 0, 0, 255, 1]), None, "reserved");
    assert_eq!(peek_spi(&[0, 0, 1]), None);
}

#[test]
fn records_that_do_not_fit_are_refused() {
    let live = |record: &SaRecord| std::sync::Arc::new(LiveSa::new(record));
    let (engines, how) = (Engines::portable(), OutboundOptions::new([0; 16]));
    let out = |record: &SaRecord| OutboundSa::new(record, live(record), &engines, &how).map(|_| ());
    let inb = |record: &SaRecord| InboundSa::new(record, live(record), &engines).map(|_| ());

    let mut outbound = record(cbc(), Esn::No, Direction::Outbound);
    assert_eq!(out(&outbound), Ok(()));
    assert_eq!(inb(&outbound), Err(BuildError::Direction));
    outbound.remote = "[2001:db8::2]:0".parse().unwrap();
    assert_eq!(out(&outbound), Err(BuildError::AddressFamily));
    let mut inbound = record(cbc(), Esn::No, Direction::Inbound);
    assert_eq!(inb(&inbound), Ok(()));
    assert_eq!(out(&inbound), Err(BuildError::Direction));
    inbound.keys.integrity = sa_store::SecretBytes::default();
    assert!(matches!(inb(&inbound), Err(BuildError::Key(_))));
    inbound.mode = Mode::Transport;
    assert_eq!(inb(&inbound), Err(BuildError::TransportMode));
}
