//! Policies as the data plane and steering both see them: an ordered list of rectangles.

mod connected;
mod index;
mod layers;
mod rule;

pub(crate) use connected::Connected;
pub(crate) use index::PolicyIndex;
pub(crate) use layers::in_layers;
pub(crate) use rule::{Rule, Span, Verdict, compile, covers_everything, left_clear};
