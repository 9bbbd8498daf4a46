//! Raw ESP, of which a message is one packet: batches in both directions.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use sa_store::Encapsulation;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    common::{
        Namespace, eventually,
        sites::{Pairing, Sites},
    },
    transfer,
};

/// Datagrams of `sizes` octets from one namespace to an address in another; every one must
/// arrive, each once and with its octets.
fn volley(from: &Namespace, to: &Namespace, address: IpAddr, sizes: Vec<usize>) {
    let (ready, wait) = std::sync::mpsc::channel();
    let count = sizes.len();
    let reader = to.spawn(move || {
        let socket = UdpSocket::bind((address, 9002)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        ready.send(()).unwrap();
        let mut buffer = vec![0; 65_536];
        let mut got: Vec<(usize, usize)> = (0..count)
            .map(|_| {
                let (len, _) = socket.recv_from(&mut buffer).unwrap();
                let data = &buffer[..len];
                assert!(data.iter().all(|octet| *octet == data[0]), "packets are mixed up");
                (usize::from(data[0]), len)
            })
            .collect();
        got.sort_unstable();
        got
    });
    wait.recv().unwrap();
    let sent = sizes.clone();
    from.within(move || {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        for (number, size) in sent.iter().enumerate() {
            socket.send_to(&vec![number as u8; *size], (address, 9002)).unwrap();
        }
    });
    let all: Vec<(usize, usize)> = sizes.into_iter().enumerate().collect();
    assert_eq!(reader.join().unwrap(), all);
}

#[test]
fn every_packet_of_a_batch_of_raw_esp_arrives_whatever_their_sizes() {
    for outer_v4 in [true, false] {
        let pairing = Pairing { encapsulation: Encapsulation::None, outer_v4, ..Pairing::nets() };
        let mut sites = Sites::new();
        sites.up(&pairing, 2);
        for address in ["10.2.0.2", "fd02::2"] {
            let address: IpAddr = address.parse().unwrap();
            // Longer and shorter ones in turn; all of them fit any receive buffer.
            let sizes = (1..=100).map(|number| 1 + number * 7 % 400).collect();
            volley(&sites.a.client, &sites.b.client, address, sizes);
        }
        // Super-packets are cut into more packets than one system call takes.
        transfer(&sites.a.client, &sites.b.client, "10.2.0.2", 2_000_000);
        // Packets that have become too long for the path cost a moment, not the tunnel.
        for site in [&sites.a, &sites.b] {
            site.gateway.ip("link set wan mtu 1300");
        }
        transfer(&sites.a.client, &sites.b.client, "10.2.0.2", 500_000);
        let dropped: u64 = sites.b.live.snapshot()[0].counters().dropped.iter().sum();
        assert_eq!(dropped, 0);
        sites.a.release();
        sites.b.release();
    }
}

#[test]
fn esp_for_nobody_is_counted_packet_by_packet() {
    let mut sites = Sites::new();
    sites.up(&Pairing { encapsulation: Encapsulation::None, ..Pairing::nets() }, 2);
    let space = &sites.a.gateway;
    for (address, domain) in [("127.0.0.1", Domain::IPV4), ("::1", Domain::IPV6)] {
        let address: IpAddr = address.parse().unwrap();
        let before = sites.a.handle().counters().no_sa;
        space.within(move || {
            let esp = Some(Protocol::from(50));
            let socket = Socket::new(domain, Type::RAW, esp).unwrap();
            for spi in 0x7000_0000_u32..0x7000_0000 + 300 {
                let packet = [&spi.to_be_bytes()[..], &[7; 60]].concat();
                socket.send_to(&packet, &SocketAddr::from((address, 0)).into()).unwrap();
            }
        });
        eventually("counting", || sites.a.handle().counters().no_sa == before + 300);
    }
    sites.a.release();
    sites.b.release();
}
