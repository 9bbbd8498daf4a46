//! The control protocol over a real socket, with a fake gateway behind it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail them")]

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::postern::v1::{
    ActRequest, Count, EventsRequest, GetStatusRequest, GetVersionRequest, ReloadRequest,
    control_client::ControlClient,
};
use daemon::{
    config::{self, OnStop},
    control::{
        grpc::{self, NodeStatus, Service},
        reload::{Reloader, Settings},
        socket::ControlSocket,
    },
    runtime::handle::{self, Ask, Inbox, Snapshot, TimedEvent},
};
use gateway::{
    command::{Command, Outcome},
    read_model::{
        ChildStatus, EventRecord, IkeSaStatus, LastError, Status, TunnelState, TunnelStatus,
    },
};
use hw_offload::DropCounters;
use hyper_util::rt::TokioIo;
use ike::view::{ChildState, IkeState};
use sa_store::Instant;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

const TUNNEL: &str = "\
[gateway]
name = \"site-a\"
[tunnels.b]
remote = { address = \"192.0.2.2\" }
auth = { psk_file = \"b.psk\" }
[tunnels.b.children.net]
local = [\"10.1.0.0/16\"]
remote = [\"10.2.0.0/16\"]
";

struct World {
    folder: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    server: Option<tokio::task::JoinHandle<()>>,
    inbox: Inbox,
    reloader: Arc<Reloader>,
}

impl World {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pt-{}-control-{name}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o755).create(&folder).unwrap();
        write_secret(&folder.join("b.psk"), "0123456789abcdef");
        write_secret(&folder.join("config.toml"), TUNNEL);
        let config = config::load(&folder.join("config.toml")).unwrap();
        let (handle, inbox) = handle::channel();
        let settings = Settings::of(&config);
        let reloader = Reloader::new(folder.join("config.toml"), handle.clone(), settings);
        let reloader = Arc::new(reloader);
        let service = Service::new(
            handle,
            Arc::clone(&reloader),
            Arc::new(|| NodeStatus {
                no_sa: 7,
                panics: 2,
                dropped: vec![("malformed", 4)],
                ike_overload: 5,
                warnings: vec!["something is off".into()],
                clear: vec![("10.1.0.0/24".into(), "lan".into())],
            }),
        );
        let socket = ControlSocket::bind(&folder.join("control.sock")).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let listener = socket.listener().unwrap();
            let stopped = async { stopped.await.unwrap_or_default() };
            grpc::serve(service, listener, stopped).await.unwrap();
        });
        Self { folder, stop: Some(stop), server: Some(server), inbox, reloader }
    }

    async fn client(&self) -> ControlClient<Channel> {
        connect(&self.folder.join("control.sock")).await
    }

    /// Answers one question as the fake gateway.
    async fn answer(&mut self, outcome: Outcome) -> Command {
        match self.inbox.asks.recv().await.unwrap() {
            Ask::Act(command, reply) => {
                let _ = reply.send(outcome);
                command
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn write_secret(path: &Path, text: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

async fn connect(path: &Path) -> ControlClient<Channel> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://x").connect_with_connector(connector).await;
    ControlClient::new(channel.unwrap())
}

fn seconds(s: u64) -> Instant {
    Instant::from_nanos(s * 1_000_000_000)
}

fn snapshot() -> Snapshot {
    let end = |text: &str| -> SocketAddr { text.parse().unwrap() };
    let tunnel = TunnelStatus {
        name: "b".into(),
        mode: "always-on",
        state: TunnelState::Connecting,
        held: false,
        local: end("0.0.0.0:500"),
        local_id: "a.example".into(),
        remote: end("0.0.0.0:500"),
        remote_configured: "b.example".into(),
        remote_id: "%any".into(),
        ike_sas: vec![IkeSaStatus {
            id: 1,
            state: IkeState::Connecting,
            initiator: true,
            spi_i: "0123456789abcdef".into(),
            spi_r: "0000000000000000".into(),
            proposal: String::new(),
            established: None,
            rekey_at: Some(Instant::NEVER),
            nat_local: false,
            nat_remote: true,
        }],
        children: vec![ChildStatus {
            name: "net".into(),
            id: 3,
            state: Some(ChildState::Installed),
            path: "inline".into(),
            encap: "udp".into(),
            spi_in: "c1a2b3c4".into(),
            spi_out: "d4c3b2a1".into(),
            proposal: "aes256gcm16-esn".into(),
            esn: true,
            local: vec!["10.1.0.0/16".into()],
            remote: vec!["10.2.0.0/16".into()],
            narrowed: "10.3.0.0/16 stays blocked".into(),
            uncovered_local: Vec::new(),
            uncovered_remote: vec!["10.3.0.0/16".into()],
            bytes_in: 1,
            packets_in: 2,
            bytes_out: 3,
            packets_out: 4,
            dropped: DropCounters { replay: 5, ..DropCounters::default() },
            installed: Some(seconds(88)),
            rekey_at: Some(seconds(160)),
            expires_at: None,
            draining: Vec::new(),
            passed_over: Vec::new(),
        }],
        last_error: Some(LastError {
            code: "peer-unreachable".into(),
            message: "no answer".into(),
            at: seconds(97),
        }),
        next_attempt: Some(seconds(104)),
    };
    let status = Status { tunnels: vec![tunnel], no_sa: 0, ike_dropped: vec![("version", 9)] };
    Snapshot { status, now: seconds(100), internal_errors: 1 }
}

#[tokio::test]
async fn status_goes_through_whole() {
    let mut world = World::start("status");
    let mut client = world.client().await;
    let asking = tokio::spawn(async move {
        client.get_status(GetStatusRequest::default()).await.unwrap().into_inner()
    });
    match world.inbox.asks.recv().await.unwrap() {
        Ask::Status(reply) => reply.send(snapshot()).unwrap(),
        other => panic!("{other:?}"),
    }
    let status = asking.await.unwrap();
    assert_eq!((status.gateway.as_str(), status.no_sa, status.internal_errors), ("site-a", 7, 3));
    let counts =
        |all: &[Count]| all.iter().map(|one| (one.reason.clone(), one.count)).collect::<Vec<_>>();
    let named = |reason: &str, count| (reason.to_owned(), count);
    assert_eq!(counts(&status.ike_dropped), [named("version", 9), named("overload", 5)]);
    assert_eq!(counts(&status.dropped), [named("malformed", 4)]);
    assert_eq!(status.warnings, ["something is off"]);
    assert_eq!((&*status.clear[0].network, &*status.clear[0].interface), ("10.1.0.0/24", "lan"));
    let tunnel = &status.tunnels[0];
    assert_eq!((&*tunnel.state, tunnel.next_attempt_in_s), ("connecting", Some(4)));
    assert_eq!(tunnel.local.as_ref().unwrap().address, "");
    assert_eq!(tunnel.remote.as_ref().unwrap().address, "b.example");
    assert_eq!(tunnel.last_error.as_ref().unwrap().ago_s, 3);
    assert_eq!((tunnel.ike_sas[0].rekey_in_s, tunnel.ike_sas[0].nat_remote), (None, true));
    let child = &tunnel.children[0];
    assert_eq!(
        (&*child.state, child.installed_s, child.rekey_in_s),
        ("installed", Some(12), Some(60))
    );
    assert_eq!(child.dropped.unwrap().replay, 5);

    let mut client = world.client().await;
    let asking = tokio::spawn(async move {
        client.get_status(GetStatusRequest { tunnel: "nowhere".into() }).await.unwrap_err()
    });
    match world.inbox.asks.recv().await.unwrap() {
        Ask::Status(reply) => reply.send(snapshot()).unwrap(),
        other => panic!("{other:?}"),
    }
    assert!(asking.await.unwrap().message().contains("nowhere"));
}

#[tokio::test]
async fn actions_wait_for_their_outcome_and_no_longer_than_asked() {
    let mut world = World::start("act");
    let mut client = world.client().await;
    let act = |timeout_ms| ActRequest { tunnel: "b".into(), child: "net".into(), timeout_ms };
    let asking = tokio::spawn(async move {
        let done = client.up(act(0)).await.unwrap().into_inner();
        let failed = client.down(act(0)).await.unwrap().into_inner();
        let late = client.rekey(act(50)).await.unwrap().into_inner();
        let unnamed = client.up(ActRequest::default()).await.unwrap_err();
        (done, failed, late, unnamed.code())
    });
    let command = world.answer(Outcome::Done("established".into())).await;
    assert!(
        matches!(command, Command::Up(t) if t.tunnel == "b" && t.child.as_deref() == Some("net"))
    );
    let no = Outcome::Failed { code: "not-up".into(), message: "it is down".into() };
    assert!(matches!(world.answer(no).await, Command::Down(_)));
    // The last one gets no answer while the caller waits.
    let Some(Ask::Act(Command::Rekey(_), unanswered)) = world.inbox.asks.recv().await else {
        panic!("no rekey")
    };
    let (done, failed, late, unnamed) = asking.await.unwrap();
    drop(unanswered);
    assert_eq!((done.done, &*done.message), (true, "established"));
    assert_eq!((failed.done, &*failed.code), (false, "not-up"));
    assert_eq!((late.done, &*late.code), (false, "timeout"));
    assert_eq!(unnamed, tonic::Code::InvalidArgument);
}

fn event(sequence: u64) -> TimedEvent {
    TimedEvent {
        unix_ms: 1000,
        record: EventRecord {
            sequence,
            at: Instant::ZERO,
            tunnel: Some("b".into()),
            child: None,
            kind: "failed",
            code: Some("peer-unreachable".into()),
            stranger: false,
            message: "no answer".into(),
        },
    }
}

#[tokio::test]
async fn followers_get_what_was_kept_and_what_happens_once_each() {
    let mut world = World::start("events");
    let mut client = world.client().await;
    let following = tokio::spawn(async move {
        let request = EventsRequest { follow: true, since: 1 };
        let mut stream = client.events(request).await.unwrap().into_inner();
        let mut numbers = Vec::new();
        while numbers.last() != Some(&400) {
            numbers.push(stream.message().await.unwrap().unwrap().sequence);
        }
        numbers
    });
    // The first question; while it is answered, an event happens.
    let Some(Ask::Events(1, reply)) = world.inbox.asks.recv().await else { panic!("no question") };
    world.inbox.events.send(event(2)).unwrap();
    world.inbox.events.send(event(3)).unwrap();
    reply.send(vec![event(2)]).unwrap();
    // Far more than is buffered for a slow reader.
    for sequence in 4..=400 {
        world.inbox.events.send(event(sequence)).unwrap();
    }
    // It falls behind, and asks for what it missed.
    while let Some(Ask::Events(since, reply)) = world.inbox.asks.recv().await {
        reply.send((since + 1..=400).map(event).collect()).unwrap();
        if following.is_finished() || since >= 2 {
            break;
        }
    }
    let numbers = following.await.unwrap();
    assert_eq!(numbers, (2..=400).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_reload_is_all_or_nothing() {
    let mut world = World::start("reload");
    let path = world.folder.join("config.toml");
    let mut client = world.client().await;

    std::fs::write(&path, TUNNEL.replace("local =", "locla =")).unwrap();
    let reply = client.reload(ReloadRequest {}).await.unwrap().into_inner();
    assert!(!reply.applied && reply.message.contains("did you mean `local`?"), "{reply:?}");

    std::fs::write(&path, TUNNEL.replace("name =", "control = \"x.sock\"\nname =")).unwrap();
    let reply = client.reload(ReloadRequest {}).await.unwrap().into_inner();
    assert!(!reply.applied && reply.message.contains("`gateway.control`"), "{reply:?}");
    assert!(world.inbox.asks.try_recv().is_err(), "the gateway was asked about a refused file");

    std::fs::write(&path, TUNNEL.replace("site-a", "site-c")).unwrap();
    let asking =
        tokio::spawn(async move { client.reload(ReloadRequest {}).await.unwrap().into_inner() });
    let command = world.answer(Outcome::Done("1 tunnel".into())).await;
    assert!(matches!(command, Command::Apply { connections, .. } if connections.len() == 1));
    let reply = asking.await.unwrap();
    assert_eq!((reply.applied, &*reply.message), (true, "1 tunnel"));
}

#[tokio::test]
async fn a_reload_whose_caller_goes_away_is_brought_to_its_end() {
    let mut world = World::start("gone");
    let text = TUNNEL.replace("name =", "on_stop = \"open\"\nname =");
    std::fs::write(world.folder.join("config.toml"), text).unwrap();
    let mut client = world.client().await;
    let asking = tokio::spawn(async move { client.reload(ReloadRequest {}).await });
    let Some(Ask::Act(Command::Apply { .. }, mut reply)) = world.inbox.asks.recv().await else {
        panic!("nothing was applied")
    };
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    // The server notices; the tunnels are changed by now, and the settings have to follow.
    let given_up = tokio::time::timeout(Duration::from_millis(300), reply.closed()).await;
    assert!(given_up.is_err(), "nobody waits for the outcome");
    reply.send(Outcome::Done("1 tunnel".into())).unwrap();
    let changed = async {
        while world.reloader.settings().on_stop != OnStop::Open {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), changed).await.unwrap();
}

#[tokio::test]
async fn hostile_octets_hurt_nobody_else() {
    let world = World::start("hostile");
    let path = world.folder.join("control.sock");
    let attack = tokio::task::spawn_blocking(move || {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let attacks: [&[u8]; 5] = [
            &[0; 4096],
            &[0xff; 4096],
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            // A frame that says it has 16 MiB, and one of an unknown type.
            &[&preface[..], &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1, 1, 2, 3]].concat(),
            &[&preface[..], &[0, 0, 1, 0xee, 0, 0, 0, 0, 0, 9]].concat(),
        ];
        for attack in attacks {
            let mut stream = UnixStream::connect(&path).unwrap();
            let _ = stream.write_all(attack);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        // Connections that say nothing stay open.
        (0..50).map(|_| UnixStream::connect(&path).unwrap()).collect::<Vec<_>>()
    });
    let silent = attack.await.unwrap();
    let mut client = world.client().await;
    let version = client.get_version(GetVersionRequest {}).await.unwrap().into_inner().version;
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    // What is larger than any request is refused.
    let request = GetStatusRequest { tunnel: "x".repeat(1 << 20) };
    assert!(client.get_status(request).await.is_err());
    drop(silent);
}

#[tokio::test]
async fn a_stopping_daemon_says_so_and_removes_its_socket() {
    let mut world = World::start("stop");
    let mut client = world.client().await;
    let (_, closed) = handle::channel();
    drop(std::mem::replace(&mut world.inbox, closed));
    let refused = client.get_status(GetStatusRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    drop(client);
    world.stop.take().unwrap().send(()).unwrap();
    world.server.take().unwrap().await.unwrap();
    assert!(!world.folder.join("control.sock").exists());
}
