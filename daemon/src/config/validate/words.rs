//! What values of several sections have in common.

use super::super::{
    diagnostic::Findings,
    schema::{At, shown},
    suggest,
};

/// One of some words; the first one is the default.
pub(super) fn word<T: Copy + Default>(
    raw: Option<&At<&str>>,
    key: &str,
    words: &[(&str, T)],
    findings: &mut Findings,
) -> T {
    let Some(text) = raw else { return T::default() };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
        return *value;
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let help = match suggest::nearest(text.value, &known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("use \"{}\"", known.join("\" or \"")),
    };
    let message = format!("`{key}` cannot be \"{}\"", shown(text.value));
    findings.error(text.span.clone(), message, help);
    T::default()
}

/// Names go into commands (`TUNNEL/CHILD`), where a hyphen in front makes an option, into logs and
/// metrics.
pub(super) fn check_name(name: &At<&str>, what: &str, findings: &mut Findings) {
    let fits = name.value.len() <= 64
        && name.value.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b));
    if !fits {
        findings.error(
            name.span.clone(),
            format!("`{}` cannot be {what}", shown(name.value)),
            "use at most 64 letters, digits, dots, hyphens, underscores and colons, a letter, digit \
             or underscore first",
        );
    }
}

pub(super) fn proposals<T>(
    list: &At<Vec<At<&str>>>,
    parse: fn(&str) -> Result<T, String>,
    findings: &mut Findings,
) -> Vec<T> {
    if list.value.is_empty() {
        let help = "name one, or leave the key out for the defaults";
        findings.error(list.span.clone(), "the list of proposals is empty", help);
    }
    let mut parsed = Vec::with_capacity(list.value.len());
    for text in &list.value {
        match parse(text.value) {
            Ok(proposal) => parsed.push(proposal),
            Err(message) => {
                let message = format!("`{}`: {message}", shown(text.value));
                findings.error(text.span.clone(), message, "");
            }
        }
    }
    parsed
}
