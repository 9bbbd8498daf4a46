//! `config.toml`: schema (keys and types) → validate (meaning) → [`gateway::spec::ConnectionSpec`].
//!
//! [`parse`] is pure but for the secrets it is told to read; nothing in the system is touched
//! before a whole file was understood.

mod bypass;
mod callers;
mod clear;
mod diagnostic;
mod end;
mod exempt;
mod lifetime;
mod mask;
mod overlap;
mod proposal;
mod schema;
mod secret;
mod suggest;
mod trust;
mod units;
mod validate;
mod wipe;

use std::{
    borrow::Cow,
    io::{self, Read},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

pub use diagnostic::{Diagnostic, Report, Severity};
use gateway::spec::ConnectionSpec;
use sa_store::{OffloadIntent, TrafficSelector};
pub use secret::{Exposure, FileSystem, NoFiles, SecretFiles};
use toml::de::DeTable;
use zeroize::Zeroizing;

use self::trust::Opened;

/// Octets a configuration may have.
pub const MAX_SIZE: usize = 16 << 20;

/// A whole configuration, understood.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[gateway]`
    pub gateway: GatewayConfig,
    /// `[inline]`
    pub inline: InlineConfig,
    /// The tunnels, in the order of the file.
    pub connections: Vec<ConnectionSpec>,
    /// What is accepted but probably not what was meant.
    pub warnings: Report,
}

/// `[gateway]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GatewayConfig {
    /// `None` is the host name.
    pub name: Option<String>,
    /// Where SAs run.
    pub dataplane: OffloadIntent,
    /// The control socket.
    pub control: PathBuf,
    /// Where the daemon keeps its lock.
    pub state_dir: PathBuf,
    /// What a clean stop leaves.
    pub on_stop: OnStop,
    /// Networks that stay outside every policy.
    pub clear: Vec<TrafficSelector>,
}

/// What a clean stop leaves in the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnStop {
    /// Protected destinations stay blocked.
    #[default]
    Closed,
    /// Nothing.
    Open,
}

/// `[inline]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InlineConfig {
    /// The TUN interface.
    pub interface: String,
    /// `None` is as many as make sense.
    pub workers: Option<NonZeroUsize>,
}

/// What [`parse`] needs to know about the file beside its text.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// How the file is called in messages.
    pub file: &'a str,
    /// The folder that relative paths start from.
    pub folder: &'a Path,
    /// Whether somebody else can use the file: then it must not hold secrets.
    pub exposed: Option<Exposure>,
    /// Where `psk_file`s are read from.
    pub secrets: &'a dyn SecretFiles,
}

/// Understands the text of a configuration.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, context: &Context<'_>) -> Result<Config, Report> {
    if text.len() > MAX_SIZE {
        return Err(too_large(context.file));
    }
    let mut findings = diagnostic::Findings::default();
    let (document, errors) = DeTable::parse_recoverable(text);
    let document = wipe::Wiped(document);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        findings.error(span, syntax_message(error.message()), "");
    }
    if findings.has_errors() {
        return Err(findings.report(context.file, text));
    }
    let raw = schema::read(&document.0, &mut findings);
    let config = validate::validate(&raw, context, &mut findings);
    let refused = findings.has_errors();
    let report = findings.report(context.file, text);
    match config {
        Some(config) if !refused => Ok(Config { warnings: report, ..config }),
        _ => Err(report),
    }
}

/// Reads and understands a file.
///
/// # Errors
/// Everything that is wrong with it, or why it cannot be read, or who else can change it: whoever
/// does that decides what is protected.
pub fn load(path: &Path) -> Result<Config, Report> {
    let file = path.display().to_string();
    let opened = trust::open_regular(path).map_err(|error| unreadable(&file, &error))?;
    if !opened.faults.is_empty() {
        return Err(Report::about_file(
            &file,
            &format!("is refused: {}", trust::told(&opened.faults)),
        ));
    }
    let exposed = Exposure::of(&opened.metadata);
    let content = content(opened).map_err(|error| unreadable(&file, &error))?;
    if content.len() > MAX_SIZE {
        return Err(too_large(&file));
    }
    let text = std::str::from_utf8(&content).map_err(|error| not_text(&file, &content, error))?;
    let context = Context { file: &file, folder: &folder_of(path), exposed, secrets: &FileSystem };
    parse(text, &context)
}

/// The names under which a daemon is found in the system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traces {
    /// The TUN interface.
    pub interface: String,
    /// The control socket.
    pub control: PathBuf,
    /// Where the lock is.
    pub state_dir: PathBuf,
}

impl From<Config> for Traces {
    fn from(config: Config) -> Self {
        let GatewayConfig { control, state_dir, .. } = config.gateway;
        Self { interface: config.inline.interface, control, state_dir }
    }
}

/// The names in a file that may be broken anywhere, be anybody's, or not be there: each that cannot
/// be made out is the default one. Nothing else is asked of the file, and no key is read.
#[must_use]
pub fn traces(path: &Path) -> Traces {
    let content = trust::open_regular(path).and_then(content).unwrap_or_default();
    let readable = content.len() <= MAX_SIZE;
    let text = if readable { String::from_utf8_lossy(&content) } else { Cow::default() };
    let text = Zeroizing::new(text.into_owned());
    let folder = folder_of(path);
    let context = Context { file: "", folder: &folder, exposed: None, secrets: &NoFiles };
    let (document, _) = DeTable::parse_recoverable(&text);
    let document = wipe::Wiped(document);
    let raw = schema::read(&document.0, &mut diagnostic::Findings::default());
    validate::traces(&raw, &context)
}

/// What is in a file, up to a little more than is allowed.
fn content(Opened { file, metadata, .. }: Opened) -> io::Result<Zeroizing<Vec<u8>>> {
    // The text may hold keys: it never moves while it grows, and is wiped at the end.
    let size = usize::try_from(metadata.len()).unwrap_or(MAX_SIZE).min(MAX_SIZE);
    let mut content = Zeroizing::new(Vec::with_capacity(size + 64));
    file.take(MAX_SIZE as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn unreadable(file: &str, error: &io::Error) -> Report {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "does not exist; name another one with --config".into(),
        io::ErrorKind::PermissionDenied => "cannot be read: permission denied; run as root".into(),
        _ => format!("cannot be read: {error}"),
    };
    Report::about_file(file, &what)
}

fn too_large(file: &str) -> Report {
    Report::about_file(file, &format!("is larger than {} MiB", MAX_SIZE >> 20))
}

/// Shows the first place that is no UTF-8.
fn not_text(file: &str, content: &[u8], error: std::str::Utf8Error) -> Report {
    let shown = Zeroizing::new(String::from_utf8_lossy(content).into_owned());
    let at = error.valid_up_to();
    let mut findings = diagnostic::Findings::default();
    findings.error(at..at + 1, "this is no UTF-8 text", "save the file as UTF-8");
    findings.report(file, &shown)
}

/// A parser's words, as one line.
fn syntax_message(text: &str) -> String {
    format!("no valid TOML: {}", text.lines().collect::<Vec<_>>().join(", "))
}
