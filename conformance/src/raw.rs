//! Reads what `swanctl --raw` prints: `list-sa event {site {uniqueid=1 child-sas {...}}}`.

use serde_json::{Map, Value};

/// One message: its name and its content.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Such as `list-sa`.
    pub name: String,
    /// Sections are objects, lists are arrays, values are strings.
    pub content: Map<String, Value>,
}

/// Reads one line; `None` when it has another form.
pub fn parse(line: &str) -> Option<Message> {
    let (head, _) = line.split_once('{')?;
    let name = head.split_whitespace().next()?.to_owned();
    let mut rest = line.get(head.len() + 1..)?;
    let content = section(&mut rest)?;
    Some(Message { name, content })
}

/// Reads up to the brace that closes the section.
fn section(rest: &mut &str) -> Option<Map<String, Value>> {
    let mut map = Map::new();
    loop {
        *rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            *rest = after;
            return Some(map);
        }
        let end = rest.find(['=', '{', ' ', '}'])?;
        let key = rest.get(..end)?.to_owned();
        *rest = rest.get(end..)?.trim_start();
        if let Some(after) = rest.strip_prefix('{') {
            *rest = after;
            map.insert(key, Value::Object(section(rest)?));
        } else if let Some(after) = rest.strip_prefix("=[") {
            let end = list_end(after)?;
            let (items, after) = (after.get(..end)?, after.get(end + 1..)?);
            let items = items.split_whitespace().map(|item| Value::String(item.to_owned()));
            map.insert(key, Value::Array(items.collect()));
            *rest = after;
        } else {
            let after = rest.strip_prefix('=')?;
            let end = value_end(after);
            map.insert(key, Value::String(after.get(..end)?.trim_end().to_owned()));
            *rest = after.get(end..)?;
        }
    }
}

/// Where the bracket that closes a list stands; selectors have brackets of their own.
fn list_end(text: &str) -> Option<usize> {
    let mut open = 0_u32;
    for (at, sign) in text.char_indices() {
        match sign {
            '[' => open += 1,
            ']' if open == 0 => return Some(at),
            ']' => open -= 1,
            _ => (),
        }
    }
    None
}

/// A value ends at the closing brace or where the next `key=`, `key {` begins; it may hold
/// blanks.
fn value_end(text: &str) -> usize {
    let mut at = 0;
    for word in text.split_inclusive(' ') {
        let is_key = word.find(['=', '{']).is_some_and(|sign| sign > 0);
        let before_brace = text.get(at + word.len()..).is_some_and(|next| next.starts_with('{'));
        if at > 0 && (is_key || (before_brace && word.ends_with(' '))) {
            return at;
        }
        if let Some(brace) = word.find('}') {
            return at + brace;
        }
        at += word.len();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let line = "list-sa event {site {uniqueid=1 version=2 state=ESTABLISHED local-id=a b \
                    child-sas {net-1 {name=net local-ts=[10.1.0.0/16[udp/7001] fd01::/48] state=INSTALLED} \
                    net-2 {name=net bytes-in=0}} nat-any=yes}}";
        let message = parse(line).unwrap();
        assert_eq!(message.name, "list-sa");
        let site = &message.content["site"];
        assert_eq!(site["state"], "ESTABLISHED");
        assert_eq!(site["local-id"], "a b");
        assert_eq!(site["nat-any"], "yes");
        assert_eq!(site["child-sas"]["net-1"]["local-ts"][1], "fd01::/48");
        assert_eq!(site["child-sas"]["net-1"]["state"], "INSTALLED");
        assert_eq!(site["child-sas"]["net-2"]["bytes-in"], "0");
    }

    #[test]
    fn other_lines_are_not_mistaken_for_messages() {
        assert_eq!(parse("nothing here"), None);
        assert_eq!(parse("list-sa event {cut short"), None);
        assert!(parse("list-sas reply {}").unwrap().content.is_empty());
    }
}
