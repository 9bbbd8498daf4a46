//! Which names stand before secrets.

use ike::negotiate::edit_distance;

/// The parts of a dotted key or of a section's name, without quotes and white space.
fn parts(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').map(|part| part.trim_matches([' ', '\t', '\r', '"', '\'']))
}

pub(super) fn last(key: &str) -> &str {
    parts(key).last().unwrap_or("")
}

/// A name in lower case, without what joins its words.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// Whether a dotted key leads into `auth`, also with a slip of the finger in it. A tunnel may be
/// called like that.
pub(super) fn names_auth(key: &str) -> bool {
    let is_tunnel = |index| index == 1 && parts(key).next() == Some("tunnels");
    parts(key).enumerate().any(|(index, part)| {
        let part = plain(part);
        !is_tunnel(index) && (part.contains("auth") || edit_distance(&part, "auth") <= 1)
    })
}

/// Whether a dotted key's value is the path of a file with a key, which may be shown.
pub(super) fn is_path(key: &str) -> bool {
    plain(last(key)) == "pskfile"
}

/// Whether a key looks like it holds a secret, also with a slip of the finger in it.
pub(super) fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 8] =
        ["psk", "secret", "passw", "passphrase", "preshared", "sharedkey", "credential", "token"];
    let word = key.rsplit(['_', '-']).next().unwrap_or("").to_lowercase();
    let key = plain(key);
    WORDS.iter().any(|word| key.contains(word))
        || (key.len() <= 4 && edit_distance(&key, "psk") <= 1)
        || matches!(word.as_str(), "key" | "keys" | "pass" | "pwd" | "pw")
}

/// Whether a word of a line makes it one to be careful with.
pub(super) fn is_telling(word: &str) -> bool {
    is_secret(word) || names_auth(word)
}

/// Whether what stands where a file's name belongs looks like the key itself.
pub(in super::super) fn looks_like_key(name: &str) -> bool {
    let prefix = name.get(..2).unwrap_or("");
    prefix.eq_ignore_ascii_case("0s")
        || prefix.eq_ignore_ascii_case("0x")
        || (name.len() > 32 && !name.contains('.'))
}
