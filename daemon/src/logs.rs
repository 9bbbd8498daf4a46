//! Logs on standard error, as much as `POSTERN_LOG` asks for (default: `info`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What others log about carrying management's requests; `POSTERN_LOG` may name them to hear it.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn,netlink_proto=warn";

/// Starts logging, and has panics logged too.
pub(crate) fn start() {
    let wanted = std::env::var("POSTERN_LOG").unwrap_or_default();
    let wanted = if wanted.trim().is_empty() { "info" } else { wanted.trim() };
    let quieted = format!("{QUIET},{wanted}");
    let (filter, refused) = match EnvFilter::try_new(quieted) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .try_init();
    if started.is_err() {
        // Somebody started logging before; theirs holds.
        return;
    }
    if let Some(error) = refused {
        tracing::warn!("POSTERN_LOG is not understood ({error}); info is used");
    }
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("no message");
        tracing::error!("internal error at {place}: {text}");
    }));
}
