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
        return finish(supervisor::release(release_config(&path, args.config.is_some()).as_ref()));
    }
    let config = match config::load(&path) {
        Ok(config) => config,
        Err(report) => {
            complain(&report);
            return ExitCode::FAILURE;
        }
    };
    logs::start();
    if !config.warnings.is_empty() {
        tracing::warn!("{}", config.warnings);
    }
    finish(supervisor::run(path, config))
}

/// The configuration that `--release` goes by. What stands in the system has to go also when
/// the file is broken or gone: then that is said, and `None` stands for the defaults.
fn release_config(path: &std::path::Path, named: bool) -> Option<config::Config> {
    match config::load(path) {
        Ok(config) => Some(config),
        Err(report) => {
            if named || path.exists() {
                complain(&report);
                complain(
                    &"posternd: going by the defaults: what the configuration would name \
                      otherwise (interface, control, state_dir) may stay",
                );
            }
            None
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

/// Writes to standard error; if that is gone, there is nobody to tell.
fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_goes_by_a_good_configuration_and_is_stopped_by_none() -> io::Result<()> {
        let folder = std::env::temp_dir().join(format!("pt-{}-release", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("config.toml");
        let interface = |text: &str| -> io::Result<Option<String>> {
            std::fs::write(&path, text)?;
            Ok(release_config(&path, true).map(|config| config.inline.interface))
        };
        let good = interface("[inline]\ninterface = \"pt7\"\n");
        let broken = interface("[inline]\ninterfcae = \"pt7\"\n");
        let binary = interface("\u{0}");
        std::fs::remove_dir_all(&folder)?;
        assert_eq!(good?.as_deref(), Some("pt7"));
        assert_eq!(broken?, None);
        assert_eq!(binary?, None);
        assert!(release_config(&path, true).is_none(), "it is gone");
        assert!(release_config(&path, false).is_none());
        Ok(())
    }
}
