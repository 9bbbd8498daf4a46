//! The command line of `postern`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, error::ErrorKind};

/// Shows and commands a Postern gateway.
#[derive(Parser, Debug)]
#[command(name = "postern", version, disable_help_subcommand = true)]
pub(crate) struct Args {
    /// The daemon's control socket; default: POSTERN_SOCKET, else /run/postern/control.sock.
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be asked for.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// The state of all tunnels, or of one: problems first.
    Sa {
        /// Only this tunnel.
        tunnel: Option<String>,
        /// One JSON document.
        #[arg(long)]
        json: bool,
        /// Not available yet.
        #[arg(long, hide = true)]
        watch: bool,
    },
    /// Brings a tunnel or a child up and waits for the outcome.
    Up(Act),
    /// Takes a tunnel or a child down and holds it down; its destinations stay blocked.
    Down(Act),
    /// Rekeys a tunnel with its children, or one child.
    Rekey(Act),
    /// Not available yet.
    #[command(hide = true)]
    Explain {
        /// Which tunnel.
        tunnel: Option<String>,
    },
    /// What happened, newest last.
    Events {
        /// Stay and show what happens next.
        #[arg(long)]
        follow: bool,
        /// One JSON document; with --follow one a line.
        #[arg(long)]
        json: bool,
    },
    /// Validates a configuration without a daemon.
    Check {
        /// The configuration.
        file: PathBuf,
    },
    /// Applies the changed configuration: all of it or nothing.
    Reload,
    /// The versions of this command and of the daemon.
    Version,
}

/// On what to act.
#[derive(clap::Args, Debug)]
pub(crate) struct Act {
    /// The tunnel, or one child of it.
    #[arg(value_name = "TUNNEL[/CHILD]")]
    pub(crate) target: String,
    /// How long to wait for the outcome.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
}

impl Act {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

impl Args {
    /// Where the daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        let from_environment =
            || std::env::var_os("POSTERN_SOCKET").filter(|path| !path.is_empty());
        self.socket
            .clone()
            .or_else(|| from_environment().map(PathBuf::from))
            .unwrap_or_else(|| api::DEFAULT_CONTROL_SOCKET.into())
    }
}

/// Why there is nothing to run.
pub(crate) enum Stop {
    /// Help, or the version of this program, was asked for.
    Told(String),
    /// The words make no sense; one sentence.
    Wrong(String),
}

pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, Stop> {
    Args::try_parse_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Told(error.to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Stop::Wrong("a command is missing; `postern --help` lists them".into())
        }
        _ => Stop::Wrong(sentence(&error.to_string())),
    })
}

/// The first paragraph of a message, as one sentence.
fn sentence(text: &str) -> String {
    let words: Vec<&str> =
        text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let text = words.join(" ");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    format!("{text}; `postern --help` shows what can be used")
}
