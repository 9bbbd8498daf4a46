//! Hides secrets in a configuration's text before any of it is shown.
//!
//! This works on the raw text, so that it also holds for files that are no valid TOML. In doubt
//! it hides: a line with too many asterisks is a nuisance, a key in a log is not. So where
//! something that may be a secret is not written as it has to be, everything up to the next
//! section goes: a key may be broken over lines.

mod names;
mod shape;

pub(super) use self::names::looks_like_key;
use self::{
    names::{is_path, is_secret, is_telling, last, names_auth},
    shape::{
        is_closed, is_well_formed, line_end, list_goes_on, next_section, nothing_follows,
        section_begins, string_end,
    },
};

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
    // Up to here what follows a value is known to be well-formed.
    let mut checked = 0;
    while let Some(rest) = text.get(at..) {
        if line_begins {
            if section_begins(bytes, at) {
                section_is_auth = names_auth(section_name(rest));
            }
            if let Some(end) = blank_line(text, &mut out, at, section_is_auth) {
                at = end;
                continue;
            }
        }
        let Some(found) = rest.find(['=', '\n']) else { break };
        let place = at + found;
        at = place + 1;
        line_begins = bytes.get(place) == Some(&b'\n');
        if !line_begins {
            let key = key_before(text, place);
            if section_is_auth || names_auth(key) || is_secret(last(key)) {
                at = blank_value(text, &mut out, place, &mut checked);
                line_begins = at > 0 && bytes.get(at - 1) == Some(&b'\n');
            }
        }
    }
    // Only whole values were replaced, octet by octet, with ASCII: what is left is UTF-8.
    String::from_utf8_lossy(&out).into_owned()
}

/// The name of the section that begins `text`.
fn section_name(text: &str) -> &str {
    let line = text.lines().next().unwrap_or("").trim_start().trim_start_matches('[');
    line.split(']').next().unwrap_or("")
}

/// Replaces a line as a whole, where what is in it cannot be told apart, and what follows it;
/// gives the place where that ends.
fn blank_line(text: &str, out: &mut [u8], start: usize, in_auth: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let end = line_end(bytes, start);
    let line = text.get(start..end).unwrap_or("");
    let content = line.trim();
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let careful = in_auth || line.split(|c| !is_word(c)).any(is_telling);
    if content.is_empty() || !careful {
        return None;
    }
    if content.starts_with('#') {
        blank(out, start, end);
        return Some(end);
    }
    if section_begins(bytes, start) {
        let name = section_name(line);
        let is_name = |c: char| is_word(c) || matches!(c, '.' | ':' | ' ' | '\t' | '"' | '\'');
        let Some(closes) = line.find(']').filter(|_| name.chars().all(is_name)) else {
            return Some(blank_to_section(bytes, out, start));
        };
        let behind = start + closes + 1;
        let behind = behind + usize::from(bytes.get(behind) == Some(&b']'));
        if nothing_follows(bytes, behind) {
            return Some(end);
        }
        return Some(blank_to_section(bytes, out, behind));
    }
    let assigns = || line.split_once('=').is_some_and(|(key, _)| !key.trim().is_empty());
    if is_well_formed(line.as_bytes()) && (!in_auth || assigns()) {
        return None;
    }
    // A key may be shown if it is one.
    let shown = line.find('=').filter(|&at| {
        let key = line.get(..at).unwrap_or("");
        let is_key = |c: char| is_word(c) || matches!(c, '.' | ' ' | '\t' | '"' | '\'');
        key.chars().all(is_key) && is_telling(last(key))
    });
    let from = shown.map_or(start, |at| start + at + 1);
    Some(blank_to_section(bytes, out, from))
}

/// Replaces everything up to the next section; gives the place where that begins.
fn blank_to_section(bytes: &[u8], out: &mut [u8], start: usize) -> usize {
    let end = next_section(bytes, start);
    blank(out, start, end);
    end
}

/// The dotted key that ends before `equals`, perhaps with something else in front of it.
fn key_before(text: &str, equals: usize) -> &str {
    text.get(key_start(text, equals)..equals).unwrap_or("")
}

fn key_start(text: &str, equals: usize) -> usize {
    let before = text.get(..equals).unwrap_or("");
    before.rfind(['\n', '{', '}', '[', ']', ',', '=']).map_or(0, |at| at + 1)
}

/// Replaces the value behind the `=` at `equals`, unless it is the path of a `psk_file`; gives the
/// place where it ends. Lines with many values are looked at once, up to `checked`.
fn blank_value(text: &str, out: &mut [u8], equals: usize, checked: &mut usize) -> usize {
    let bytes = text.as_bytes();
    let key = key_start(text, equals);
    let stands_alone = key == 0 || bytes.get(key - 1) == Some(&b'\n');
    let mut at = equals + 1;
    while matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    let end = match bytes.get(at) {
        Some(b'{' | b'[') => blank_nested(bytes, out, at),
        Some(b'"' | b'\'') => {
            let end = string_end(bytes, at);
            if !is_closed(bytes, at, end) {
                return blank_to_section(bytes, out, at);
            }
            if !is_path(key_before(text, equals)) || holds_key(bytes, at, end) {
                blank_string(bytes, out, at, end);
            }
            end
        }
        _ => return blank_to_section(bytes, out, at),
    };
    if stands_alone && nothing_follows(bytes, end) || !stands_alone && end <= *checked {
        return end;
    }
    if stands_alone || !list_goes_on(bytes, end) {
        return blank_to_section(bytes, out, at);
    }
    *checked = line_end(bytes, end);
    end
}

/// Whether the string where the name of a key file belongs looks like the key itself.
fn holds_key(bytes: &[u8], start: usize, end: usize) -> bool {
    let content = bytes.get(start + 1..end.saturating_sub(1)).unwrap_or(&[]);
    std::str::from_utf8(content).map_or(true, looks_like_key)
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
            b'"' | b'\'' => {
                at = string_end(bytes, here);
                // In front of a `=` stands a key; what is none is found out at the end of it.
                if in_value && (!shown || !is_closed(bytes, here, at) || holds_key(bytes, here, at))
                {
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
            _ if in_value => blank(out, here, at),
            _ => {}
        }
    }
    if !in_value {
        blank_element(bytes, out, element, bytes.len());
    }
    bytes.len()
}

/// Replaces what stands between the quotes of a string, which may be open at its end.
fn blank_string(bytes: &[u8], out: &mut [u8], start: usize, end: usize) {
    blank(out, start + 1, if is_closed(bytes, start, end) { end - 1 } else { end });
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
            ("psk = abc def\nx", "psk =********\n*"),
            ("psk = \"open\nx = 1\n[b]\ny", "psk =******\n*****\n[b]\ny"),
            ("psk = 'it's a secret'", "psk =****************"),
            ("auth = { psk = 'it's } secret' }", "auth =**************************"),
            ("auth = {\n psk = 'it's } secret'\n}", "auth = *\n**********************\n*"),
            (
                "[t.a.auth]\nabc\npsk_file = 'a'\n[b]\nabc",
                "[t.a.auth]\n***\n**************\n[b]\nabc",
            ),
            ("[t.a.auth] psk = 'x'\n[b]", "[t.a.auth]**********\n[b]"),
            ("psk = \"AAAA\nBBBB\"\n[b]", "psk =******\n*****\n[b]"),
            ("psk =\n\"abc\"\n[b]", "psk =\n*****\n[b]"),
            ("# psk = 'abc'\nmode = 1", "*************\nmode = 1"),
            ("id = 'auth.example'", "id = 'auth.example'"),
            ("psk_file = 'it's a secret'", "psk_file =****************"),
            ("psk_file = '0sAAAA'", "psk_file = '******'"),
            ("auth = { psk_file = \"0xab\", x = 1 }", "auth = { psk_file = \"****\", x = * }"),
            ("auth = { psk_file = 0xab }", "auth = { psk_file = **** }"),
            ("p\"sk = \"abc\"", "p\"sk =******"),
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
        for text in [
            "psk: \"abc\"",
            "\"psk\": \"abc\"",
            "auth: { psk: \"abc=\" }",
            "remote = { psk: \"abc\" }",
        ] {
            assert_eq!(mask(text), "*".repeat(text.len()), "{text}");
        }
    }
}
