//! The drive loop with a whole gateway in it and a data plane that misbehaves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail them")]

mod common;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use common::Fragile;
use crypto::random::OsRandom;
use daemon::{
    config::{self, Context, NoFiles},
    runtime::{
        clock::Clock,
        driver::{self, Datagram, Transmit, WireSide},
        handle::{self, Handle},
    },
};
use gateway::{
    Gateway, GatewayConfig, Randomness,
    command::{Command, Outcome, Target},
    spec::{ConnectionSpec, Origin},
};
use hw_offload::Backend;
use ike::config::Endpoints;
use sa_store::live::LiveTable;

struct World {
    handle: Handle,
    wire: WireSide,
    panics: Arc<AtomicBool>,
    sent: mpsc::Receiver<(Endpoints, Vec<u8>)>,
    thread: JoinHandle<()>,
}

/// What is sent goes to the channel.
fn start() -> World {
    start_with(|sent| {
        Box::new(move |path, payload, _keepalive| {
            let _ = sent.send((path, payload.to_vec()));
        })
    })
}

fn start_with(transmit: impl FnOnce(mpsc::Sender<(Endpoints, Vec<u8>)>) -> Transmit) -> World {
    let random = OsRandom::new().unwrap();
    let (wire, driver_side) = driver::wire_channel();
    let panics = Arc::new(AtomicBool::new(false));
    let wake = Arc::clone(&wire.wake);
    let mut backend = Fragile::new(Arc::clone(&panics));
    backend.set_waker(Arc::new(move || wake.notify_one()));
    let gateway = Gateway::new(
        GatewayConfig::default(),
        Box::new(backend),
        Arc::new(LiveTable::new()),
        Randomness { ike: Box::new(random), spis: Box::new(random), jitter: Box::new(random) },
    );
    let (handle, inbox) = handle::channel();
    let (send, sent) = mpsc::channel();
    let transmit = transmit(send);
    let thread =
        driver::spawn(gateway, Clock::start(), random, inbox, driver_side, transmit, 0).unwrap();
    World { handle, wire, panics, sent, thread }
}

fn tunnels(names: &[&str]) -> Vec<ConnectionSpec> {
    let text: String = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            format!(
                "[tunnels.{name}]\nlocal = {{ address = \"127.0.0.1\" }}\n\
                 remote = {{ address = \"192.0.2.{}\" }}\nauth = {{ psk = \"a key of 16 octets\" }}\n\
                 [tunnels.{name}.children.net]\nlocal = [\"10.1.0.0/16\"]\n\
                 remote = [\"10.{}.0.0/16\"]\n",
                index + 2,
                index + 2
            )
        })
        .collect();
    let context = Context { file: "x", folder: Path::new("/"), exposed: None, secrets: &NoFiles };
    config::parse(&text, &context).unwrap().connections
}

fn apply(names: &[&str]) -> Command {
    Command::Apply { origin: Origin::File, connections: tunnels(names) }
}

#[tokio::test]
async fn an_always_on_tunnel_calls_its_peer() {
    let world = start();
    assert!(matches!(world.handle.act(apply(&["a"])).await, Ok(Outcome::Done(_))));
    let first = tokio::task::spawn_blocking(move || {
        world.sent.recv_timeout(Duration::from_secs(20)).unwrap()
    });
    let (path, payload) = first.await.unwrap();
    assert_eq!(path.remote, "192.0.2.2:500".parse::<SocketAddr>().unwrap());
    // IKE_SA_INIT, initiator, version 2.0 (RFC 7296 §3.1).
    assert_eq!(payload.get(17..20), Some(&[0x20, 34, 0x08][..]));
}

#[tokio::test]
async fn a_panic_is_counted_answered_and_everything_else_goes_on() {
    let world = start();
    world.panics.store(true, Ordering::SeqCst);
    let lost = tokio::time::timeout(Duration::from_secs(20), world.handle.act(apply(&["a"]))).await;
    let said = matches!(&lost, Ok(Ok(Outcome::Failed { code, .. })) if code == "internal-error");
    assert!(said, "{lost:?}");
    assert_eq!(world.handle.status().await.unwrap().internal_errors, 1);
    let target = Target { tunnel: "nowhere".into(), child: None };
    let answer = world.handle.act(Command::Up(target)).await.unwrap();
    assert!(matches!(answer, Outcome::Failed { code, .. } if code == "unknown-tunnel"));
    drop(world.handle);
    world.thread.join().unwrap();
}

#[tokio::test]
async fn a_panic_on_the_way_out_ends_one_datagram() {
    let sending = Arc::new(AtomicBool::new(true));
    let broken = Arc::clone(&sending);
    let world = start_with(move |sent| {
        Box::new(move |path, payload, _| {
            assert!(!broken.swap(false, Ordering::SeqCst), "planted");
            let _ = sent.send((path, payload.to_vec()));
        })
    });
    assert!(matches!(world.handle.act(apply(&["a"])).await, Ok(Outcome::Done(_))));
    // The first message is lost like one on the wire; IKE sends it again.
    let again = tokio::task::spawn_blocking(move || {
        world.sent.recv_timeout(Duration::from_secs(20)).unwrap()
    });
    let (_, payload) = again.await.unwrap();
    assert_eq!(payload.get(18), Some(&34));
    assert!(!sending.load(Ordering::SeqCst));
    assert_eq!(world.handle.status().await.unwrap().internal_errors, 1);
}

/// Any number of questions does not keep a peer's datagram waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_questions_do_not_keep_peers_waiting() {
    let world = start();
    // The more tunnels there are, the more each answer costs the thread that serves the peers.
    let names: Vec<String> = (0..200).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(matches!(world.handle.act(apply(&names)).await, Ok(Outcome::Done(_))));
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let asking: Vec<_> = (0..64)
        .map(|_| {
            let (handle, stop, asked) =
                (world.handle.clone(), Arc::clone(&stop), Arc::clone(&asked));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    assert!(handle.status().await.is_ok());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let flows = async {
        while asked.load(Ordering::Relaxed) < 500 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), flows).await.unwrap();
    let path = Endpoints {
        local: "127.0.0.1:500".parse().unwrap(),
        remote: "192.0.2.77:500".parse().unwrap(),
    };
    for number in 1..=10 {
        assert!(world.wire.deliver(Datagram { path, payload: vec![0; 40] }));
        let counted = async {
            loop {
                let status = world.handle.status().await.unwrap().status;
                if status.ike_dropped.iter().map(|(_, count)| count).sum::<u64>() >= number {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), counted).await.unwrap();
    }
    assert!(asking.iter().all(|one| !one.is_finished()), "the flood went on all the time");
    stop.store(true, Ordering::Relaxed);
    for one in asking {
        one.await.unwrap();
    }
}

#[tokio::test]
async fn floods_of_nonsense_do_not_keep_management_waiting() {
    let world = start();
    assert!(matches!(world.handle.act(apply(&["a"])).await, Ok(Outcome::Done(_))));
    let stop = Arc::new(AtomicBool::new(false));
    let (flooding, wire) = (Arc::clone(&stop), world.wire.clone());
    let (flows, flowing) = mpsc::channel();
    let flood = std::thread::spawn(move || {
        let path = Endpoints {
            local: "127.0.0.1:500".parse().unwrap(),
            remote: "192.0.2.77:500".parse().unwrap(),
        };
        let mut taken = 0u64;
        while !flooding.load(Ordering::Relaxed) {
            let payload = vec![u8::try_from(taken & 0xff).unwrap_or(0); 60];
            taken += u64::from(wire.deliver(Datagram { path, payload }));
            if taken == 5000 {
                let _ = flows.send(());
            }
        }
        taken
    });
    tokio::task::spawn_blocking(move || flowing.recv()).await.unwrap().unwrap();
    for _ in 0..50 {
        let asked = tokio::time::timeout(Duration::from_secs(2), world.handle.status()).await;
        assert_eq!(asked.unwrap().unwrap().internal_errors, 0);
    }
    stop.store(true, Ordering::Relaxed);
    assert!(flood.join().unwrap() >= 5000);
    let status = world.handle.status().await.unwrap().status;
    assert!(status.ike_dropped.iter().any(|(_, count)| *count > 0), "{:?}", status.ike_dropped);
}

#[tokio::test]
async fn datagrams_wait_for_the_configuration() {
    let world = start();
    let path = Endpoints {
        local: "127.0.0.1:500".parse().unwrap(),
        remote: "192.0.2.2:500".parse().unwrap(),
    };
    assert!(world.wire.deliver(Datagram { path, payload: vec![0; 40] }));
    let before = world.handle.status().await.unwrap().status;
    assert!(before.ike_dropped.iter().all(|(_, count)| *count == 0), "it was looked at");
    assert!(matches!(world.handle.act(apply(&["a"])).await, Ok(Outcome::Done(_))));
    let counted = async {
        loop {
            let status = world.handle.status().await.unwrap().status;
            if status.ike_dropped.iter().any(|(_, count)| *count > 0) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), counted).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_first_requests_takes_no_room_from_others() {
    let world = start();
    let path = Endpoints {
        local: "127.0.0.1:500".parse().unwrap(),
        remote: "192.0.2.2:500".parse().unwrap(),
    };
    // The header of an IKE_SA_INIT request, and of an IKE_AUTH request. Without a configuration
    // nothing is taken out of the queues.
    let header = |spi_r: u8, exchange: u8| {
        let mut header = vec![7; 28];
        header.splice(8..20, [0, 0, 0, 0, 0, 0, 0, spi_r, 0, 0x20, exchange, 0x08]);
        header
    };
    let deliver = |payload: Vec<u8>| world.wire.deliver(Datagram { path, payload });
    let taken = (0..10_000).filter(|_| deliver(header(0, 34))).count();
    assert!((1000..10_000).contains(&taken), "{taken} may wait");
    assert!(!deliver(header(0, 34)));
    assert!(deliver(header(1, 35)), "whoever has got further finds room");
}

#[tokio::test]
async fn long_first_requests_take_no_room_from_others_and_not_much_memory() {
    let path = Endpoints {
        local: "127.0.0.1:500".parse().unwrap(),
        remote: "192.0.2.2:500".parse().unwrap(),
    };
    for length in [1000, 4000, 4096, 4097, 60_000] {
        let world = start();
        let deliver = |payload: Vec<u8>| world.wire.deliver(Datagram { path, payload });
        let mut first = vec![7; length];
        first.splice(8..20, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 34, 0x08]);
        let taken = (0..10_000).filter(|_| deliver(first.clone())).count();
        assert_eq!(taken > 0, length <= 4096, "of {length} octets {taken} wait");
        assert!(taken * length <= 8 << 20, "of {length} octets {taken} wait");
        let mut auth = first;
        auth.splice(15..19, [1, 0, 0x20, 35]);
        assert!(deliver(auth.clone()), "whoever has got further finds room");
        let taken = (0..10_000).filter(|_| deliver(auth.clone())).count();
        assert!(taken * length <= 8 << 20, "of {length} octets {taken} wait");
    }
}
