//! posternd: sockets, the clock, credentials, configuration files, management, privileges.
//!
//! Everything that decides lives in `gateway`; this crate carries what happens in the world to
//! it ([`gateway::input::Input`]) and does in the world what it asks for
//! ([`gateway::output::Output`]).

pub mod args;
pub mod config;
pub mod control;
mod lock;
pub mod logs;
mod privilege;
pub mod runtime;
mod supervisor;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use args::Args;

/// Does what the command line asks for. Exit status: 0 done, 1 the configuration or the system
/// does not allow it; wrong use never comes here (2, by the argument parser).
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let path = args.config_path();
    // Before any key is read.
    if let Err(error) = privilege::harden() {
        complain(&format_args!("posternd: the memory cannot be protected: {error}"));
        return ExitCode::FAILURE;
    }
    if args.check {
        return check(&path);
    }
    if args.release {
        return finish(supervisor::release(&traces(&path, args.config.is_some())));
    }
    let config = match config::load(&path) {
        Ok(config) => config,
        Err(report) => {
            complain(&report);
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = logs::start() {
        complain(&format_args!("posternd: there are no threads: {error}"));
        return ExitCode::FAILURE;
    }
    if !config.warnings.is_empty() {
        tracing::warn!("{}", config.warnings);
    }
    let ended = finish(supervisor::run(path, config));
    logs::finish();
    ended
}

/// The names that `--release` goes by. What stands in the system has to go also when the file is
/// broken or gone: then that is said, and the names are what can be made out of it.
fn traces(path: &std::path::Path, named: bool) -> config::Traces {
    match config::load(path) {
        Ok(config) => config.into(),
        Err(report) => {
            let traces = config::traces(path);
            if named || path.exists() {
                complain(&report);
                complain(&format_args!(
                    "posternd: going by interface = \"{}\", control = \"{}\", state_dir = \"{}\"; \
                     what has other names stays",
                    traces.interface,
                    traces.control.display(),
                    traces.state_dir.display()
                ));
            }
            traces
        }
    }
}

fn finish(outcome: Result<(), supervisor::StartError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("posternd: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// `--check`: says what the configuration is, or everything that is wrong with it.
fn check(path: &std::path::Path) -> ExitCode {
    match config::load(path) {
        Ok(config) => {
            if !config.warnings.is_empty() {
                complain(&config.warnings);
            }
            let children: usize = config.connections.iter().map(|c| c.children.len()).sum();
            let said = writeln!(
                io::stdout(),
                "{}: valid, {} and {}",
                path.display(),
                count(config.connections.len(), "tunnel", "tunnels"),
                count(children, "child", "children"),
            );
            if said.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(report) => {
            complain(&report);
            ExitCode::FAILURE
        }
    }
}

/// Tells whoever started this what is wrong.
fn complain(what: &dyn std::fmt::Display) {
    logs::say(what);
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_goes_by_what_can_be_made_out_of_a_configuration() -> io::Result<()> {
        let folder = std::env::temp_dir().join(format!("pt-{}-release", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("config.toml");
        let found = |text: &[u8]| -> io::Result<[String; 3]> {
            std::fs::write(&path, text)?;
            let config::Traces { interface, control, state_dir } = traces(&path, true);
            let shown = |path: std::path::PathBuf| path.display().to_string();
            Ok([interface, shown(control), shown(state_dir)])
        };
        let (socket, lock) = (api::DEFAULT_CONTROL_SOCKET, "/var/lib/postern");
        let mut failures = Vec::new();
        for (text, want) in [
            (&b"[inline]\ninterface = \"pt7\"\n"[..], ["pt7", socket, lock]),
            // Keys that are not known, and tunnels that mean nothing.
            (
                b"[gateway]\ncolour = 1\ncontrol = \"/x/c\"\n[inline]\ninterface = \"pt7\"\nworkers = 0\n\
                  [tunnels.a]\nmode = 7\n",
                ["pt7", "/x/c", lock],
            ),
            // No TOML further on, no UTF-8.
            (
                b"[gateway]\nstate_dir = \"/x\"\n[inline]\ninterface = \"pt7\"\n[tunnels.a\nx = = y\n",
                ["pt7", socket, "/x"],
            ),
            (b"# Schlo\xdf\n[inline]\ninterface = \"pt7\"\n", ["pt7", socket, lock]),
            // Each name by itself.
            (
                b"[gateway]\ncontrol = \"\"\nstate_dir = \"/x\"\n[inline]\ninterface = \"a/b\"\n",
                ["postern0", socket, "/x"],
            ),
            (b"[inline]\ninterface = 3\n", ["postern0", socket, lock]),
            (b"\0", ["postern0", socket, lock]),
            (b"", ["postern0", socket, lock]),
        ] {
            let found = found(text)?;
            if found != want {
                failures.push((String::from_utf8_lossy(text).into_owned(), found));
            }
        }
        std::fs::remove_dir_all(&folder)?;
        assert!(failures.is_empty(), "{failures:#?}");
        assert_eq!(traces(&path, true).interface, "postern0", "it is gone");
        assert_eq!(traces(&path, false).interface, "postern0");
        Ok(())
    }
}
