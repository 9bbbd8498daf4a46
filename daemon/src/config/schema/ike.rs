//! `ike` of a tunnel.

use super::reader::{At, Reader};

/// `ike` of a tunnel.
#[derive(Default)]
pub(crate) struct RawIke<'a> {
    pub(crate) proposals: Option<At<Vec<At<&'a str>>>>,
    pub(crate) rekey: Option<At<&'a str>>,
    pub(crate) dpd: Option<At<&'a str>>,
}

impl<'a> RawIke<'a> {
    pub(super) fn read(tunnel: &mut Reader<'a, '_>) -> Option<Self> {
        let mut reader = tunnel.table("ike", &["proposals", "rekey", "dpd"], &[])?;
        Some(Self {
            proposals: reader.strings("proposals", false, "[\"aes256gcm16-prfsha384-ecp384\"]"),
            rekey: reader.string("rekey", "\"4h\""),
            dpd: reader.string("dpd", "\"30s\""),
        })
    }
}
