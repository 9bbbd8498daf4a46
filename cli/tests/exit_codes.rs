//! The binary itself: exit status, where it speaks, and what it refuses; a fake daemon answers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may fail them")]

use std::{
    os::unix::net::UnixListener as StdListener,
    path::PathBuf,
    pin::Pin,
    process::{Command, Output},
};

use api::postern::v1::{
    ActRequest, ActResponse, Event, EventsRequest, GetStatusRequest, GetStatusResponse,
    GetVersionRequest, GetVersionResponse, ReloadRequest, ReloadResponse, Tunnel,
    control_server::{Control, ControlServer},
};
use tokio::net::UnixListener;
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status};

/// One tunnel is up, one is down and passive, one is down and always-on.
struct Fake;

fn tunnel(name: &str, mode: &str, state: &str) -> Tunnel {
    Tunnel { name: name.into(), mode: mode.into(), state: state.into(), ..Tunnel::default() }
}

fn act(request: Request<ActRequest>) -> Result<Response<ActResponse>, Status> {
    let request = request.into_inner();
    let reply = match request.tunnel.as_str() {
        "up" => ActResponse { done: true, message: "up is done".into(), ..Default::default() },
        "slow" => ActResponse {
            code: "timeout".into(),
            message: format!("no outcome after {} ms", request.timeout_ms),
            ..Default::default()
        },
        other => ActResponse {
            code: "unknown-tunnel".into(),
            message: format!("no tunnel is called `{other}`"),
            ..Default::default()
        },
    };
    Ok(Response::new(reply))
}

#[tonic::async_trait]
impl Control for Fake {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let mut tunnels = vec![
            tunnel("up", "always-on", "established"),
            tunnel("waiting", "passive", "down"),
            tunnel("down", "always-on", "connecting"),
        ];
        let wanted = request.into_inner().tunnel;
        tunnels.retain(|tunnel| wanted.is_empty() || tunnel.name == wanted);
        if tunnels.is_empty() {
            return Err(Status::not_found(format!("no tunnel is called `{wanted}`")));
        }
        Ok(Response::new(GetStatusResponse { tunnels, ..Default::default() }))
    }

    async fn up(&self, request: Request<ActRequest>) -> Result<Response<ActResponse>, Status> {
        act(request)
    }

    async fn down(&self, request: Request<ActRequest>) -> Result<Response<ActResponse>, Status> {
        act(request)
    }

    async fn rekey(&self, request: Request<ActRequest>) -> Result<Response<ActResponse>, Status> {
        act(request)
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn events(
        &self,
        _request: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let events = (1..=2).map(|sequence| Ok(Event { sequence, ..Event::default() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events.collect::<Vec<_>>()))))
    }

    async fn reload(
        &self,
        _request: Request<ReloadRequest>,
    ) -> Result<Response<ReloadResponse>, Status> {
        let message = "the configuration has errors\nerror: x".into();
        Ok(Response::new(ReloadResponse { applied: false, message }))
    }

    async fn get_version(
        &self,
        _request: Request<GetVersionRequest>,
    ) -> Result<Response<GetVersionResponse>, Status> {
        Ok(Response::new(GetVersionResponse { version: "9.8.7".into() }))
    }
}

/// A fake daemon on a socket of its own.
struct Daemon {
    folder: PathBuf,
}

impl Daemon {
    fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pt-{}-cli-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let listener = StdListener::bind(folder.join("control.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
                let server = tonic::transport::Server::builder();
                let mut server = server;
                server
                    .add_service(ControlServer::new(Fake))
                    .serve_with_incoming(incoming)
                    .await
                    .unwrap();
            });
        });
        Self { folder }
    }

    fn ask(&self, words: &[&str]) -> Output {
        postern()
            .env("POSTERN_SOCKET", self.folder.join("control.sock"))
            .args(words)
            .output()
            .unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn postern() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.env_remove("POSTERN_SOCKET");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn answers_have_their_exit_status() {
    let daemon = Daemon::start("answers");
    // (words, exit status, on standard output, on standard error)
    for (words, code, out, err) in [
        (&["sa"][..], 1, "1 of 3 tunnels up", ""),
        (&["sa", "--json"], 1, "\"schema\": 1", ""),
        (&["sa", "up"], 0, "1 of 1 tunnel up", ""),
        (&["sa", "waiting", "--json"], 0, "\"state\": \"down\"", ""),
        (&["sa", "nowhere"], 1, "", "no tunnel is called `nowhere`"),
        (&["up", "up"], 0, "up is done\n", ""),
        (&["down", "up/net"], 0, "up/net is done\n", ""),
        (&["rekey", "nowhere"], 1, "", "no tunnel is called `nowhere` (unknown-tunnel)"),
        (&["up", "slow", "--timeout", "3"], 1, "", "no outcome after 3000 ms (timeout)"),
        (&["events"], 0, "1970-01-01T00:00:00.000Z", ""),
        (&["events", "--json"], 0, "\"sequence\":2", ""),
        (&["events", "--follow"], 2, "1970-01-01T00:00:00.000Z", "the daemon stopped"),
        (&["reload"], 1, "", "nothing was changed: the configuration has errors\nerror: x"),
        (&["version"], 0, "posternd 9.8.7", ""),
    ] {
        let said = daemon.ask(words);
        assert_eq!(said.status.code(), Some(code), "{words:?}: {said:?}");
        let (stdout, stderr) = (text(&said.stdout), text(&said.stderr));
        assert!(stdout.contains(out) && stdout.is_empty() == out.is_empty(), "{words:?}: {stdout}");
        assert!(stderr.contains(err) && stderr.is_empty() == err.is_empty(), "{words:?}: {stderr}");
        assert!(!stdout.contains('\u{1b}'), "a pipe is not coloured: {stdout}");
    }
}

/// A daemon that hangs has its socket, takes connections and says nothing.
#[test]
fn a_daemon_that_hangs_is_no_answer() {
    let folder = std::env::temp_dir().join(format!("pt-{}-cli-hangs", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("control.sock");
    let _listener = StdListener::bind(&socket).unwrap();
    let asking: Vec<_> = [&["events"][..], &["events", "--follow"], &["sa"]]
        .into_iter()
        .map(|words| {
            let mut command = postern();
            command.env("POSTERN_SOCKET", &socket).args(words);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            (words, command.spawn().unwrap())
        })
        .collect();
    for (words, asked) in asking {
        let said = asked.wait_with_output().unwrap();
        assert_eq!(said.status.code(), Some(2), "{words:?}: {said:?}");
        assert!(text(&said.stderr).contains("does not answer in time"), "{words:?}: {said:?}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_reader_that_goes_away_does_not_hide_the_answer() {
    let daemon = Daemon::start("pipe");
    for (words, code) in [
        (&["sa"][..], 1),
        (&["sa", "--json"], 1),
        (&["sa", "up"], 0),
        (&["up", "up"], 0),
        (&["events"], 0),
        (&["version"], 0),
        (&["--socket", "/nonexistent/x.sock", "version"], 2),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = postern()
            .env("POSTERN_SOCKET", daemon.folder.join("control.sock"))
            .args(words)
            .stdout(writer)
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{words:?}");
    }
}

#[test]
fn json_is_one_document_and_nothing_else() {
    let daemon = Daemon::start("json");
    for words in [&["sa", "--json"][..], &["events", "--json"]] {
        let said = daemon.ask(words);
        let document: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(document["schema"], 1);
    }
    let lines = text(&daemon.ask(&["events", "--json", "--follow"]).stdout);
    let numbers: Vec<u64> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|event| event["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn wrong_use_is_2_and_one_sentence() {
    for (words, says) in [
        (&[][..], "a command is missing"),
        (&["frobnicate"], "frobnicate"),
        (&["up"], "TUNNEL"),
        (&["up", "a", "--timeout", "0"], "--timeout"),
        (&["up", "a", "--timeout", "soon"], "--timeout"),
        (&["sa", "--jsn"], "--jsn"),
        (&["explain", "a"], "not available yet"),
        (&["sa", "--watch"], "not available yet"),
        (&["--socket", "/nonexistent/x.sock", "sa"], "start posternd"),
        (&["--socket", "/nonexistent/x.sock", "version"], "start posternd"),
        (&["sa", "--socket", "/dev/null"], "/dev/null"),
    ] {
        let said = postern().args(words).output().unwrap();
        assert_eq!(said.status.code(), Some(2), "{words:?}: {said:?}");
        let stderr = text(&said.stderr);
        assert!(stderr.contains(says), "{words:?}: {stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{words:?}: {stderr}");
    }
}

#[test]
fn a_target_needs_both_of_its_names() {
    let daemon = Daemon::start("target");
    for target in ["", "/net", "up/"] {
        let said = daemon.ask(&["up", target]);
        assert_eq!(said.status.code(), Some(2), "{target}: {said:?}");
    }
}

/// Unlike `version`, this asks no daemon.
#[test]
fn the_version_is_told_without_a_daemon() {
    for word in ["--version", "-V"] {
        let said = postern().args(["--socket", "/nonexistent/x.sock", word]).output().unwrap();
        assert_eq!(said.status.code(), Some(0), "{said:?}");
        assert_eq!(text(&said.stdout), format!("postern {}\n", env!("CARGO_PKG_VERSION")));
        assert!(said.stderr.is_empty(), "{said:?}");
    }
}

#[test]
fn help_is_no_error() {
    let said = postern().arg("--help").output().unwrap();
    assert_eq!(said.status.code(), Some(0));
    let help = text(&said.stdout);
    for command in ["sa", "up", "down", "rekey", "events", "check", "reload", "version"] {
        assert!(help.contains(command), "{command}: {help}");
    }
    assert!(!help.contains("explain"), "{help}");
}
