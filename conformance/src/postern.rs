//! `posternd` and `postern` as they were built, in a namespace.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Finished, Process, must, require, run, tail};
use crate::failure::{Failure, Outcome, ensure};
use crate::lab::Gateway;
use crate::netns::Namespace;
use crate::spec::{Start, Tunnel};
use crate::wait;

/// How long the daemon may take to say that it is ready.
const READY: Duration = Duration::from_secs(20);

/// A program built by this workspace: in `POSTERN_BIN_DIR`, else beside the test executables.
pub fn built(name: &str) -> Outcome<PathBuf> {
    let path = match std::env::var_os("POSTERN_BIN_DIR") {
        Some(folder) => PathBuf::from(folder).join(name),
        None => beside_the_tests(name)?,
    };
    require(&path.display().to_string())?;
    Ok(path)
}

/// A program in `target/<profile>/`, where this test executable was built too.
pub fn beside_the_tests(name: &str) -> Outcome<PathBuf> {
    let this = std::env::current_exe()?;
    this.ancestors()
        .skip(1)
        .take(3)
        .map(|folder| folder.join(name))
        .find(|file| file.exists())
        .ok_or_else(|| {
            Failure::new(format!(
                "{name} is not built: run `cargo build -p daemon -p cli` first (`make test` does) \
                 or point POSTERN_BIN_DIR at the folder that holds it"
            ))
        })
}

/// What differs from the defaults of config.toml.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines of the `[gateway]` table.
    pub gateway: String,
    /// Lines of the `[inline]` table.
    pub inline: String,
}

/// One Postern.
#[derive(Debug)]
pub struct Postern {
    namespace: String,
    folder: PathBuf,
    daemon: PathBuf,
    cli: PathBuf,
    process: RefCell<Option<Process>>,
}

impl Postern {
    /// Writes the configuration and starts the daemon; returns once it says it is ready.
    pub fn start(
        namespace: &Namespace,
        folder: &Path,
        tunnels: &[Tunnel],
        options: &Options,
    ) -> Outcome<Self> {
        let this = Self {
            namespace: namespace.name().to_owned(),
            folder: folder.to_owned(),
            daemon: built("posternd")?,
            cli: built("postern")?,
            process: RefCell::new(None),
        };
        this.write_config(tunnels, options)?;
        this.spawn()?;
        Ok(this)
    }

    /// Replaces config.toml; a start or [`Postern::reload`] makes it effective.
    pub fn write_config(&self, tunnels: &[Tunnel], options: &Options) -> Outcome {
        self.write_config_text(&self.config(tunnels, options))
    }

    /// Replaces config.toml by this text.
    pub fn write_config_text(&self, text: &str) -> Outcome {
        let file = self.folder.join("config.toml");
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Starts the daemon, again after [`Postern::kill`] or [`Postern::stop`].
    pub fn spawn(&self) -> Outcome {
        self.spawn_by(&[])
    }

    /// The same, with `file` as its standard error in place of the log.
    pub fn spawn_telling(&self, file: &Path) -> Outcome {
        self.spawn_after(&format!("exec 2<>'{}'", file.display()))
    }

    /// The same, by a shell that runs `line` and becomes the daemon.
    pub fn spawn_after(&self, line: &str) -> Outcome {
        self.spawn_by(&["sh", "-c", &format!("{line}\nexec \"$0\" \"$@\"")])
    }

    /// Starts the daemon by a program that becomes it.
    fn spawn_by(&self, by: &[&str]) -> Outcome {
        // The daemon announces itself as it would to systemd.
        let notify = self.folder.join("notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify)?;
        let (daemon, config) = (
            self.daemon.display().to_string(),
            self.folder.join("config.toml").display().to_string(),
        );
        let argv = ["ip", "netns", "exec", &self.namespace];
        let argv = [&argv[..], by, &[&daemon, "--config", &config]].concat();
        let level = std::env::var("POSTERN_LOG").unwrap_or_default();
        let mut process = Process::start(
            "posternd",
            &argv,
            &[("NOTIFY_SOCKET", &notify.display().to_string()), ("POSTERN_LOG", &level)],
            &self.folder.join("posternd.log"),
        )?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let end = Instant::now() + READY;
        let mut message = [0; 4096];
        loop {
            if let Ok(length) = socket.recv(&mut message) {
                let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
                if text.lines().any(|line| line == "READY=1") {
                    break;
                }
            }
            process.must_run()?;
            if Instant::now() >= end {
                return Err(Failure::new(format!(
                    "posternd did not announce READY=1 within {} s:\n{}",
                    READY.as_secs(),
                    tail(process.log(), 40)
                )));
            }
        }
        *self.process.borrow_mut() = Some(process);
        Ok(())
    }

    /// Runs `postern`, at most a minute long.
    pub fn cli(&self, arguments: &[&str]) -> Outcome<Finished> {
        let line = self.cli_line(arguments);
        let argv: Vec<&str> = line.iter().map(String::as_str).collect();
        run(&argv, Duration::from_secs(60))
    }

    /// The command line of `postern` with these arguments, in its namespace.
    pub fn cli_line(&self, arguments: &[&str]) -> Vec<String> {
        let (cli, socket) = (self.cli.display().to_string(), self.socket().display().to_string());
        let whole = ["ip", "netns", "exec", &self.namespace, &cli, "--socket", &socket];
        whole.iter().chain(arguments).map(|word| (*word).to_owned()).collect()
    }

    /// Runs `postern` and fails when it says no.
    pub fn must_cli(&self, arguments: &[&str]) -> Outcome<Finished> {
        let done = self.cli(arguments)?;
        ensure(done.code == 0, || {
            format!("postern {} ended with {}: {}", arguments.join(" "), done.code, done.text())
        })?;
        Ok(done)
    }

    /// `postern reload`.
    pub fn reload(&self) -> Outcome {
        self.must_cli(&["reload"]).map(drop)
    }

    /// `postern sa --json`.
    pub fn sa(&self) -> Outcome<Value> {
        let shown = self.cli(&["sa", "--json"])?;
        serde_json::from_str(&shown.stdout).map_err(|error| {
            Failure::new(format!(
                "postern sa --json ended with {} and is not JSON ({error}): {}",
                shown.code,
                shown.text()
            ))
        })
    }

    /// One tunnel of `postern sa --json`.
    pub fn tunnel(&self, name: &str) -> Outcome<Value> {
        let sa = self.sa()?;
        let tunnels = sa.get("tunnels").and_then(Value::as_array).cloned().unwrap_or_default();
        tunnels
            .into_iter()
            .find(|tunnel| tunnel.get("name").and_then(Value::as_str) == Some(name))
            .ok_or_else(|| Failure::new(format!("postern sa --json has no tunnel {name}: {sa}")))
    }

    /// One child of `postern sa --json`.
    pub fn child(&self, tunnel: &str, name: &str) -> Outcome<Value> {
        let tunnel = self.tunnel(tunnel)?;
        let children = tunnel.get("children").and_then(Value::as_array);
        children
            .into_iter()
            .flatten()
            .find(|child| child.get("name").and_then(Value::as_str) == Some(name))
            .cloned()
            .ok_or_else(|| Failure::new(format!("no child {name} in {tunnel}")))
    }

    /// Waits until a tunnel looks as wanted.
    pub fn wait_tunnel(
        &self,
        what: &str,
        name: &str,
        limit: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Outcome<Value> {
        wait::until(what, limit, || {
            self.must_run()?;
            let tunnel = self.tunnel(name)?;
            if wanted(&tunnel) { Ok(tunnel) } else { Err(Failure::new(tunnel.to_string())) }
        })
    }

    /// Waits until a tunnel is established with all its children installed.
    pub fn wait_up(&self, name: &str, limit: Duration) -> Outcome<Value> {
        self.wait_tunnel("the tunnel to be up in `postern sa`", name, limit, is_up)
    }

    /// `last_error` of a tunnel: its code and message, once there is one.
    pub fn wait_error(&self, name: &str, limit: Duration) -> Outcome<(String, String)> {
        let tunnel = self.wait_tunnel("a last_error", name, limit, |tunnel| {
            tunnel.get("last_error").is_some_and(|error| !error.is_null())
        })?;
        let part = |key: &str| {
            let text = tunnel.get("last_error").and_then(|error| error.get(key));
            text.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Ok((part("code"), part("message")))
    }

    /// Fails when the daemon has ended.
    pub fn must_run(&self) -> Outcome {
        match self.process.borrow_mut().as_mut() {
            Some(process) => process.must_run(),
            None => Err(Failure::new("posternd is not started")),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.borrow().as_ref().map(Process::pid)
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&self) {
        // Dropping the process kills it.
        drop(self.process.borrow_mut().take());
    }

    /// Ends it as `systemctl stop` does.
    pub fn stop(&self) -> Outcome {
        self.stop_by("TERM")
    }

    /// Ends it by a signal that asks for a clean stop; it has to end well.
    pub fn stop_by(&self, signal: &str) -> Outcome {
        let Some(mut process) = self.process.borrow_mut().take() else { return Ok(()) };
        process.must_run()?;
        let status = process.stop(signal, Duration::from_secs(15))?;
        ensure(status.code() == Some(0), || format!("posternd ended with {status} on SIG{signal}"))
    }

    /// Sends the daemon a signal by name.
    pub fn signal(&self, signal: &str) -> Outcome {
        match self.process.borrow().as_ref() {
            Some(process) => process.signal(signal),
            None => Err(Failure::new("posternd is not started")),
        }
    }

    /// `posternd --release`.
    pub fn release(&self) -> Outcome {
        let (daemon, config) = (
            self.daemon.display().to_string(),
            self.folder.join("config.toml").display().to_string(),
        );
        must(&["ip", "netns", "exec", &self.namespace, &daemon, "--config", &config, "--release"])
            .map(drop)
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("posternd.log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// config.toml for these tunnels.
    pub fn config(&self, tunnels: &[Tunnel], options: &Options) -> String {
        let mut text = format!(
            "[gateway]\nname = \"subject\"\ncontrol = \"{}\"\nstate_dir = \"{}\"\n{}\n[inline]\n{}\n",
            self.socket().display(),
            self.folder.join("state").display(),
            options.gateway,
            options.inline,
        );
        text.push_str(&tunnels_text(tunnels));
        text
    }
}

/// The part of config.toml that describes these tunnels.
pub fn tunnels_text(tunnels: &[Tunnel]) -> String {
    let mut text = String::new();
    for tunnel in tunnels {
        // Writing to a string cannot fail.
        let _ = write_tunnel(&mut text, tunnel);
    }
    text
}

impl Gateway for Postern {
    fn title(&self) -> String {
        format!("Postern in {}", self.namespace)
    }

    fn diagnosis(&self) -> String {
        let limit = Duration::from_secs(5);
        let inside = |argv: &[&str]| {
            let mut all = vec!["ip", "netns", "exec", &self.namespace];
            all.extend_from_slice(argv);
            run(&all, limit).map_or_else(|failure| failure.to_string(), |done| done.text())
        };
        let shown = self.cli(&["sa"]).map_or_else(|failure| failure.to_string(), |d| d.text());
        format!(
            "{shown}\n-- rules --\n{}{}\n-- nftables --\n{}\n-- log --\n{}",
            inside(&["ip", "rule"]),
            inside(&["ip", "route", "show", "table", "all"]),
            inside(&["nft", "list", "ruleset"]),
            tail(&self.folder.join("posternd.log"), 80)
        )
    }

    fn end(&self) {
        self.kill();
    }
}

/// Whether a tunnel is established with all its children installed.
pub fn is_up(tunnel: &Value) -> bool {
    let state =
        |value: &Value| value.get("state").and_then(Value::as_str).unwrap_or_default().to_owned();
    let children = tunnel.get("children").and_then(Value::as_array);
    state(tunnel) == "established"
        && children.is_some_and(|all| {
            !all.is_empty()
                && all.iter().all(|child| matches!(state(child).as_str(), "installed" | "rekeying"))
        })
}

fn write_tunnel(text: &mut String, tunnel: &Tunnel) -> std::fmt::Result {
    let list = |items: &[String]| {
        let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let mode = match tunnel.start {
        Start::AlwaysOn => "always-on",
        Start::Passive => "passive",
    };
    writeln!(text, "\n[tunnels.{}]\nmode = \"{mode}\"", tunnel.name)?;
    for (key, end) in [("local", &tunnel.local), ("remote", &tunnel.remote)] {
        let address = match end.address.as_str() {
            "" => String::new(),
            one if !one.contains(',') => format!("address = \"{one}\", "),
            several => {
                let all: Vec<String> = several.split(',').map(str::to_owned).collect();
                format!("address = {}, ", list(&all))
            }
        };
        writeln!(text, "{key} = {{ {address}id = \"{}\" }}", end.id)?;
    }
    writeln!(text, "auth = {{ psk = \"{}\" }}", tunnel.psk)?;
    let mut ike = format!("proposals = {}", list(&tunnel.ike));
    if tunnel.ike_rekey_s > 0 {
        write!(ike, ", rekey = \"{}s\"", tunnel.ike_rekey_s)?;
    }
    if tunnel.dpd_s > 0 {
        write!(ike, ", dpd = \"{}s\"", tunnel.dpd_s)?;
    }
    writeln!(text, "ike = {{ {ike} }}")?;
    if tunnel.force_udp {
        writeln!(text, "encap = \"always\"")?;
    }
    for child in &tunnel.children {
        writeln!(text, "\n[tunnels.{}.children.{}]", tunnel.name, child.name)?;
        writeln!(text, "local = {}", list(&child.local))?;
        writeln!(text, "remote = {}", list(&child.remote))?;
        let mut esp = Vec::new();
        if !child.esp.is_empty() {
            esp.push(format!("proposals = {}", list(&child.esp)));
        }
        if child.rekey_s > 0 {
            esp.push(format!("rekey = \"{}s\"", child.rekey_s));
        }
        if child.rekey_packets > 0 {
            esp.push(format!("rekey_packets = {}", child.rekey_packets));
        }
        writeln!(text, "esp = {{ {} }}", esp.join(", "))?;
        if !child.bypass.is_empty() {
            writeln!(text, "bypass = {}", list(&child.bypass))?;
        }
    }
    Ok(())
}
