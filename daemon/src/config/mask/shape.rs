//! How the text of a configuration is built, as far as hiding something in it needs to know.

/// What a line goes on with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// A key or a value.
    Item,
    /// What stands behind one.
    Separator,
}

/// Whether a line could be one of a valid file, from its beginning: an assignment, or a part of a
/// list. What starts strings that do not end, or has words between them, is none.
pub(super) fn is_well_formed(line: &[u8]) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+');
    let starts_with_word = line.trim_ascii_start().first().is_some_and(|&byte| is_word(byte));
    let (mut wanted, mut assigns, mut lists) = (Wanted::Item, false, false);
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(&byte) = line.get(at) {
        let here = at;
        at += 1;
        wanted = match (wanted, byte) {
            (_, b' ' | b'\t' | b'\r') => wanted,
            (Wanted::Item, b'"' | b'\'') => {
                if is_triple(line, here) {
                    // Goes on in other lines; whoever hides it looks for its end.
                    return assigns;
                }
                at = string_end(line, here);
                if !is_closed(line, here, at) {
                    return false;
                }
                Wanted::Separator
            }
            (Wanted::Item, byte) if is_word(byte) => {
                let rest = line.get(here..).unwrap_or(&[]);
                at = here + rest.iter().take_while(|&&byte| is_word(byte)).count();
                Wanted::Separator
            }
            (Wanted::Item, b'{' | b'[') => {
                depth += 1;
                Wanted::Item
            }
            (_, b'}' | b']') => {
                lists |= depth == 0;
                depth = depth.saturating_sub(1);
                Wanted::Separator
            }
            (Wanted::Separator, b'=') => {
                // Once, unless in a table.
                if depth == 0 && (assigns || lists) {
                    return false;
                }
                assigns |= depth == 0;
                Wanted::Item
            }
            (Wanted::Separator, b',') => {
                lists |= depth == 0;
                Wanted::Item
            }
            (Wanted::Separator, b'.') => Wanted::Item,
            (_, b'#') if here == 0 || line.get(here - 1).is_some_and(u8::is_ascii_whitespace) => {
                break;
            }
            _ => return false,
        };
    }
    if starts_with_word { assigns && !lists } else { !(assigns && lists) }
}

/// Whether nothing but white space and a comment follows at `at`, up to the end of the line.
pub(super) fn nothing_follows(bytes: &[u8], at: usize) -> bool {
    let rest = bytes.get(at..line_end(bytes, at)).unwrap_or(&[]);
    let text = rest.trim_ascii_start();
    text.is_empty() || (text.first() == Some(&b'#') && text.len() < rest.len())
}

/// Whether an inline table or a list may go on behind `at`, up to the end of the line.
pub(super) fn list_goes_on(bytes: &[u8], at: usize) -> bool {
    let rest = bytes.get(at..line_end(bytes, at)).unwrap_or(&[]);
    // As in a table that has begun before.
    nothing_follows(bytes, at) || is_well_formed(&[b"{a=''", rest].concat())
}

/// Whether the line at `at` is the name of a section.
pub(super) fn section_begins(bytes: &[u8], at: usize) -> bool {
    let line = bytes.get(at..line_end(bytes, at)).unwrap_or(&[]).trim_ascii_start();
    let name = line.strip_prefix(b"[[").or_else(|| line.strip_prefix(b"["));
    name.is_some_and(|name| name.first().is_some_and(u8::is_ascii_alphabetic))
}

/// Where the next section begins behind the line of `at`.
pub(super) fn next_section(bytes: &[u8], at: usize) -> usize {
    let mut line = line_end(bytes, at) + 1;
    while line < bytes.len() && !section_begins(bytes, line) {
        line = line_end(bytes, line) + 1;
    }
    line.min(bytes.len())
}

fn is_triple(bytes: &[u8], at: usize) -> bool {
    let quotes = bytes.get(at..at + 3);
    quotes == Some(b"\"\"\"") || quotes == Some(b"'''")
}

/// Behind the closing quote of the string at `at`; an open string ends with its line.
pub(super) fn string_end(bytes: &[u8], at: usize) -> usize {
    let quote = bytes.get(at).copied().unwrap_or(b'"');
    if is_triple(bytes, at) {
        let body = at + 3;
        let rest = bytes.get(body..).unwrap_or(&[]);
        return rest.windows(3).position(|w| w == [quote; 3]).map_or(bytes.len(), |p| body + p + 3);
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

/// Whether the string between `at` and `end` has its closing quote.
pub(super) fn is_closed(bytes: &[u8], at: usize, end: usize) -> bool {
    end > at + 1 && bytes.get(end - 1) == bytes.get(at)
}

pub(super) fn line_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or(&[]);
    rest.iter().position(|&b| b == b'\n').map_or(bytes.len(), |p| at + p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_valid_files_and_others() {
        for (line, want) in [
            ("", true),
            ("  # psk", true),
            ("psk = 'a' # b", true),
            ("a . \"b\".c = { d = [1, 'x'], e = {} }", true),
            ("a = \"\"\"b", true),
            ("a = {", true),
            ("  'x', 'y' ]", true),
            ("}", true),
            ("psk = 'it's a secret'", false),
            ("psk = \"ab\"cd\"", false),
            ("psk = \"open", false),
            ("psk = 'a'#b", false),
            ("psk: 'a'", false),
            ("psk 'a'", false),
            ("psk", false),
            ("'psk': 'a'", false),
            ("p\"sk = \"a\"", false),
            ("psk = = 'a'", false),
            ("ps,k = 'a'", false),
            ("psk = 'a',", false),
            ("'a', psk = 'b'", false),
            ("{ a = 1 }, psk = 'b'", false),
            ("{ psk: 'a' }", false),
        ] {
            assert_eq!(is_well_formed(line.as_bytes()), want, "{line}");
        }
    }
}
