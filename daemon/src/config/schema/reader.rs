//! Reads one table of the file: its keys, their types, and what is wrong with either.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::super::{diagnostic::Findings, suggest};

/// Octets of the text.
pub(super) type Span = Range<usize>;

/// A value, not looked at yet.
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// One table being read: knows its keys and says what is wrong with the others.
pub(super) struct Reader<'a, 'f> {
    table: &'a DeTable<'a>,
    pub(super) span: Span,
    pub(super) place: String,
    pub(super) findings: &'f mut Findings,
    /// Whether something in the table was already complained about.
    pub(super) broken: bool,
}

impl<'a, 'f> Reader<'a, 'f> {
    /// A table in which every key is welcome.
    pub(super) fn of(
        table: &'a DeTable<'a>,
        span: Span,
        place: String,
        findings: &'f mut Findings,
    ) -> Self {
        Self { table, span, place, findings, broken: false }
    }

    /// Opens `value`, complains about keys that are neither in `known` nor in `later`.
    pub(super) fn open(
        value: &'a Value<'a>,
        place: String,
        known: &[&str],
        later: &[&str],
        findings: &'f mut Findings,
    ) -> Option<Self> {
        let span = value.span();
        let DeValue::Table(table) = value.get_ref() else {
            findings.error(
                span,
                format!("`{place}` takes a table, not {}", kind(value.get_ref())),
                format!("write {{ {} = ... }}", known.first().unwrap_or(&"key")),
            );
            return None;
        };
        let mut reader = Self::of(table, span, place, findings);
        reader.check_keys(known, later);
        Some(reader)
    }

    pub(super) fn check_keys(&mut self, known: &[&str], later: &[&str]) {
        let place = if self.place.is_empty() {
            "at the top of the file".to_owned()
        } else {
            format!("in `{}`", self.place)
        };
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            self.broken = true;
            if later.contains(&name) {
                self.findings.error(
                    key.span(),
                    format!("`{}` {place} is not available yet", shown(name)),
                    "remove it",
                );
                continue;
            }
            let help = match suggest::nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            self.findings.error(key.span(), format!("unknown key `{}` {place}", shown(name)), help);
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value<'a>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// Entries in the order of the text.
    pub(super) fn entries(&self) -> Vec<(At<&'a str>, &'a Value<'a>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| (At { value: key.get_ref().as_ref(), span: key.span() }, value))
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    pub(super) fn path(&self, key: &str) -> String {
        let key = shown(key);
        if self.place.is_empty() { key } else { format!("{}.{key}", self.place) }
    }

    pub(super) fn wrong_type(&mut self, key: &str, value: &Value<'_>, wanted: &str, example: &str) {
        self.broken = true;
        self.findings.error(
            value.span(),
            format!("`{key}` takes {wanted}, not {}", kind(value.get_ref())),
            if example.is_empty() { String::new() } else { format!("write {example}") },
        );
    }

    pub(super) fn string(&mut self, key: &str, example: &str) -> Option<At<&'a str>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At { value: text.as_ref(), span: value.span() }),
            _ => {
                self.wrong_type(key, value, "a string", example);
                None
            }
        }
    }

    pub(super) fn integer(&mut self, key: &str, example: &str) -> Option<At<u64>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Integer(number) => {
                if let Ok(number) = u64::from_str_radix(number.as_str(), number.radix()) {
                    return Some(At { value: number, span: value.span() });
                }
                self.broken = true;
                self.findings.error(
                    value.span(),
                    format!("`{key}` takes a number that is neither negative nor huge"),
                    format!("write {example}"),
                );
                None
            }
            _ => {
                self.wrong_type(key, value, "a number", example);
                None
            }
        }
    }

    /// A list of strings; with `single`, one string stands for a list of one.
    pub(super) fn strings(
        &mut self,
        key: &str,
        single: bool,
        example: &str,
    ) -> Option<At<Vec<At<&'a str>>>> {
        let value = self.get(key)?;
        let span = value.span();
        match value.get_ref() {
            DeValue::String(text) if single => {
                let item = At { value: text.as_ref(), span: span.clone() };
                Some(At { value: vec![item], span })
            }
            DeValue::Array(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    match item.get_ref() {
                        DeValue::String(text) => {
                            list.push(At { value: text.as_ref(), span: item.span() });
                        }
                        _ => self.wrong_type(key, item, "strings in its list", example),
                    }
                }
                Some(At { value: list, span })
            }
            _ => {
                let wanted =
                    if single { "a string or a list of strings" } else { "a list of strings" };
                self.wrong_type(key, value, wanted, example);
                None
            }
        }
    }

    /// Opens a table inside this one.
    pub(super) fn table(
        &mut self,
        key: &str,
        known: &[&str],
        later: &[&str],
    ) -> Option<Reader<'a, '_>> {
        let value = self.get(key)?;
        let place = self.path(key);
        if !value.get_ref().is_table() {
            self.broken = true;
        }
        Reader::open(value, place, known, later, self.findings)
    }
}

/// What a value is, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A name from the file, cut and without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(64).is_some() {
        shown.push_str("...");
    }
    shown
}
