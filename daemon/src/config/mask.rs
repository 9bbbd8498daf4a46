//! Hides secrets in a configuration's text before any of it is shown.
//!
//! This works on the raw text, so that it also holds for files that are no valid TOML. In doubt
//! it hides: a line with too many asterisks is a nuisance, a key in a log is not.

use ike::negotiate::edit_distance;

/// A copy of `text` in which the values of secret-looking keys, and everything inside `auth` but
/// the path of a `psk_file`, are replaced by asterisks of the same length; every position stays
/// what it was.
pub(super) fn mask(text: &str) -> String {
    let mut out: Vec<u8> = text.as_bytes().to_vec();
    let bytes = text.as_bytes();
    if bytes.contains(&0) {
        // Another encoding, in which nothing here would be recognized.
        blank(&mut out, 0, bytes.len());
        return String::from_utf8_lossy(&out).into_owned();
    }
    let mut at = 0;
    let mut section_is_auth = false;
    let mut line_begins = true;
    while let Some(rest) = text.get(at..) {
        if line_begins {
            let line = rest.lines().next().unwrap_or("").trim_start();
            if line.starts_with('[') {
                section_is_auth = names_auth(line.trim_matches(['[', ']', ' ', '\t']));
            }
        }
        let Some(found) = rest.find(['=', '\n']) else { break };
        let place = at + found;
        at = place + 1;
        line_begins = bytes.get(place) == Some(&b'\n');
        if !line_begins {
            let key = key_before(text, place);
            if !is_path(key) && (section_is_auth || names_auth(key) || is_secret(last(key))) {
                at = blank_value(bytes, &mut out, at);
            }
        }
    }
    // Only whole values were replaced, octet by octet, with ASCII: what is left is UTF-8.
    String::from_utf8_lossy(&out).into_owned()
}

/// The dotted key that ends before `equals`, perhaps with something else in front of it.
fn key_before(text: &str, equals: usize) -> &str {
    let before = text.get(..equals).unwrap_or("");
    let start = before.rfind(['\n', '{', '}', '[', ']', ',', '=']).map_or(0, |at| at + 1);
    before.get(start..).unwrap_or("")
}

/// The parts of a dotted key or of a section's name, without quotes and white space.
fn parts(key: &str) -> impl Iterator<Item = &str> {
    key.split('.').map(|part| part.trim_matches([' ', '\t', '\r', '"', '\'']))
}

fn last(key: &str) -> &str {
    parts(key).last().unwrap_or("")
}

/// A name in lower case, without what joins its words.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect()
}

/// Whether a dotted key leads into `auth`, also with a slip of the finger in it. A tunnel may be
/// called like that.
fn names_auth(key: &str) -> bool {
    let is_tunnel = |index| index == 1 && parts(key).next() == Some("tunnels");
    parts(key).enumerate().any(|(index, part)| {
        let part = plain(part);
        !is_tunnel(index) && (part.contains("auth") || edit_distance(&part, "auth") <= 1)
    })
}

/// Whether a dotted key's value is the path of a file with a key, which may be shown.
fn is_path(key: &str) -> bool {
    plain(last(key)) == "pskfile"
}

/// Whether a key looks like it holds a secret, also with a slip of the finger in it.
fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 8] =
        ["psk", "secret", "passw", "passphrase", "preshared", "sharedkey", "credential", "token"];
    let word = key.rsplit(['_', '-']).next().unwrap_or("").to_lowercase();
    let key = plain(key);
    WORDS.iter().any(|word| key.contains(word))
        || (key.len() <= 4 && edit_distance(&key, "psk") <= 1)
        || matches!(word.as_str(), "key" | "keys" | "pass" | "pwd" | "pw")
}

/// Replaces the value that starts behind `start`; gives the place where it ends.
fn blank_value(bytes: &[u8], out: &mut [u8], start: usize) -> usize {
    let mut at = start;
    while matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    match bytes.get(at) {
        Some(b'{' | b'[') => blank_nested(bytes, out, at),
        Some(&quote @ (b'"' | b'\'')) => {
            let end = string_end(bytes, at, quote);
            blank_string(bytes, out, at, end);
            end
        }
        _ => {
            let end = line_end(bytes, at);
            blank(out, at, end);
            end
        }
    }
}

/// Replaces what stands in the inline table or array at `start`, apart from keys and from the
/// value of a `psk_file`; gives the place behind it. An open one ends before the next section.
fn blank_nested(bytes: &[u8], out: &mut [u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0_usize;
    // Where the current element begins, and where its value does.
    let (mut element, mut shown) = (start, false);
    let mut in_value = false;
    while let Some(&byte) = bytes.get(at) {
        let here = at;
        at += 1;
        match byte {
            quote @ (b'"' | b'\'') => {
                at = string_end(bytes, here, quote);
                // In front of a `=` stands a key; what is none is found out at the end of it.
                if in_value && !shown {
                    blank_string(bytes, out, here, at);
                }
            }
            b'=' if !in_value => {
                let key = bytes.get(element..here).unwrap_or(&[]);
                (in_value, shown) = (true, is_path(&String::from_utf8_lossy(key)));
            }
            b'{' | b'[' | b'}' | b']' | b',' => {
                if !in_value {
                    blank_element(bytes, out, element, here);
                }
                (element, in_value) = (at, false);
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if depth == 0 {
                    return at;
                }
            }
            b'#' => {
                at = line_end(bytes, here);
                blank(out, here, at);
            }
            b'\n' if section_begins(bytes, at) => {
                if !in_value {
                    blank_element(bytes, out, element, here);
                }
                return here;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ if in_value && !shown => blank(out, here, at),
            _ => {}
        }
    }
    if !in_value {
        blank_element(bytes, out, element, bytes.len());
    }
    bytes.len()
}

/// Whether the line at `at` is the name of a section.
fn section_begins(bytes: &[u8], at: usize) -> bool {
    let line = bytes.get(at..line_end(bytes, at)).unwrap_or(&[]).trim_ascii_start();
    let name = line.strip_prefix(b"[[").or_else(|| line.strip_prefix(b"["));
    name.is_some_and(|name| name.first().is_some_and(u8::is_ascii_alphabetic))
}

/// Replaces what stands between the quotes of a string, which may be open at its end.
fn blank_string(bytes: &[u8], out: &mut [u8], start: usize, end: usize) {
    let closed = end > start + 1 && bytes.get(end - 1) == bytes.get(start);
    blank(out, start + 1, if closed { end - 1 } else { end });
}

/// Replaces an element of a list, if there is one.
fn blank_element(bytes: &[u8], out: &mut [u8], start: usize, end: usize) {
    if bytes.get(start..end).is_some_and(|element| !element.trim_ascii().is_empty()) {
        blank(out, start, end);
    }
}

/// Replaces everything but the ends of lines.
fn blank(out: &mut [u8], start: usize, end: usize) {
    for slot in out.iter_mut().take(end).skip(start) {
        if !matches!(*slot, b'\n' | b'\r') {
            *slot = b'*';
        }
    }
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
            ("p\0s\0k\0=\0a\0\n\0", "**********\n*"),
            ("psk = \"abc\" # x\n", "psk = \"***\" # x\n"),
            ("auth = { psk = 'abc', x = 1 }", "auth = { psk = '***', x = * }"),
            ("auth = { key = \"abc\" }", "auth = { key = \"***\" }"),
            ("auth = { a = { \"b\" = ['x', 'y'] } }", "auth = { a = { \"b\" = [***,****] } }"),
            ("auth = { psk_file = 'a', x = 'b' }", "auth = { psk_file = 'a', x = '*' }"),
            ("auth = { psk = a=b, c", "auth = { psk = ***,**"),
            ("auth = [\n'x'\n]\nid = 'x'", "auth = [\n***\n]\nid = 'x'"),
            ("auth = {\n[tunnels.b]\nid = 'x'", "auth = {\n[tunnels.b]\nid = 'x'"),
            (
                "[tunnels.a.auth]\nkey = 'x'\n[b]\nid = 'x'",
                "[tunnels.a.auth]\nkey = '*'\n[b]\nid = 'x'",
            ),
            ("[tunnels.auth]\nencap = 'x'", "[tunnels.auth]\nencap = 'x'"),
            ("a.auth . \"key\" = 'x'", "a.auth . \"key\" = '*'"),
            ("pre_shared_key = 'x'", "pre_shared_key = '*'"),
            ("Pre-Shared-Key = 'x'", "Pre-Shared-Key = '*'"),
            ("passwd = 'x'", "passwd = '*'"),
            ("pass = 'x'", "pass = '*'"),
            ("key = 'x'", "key = '*'"),
            ("bypass = ['x']", "bypass = ['x']"),
            ("rekey = 'x'", "rekey = 'x'"),
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
