//! `posternd`, the gateway daemon.

use std::process::ExitCode;

use clap::Parser;
use daemon::args::Args;

fn main() -> ExitCode {
    daemon::run(&Args::parse())
}
