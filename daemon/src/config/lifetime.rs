//! How long keys live, and after how much silence a peer is asked whether it lives.

use std::time::Duration;

use sa_store::Limits;

use super::{
    diagnostic::Findings,
    schema::{At, RawEsp, shown},
    units,
};

/// SA hard time limits lie at least this far behind the soft ones, so that a rekey has time.
const LEAST_OVERTIME: Duration = Duration::from_secs(30);

/// What is shorter is refused: an exchange with a peer that is far or busy takes that long.
const LEAST_LIFETIME: Duration = Duration::from_secs(2);

/// Keys that live shorter are warned of.
const SHORT_LIFE: Duration = Duration::from_secs(60);

/// Liveness checks after less silence are warned of.
const SHORT_PAUSE: Duration = Duration::from_secs(5);

/// Limits of a child below these are warned of.
const FEW_BYTES: u64 = 1 << 20;
const FEW_PACKETS: u64 = 1000;

/// When the IKE SA is rekeyed; `None` is never.
pub(super) fn ike(raw: Option<&At<&str>>, findings: &mut Findings) -> Option<Duration> {
    duration(raw, "4h", SHORT_LIFE, findings)
}

/// After how much silence the peer is asked for a sign of life; `None` is never.
pub(super) fn dpd(raw: Option<&At<&str>>, findings: &mut Findings) -> Option<Duration> {
    duration(raw, "30s", SHORT_PAUSE, findings)
}

/// When a child is rekeyed.
pub(super) fn soft(raw: &RawEsp<'_>, findings: &mut Findings) -> Limits {
    Limits {
        time: duration(raw.rekey.as_ref(), "1h", SHORT_LIFE, findings),
        bytes: raw.rekey_bytes.as_ref().and_then(|text| match units::size(text.value) {
            Ok(0) => {
                findings.error(text.span.clone(), "a child cannot be rekeyed after 0 octets", "");
                None
            }
            Ok(bytes) => {
                if bytes < FEW_BYTES {
                    warn_of_few(text, findings);
                }
                Some(bytes)
            }
            Err(help) => {
                let message = format!("`{}` is no size", shown(text.value));
                findings.error(text.span.clone(), message, help);
                None
            }
        }),
        packets: raw.rekey_packets.as_ref().and_then(|at| {
            if at.value == 0 {
                findings.error(at.span.clone(), "a child cannot be rekeyed after 0 packets", "");
            } else if at.value < FEW_PACKETS {
                warn_of_few(at, findings);
            }
            (at.value > 0).then_some(at.value)
        }),
    }
}

/// Ten percent behind the soft limits.
pub(super) fn hard(soft: Limits) -> Limits {
    Limits {
        time: soft.time.map(|time| time + (time / 10).max(LEAST_OVERTIME)),
        bytes: soft.bytes.map(|bytes| bytes.saturating_add((bytes / 10).max(1))),
        packets: soft.packets.map(|packets| packets.saturating_add((packets / 10).max(1))),
    }
}

/// A duration; `0s` is never. Below `short` it is probably not what was meant.
fn duration(
    raw: Option<&At<&str>>,
    default: &str,
    short: Duration,
    findings: &mut Findings,
) -> Option<Duration> {
    let text = raw.map_or(default, |text| text.value);
    match (units::duration(text), raw) {
        (Ok(Duration::ZERO), _) => None,
        (Ok(duration), Some(at)) if duration < LEAST_LIFETIME => {
            let message =
                format!("`{}` is over before an exchange with the peer is", shown(at.value));
            findings.error(at.span.clone(), message, format!("the default is \"{default}\""));
            None
        }
        (Ok(duration), Some(at)) if duration < short => {
            let message = format!("`{}` is very short and costs both sides much", shown(at.value));
            findings.warning(at.span.clone(), message, format!("the default is \"{default}\""));
            Some(duration)
        }
        (Ok(duration), _) => Some(duration),
        (Err(help), Some(at)) => {
            let message = format!("`{}` is no duration", shown(at.value));
            findings.error(at.span.clone(), message, help);
            None
        }
        (Err(_), None) => None,
    }
}

/// A limit that a busy child reaches within a moment.
fn warn_of_few<T>(place: &At<T>, findings: &mut Findings) {
    let message = "so few pass in a moment; each rekey costs both sides much";
    findings.warning(place.span.clone(), message, "leave it out if in doubt");
}
