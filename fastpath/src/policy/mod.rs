//! Policies as the data plane and steering both see them: an ordered list of rectangles.

mod index;
mod rule;

pub(crate) use index::PolicyIndex;
pub(crate) use rule::{Rule, Span, Verdict, compile, in_layers};
