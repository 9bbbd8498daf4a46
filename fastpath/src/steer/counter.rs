//! What nftables has dropped for us, read from the kernel when somebody asks.

use std::io;

use super::netlink::{Message, NFPROTO_INET, Netlink, attributes};

/// `NFNL_SUBSYS_NFTABLES << 8` with `NFT_MSG_GETOBJ`.
const GET_OBJECT: u16 = 10 << 8 | 19;
const NFTA_OBJ_TABLE: u16 = 1;
const NFTA_OBJ_NAME: u16 = 2;
const NFTA_OBJ_TYPE: u16 = 3;
const NFTA_OBJ_DATA: u16 = 4;
const NFT_OBJECT_COUNTER: u32 = 1;
const NFTA_COUNTER_BYTES: u16 = 1;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// The counter in the table of steering; see the rules of `super::nft`.
pub(super) const CLEAR_DROPPED: &str = "clear_dropped";

/// The counter of what the guards dropped: protected packets on a way around the TUN interface.
pub(super) const STRAYED: &str = "strayed";

/// What a counter of nftables shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    /// Packets.
    pub packets: u64,
    /// Octets of them.
    pub bytes: u64,
}

/// Clear packets that claimed to come from a protected network and were dropped. Nothing where
/// there is no such table.
pub(crate) fn clear_dropped(nft_table: &str) -> io::Result<Count> {
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    let question = Message::new(GET_OBJECT, 0, &[NFPROTO_INET, 0, 0, 0])
        .attribute(NFTA_OBJ_TABLE, &text(nft_table))
        .attribute(NFTA_OBJ_NAME, &text(CLEAR_DROPPED))
        .attribute(NFTA_OBJ_TYPE, &NFT_OBJECT_COUNTER.to_be_bytes());
    let reply = match Netlink::open_filter()?.ask(question) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Count::default()),
        reply => reply?,
    };
    let mut count = Count::default();
    let data = reply.attributes(4).filter(|(kind, _)| *kind == NFTA_OBJ_DATA);
    for (kind, value) in data.flat_map(|(_, nested)| attributes(nested)) {
        let number = value.try_into().map_or(0, u64::from_be_bytes);
        match kind {
            NFTA_COUNTER_BYTES => count.bytes = number,
            NFTA_COUNTER_PACKETS => count.packets = number,
            _ => {}
        }
    }
    Ok(count)
}
