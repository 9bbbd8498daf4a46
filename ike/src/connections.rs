//! Which tunnel a peer is (RFC 4301 §4.4.3: the PAD): by addresses first, by identities once
//! they are known.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::net::IpAddr;

use sa_store::{Identity, IdentityPattern, TunnelId};

use crate::config::{Connection, Endpoints, IkeProposal, IkeSuite, RemoteMatch};

/// How well a tunnel fits: compared field by field, the highest is the best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    identity: u8,
    remote: u8,
    local: bool,
}

fn address_rank(connection: &Connection, remote: IpAddr) -> Option<u8> {
    connection
        .remote
        .iter()
        .filter(|it| it.accepts(remote))
        .map(|it| match it {
            RemoteMatch::Any => 0,
            RemoteMatch::Prefix(prefix) => 1 + prefix.length(),
        })
        .max()
}

fn local_fits(connection: &Connection, local: IpAddr) -> bool {
    connection.local.is_empty() || connection.local.contains(&local)
}

/// The tunnels whose addresses fit, best first.
pub(crate) fn by_address(
    connections: &BTreeMap<TunnelId, Arc<Connection>>,
    path: Endpoints,
) -> Vec<Arc<Connection>> {
    let mut found: Vec<(u8, Arc<Connection>)> = connections
        .values()
        .filter(|it| local_fits(it, path.local.ip()))
        .filter_map(|it| Some((address_rank(it, path.remote.ip())?, Arc::clone(it))))
        .collect();
    found.sort_by_key(|(rank, _)| core::cmp::Reverse(*rank));
    found.into_iter().map(|(_, it)| it).collect()
}

/// The tunnel of a peer that says who it is (and perhaps who it wants): the most exact identity
/// counts, then the most exact address.
pub(crate) fn by_identity(
    connections: &BTreeMap<TunnelId, Arc<Connection>>,
    path: Endpoints,
    suite: IkeSuite,
    id_i: &Identity,
    id_r: Option<&Identity>,
) -> Option<Arc<Connection>> {
    let mut best: Option<(Rank, &Arc<Connection>)> = None;
    for connection in connections.values() {
        let fits = local_fits(connection, path.local.ip())
            && connection.remote_id.accepts(id_i)
            && id_r.is_none_or(|wanted| local_id(connection, path).same(wanted))
            && accepts_suite(&connection.proposals, suite);
        let Some(remote) = address_rank(connection, path.remote.ip()).filter(|_| fits) else {
            continue;
        };
        let identity = match connection.remote_id {
            IdentityPattern::Any => 0,
            IdentityPattern::Suffix(_) => 1,
            IdentityPattern::Exact(_) => 2,
        };
        let rank = Rank { identity, remote, local: !connection.local.is_empty() };
        if best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, connection));
        }
    }
    best.map(|(_, connection)| Arc::clone(connection))
}

/// Who we are to the peer of a tunnel.
pub(crate) fn local_id(connection: &Connection, path: Endpoints) -> Identity {
    connection.local_id.clone().unwrap_or(Identity::Address(path.local.ip()))
}

/// Whether a tunnel could have negotiated these algorithms.
fn accepts_suite(proposals: &[IkeProposal], suite: IkeSuite) -> bool {
    proposals.iter().any(|it| {
        it.ciphers.contains(&suite.suite.cipher())
            && suite.suite.integrity().is_none_or(|mac| it.integrity.contains(&mac))
            && it.prfs.contains(&suite.prf)
            && it.groups.contains(&suite.group)
    })
}
