//! The packets of an SA leave in the order of their numbers, whichever worker seals them.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sa_store::{Encapsulation, SaId, live::DropReason};

use crate::{
    common::sites::{Pairing, Sites},
    transfer,
};

/// The least window a receiver may have (RFC 4303 §3.4.3), and the default of strongSwan.
const WINDOW: u32 = 32;

/// A bulk transfer stays on one worker; datagrams of ever new flows come from all of them.
#[test]
fn workers_that_share_an_sa_do_not_overtake_each_other() {
    for encapsulation in [Encapsulation::Udp, Encapsulation::None] {
        let pairing = Pairing { window: WINDOW, encapsulation, ..Pairing::nets() };
        let mut sites = Sites::new();
        sites.up(&pairing, 2);
        let sink = sites.b.client.within(|| UdpSocket::bind("10.2.0.2:9005").unwrap());
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let flows = sites.a.client.spawn(move || {
            let mut sent = 0_u32;
            while !end.load(Ordering::Acquire) {
                // A fresh port each time: the interface knows no worker for it yet.
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                sent += u32::from(socket.send_to(&[0; 64], "10.2.0.2:9005").is_ok());
                std::thread::sleep(Duration::from_micros(500));
            }
            sent
        });
        transfer(&sites.a.client, &sites.b.client, "10.2.0.2", 100_000_000);
        ended.store(true, Ordering::Release);
        assert!(flows.join().unwrap() > 100, "the flows ran beside the transfer");
        drop(sink);
        let inbound = sites.b.live.get(SaId(2)).unwrap().counters();
        assert!(inbound.packets > 70_000, "{inbound:?}");
        assert_eq!(inbound.dropped(DropReason::Replay), 0, "{encapsulation}: {inbound:?}");
        sites.a.release();
        sites.b.release();
    }
}
