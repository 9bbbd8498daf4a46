//! The inline data plane keeps the contract of every backend: with a real TUN interface, real
//! sockets and a peer that counts what arrives, in namespaces of the test's own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant as Clock},
};

use common::{Namespace, wire};
use fastpath::{InlineBackend, InlineConfig, InlineHandle};
use hw_offload::{Backend, contract};
use sa_store::{Direction, Instant, live::LiveTable};

struct Driver {
    backend: Option<InlineBackend>,
    handle: InlineHandle,
    live: Arc<LiveTable>,
    woken: Arc<(Mutex<bool>, Condvar)>,
    start: Clock,
    /// The peer's sockets.
    peers: Vec<UdpSocket>,
    /// Where clear packets come out.
    clear: UdpSocket,
    gateway: Namespace,
    _peer: Namespace,
}

impl Driver {
    fn new(capacity: Option<u64>) -> Self {
        let (gateway, peer) = (Namespace::new(), Namespace::new());
        wire(&gateway, "wan", &peer, "wan");
        gateway.ip("addr add 192.0.2.1/24 dev wan");
        wire(&gateway, "lan", &peer, "far");
        gateway.ip("addr add 10.101.0.1/16 dev lan");
        peer.ip("addr add 192.0.2.2/24 dev wan");
        let peers = peer.within(|| {
            [4500, 45_000].map(|port| {
                let socket = UdpSocket::bind(("192.0.2.2", port)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                socket
            })
        });
        let clear = gateway.within(|| {
            let socket = UdpSocket::bind("10.101.0.1:7").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        let live = Arc::new(LiveTable::new());
        let shared = Arc::clone(&live);
        let mut backend = gateway.within(move || {
            let mut config = InlineConfig { workers: Some(2), ..InlineConfig::default() };
            config.max_sas = capacity.unwrap_or(config.max_sas);
            InlineBackend::start(config, shared, Arc::new(|_| {})).unwrap()
        });
        let woken = Arc::new((Mutex::new(false), Condvar::new()));
        let wake = Arc::clone(&woken);
        backend.set_waker(Arc::new(move || {
            *wake.0.lock().unwrap() = true;
            wake.1.notify_all();
        }));
        Self {
            handle: backend.handle(),
            backend: Some(backend),
            live,
            woken,
            start: Clock::now(),
            peers: peers.into(),
            clear,
            gateway,
            _peer: peer,
        }
    }

    /// Packets that got through in one direction, and packets that did not; those of no SA count
    /// as such in both.
    fn dealt_with(&self, direction: Direction) -> (u64, u64) {
        let node = self.handle.counters();
        let (mut passed, mut dropped) = (0, node.policy + node.no_sa);
        for sa in self.live.snapshot().iter().filter(|sa| sa.direction() == direction) {
            let counters = sa.counters();
            passed += counters.packets;
            dropped += counters.dropped.iter().sum::<u64>();
        }
        (passed, dropped)
    }

    /// Waits until `packets` are dealt with; how many of them passed.
    fn passed(&self, direction: Direction, before: (u64, u64), packets: u64) -> u64 {
        let until = Clock::now() + Duration::from_secs(5);
        loop {
            let now = self.dealt_with(direction);
            let (passed, dropped) = (now.0 - before.0, now.1 - before.1);
            if passed + dropped >= packets || Clock::now() > until {
                return passed;
            }
            std::thread::yield_now();
        }
    }
}

impl contract::Driver for Driver {
    fn backend(&mut self) -> &mut dyn Backend {
        self.backend.as_mut().unwrap()
    }

    fn now(&mut self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap())
    }

    fn wait(&mut self) {
        let (flag, woken) = &*self.woken;
        let guard = flag.lock().unwrap();
        let (mut guard, _) =
            woken.wait_timeout_while(guard, Duration::from_millis(100), |woken| !*woken).unwrap();
        *guard = false;
    }

    fn send(&mut self, source: IpAddr, destination: IpAddr, packets: u32, to: SocketAddr) -> u64 {
        let before = self.dealt_with(Direction::Outbound);
        self.gateway.within(move || {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            for number in 0..packets {
                // Blocked packets may come back as errors; the counters tell.
                let _ = socket.send_to(&number.to_be_bytes(), (destination, 7));
            }
        });
        let sealed = self.passed(Direction::Outbound, before, packets.into());
        let (mut arrived, mut wanted) = (0, 0);
        for socket in &self.peers {
            while arrived < sealed {
                let mut esp = [0; 2048];
                let Ok((len, from)) = socket.recv_from(&mut esp) else { break };
                assert_eq!(from.to_string(), "192.0.2.1:4500");
                assert!(len > 40 && esp[..4] != [0; 4], "that is no ESP");
                arrived += 1;
                wanted += u64::from(socket.local_addr().unwrap() == to);
            }
        }
        wanted
    }

    fn receive(&mut self, from: SocketAddr, esp: &[u8]) -> Option<Vec<u8>> {
        let before = self.dealt_with(Direction::Inbound);
        let peer = self.peers.iter().find(|socket| socket.local_addr().unwrap() == from).unwrap();
        peer.send_to(esp, "192.0.2.1:4500").unwrap();
        self.passed(Direction::Inbound, before, 1);
        let mut payload = [0; 2048];
        let (len, _) = self.clear.recv_from(&mut payload).ok()?;
        Some(payload[..len].to_vec())
    }
}

#[test]
fn the_inline_data_plane_keeps_the_contract() {
    let findings = contract::run(&mut |capacity| Box::new(Driver::new(capacity)));
    assert!(findings.is_empty(), "{findings:#?}");
}
