//! What people read: problems first, one block a tunnel, one line a child.

use std::{collections::HashMap, fmt::Write, time::Duration};

use api::postern::v1::{Child, ClearNetwork, Endpoint, Event, GetStatusResponse, IkeSa, Tunnel};

use crate::time::rfc3339;

/// Whether to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Characters only.
    Plain,
    /// With ANSI colours.
    Colour,
}

#[derive(Clone, Copy)]
enum Tone {
    Good,
    Busy,
    Bad,
}

impl Style {
    /// Colour only on a terminal that has some, and only if nobody objects (NO_COLOR).
    #[must_use]
    pub fn of_terminal(terminal: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if terminal && !refused && !dumb { Self::Colour } else { Self::Plain }
    }

    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match (self, tone) {
            (Self::Plain, _) => return text.to_owned(),
            (_, Tone::Good) => 32,
            (_, Tone::Busy) => 33,
            (_, Tone::Bad) => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Text from outside without anything that a terminal would obey.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The status of a gateway. With an earlier look and the time since, there are rates. Where the
/// line of a child does not fit into `columns`, it becomes two.
#[must_use]
pub fn status(
    now: &GetStatusResponse,
    before: Option<(&GetStatusResponse, Duration)>,
    style: Style,
    columns: Option<usize>,
) -> String {
    let mut out = String::new();
    let up = now.tunnels.iter().filter(|t| t.state == "established").count();
    let _ = write!(out, "{}: ", clean(&now.gateway));
    match now.tunnels.len() {
        0 => out.push_str("no tunnels"),
        1 => {
            let _ = write!(out, "{up} of 1 tunnel up");
        }
        all => {
            let _ = write!(out, "{up} of {all} tunnels up");
        }
    }
    if now.internal_errors > 0 {
        let text = format!(", {} internal errors (see the log)", now.internal_errors);
        out.push_str(&style.paint(Tone::Bad, &text));
    }
    out.push('\n');
    for warning in &now.warnings {
        let text = format!("warning: {}", clean(warning));
        let _ = writeln!(out, "{}", style.paint(Tone::Busy, &text));
    }
    if !now.clear.is_empty() {
        let _ = writeln!(out, "stays clear: {}", left_clear(&now.clear));
    }
    let earlier = before.map(|(before, span)| (counters(before), span));
    let mut tunnels: Vec<&Tunnel> = now.tunnels.iter().collect();
    tunnels.sort_by_key(|tunnel| severity(tunnel));
    for tunnel in tunnels {
        out.push('\n');
        show_tunnel(&mut out, tunnel, earlier.as_ref(), style, columns);
    }
    out
}

/// Networks of this many are shown.
const CLEAR_SHOWN: usize = 8;

/// Networks that stay clear, with their interfaces.
fn left_clear(clear: &[ClearNetwork]) -> String {
    let mut shown: Vec<String> = clear
        .iter()
        .take(CLEAR_SHOWN)
        .map(|clear| match &*clear.interface {
            "" => clean(&clear.network),
            interface => format!("{} by {}", clean(&clear.network), clean(interface)),
        })
        .collect();
    if let Some(more @ 1..) = clear.len().checked_sub(CLEAR_SHOWN) {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

type Counters<'a> = HashMap<(&'a str, &'a str), (u64, u64)>;

fn counters(status: &GetStatusResponse) -> Counters<'_> {
    let children = status.tunnels.iter().flat_map(|t| t.children.iter().map(move |c| (t, c)));
    children.map(|(t, c)| ((&*t.name, &*c.name), (c.bytes_in, c.bytes_out))).collect()
}

/// Problems first; the order of the configuration among equals.
fn severity(tunnel: &Tunnel) -> u8 {
    let narrowed = tunnel.children.iter().any(|child| !child.narrowed.is_empty());
    match (&*tunnel.state, &*tunnel.mode, tunnel.last_error.is_some() || narrowed) {
        ("established", _, false) => 3,
        ("established", _, true) => 1,
        (_, "always-on", _) | (_, _, true) => 0,
        _ => 2,
    }
}

fn show_tunnel(
    out: &mut String,
    tunnel: &Tunnel,
    earlier: Option<&(Counters<'_>, Duration)>,
    style: Style,
    columns: Option<usize>,
) {
    let tone = match (&*tunnel.state, &*tunnel.mode) {
        ("established", _) => Tone::Good,
        ("down", "always-on") => Tone::Bad,
        _ => Tone::Busy,
    };
    let held = if tunnel.held { " (held)" } else { "" };
    let state = style.paint(tone, &format!("{}{held}", clean(&tunnel.state)));
    let _ = writeln!(
        out,
        "{}  {state}  {} <-> {}  {}",
        clean(&tunnel.name),
        end(tunnel.local.as_ref()),
        end(tunnel.remote.as_ref()),
        clean(&tunnel.mode),
    );
    if let Some(error) = &tunnel.last_error {
        let text = format!("{}: {}", clean(&error.code), clean(&error.message));
        let _ = writeln!(out, "  {}, {} ago", style.paint(Tone::Bad, &text), span(error.ago_s));
    }
    if tunnel.held {
        let _ = writeln!(out, "  held down until `postern up {}`", clean(&tunnel.name));
    } else if let Some(next) = tunnel.next_attempt_in_s {
        let _ = writeln!(out, "  next attempt in {}", span(next));
    }
    for sa in &tunnel.ike_sas {
        let _ = writeln!(out, "  {}", ike_line(sa));
    }
    let rows: Vec<Vec<String>> = tunnel
        .children
        .iter()
        .map(|child| {
            let before = earlier.and_then(|(counters, span)| {
                counters.get(&(&*tunnel.name, &*child.name)).map(|bytes| (*bytes, *span))
            });
            child_row(child, before)
        })
        .collect();
    let cells = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |cell: usize| {
        rows.iter().filter_map(|row| row.get(cell)).map(|text| text.chars().count()).max()
    };
    let widths: Vec<usize> = (0..cells).map(|cell| width(cell).unwrap_or(0)).collect();
    let whole: usize = widths.iter().map(|width| width + 2).sum();
    let breaks = columns.is_some_and(|columns| whole > columns);
    for (row, child) in rows.iter().zip(&tunnel.children) {
        let mut line = String::from(" ");
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if index == BEHIND_NETWORKS && breaks {
                let _ = write!(out, "{}\n   ", line.trim_end());
                line = String::from(" ");
            }
            let padded = format!("{cell:<width$}");
            let tone = match (&*child.state, index) {
                ("installed", 1) => Some(Tone::Good),
                (_, 1) => Some(Tone::Busy),
                _ => None,
            };
            let cell = tone.map_or(padded.clone(), |tone| style.paint(tone, &padded));
            let _ = write!(line, " {cell} ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
        if !child.narrowed.is_empty() {
            let text = format!("narrowed: {}", clean(&child.narrowed));
            let _ = writeln!(out, "    {}", style.paint(Tone::Bad, &text));
        }
    }
}

fn end(end: Option<&Endpoint>) -> String {
    let Some(end) = end else { return "?".into() };
    let address = if end.address.is_empty() { "?" } else { &end.address };
    let port = match end.port {
        0 | 500 => String::new(),
        port if address.contains(':') => format!(" port {port}"),
        port => format!(":{port}"),
    };
    let id = if end.id.is_empty() || end.id == address {
        String::new()
    } else {
        format!(" ({})", short(&end.id))
    };
    format!("{}{port}{id}", clean(address))
}

/// The beginning of an identity, which a peer may make long: the details have all of it.
fn short(id: &str) -> String {
    let mut shown: String = clean(id).chars().take(IDENTITY_SHOWN).collect();
    if id.chars().nth(IDENTITY_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Characters of it.
const IDENTITY_SHOWN: usize = 100;

fn ike_line(sa: &IkeSa) -> String {
    let mut line = format!("IKE SA {}", sa.id);
    if sa.state != "established" {
        let _ = write!(line, " {}", clean(&sa.state));
    }
    if !sa.proposal.is_empty() {
        let _ = write!(line, "  {}", clean(&sa.proposal));
    }
    if let Some(age) = sa.established_s {
        let _ = write!(line, "  up {}", span(age));
    }
    if let Some(rekey) = sa.rekey_in_s {
        let _ = write!(line, ", rekey in {}", span(rekey));
    }
    match (sa.nat_local, sa.nat_remote) {
        (true, true) => line.push_str("  NAT on both sides"),
        (true, false) => line.push_str("  NAT before us"),
        (false, true) => line.push_str("  NAT before the peer"),
        (false, false) => {}
    }
    line
}

/// The cell of a child's row before which a line may be broken.
const BEHIND_NETWORKS: usize = 3;

/// Name, state, networks, path, traffic in and out, what comes next.
fn child_row(child: &Child, before: Option<((u64, u64), Duration)>) -> Vec<String> {
    let networks = format!("{} <-> {}", list(&child.local), list(&child.remote));
    let mut row = vec![clean(&child.name), clean(&child.state), networks];
    if child.path.is_empty() {
        row.push("its traffic is held".into());
        return row;
    }
    let encap = if child.encap == "udp" { " in UDP" } else { "" };
    row.push(format!("{}{encap}", clean(&child.path)));
    row.push(clean(&child.proposal));
    let traffic = |word: &str, bytes: u64, earlier: Option<u64>| {
        let rate = match (earlier, before) {
            (Some(earlier), Some((_, span))) => {
                let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
                format!(" {}/s", size(bytes.saturating_sub(earlier).saturating_mul(1000) / millis))
            }
            _ => String::new(),
        };
        format!("{word} {}{rate}", size(bytes))
    };
    row.push(traffic("in", child.bytes_in, before.map(|((bytes, _), _)| bytes)));
    row.push(traffic("out", child.bytes_out, before.map(|((_, bytes), _)| bytes)));
    let mut next = match (child.rekey_in_s, child.expires_in_s) {
        (Some(rekey), _) => format!("rekey in {}", span(rekey)),
        (None, Some(end)) => format!("ends in {}", span(end)),
        (None, None) => String::new(),
    };
    let dropped = child.dropped.unwrap_or_default();
    let reasons = [
        ("replayed", dropped.replay),
        ("forged", dropped.auth),
        ("outside the networks", dropped.policy),
        ("malformed", dropped.malformed),
        ("expired", dropped.expired),
    ];
    for (reason, count) in reasons.into_iter().filter(|(_, count)| *count > 0) {
        let _ = write!(next, ", {count} {reason}");
    }
    row.push(next);
    row
}

/// The first of some networks, and how many more there are.
fn list(networks: &[String]) -> String {
    match networks {
        [] => "?".into(),
        [one] => clean(one),
        [one, two] => format!("{}, {}", clean(one), clean(two)),
        [one, rest @ ..] => format!("{} and {} more", clean(one), rest.len()),
    }
}

/// One event as a line.
#[must_use]
pub fn event(event: &Event, style: Style) -> String {
    let target = match (&*event.tunnel, &*event.child) {
        ("", _) => String::new(),
        (tunnel, "") => format!("{}  ", clean(tunnel)),
        (tunnel, child) => format!("{}/{}  ", clean(tunnel), clean(child)),
    };
    let kind = match &*event.code {
        "" => clean(&event.kind),
        // Somebody here wanted it so.
        code @ ("deleted-by-operator" | "reconfigured") => {
            format!("{} ({code})", clean(&event.kind))
        }
        code => style.paint(Tone::Bad, &format!("{} ({})", clean(&event.kind), clean(code))),
    };
    format!("{}  {target}{kind}  {}\n", rfc3339(event.unix_ms), clean(&event.message))
}

/// Seconds as people say them.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Octets as people say them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).clamp(1, 6);
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    let unit = UNITS.get(power as usize - 1).copied().unwrap_or("EiB");
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}
