//! Logs as the journal of systemd wants them: a priority in front of each line, and no time.

use std::io;

use tracing::Level;

/// Whether standard error is connected to the journal: `JOURNAL_STREAM` names device and inode of
/// what it was connected to when the service was started (systemd.exec(5)).
pub(super) fn reads_stderr() -> bool {
    let Some(named) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let own = rustix::fs::fstat(io::stderr());
    own.is_ok_and(|own| named == format!("{}:{}", own.st_dev, own.st_ino))
}

/// A message with its priority in front of every line (sd-daemon(3)): each is an entry of its own.
pub(super) fn marked(text: &[u8], level: Level) -> Vec<u8> {
    let priority = match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        _ => b"<7>",
    };
    let mut marked = Vec::with_capacity(text.len() + 16);
    for line in text.split_inclusive(|&octet| octet == b'\n') {
        marked.extend_from_slice(priority);
        marked.extend_from_slice(line);
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_message_has_its_priority() {
        assert_eq!(marked(b"a\nb\n", Level::WARN), b"<4>a\n<4>b\n");
        assert_eq!(marked(b"a", Level::ERROR), b"<3>a");
        assert_eq!(marked(b"", Level::INFO), b"");
    }
}
