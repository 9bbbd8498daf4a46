//! `auth` of a tunnel.

use super::reader::{At, Reader, Span};

/// `auth` of a tunnel. No `Debug`: it may hold a secret.
pub(crate) struct RawAuth<'a> {
    pub(crate) span: Span,
    pub(crate) psk: Option<At<&'a str>>,
    pub(crate) psk_file: Option<At<&'a str>>,
}

impl<'a> RawAuth<'a> {
    pub(super) fn read(tunnel: &mut Reader<'a, '_>) -> Option<Self> {
        let mut reader = tunnel.table("auth", &["psk", "psk_file"], &["cert", "key", "ca"])?;
        let auth = Self {
            span: reader.span.clone(),
            psk: reader.string("psk", ""),
            psk_file: reader.string("psk_file", "\"site-b.psk\""),
        };
        let broken = reader.broken;
        tunnel.broken |= broken;
        Some(auth)
    }
}
