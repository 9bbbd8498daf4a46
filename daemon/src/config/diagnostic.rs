//! Errors that name file, line and column, show the line and say what was probably meant.

use std::{fmt, ops::Range};

use super::mask;

/// Diagnostics shown at most; the rest is counted.
const SHOWN: usize = 20;
/// Characters of a source line shown at most.
const LINE_WIDTH: usize = 120;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is accepted, but probably not what was meant.
    Warning,
}

/// One thing to say about one place of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do, shown behind the caret; may be empty.
    pub help: String,
    /// Where, in octets of the text.
    pub span: Range<usize>,
}

/// Collects what the layers find.
#[derive(Default, Debug)]
pub(super) struct Findings {
    list: Vec<Diagnostic>,
}

impl Findings {
    /// Adds an error.
    pub(super) fn error(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Error, span, message.into(), help.into());
    }

    /// Adds a warning.
    pub(super) fn warning(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Warning, span, message.into(), help.into());
    }

    fn push(&mut self, severity: Severity, span: Range<usize>, message: String, help: String) {
        self.list.push(Diagnostic { severity, message, help, span });
    }

    /// Whether something is wrong enough to refuse the configuration.
    pub(super) fn has_errors(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// Makes a report that people can read. Secrets in `text` are masked.
    pub(super) fn report(mut self, file: &str, text: &str) -> Report {
        self.list.sort_by_key(|d| (d.span.start, d.span.end));
        let masked = mask::mask(text);
        let lines = Lines::new(&masked);
        let mut shown = String::new();
        for diagnostic in self.list.iter().take(SHOWN) {
            lines.show(&mut shown, file, diagnostic);
        }
        if let Some(more @ 1..) = self.list.len().checked_sub(SHOWN) {
            shown.push_str(&format!("... and {more} more\n"));
        }
        Report { shown, diagnostics: self.list }
    }
}

/// Everything found in one file, ready to be shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    shown: String,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// A report about the file as a whole (it cannot be read, it is too large).
    #[must_use]
    pub fn about_file(file: &str, message: &str) -> Self {
        Self { shown: format!("error: {file} {message}\n"), diagnostics: Vec::new() }
    }

    /// What was found, in the order of the text.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown.trim_end())
    }
}

impl std::error::Error for Report {}

/// A text with the starts of its lines.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let mut starts = vec![0];
        starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        Self { text, starts }
    }

    /// Line (from 0), its text, and the octet in it where `at` lies.
    fn locate(&self, at: usize) -> (usize, &'a str, usize) {
        let line = self.starts.partition_point(|&start| start <= at).saturating_sub(1);
        let start = self.starts.get(line).copied().unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or("");
        let content = rest.split('\n').next().unwrap_or("").trim_end_matches('\r');
        (line, content, at.saturating_sub(start).min(content.len()))
    }

    fn show(&self, out: &mut String, file: &str, diagnostic: &Diagnostic) {
        let (line, content, offset) = self.locate(diagnostic.span.start.min(self.text.len()));
        let before: Vec<char> = content.get(..offset).unwrap_or("").chars().collect();
        let column = before.len();
        let length = diagnostic.span.end.saturating_sub(diagnostic.span.start);
        let marked = content.get(offset..).unwrap_or("");
        let end = marked.char_indices().map(|(at, _)| at).take_while(|&at| at < length).count();
        // A window around the mark keeps a hostile line from flooding the terminal.
        let skip = column.saturating_sub(LINE_WIDTH / 2);
        let window: String = content
            .chars()
            .skip(skip)
            .take(LINE_WIDTH)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let carets = end.clamp(1, (LINE_WIDTH + skip).saturating_sub(column).max(1));
        let number = (line + 1).to_string();
        let pad = " ".repeat(number.len());
        let severity = match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let help = if diagnostic.help.is_empty() {
            String::new()
        } else {
            format!(" {}", diagnostic.help)
        };
        out.push_str(&format!(
            "{severity}: {message}\n{pad}--> {file}:{number}:{col}\n{pad} |\n{number} | {window}\n\
             {pad} | {space}{carets}{help}\n",
            message = diagnostic.message,
            col = column + 1,
            space = " ".repeat(column - skip),
            carets = "^".repeat(carets),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_under_its_text_whatever_is_before_it() {
        let text = "a = 1\nschlüssel = \"x\"\r\n";
        let mut findings = Findings::default();
        findings.error(19..22, "wrong", "do this");
        let report = findings.report("f.toml", text);
        assert_eq!(
            report.to_string(),
            "error: wrong\n --> f.toml:2:13\n  |\n2 | schlüssel = \"x\"\n  |             ^^^ do this"
        );
    }

    #[test]
    fn spans_behind_the_text_and_long_lines_are_survived() {
        let text = format!("{}\n", "x".repeat(100_000));
        let mut findings = Findings::default();
        findings.error(90_000..99_999, "long", "");
        findings.error(200_000..300_000, "behind", "");
        let shown = findings.report("f", &text).to_string();
        assert!(shown.len() < 1000, "{}", shown.len());
        assert!(shown.contains("f:1:90001"));
    }

    #[test]
    fn many_findings_are_counted() {
        let mut findings = Findings::default();
        for _ in 0..50 {
            findings.error(0..1, "again", "");
        }
        assert!(findings.report("f", "x").to_string().ends_with("... and 30 more"));
    }
}
