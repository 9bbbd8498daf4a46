//! The peer authorization database (RFC 4301 §4.4.3): who may be which tunnel's peer.

use std::collections::BTreeMap;

use crate::{Identity, IdentityPattern, TunnelId};

/// One peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PadEntry {
    /// The tunnel it may establish.
    pub tunnel: TunnelId,
    /// The tunnel's name.
    pub name: String,
    /// The identities that are accepted.
    pub remote_id: IdentityPattern,
}

/// Every peer, in the order of the tunnels.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pad {
    peers: BTreeMap<TunnelId, PadEntry>,
}

impl Pad {
    pub(crate) fn set(&mut self, entry: PadEntry) {
        self.peers.insert(entry.tunnel, entry);
    }

    pub(crate) fn remove(&mut self, tunnel: TunnelId) {
        self.peers.remove(&tunnel);
    }

    /// Whether somebody who proved to be `identity` may have this tunnel.
    #[must_use]
    pub fn authorizes(&self, tunnel: TunnelId, identity: &Identity) -> bool {
        self.peers.get(&tunnel).is_some_and(|peer| peer.remote_id.accepts(identity))
    }

    /// Every peer.
    pub fn iter(&self) -> impl Iterator<Item = &PadEntry> {
        self.peers.values()
    }
}
