//! posternd: sockets, the clock, credentials, configuration files, management, privileges.
//!
//! Everything that decides lives in `gateway`; this crate carries what happens in the world to
//! it ([`gateway::input::Input`]) and does in the world what it asks for
//! ([`gateway::output::Output`]).

pub mod args;
pub mod config;
pub mod control;
mod lock;
mod logs;
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
    if args.check {
        return check(&path);
    }
    if args.release {
        return release(&path, args.config.is_some());
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

/// `--release`: needs a configuration only if one is named, or if it was not the default.
fn release(path: &std::path::Path, named: bool) -> ExitCode {
    let config = match config::load(path) {
        Ok(config) => Some(config),
        Err(report) if named || path.exists() => {
            complain(&report);
            return ExitCode::FAILURE;
        }
        Err(_) => None,
    };
    finish(supervisor::release(config.as_ref()))
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
