//! A bug in the way of one peer's negotiation: the other tunnels do not notice, and the log is not
//! filled by whoever can cause it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail them")]

mod common;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use common::Fragile;
use crypto::random::{OsRandom, RandomSource};
use daemon::{
    config::{self, Context, NoFiles},
    runtime::{
        clock::Clock,
        driver::{self, Datagram, DriverSide, WireSide},
        handle::{self, Handle},
    },
};
use gateway::{
    Gateway, GatewayConfig, Randomness,
    command::{Command, Outcome, Target},
    read_model::TunnelState,
    spec::Origin,
};
use hw_offload::Backend;
use ike::config::Endpoints;
use sa_store::live::LiveTable;

const LIMIT: Duration = Duration::from_secs(60);

/// What negotiations draw their nonces from; panics while it is armed.
struct Armed {
    random: OsRandom,
    armed: Arc<AtomicBool>,
}

impl RandomSource for Armed {
    fn fill(&mut self, out: &mut [u8]) {
        assert!(!self.armed.load(Ordering::SeqCst), "planted");
        self.random.fill(out);
    }
}

/// Where everybody's datagrams go in.
type Wire = HashMap<IpAddr, WireSide>;

/// Every datagram that anybody sent to the subject.
type Sent = mpsc::Sender<(Endpoints, Vec<u8>)>;

/// Runs a whole gateway at `address`, on a wire of channels.
fn start(
    wire: &Arc<Wire>,
    (own, side): (WireSide, DriverSide),
    armed: &Arc<AtomicBool>,
    sent: Sent,
) -> Handle {
    let random = OsRandom::new().unwrap();
    let mut backend = Fragile::new(Arc::default());
    let wake = own.wake;
    backend.set_waker(Arc::new(move || wake.notify_one()));
    let gateway = Gateway::new(
        GatewayConfig::default(),
        Box::new(backend),
        Arc::new(LiveTable::new()),
        Randomness {
            ike: Box::new(Armed { random, armed: Arc::clone(armed) }),
            spis: Box::new(random),
            jitter: Box::new(random),
        },
    );
    let wire = Arc::clone(wire);
    let transmit = Box::new(move |path: Endpoints, payload: &[u8], _keepalive: bool| {
        let path = Endpoints { local: path.remote, remote: path.local };
        if let Some(to) = wire.get(&path.local.ip()) {
            let _ = to.deliver(Datagram { path, payload: payload.to_vec() });
        }
        let _ = sent.send((path, payload.to_vec()));
    });
    let (handle, inbox) = handle::channel();
    driver::spawn(gateway, Clock::start(), random, inbox, side, transmit, 0).unwrap();
    handle
}

/// Tunnels from `local` to each of `remotes`, called after the last octet of the other end.
async fn apply(handle: &Handle, local: &str, remotes: &[&str], mode: &str) {
    let text: String = remotes
        .iter()
        .map(|remote| {
            let end = |address: &str| address.rsplit('.').next().unwrap().to_owned();
            let (us, them) = (end(local), end(remote));
            format!(
                "[tunnels.to-{them}]\nmode = \"{mode}\"\nlocal = {{ address = \"{local}\" }}\n\
                 remote = {{ address = \"{remote}\" }}\nauth = {{ psk = \"a key of 16 octets\" }}\n\
                 [tunnels.to-{them}.children.net]\nlocal = [\"10.{us}.0.0/16\"]\n\
                 remote = [\"10.{them}.0.0/16\"]\n",
            )
        })
        .collect();
    let context = Context { file: "x", folder: Path::new("/"), exposed: None, secrets: &NoFiles };
    let connections = config::parse(&text, &context).unwrap().connections;
    let outcome = handle.act(Command::Apply { origin: Origin::File, connections }).await;
    assert!(matches!(outcome, Ok(Outcome::Done(_))), "{outcome:?}");
}

/// Does something that has to work.
async fn must(handle: &Handle, command: fn(Target) -> Command, tunnel: &str) {
    let target = Target { tunnel: tunnel.to_owned(), child: None };
    let outcome = tokio::time::timeout(LIMIT, handle.act(command(target))).await;
    assert!(matches!(outcome, Ok(Ok(Outcome::Done(_)))), "{tunnel}: {outcome:?}");
}

/// The state of a tunnel, and how many inputs a panic has ended.
async fn state(handle: &Handle, tunnel: &str) -> (TunnelState, u64) {
    let snapshot = handle.status().await.unwrap();
    let found = snapshot.status.tunnels.iter().find(|one| one.name == tunnel).unwrap();
    (found.state, snapshot.internal_errors)
}

/// Waits until a panic has ended this many inputs.
async fn panics(handle: &Handle, least: u64) -> u64 {
    let counted = async {
        loop {
            let counted = handle.status().await.unwrap().internal_errors;
            if counted >= least {
                return counted;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, counted).await.unwrap()
}

/// A log that is kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_panic_in_one_negotiation_ends_only_that_and_fills_no_log() {
    let log = Log::default();
    let writer = log.clone();
    let logging = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
    tracing::subscriber::set_global_default(logging.finish()).unwrap();
    daemon::logs::tell_panics();

    let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let sides = addresses.map(|_| driver::wire_channel());
    let wire: Arc<Wire> = Arc::new(
        addresses
            .iter()
            .zip(&sides)
            .map(|(at, side)| (at.parse().unwrap(), side.0.clone()))
            .collect(),
    );
    let (armed, never) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (sent, seen) = mpsc::channel();
    let [first, second, third] = sides;
    let subject = start(&wire, first, &armed, sent.clone());
    apply(&subject, "192.0.2.1", &["192.0.2.2", "192.0.2.3"], "passive").await;
    let bystander = start(&wire, second, &never, sent.clone());
    apply(&bystander, "192.0.2.2", &["192.0.2.1"], "always-on").await;
    must(&bystander, Command::Up, "to-1").await;

    // Whatever the other peer sends meets a bug from now on.
    armed.store(true, Ordering::SeqCst);
    let unlucky = start(&wire, third, &never, sent);
    apply(&unlucky, "192.0.2.3", &["192.0.2.1"], "always-on").await;
    panics(&subject, 1).await;
    let from: SocketAddr = "192.0.2.3:500".parse().unwrap();
    let (path, payload) = tokio::task::spawn_blocking(move || {
        seen.iter().find(|(path, _)| path.remote == from).unwrap()
    })
    .await
    .unwrap();
    let to_subject = wire.get(&path.local.ip()).unwrap();
    for _ in 0..1000 {
        assert!(to_subject.deliver(Datagram { path, payload: payload.clone() }));
    }
    panics(&subject, 1001).await;

    // The other tunnel stands and works.
    assert_eq!(state(&subject, "to-2").await.0, TunnelState::Established);
    armed.store(false, Ordering::SeqCst);
    must(&bystander, Command::Rekey, "to-1").await;
    must(&subject, Command::Rekey, "to-2").await;
    // Once the bug is gone, the unlucky one comes up as well.
    must(&unlucky, Command::Up, "to-1").await;
    let (state, errors) = state(&subject, "to-3").await;
    assert_eq!(state, TunnelState::Established);
    assert!(errors >= 1001, "{errors}");

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert!((1..=20).contains(&lines("planted")), "{}", lines("planted"));
    assert!((1..=20).contains(&lines("it was given up")), "{log}");
    assert!(lines("") < 200, "{log}");
}
