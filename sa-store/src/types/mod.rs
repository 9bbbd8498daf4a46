//! The vocabulary: one file a word.

pub(crate) mod coverage;
pub(crate) mod identity;
pub(crate) mod key;
pub(crate) mod lifetime;
pub(crate) mod record;
pub(crate) mod selector;
pub(crate) mod spi;
pub(crate) mod time;
pub(crate) mod transform;
