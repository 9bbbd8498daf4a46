//! Hides secrets in a configuration's text before any of it is shown.
//!
//! This works on the raw text, so that it also holds for files that are no valid TOML.

/// Keys whose strings may be shown although they stand where secrets stand: they are paths.
const PATHS: [&str; 4] = ["psk_file", "cert", "key", "ca"];

/// A copy of `text` in which the values of secret-looking keys are replaced by asterisks of the
/// same length; every position stays what it was.
pub(super) fn mask(text: &str) -> String {
    let mut out: Vec<u8> = text.as_bytes().to_vec();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('=')) {
        let equals = at + found;
        at = equals + 1;
        let key = key_before(text, equals);
        if is_secret(key) {
            at = blank_value(bytes, &mut out, equals + 1);
        }
    }
    // Only whole values were replaced, octet by octet, with ASCII: what is left is UTF-8.
    String::from_utf8_lossy(&out).into_owned()
}

/// The last part of the key that ends before `equals`, without quotes.
fn key_before(text: &str, equals: usize) -> &str {
    let before = text.get(..equals).unwrap_or("").trim_end_matches([' ', '\t']);
    let before = before.trim_end_matches(['"', '\'']);
    let start =
        before.rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).map_or(0, |at| {
            at + before.get(at..).and_then(|s| s.chars().next()).map_or(1, char::len_utf8)
        });
    before.get(start..).unwrap_or("")
}

/// Whether a key looks like it holds a secret, also with a slip of the finger in it.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    if PATHS.contains(&key.as_str()) {
        return false;
    }
    const WORDS: [&str; 6] = ["psk", "secret", "password", "passphrase", "preshared", "pre-shared"];
    WORDS.iter().any(|word| key.contains(word))
        || (key.len() <= 4 && super::suggest::distance(&key, "psk") <= 1)
        || key == "auth"
}

/// Replaces the value that starts behind `start`; gives the place where it ends.
fn blank_value(bytes: &[u8], out: &mut [u8], start: usize) -> usize {
    let mut at = start;
    while matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    let end = match bytes.get(at) {
        // An inline table: its own keys decide.
        Some(b'{') => return at + 1,
        Some(&quote @ (b'"' | b'\'')) => string_end(bytes, at, quote),
        _ => line_end(bytes, at),
    };
    let quoted = matches!(bytes.get(at), Some(b'"' | b'\''));
    for (index, slot) in out.iter_mut().enumerate().take(end).skip(at) {
        let edge = index == at || (index + 1 == end && bytes.get(index) == bytes.get(at));
        let keep = matches!(*slot, b'\n' | b'\r') || (quoted && edge);
        if !keep {
            *slot = b'*';
        }
    }
    end
}

/// Behind the closing quote of the string at `at`; an open string ends with its line.
fn string_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let triple = [quote; 3];
    if bytes.get(at..at + 3) == Some(&triple[..]) {
        let body = at + 3;
        let rest = bytes.get(body..).unwrap_or(&[]);
        return rest.windows(3).position(|w| w == triple).map_or(bytes.len(), |p| body + p + 3);
    }
    let mut index = at + 1;
    while let Some(&byte) = bytes.get(index) {
        match byte {
            b'\n' => return index,
            b'\\' if quote == b'"' => index += 2,
            _ if byte == quote => return index + 1,
            _ => index += 1,
        }
    }
    bytes.len()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or(&[]);
    rest.iter().position(|&b| b == b'\n').map_or(bytes.len(), |p| at + p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_secrets_are_gone_and_positions_stay() {
        for (text, want) in [
            ("psk = \"abc\" # x\n", "psk = \"***\" # x\n"),
            ("auth = { psk = 'abc', x = 1 }", "auth = { psk = '***', x = 1 }"),
            ("auth = \"abc\"", "auth = \"***\""),
            ("\"psk\" = \"a\\\"bc\"", "\"psk\" = \"*****\""),
            ("psk = \"\"\"ab\nc\"\"\"\nx = 1", "psk = \"****\n***\"\nx = 1"),
            ("psk = abc def\nx", "psk = *******\nx"),
            ("psk = \"open\nx = 1", "psk = \"****\nx = 1"),
            ("pks = \"abc\"", "pks = \"***\""),
            ("my_secret=\"äb\"", "my_secret=\"***\""),
            ("psk_file = \"a.psk\"", "psk_file = \"a.psk\""),
            ("tunnels.a.auth.psk = \"abc\"", "tunnels.a.auth.psk = \"***\""),
            ("esp = { proposals = [\"x\"] }", "esp = { proposals = [\"x\"] }"),
        ] {
            let masked = mask(text);
            assert_eq!(masked.len(), text.len(), "{text}");
            assert_eq!(masked, want);
        }
    }
}
