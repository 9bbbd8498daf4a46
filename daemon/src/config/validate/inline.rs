//! `[inline]`

use std::num::NonZeroUsize;

use super::super::{
    InlineConfig,
    diagnostic::Findings,
    schema::{RawInline, Workers, shown},
};

pub(super) fn inline(raw: &RawInline<'_>, findings: &mut Findings) -> Option<InlineConfig> {
    let interface = match &raw.interface {
        None => "postern0",
        Some(text) => {
            if !fastpath::is_interface_name(text.value) {
                findings.error(
                    text.span.clone(),
                    format!("`{}` is no name for an interface", shown(text.value)),
                    "use at most 15 letters, digits, dots, hyphens and underscores",
                );
                return None;
            }
            text.value
        }
    };
    let workers = match raw.workers.as_ref().map(|at| (at.value, &at.span)) {
        None | Some((Workers::Word("auto"), _)) => None,
        Some((Workers::Number(n @ 1..=64), _)) => NonZeroUsize::new(n as usize),
        Some((_, span)) => {
            findings.error(
                span.clone(),
                "`workers` is a number from 1 to 64, or \"auto\"",
                "\"auto\" is the default",
            );
            return None;
        }
    };
    Some(InlineConfig { interface: interface.to_owned(), workers })
}
