//! The nearest known word to a mistyped one.

/// The candidate nearest to `word`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_lowercase().replace('-', "_");
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .iter()
        .map(|candidate| {
            (distance(&lower, &candidate.to_lowercase().replace('-', "_")), *candidate)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: insertions, deletions, replacements and swaps of neighbours.
/// Words longer than 64 characters are far from everything.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(65).collect();
    let b: Vec<char> = b.chars().take(65).collect();
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut rows: [Vec<usize>; 3] = [vec![0; b.len() + 1], (0..=b.len()).collect(), Vec::new()];
    for (i, &left) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, &right) in b.iter().enumerate() {
            let mut best =
                (rows[1][j] + usize::from(left != right)).min(rows[1][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && left == b[j - 1] && a[i - 1] == right {
                best = best.min(rows[0][j - 1] + 1);
            }
            row[j + 1] = best;
        }
        rows.rotate_left(1);
        rows[1] = row;
    }
    rows[1].last().copied().unwrap_or(usize::MAX)
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
        assert_eq!(distance("", "psk"), 3);
        assert_eq!(distance("pks", "psk"), 1);
        assert_eq!(distance(&"x".repeat(1_000_000), "psk"), usize::MAX);
    }
}
