//! `postern`: shows and commands a gateway; speaks only the protocol of `api`.
//!
//! Exit status: 0 success, 1 the answer is no, 2 wrong use or no daemon answered. Errors are one
//! sentence on standard error; what was asked for is alone on standard output.

mod args;
mod check;
mod client;
mod commands;
pub mod detail;
pub mod json;
pub mod render;
mod time;

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write},
    process::ExitCode,
};

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The answer is no. The sentence may be empty when it was said on standard output.
    No(String),
    /// Wrong use, or no daemon answered.
    Wrong(String),
    /// Whoever read standard output is gone.
    Silent,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(text) | Self::Wrong(text) => f.write_str(text),
            Self::Silent => Ok(()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Silent
        } else {
            Self::Wrong(format!("the output cannot be written: {error}"))
        }
    }
}

/// Runs a command line.
#[must_use]
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match args::parse(words) {
        Ok(args) => commands::run(&args),
        Err(args::Stop::Told(text)) => write!(io::stdout(), "{text}").map_err(Failure::from),
        Err(args::Stop::Wrong(text)) => Err(Failure::Wrong(text)),
    };
    match outcome {
        Ok(()) | Err(Failure::Silent) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                // If standard error is gone as well, the exit status still tells.
                let _ = writeln!(io::stderr(), "postern: {text}");
            }
            ExitCode::from(if matches!(failure, Failure::No(_)) { 1 } else { 2 })
        }
    }
}
