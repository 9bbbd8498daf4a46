//! The nearest known word to a mistyped one.

use ike::negotiate::edit_distance;

/// The candidate nearest to `word`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_lowercase().replace('-', "_");
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .iter()
        .map(|candidate| {
            (edit_distance(&lower, &candidate.to_lowercase().replace('-', "_")), *candidate)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_seen_and_strangers_are_not() {
        let known = ["rekey", "rekey_bytes", "proposals", "replay_window"];
        for (word, want) in [
            ("rekye", Some("rekey")),
            ("rekeyy", Some("rekey")),
            ("proposal", Some("proposals")),
            ("replay-window", Some("replay_window")),
            ("Rekey", Some("rekey")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), want, "{word}");
        }
    }
}
