//! Workers allocate nothing for a packet, whatever becomes of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../common/mod.rs"]
mod common;
mod counted;

use std::net::{SocketAddr, UdpSocket};

use common::{
    Namespace, eventually,
    sites::{Pairing, Sites},
};
use sa_store::{Encapsulation, EspCipher, EspSuite, IntegrityAlgorithm, SaId};

/// Datagrams from one side to the other, short ones and some that have to be cut; `count` of each.
fn talk(from: &Namespace, to: SocketAddr, count: usize) {
    from.within(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..count {
            for len in [10, 1300, 5000] {
                // What is in the way of one is a loss like any other.
                let _ = socket.send_to(&vec![7; len], to);
            }
        }
    });
}

#[test]
fn workers_allocate_nothing_for_packets_that_pass_or_do_not() {
    for (encapsulation, cipher, mac) in [
        (Encapsulation::Udp, EspCipher::AesGcm16(256), None),
        (Encapsulation::None, EspCipher::ChaCha20Poly1305, None),
        (Encapsulation::Udp, EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha256_128)),
    ] {
        let suite = EspSuite::new(cipher, mac).unwrap();
        // A third of what is sent to 9001 comes in fragments that have to be put together.
        let ports = Pairing::new(&["10.1.0.0/16"], &["10.2.0.0/16[udp/9001]"]);
        let mut sites = Sites::new();
        sites.up(&Pairing { encapsulation, suite, ..ports }, 2);
        let sink = sites.b.client.within(|| UdpSocket::bind("10.2.0.2:9001").unwrap());
        let covered: SocketAddr = "10.2.0.2:9001".parse().unwrap();
        let strangers: SocketAddr = "192.0.2.1:4500".parse().unwrap();
        let opened = || sites.b.live.get(SaId(2)).unwrap().counters().packets;
        let round = |count: u64| {
            let before = (opened(), sites.a.handle().counters().no_sa);
            talk(&sites.a.client, covered, count as usize);
            // ESP of an SA that nobody has.
            talk(&sites.b.gateway, strangers, count as usize);
            eventually("packets through the tunnel and without an SA", || {
                let now = (opened(), sites.a.handle().counters().no_sa);
                now.0 >= before.0 + 2 * count && now.1 >= before.1 + 2 * count
            });
        };
        // Libraries make something once for each thread, and a worker may see its first packet or
        // its first error at any time. What is made for packets is made every time.
        let mut rounds = (0..5).map(|_| {
            let before = counted::allocations();
            round(300);
            counted::allocations() - before
        });
        assert!(rounds.any(|made| made == 0), "{encapsulation} {suite:?}");
        assert!(counted::allocations() > 0, "the buffers of the workers are counted");
        drop(sink);
        sites.a.release();
        sites.b.release();
    }
}
