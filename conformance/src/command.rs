//! Programs: short ones that are run to their end, and long ones that are watched.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit status; 124 when the time limit ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Both outputs, for messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end, at most `limit` long, and returns whatever it left.
pub fn run(argv: &[&str], limit: Duration) -> Outcome<Finished> {
    let (program, _) = argv.split_first().ok_or_else(|| Failure::new("no program named"))?;
    require(program)?;
    let output = Command::new("timeout")
        .args(["-k", "2", &format!("{:.3}", limit.as_secs_f64())])
        .args(argv)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("{program}: {error}")))?;
    Ok(Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a program that has to succeed within ten seconds.
pub fn must(argv: &[&str]) -> Outcome<Finished> {
    let finished = run(argv, Duration::from_secs(10))?;
    if finished.code == 0 {
        return Ok(finished);
    }
    Err(Failure::new(format!(
        "`{}` ended with {}: {}",
        argv.join(" "),
        finished.code,
        finished.text().trim()
    )))
}

/// Fails with the name of the Debian package when a program is not installed.
pub fn require(program: &str) -> Outcome {
    if program.contains('/') {
        if Path::new(program).exists() {
            return Ok(());
        }
    } else {
        let path = std::env::var("PATH").unwrap_or_default();
        let places = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]);
        if places.map(|place| Path::new(place).join(program)).any(|file| file.exists()) {
            return Ok(());
        }
    }
    let name = program.rsplit('/').next().unwrap_or(program);
    let package = match name {
        "charon-systemd" => "charon-systemd",
        "swanctl" => "strongswan-swanctl",
        "ip" => "iproute2",
        "nft" => "nftables",
        "tcpdump" => "tcpdump",
        "timeout" => "coreutils",
        "ping" => "iputils-ping",
        "systemd-analyze" => "systemd",
        "unshare" | "nsenter" => "util-linux",
        "postern" | "posternd" => {
            return Err(Failure::new(format!(
                "{program} is not built: run `cargo build -p daemon -p cli` first (`make test` does) \
                 or point POSTERN_BIN_DIR at the folder that holds it"
            )));
        }
        other => other,
    };
    Err(Failure::new(format!(
        "{name} is not installed: install the Debian package `{package}` (scripts/install-deps test)"
    )))
}

/// A program that runs beside the scenario. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose outputs are appended to `log`.
    pub fn start(name: &str, argv: &[&str], env: &[(&str, &str)], log: &Path) -> Outcome<Self> {
        let (program, arguments) =
            argv.split_first().ok_or_else(|| Failure::new("no program named"))?;
        require(program)?;
        let file = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(arguments)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| Failure::new(format!("{program}: {error}")))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file its outputs go to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status, when it has ended.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails with the end of its log when it is no longer running.
    pub fn must_run(&mut self) -> Outcome {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(Failure::new(format!(
                "{} ended with {status}:\n{}",
                self.name,
                tail(&self.log, 30)
            ))),
        }
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, signal: &str) -> Outcome {
        signal_pid(self.pid(), signal)
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: &str, limit: Duration) -> Outcome<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(signal)?;
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= end {
                self.kill();
                return Err(Failure::new(format!(
                    "{} did not end within {} s of SIG{signal}:\n{}",
                    self.name,
                    limit.as_secs(),
                    tail(&self.log, 30)
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        // Both only fail when the process is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program that is talked to line by line. It is killed when dropped.
#[derive(Debug)]
pub struct Dialogue {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Dialogue {
    /// Starts a program; `stderr` chooses the output whose lines are read.
    pub fn start(name: &str, argv: &[&str], stderr: bool) -> Outcome<Self> {
        let (program, arguments) =
            argv.split_first().ok_or_else(|| Failure::new("no program named"))?;
        require(program)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped());
        if stderr {
            command.stderr(Stdio::piped()).stdout(Stdio::null());
        } else {
            command.stdout(Stdio::piped());
        }
        let mut child =
            command.spawn().map_err(|error| Failure::new(format!("{program}: {error}")))?;
        let stdin = child.stdin.take();
        let (sender, lines) = channel();
        let read: Box<dyn std::io::Read + Send> = match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), _) => Box::new(stdout),
            (None, Some(stderr)) => Box::new(stderr),
            (None, None) => return Err(Failure::new(format!("{name}: no output to read"))),
        };
        thread::spawn(move || {
            for line in BufReader::new(read).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, stdin, lines })
    }

    /// Sends one line.
    pub fn say(&mut self, line: &str) -> Outcome {
        let stdin =
            self.stdin.as_mut().ok_or_else(|| Failure::new(format!("{} hung up", self.name)))?;
        writeln!(stdin, "{line}")?;
        stdin.flush()?;
        Ok(())
    }

    /// The next line, waiting at most `limit`.
    pub fn hear(&self, limit: Duration) -> Outcome<String> {
        self.lines.recv_timeout(limit).map_err(|error| {
            Failure::new(match error {
                RecvTimeoutError::Timeout => {
                    format!("{} said nothing for {:.1} s", self.name, limit.as_secs_f32())
                }
                RecvTimeoutError::Disconnected => format!("{} ended", self.name),
            })
        })
    }

    /// Reads on until a line contains `part`; returns that line.
    pub fn hear_about(&self, part: &str, limit: Duration) -> Outcome<String> {
        let end = Instant::now() + limit;
        let mut heard = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.hear(left) {
                Ok(line) if line.contains(part) => return Ok(line),
                Ok(line) => heard.push(line),
                Err(failure) => {
                    return Err(Failure::new(format!(
                        "waiting for `{part}`: {failure}; heard: {}",
                        heard.join(" | ")
                    )));
                }
            }
        }
    }

    /// Every line that has arrived and was not read.
    pub fn rest(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Sends a signal, waits for the end, and returns the lines not read so far.
    pub fn finish(mut self, signal: &str, limit: Duration) -> Outcome<Vec<String>> {
        signal_pid(self.child.id(), signal)?;
        let end = Instant::now() + limit;
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::new(format!("{} did not end on SIG{signal}", self.name)));
                }
            }
        }
        self.child.wait()?;
        Ok(rest)
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        // Both only fail when the process is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal_pid(pid: u32, signal: &str) -> Outcome {
    // The shell's own `kill` needs no package.
    must(&["sh", "-c", &format!("kill -{signal} {pid}")]).map(drop)
}

/// The last lines of a file, for failure messages.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = match std::fs::read(file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({}: {error})", file.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.get(from..).unwrap_or_default().join("\n")
}
