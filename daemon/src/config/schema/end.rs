//! `local` and `remote` of a tunnel.

use super::reader::{At, Reader, Span};

/// `local` and `remote` of a tunnel.
pub(crate) struct RawEnd<'a> {
    pub(crate) span: Span,
    pub(crate) address: Option<At<Vec<At<&'a str>>>>,
    pub(crate) id: Option<At<&'a str>>,
}

impl<'a> RawEnd<'a> {
    pub(super) fn read(tunnel: &mut Reader<'a, '_>, key: &str) -> Option<Self> {
        let mut reader = tunnel.table(key, &["address", "id"], &[])?;
        let end = Self {
            span: reader.span.clone(),
            address: reader.strings("address", true, "\"192.0.2.2\""),
            id: reader.string("id", "\"b.example\""),
        };
        let broken = reader.broken;
        tunnel.broken |= broken;
        Some(end)
    }
}
