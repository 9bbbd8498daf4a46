//! The command line of `posternd`.

use std::path::{Path, PathBuf};

use clap::Parser;

/// The IPsec gateway daemon: runs in the foreground until SIGTERM or SIGINT, reloads on SIGHUP.
#[derive(Parser, Debug)]
#[command(name = "posternd", version, about, disable_help_subcommand = true)]
pub struct Args {
    /// The configuration; default: config.toml beside this program, else
    /// /etc/postern/config.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Validates the configuration, touches nothing and ends.
    #[arg(long, conflicts_with = "release")]
    pub check: bool,
    /// Removes everything that Postern left in this system (what was protected is then free to
    /// leave in clear) and ends.
    #[arg(long)]
    pub release: bool,
}

/// Where the configuration is when nobody says so.
pub const SYSTEM_CONFIG: &str = "/etc/postern/config.toml";

impl Args {
    /// The configuration to use.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        if let Some(path) = &self.config {
            return path.clone();
        }
        let beside = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(|folder| folder.join("config.toml")));
        beside.filter(|path| path.is_file()).unwrap_or_else(|| Path::new(SYSTEM_CONFIG).into())
    }
}
