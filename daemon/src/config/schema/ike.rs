//! `ike` of a tunnel.

use super::reader::{At, Reader};

const KEYS: [&str; 5] = ["proposals", "rekey", "dpd", "dpd_timeout", "idle"];

/// `ike` of a tunnel.
#[derive(Default)]
pub(crate) struct RawIke<'a> {
    pub(crate) proposals: Option<At<Vec<At<&'a str>>>>,
    pub(crate) rekey: Option<At<&'a str>>,
    pub(crate) dpd: Option<At<&'a str>>,
    pub(crate) dpd_timeout: Option<At<&'a str>>,
    pub(crate) idle: Option<At<&'a str>>,
}

impl<'a> RawIke<'a> {
    pub(super) fn read(tunnel: &mut Reader<'a, '_>) -> Option<Self> {
        let mut reader = tunnel.table("ike", &KEYS, &[])?;
        Some(Self {
            proposals: reader.strings("proposals", false, "[\"aes256gcm16-prfsha384-ecp384\"]"),
            rekey: reader.string("rekey", "\"4h\""),
            dpd: reader.string("dpd", "\"30s\""),
            dpd_timeout: reader.string("dpd_timeout", "\"30s\""),
            idle: reader.string("idle", "\"15s\""),
        })
    }
}
