//! How far two words are apart, to suggest what was meant.

use alloc::{vec, vec::Vec};

/// Edits between two words: insertions, deletions, replacements and swaps of neighbours.
/// Words longer than 64 characters are far from everything.
#[must_use]
pub fn edit_distance(a: &str, b: &str) -> usize {
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
    fn slips_of_the_finger_are_counted() {
        for (a, b, want) in [
            ("", "", 0),
            ("", "psk", 3),
            ("pks", "psk", 1),
            ("sha265", "sha256", 1),
            ("aes", "ae", 1),
            ("ä", "a", 1),
        ] {
            assert_eq!(edit_distance(a, b), want, "{a} {b}");
            assert_eq!(edit_distance(b, a), want, "{b} {a}");
        }
        assert_eq!(edit_distance(&"x".repeat(1_000_000), "psk"), usize::MAX);
    }
}
