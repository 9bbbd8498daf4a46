//! `esp` of a child.

use super::reader::{At, Reader};

/// `esp` of a child.
#[derive(Default)]
pub(crate) struct RawEsp<'a> {
    pub(crate) proposals: Option<At<Vec<At<&'a str>>>>,
    pub(crate) rekey: Option<At<&'a str>>,
    pub(crate) rekey_bytes: Option<At<&'a str>>,
    pub(crate) rekey_packets: Option<At<u64>>,
    pub(crate) replay_window: Option<At<u64>>,
}

impl<'a> RawEsp<'a> {
    pub(super) fn read(child: &mut Reader<'a, '_>) -> Option<Self> {
        let keys = ["proposals", "rekey", "rekey_bytes", "rekey_packets", "replay_window"];
        let mut reader = child.table("esp", &keys, &[])?;
        Some(Self {
            proposals: reader.strings("proposals", false, "[\"aes256gcm16-esn\"]"),
            rekey: reader.string("rekey", "\"1h\""),
            rekey_bytes: reader.string("rekey_bytes", "\"1TiB\""),
            rekey_packets: reader.integer("rekey_packets", "1000000000"),
            replay_window: reader.integer("replay_window", "4096"),
        })
    }
}
