//! Durations and sizes as operators write them.

use std::time::Duration;

/// The longest duration that makes sense: ten years.
const LONGEST: u64 = 10 * 365 * 86_400;

/// Reads `30s`, `5m`, `4h`, `1d` or several of them (`1h30m`).
///
/// # Errors
/// What to write instead.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "write a number and s, m, h or d: \"30s\", \"4h\"".to_owned();
    let mut rest = text.trim();
    let mut total = 0u64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let unit = tail.chars().next().ok_or_else(bad)?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        total = number
            .checked_mul(factor)
            .and_then(|seconds| total.checked_add(seconds))
            .filter(|seconds| *seconds <= LONGEST)
            .ok_or_else(|| "ten years (\"3650d\") are the most".to_owned())?;
        rest = tail.get(unit.len_utf8()..).unwrap_or("");
    }
    Ok(Duration::from_secs(total))
}

/// Reads `64GiB`: a number and B, KiB, MiB, GiB, TiB, PiB, or kB, MB, GB, TB, PB.
///
/// # Errors
/// What to write instead.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let bad = || "write a number and B, KiB, MiB, GiB or TiB: \"64GiB\"".to_owned();
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let factor: u64 = match unit.trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "PiB" => 1 << 50,
        "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "PB" => 1_000_000_000_000_000,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(|| "that is more than 64 bits can count".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in
            [("30s", 30), ("4h", 14_400), ("1d", 86_400), ("1h30m", 5400), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "30", "4 h", "-1s", "1w", "99999999999999999999s", "4000d", "1hä"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("64GiB", 64 << 30), ("1 TiB", 1 << 40), ("10MB", 10_000_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "64", "GiB", "64G", "99999999999PiB", "-1B"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
