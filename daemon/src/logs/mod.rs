//! Logs on standard error, as much as `POSTERN_LOG` asks for (default: `info`), and of internal
//! errors no more than a disk bears.
//!
//! Who logs never waits for standard error and never notices that it is broken: a full disk, or a
//! reader that stands still, costs lines of the log and nothing else.

mod journal;
mod queue;
mod throttle;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::OnceLock,
    time::{Duration, Instant},
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::{self as subscriber, MakeWriter},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub(crate) use self::throttle::Held;
use self::{queue::Queue, throttle::Throttle};

/// What others log about carrying management's requests; `POSTERN_LOG` may name them to hear it.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tower=warn,tonic=warn,netlink_proto=warn";
/// How long the last lines may take to be written when the process ends.
const FLUSH: Duration = Duration::from_secs(1);

/// The way to standard error, once logging has started.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts logging, and has panics logged too.
///
/// # Errors
/// The system gives no thread for it.
pub(crate) fn start() -> io::Result<()> {
    let wanted = std::env::var("POSTERN_LOG").unwrap_or_default();
    let wanted = if wanted.trim().is_empty() { "info" } else { wanted.trim() };
    let quieted = format!("{QUIET},{wanted}");
    let (filter, refused) = match quieted.parse::<Targets>() {
        Ok(filter) => (filter, None),
        Err(error) => (Targets::new().with_default(LevelFilter::INFO), Some(error)),
    };
    let lines = Lines { queue: Queue::start(io::stderr())?, journal: journal::reads_stderr() };
    let lines = LINES.get_or_init(|| lines);
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let logging = subscriber::layer()
        .with_writer(lines)
        .with_ansi(colour)
        .with_target(false)
        // It would tell of them on standard error, and panic where that is broken.
        .log_internal_errors(false);
    // The journal notes the time itself.
    let registry = tracing_subscriber::registry().with(filter);
    let started = if lines.journal {
        registry.with(logging.without_time()).try_init()
    } else {
        registry.with(logging).try_init()
    };
    if started.is_err() {
        // Somebody started logging before; theirs holds.
        return Ok(());
    }
    if let Some(error) = refused {
        tracing::warn!("POSTERN_LOG is not understood ({error}); info is used");
    }
    tell_panics();
    Ok(())
}

/// Says something as it stands: through the log if there is one, else on standard error. If that
/// is gone, there is nobody to tell.
pub(crate) fn say(what: &dyn fmt::Display) {
    match LINES.get() {
        Some(lines) => lines.at(Level::ERROR).tell(format!("{what}\n").as_bytes()),
        None => drop(writeln!(io::stderr(), "{what}")),
    }
}

/// Waits a moment for the last lines to be written; the process is about to end.
pub(crate) fn finish() {
    if let Some(lines) = LINES.get() {
        lines.queue.flush(FLUSH);
    }
}

/// Where lines of the log go.
struct Lines {
    queue: Queue,
    /// Whether the journal reads them.
    journal: bool,
}

impl Lines {
    fn at(&self, level: Level) -> Line<'_> {
        Line { lines: self, level }
    }
}

/// The way of one line.
struct Line<'a> {
    lines: &'a Lines,
    level: Level,
}

impl Line<'_> {
    fn tell(&self, text: &[u8]) {
        let text =
            if self.lines.journal { journal::marked(text, self.level) } else { text.to_vec() };
        self.lines.queue.push(text);
    }
}

impl Write for Line<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.tell(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for &'static Lines {
    type Writer = Line<'static>;

    fn make_writer(&self) -> Line<'static> {
        self.at(Level::INFO)
    }

    fn make_writer_for(&self, meta: &Metadata<'_>) -> Line<'static> {
        self.at(*meta.level())
    }
}

/// Has panics logged, at most as many as a [`Throttle`] lets through: a peer that finds a packet
/// which causes one may not fill the disk with them.
pub fn tell_panics() {
    static PANICS: Throttle = Throttle::new();
    std::panic::set_hook(Box::new(|info| {
        let Some(held) = PANICS.admit(Instant::now()) else { return };
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("no message");
        tracing::error!("internal error at {place}: {text}{held}");
    }));
}

/// Logs what was given up because of a panic, throttled as the panics are. All of them are
/// counted elsewhere and shown by `postern sa --json`.
pub(crate) fn gave_up(what: fmt::Arguments<'_>) {
    static GIVEN_UP: Throttle = Throttle::new();
    if let Some(held) = GIVEN_UP.admit(Instant::now()) {
        tracing::error!("{what}{held}");
    }
}

/// Whether an event that a stranger caused may be logged, and how many were not: they come at will,
/// and `postern events` keeps the newest.
pub(crate) fn of_strangers() -> Option<Held> {
    static STRANGERS: Throttle = Throttle::new();
    STRANGERS.admit(Instant::now())
}
