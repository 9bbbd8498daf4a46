//! Which tunnel a peer is (RFC 4301 §4.4.3: the PAD): by addresses first, by identities once
//! they are known.

mod places;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use core::{cmp::Reverse, net::IpAddr};

use sa_store::{ChildId, Identity, IdentityPattern, TunnelId};

use self::places::Places;
use crate::{
    config::{Connection, Endpoints, IkeProposal, IkeSuite, RemoteMatch},
    output::Standing,
};

/// How well a tunnel fits: compared field by field, the highest is the best; of equal ones it is
/// the tunnel that was configured first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    identity: u8,
    remote: u8,
    local: bool,
    tunnel: Reverse<TunnelId>,
}

fn address_rank(connection: &Connection, remote: IpAddr) -> Option<u8> {
    connection.remote.iter().filter(|it| it.accepts(remote)).map(|it| rank_of(*it)).max()
}

/// How exact an address is.
const fn rank_of(remote: RemoteMatch) -> u8 {
    match remote {
        RemoteMatch::Any => 0,
        RemoteMatch::Prefix(prefix) => 1 + prefix.length(),
    }
}

/// Whether several identities are accepted.
const fn is_open(pattern: &IdentityPattern) -> bool {
    !matches!(pattern, IdentityPattern::Exact(_))
}

fn local_fits(connection: &Connection, local: IpAddr) -> bool {
    connection.local.is_empty() || connection.local.contains(&local)
}

/// The identity as an index has it: names that are the same peer are the same key.
fn folded(identity: &Identity) -> Identity {
    match identity {
        Identity::Fqdn(name) => Identity::Fqdn(name.to_ascii_lowercase()),
        Identity::Rfc822(name) => Identity::Rfc822(name.to_ascii_lowercase()),
        other => other.clone(),
    }
}

/// Every configured tunnel, and the ways to them that a peer's first messages need: with
/// thousands of tunnels nobody is looked for among all of them.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    all: BTreeMap<TunnelId, Arc<Connection>>,
    /// By the addresses they may come from.
    places: Places,
    /// By the one identity they accept.
    exact: BTreeSet<(Identity, TunnelId)>,
    /// Those that accept several identities.
    open: BTreeSet<TunnelId>,
    /// By their children.
    homes: BTreeMap<ChildId, TunnelId>,
}

/// Every tunnel there can be.
const FIRST: TunnelId = TunnelId(0);
const LAST: TunnelId = TunnelId(u32::MAX);

impl Connections {
    pub(crate) fn insert(&mut self, connection: Arc<Connection>) {
        let tunnel = connection.tunnel;
        self.remove(tunnel);
        self.places.insert(&connection);
        match &connection.remote_id {
            IdentityPattern::Exact(identity) => self.exact.insert((folded(identity), tunnel)),
            IdentityPattern::Any | IdentityPattern::Suffix(_) => self.open.insert(tunnel),
        };
        self.homes.extend(connection.children.iter().map(|config| (config.child, tunnel)));
        self.all.insert(tunnel, connection);
    }

    pub(crate) fn remove(&mut self, tunnel: TunnelId) {
        let Some(connection) = self.all.remove(&tunnel) else { return };
        self.places.remove(&connection);
        if let IdentityPattern::Exact(identity) = &connection.remote_id {
            self.exact.remove(&(folded(identity), tunnel));
        }
        self.open.remove(&tunnel);
        for config in &connection.children {
            if self.homes.get(&config.child) == Some(&tunnel) {
                self.homes.remove(&config.child);
            }
        }
    }

    pub(crate) fn get(&self, tunnel: TunnelId) -> Option<&Arc<Connection>> {
        self.all.get(&tunnel)
    }

    /// The tunnel that a child is configured in.
    pub(crate) fn home(&self, child: ChildId) -> Option<TunnelId> {
        self.homes.get(&child).copied()
    }

    /// The tunnels whose addresses fit, best first; one that fits in several ways comes several
    /// times.
    pub(crate) fn by_address(&self, path: Endpoints) -> impl Iterator<Item = &Arc<Connection>> {
        self.places.fitting(path).filter_map(|tunnel| self.all.get(&tunnel))
    }

    /// How well the one is known that comes from there.
    pub(crate) fn standing(&self, path: Endpoints) -> Standing {
        let remote = path.remote.ip();
        let (whole, some) = if remote.is_ipv4() { (32, 16) } else { (128, 32) };
        let best = self.by_address(path).next().and_then(|it| address_rank(it, remote));
        match best.and_then(|rank| rank.checked_sub(1)) {
            Some(length) if length == whole => Standing::Address,
            Some(length) if length >= some => Standing::Prefix,
            _ => Standing::Anybody,
        }
    }

    /// As [`Self::by_address`], one tunnel for each list of IKE proposals: what does not fit the
    /// proposals of one fits no other of the same list.
    pub(crate) fn by_proposals(&self, path: Endpoints) -> impl Iterator<Item = &Arc<Connection>> {
        self.places.lists(path).filter_map(|tunnel| self.all.get(&tunnel))
    }

    /// The tunnels whose peer may be one that this pattern accepts.
    pub(crate) fn meeting(&self, pattern: &IdentityPattern) -> impl Iterator<Item = &Connection> {
        let key = match pattern {
            IdentityPattern::Exact(identity) => Some(folded(identity)),
            IdentityPattern::Any | IdentityPattern::Suffix(_) => None,
        };
        let some = key.map(|key| self.exact.range((key.clone(), FIRST)..=(key, LAST)));
        let all = some.is_none().then(|| self.all.keys());
        let some = some.map(|named| named.map(|(_, it)| it).chain(&self.open));
        let found = some.into_iter().flatten().chain(all.into_iter().flatten());
        found
            .filter_map(|tunnel| self.all.get(tunnel))
            .map(|connection| &**connection)
            .filter(|connection| connection.remote_id.may_meet(pattern))
    }

    /// The tunnel of a peer that says who it is (and perhaps who it wants): the most exact
    /// identity counts, then the most exact address.
    pub(crate) fn by_identity(
        &self,
        path: Endpoints,
        suite: IkeSuite,
        id_i: &Identity,
        id_r: Option<&Identity>,
    ) -> Option<Arc<Connection>> {
        let local = path.local.ip();
        let key = folded(id_i);
        let named = self.exact.range((key.clone(), FIRST)..=(key, LAST));
        let named = named.filter_map(|(_, tunnel)| {
            let connection = self.all.get(tunnel).filter(|it| local_fits(it, local))?;
            Some((address_rank(connection, path.remote.ip())?, connection))
        });
        let open = self.places.open(path);
        let open = open.filter_map(|(remote, tunnel)| Some((remote, self.all.get(&tunnel)?)));
        let fits = |connection: &Connection| {
            connection.remote_id.accepts(id_i)
                && id_r.is_none_or(|wanted| is_local_id(connection, path, wanted))
                && accepts_suite(&connection.proposals, suite)
        };
        let ranked = named.chain(open).filter(|(_, it)| fits(it)).map(|(remote, it)| {
            let identity = match it.remote_id {
                IdentityPattern::Any => 0,
                IdentityPattern::Suffix(_) => 1,
                IdentityPattern::Exact(_) => 2,
            };
            let (local, tunnel) = (!it.local.is_empty(), Reverse(it.tunnel));
            (Rank { identity, remote, local, tunnel }, it)
        });
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, connection)| Arc::clone(connection))
    }
}

/// Who we are to the peer of a tunnel.
pub(crate) fn local_id(connection: &Connection, path: Endpoints) -> Identity {
    connection.local_id.clone().unwrap_or(Identity::Address(path.local.ip()))
}

/// Whether that is who we are to the peer of a tunnel.
pub(crate) fn is_local_id(connection: &Connection, path: Endpoints, id: &Identity) -> bool {
    match &connection.local_id {
        Some(own) => own.same(id),
        None => Identity::Address(path.local.ip()).same(id),
    }
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

#[cfg(test)]
mod tests {
    use alloc::{format, string::String, vec, vec::Vec};

    use sa_store::{Prefix, SecretBytes};

    use super::*;
    use crate::{
        config::{AuthMethod, EncapPolicy},
        negotiate::parse_ike,
    };

    fn connection(tunnel: u32, remote: &[&str], remote_id: &str) -> Arc<Connection> {
        let place = |text: &&str| match text.parse::<Prefix>() {
            Ok(prefix) => RemoteMatch::Prefix(prefix),
            Err(_) => RemoteMatch::Any,
        };
        Arc::new(Connection {
            tunnel: TunnelId(tunnel),
            name: format!("t{tunnel}"),
            local: Vec::new(),
            remote: remote.iter().map(place).collect(),
            local_id: None,
            remote_id: remote_id.parse().unwrap(),
            auth: AuthMethod::Psk(SecretBytes::from_slice(b"secret")),
            proposals: vec![parse_ike("aes256gcm16-prfsha256-x25519").unwrap()],
            rekey: None,
            over_time: core::time::Duration::ZERO,
            dpd: None,
            encap: EncapPolicy::Auto,
            replace_duplicates: true,
            children: Vec::new(),
        })
    }

    fn path(remote: &str) -> Endpoints {
        let local = "192.0.2.1:500".parse().unwrap();
        Endpoints { local, remote: format!("{remote}:500").parse().unwrap() }
    }

    fn table(all: &[Arc<Connection>]) -> Connections {
        let mut table = Connections::default();
        all.iter().for_each(|it| table.insert(Arc::clone(it)));
        table
    }

    #[test]
    fn the_most_exact_address_comes_first_and_what_went_is_not_found() {
        let mut table = table(&[
            connection(1, &["any"], "%any"),
            connection(2, &["198.51.100.0/24"], "%any"),
            connection(3, &["198.51.100.7/32", "203.0.113.0/24"], "%any"),
            connection(4, &["198.51.0.0/16"], "%any"),
            connection(5, &["198.51.100.7/32"], "%any"),
        ]);
        let order = |table: &Connections, remote: &str| -> Vec<u32> {
            table.by_address(path(remote)).map(|it| it.tunnel.0).collect()
        };
        assert_eq!(order(&table, "198.51.100.7"), [3, 5, 2, 4, 1]);
        assert_eq!(order(&table, "203.0.113.9"), [3, 1]);
        assert_eq!(order(&table, "192.0.2.9"), [1]);
        table.remove(TunnelId(3));
        table.insert(connection(5, &["192.0.2.9/32"], "%any"));
        assert_eq!(order(&table, "198.51.100.7"), [2, 4, 1]);
        assert_eq!(order(&table, "192.0.2.9"), [5, 1]);
    }

    fn proposing(tunnel: u32, remote: &[&str], proposal: &str) -> Arc<Connection> {
        let mut connection = (*connection(tunnel, remote, "%any")).clone();
        connection.proposals = vec![parse_ike(proposal).unwrap()];
        Arc::new(connection)
    }

    #[test]
    fn each_list_of_proposals_comes_once_with_its_first_best_tunnel() {
        let proposals: Vec<String> = ["aes128", "aes192", "aes256"]
            .iter()
            .flat_map(|it| ["x25519", "ecp256"].map(|group| format!("{it}-sha256-{group}")))
            .collect();
        let mut table = Connections::default();
        // What went before leaves no trace in the order.
        table.insert(proposing(1, &["any"], &proposals[5]));
        for tunnel in 0..600_u32 {
            let proposal = &proposals[tunnel as usize % 6];
            let prefix = format!("10.{}.0.0/16", tunnel % 200);
            let remote = if tunnel < 300 { "any" } else { prefix.as_str() };
            table.insert(proposing(tunnel, &[remote, "192.0.2.0/24"], proposal));
        }
        let order = |table: &Connections, remote: &str| -> Vec<u32> {
            table.by_proposals(path(remote)).map(|it| it.tunnel.0).collect()
        };
        assert_eq!(order(&table, "203.0.113.1"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(order(&table, "192.0.2.9"), [0, 1, 2, 3, 4, 5]);
        // 403 and no other of that network, then the rest from everywhere.
        assert_eq!(order(&table, "10.3.0.1"), [403, 0, 2, 3, 4, 5]);
        (0..600).for_each(|tunnel| table.remove(TunnelId(tunnel)));
        assert_eq!(format!("{table:?}"), {
            let mut empty = format!("{:?}", Connections::default());
            // Numbers are not given out again.
            empty = empty.replace("numbers: 0", "numbers: 7");
            empty
        });
    }

    #[test]
    fn our_addresses_and_the_first_tunnel_decide_between_equals() {
        let bound = |tunnel: u32, local: &[&str], remote_id: &str| {
            let mut connection = (*connection(tunnel, &["any"], remote_id)).clone();
            connection.local = local.iter().map(|it| it.parse().unwrap()).collect();
            Arc::new(connection)
        };
        let table = table(&[
            bound(1, &["192.0.2.8"], "%any"),
            bound(5, &[], "%any"),
            bound(4, &["192.0.2.1", "192.0.2.8"], "%any"),
            bound(3, &["192.0.2.1"], "%any"),
            bound(7, &["192.0.2.8"], "c.example"),
            bound(8, &[], "*.example"),
        ]);
        let suite = IkeSuite {
            suite: sa_store::EspSuite::new(sa_store::EspCipher::AesGcm16(256), None).unwrap(),
            prf: sa_store::PrfAlgorithm::HmacSha256,
            group: sa_store::KeGroup::Curve25519,
        };
        let found = |id: &str| {
            let id = id.parse().unwrap();
            table.by_identity(path("203.0.113.1"), suite, &id, None).map(|it| it.tunnel.0)
        };
        assert_eq!(found("nobody"), Some(3));
        assert_eq!(found("c.example"), Some(8), "7 is not for this address of ours");
        let mut fitting: Vec<u32> =
            table.by_address(path("203.0.113.1")).map(|it| it.tunnel.0).collect();
        fitting.sort_unstable();
        assert_eq!(fitting, [3, 4, 5, 8]);
    }

    #[test]
    fn the_most_exact_identity_wins_whatever_its_case() {
        let mut table = table(&[
            connection(1, &["198.51.100.7/32"], "%any"),
            connection(2, &["any"], "*.example"),
            connection(3, &["any"], "B.Example"),
            connection(4, &["198.51.100.0/24"], "b.example"),
        ]);
        let suite = IkeSuite {
            suite: sa_store::EspSuite::new(sa_store::EspCipher::AesGcm16(256), None).unwrap(),
            prf: sa_store::PrfAlgorithm::HmacSha256,
            group: sa_store::KeGroup::Curve25519,
        };
        let found = |table: &Connections, remote: &str, id: &str| {
            let id = id.parse().unwrap();
            table.by_identity(path(remote), suite, &id, None).map(|it| it.tunnel.0)
        };
        assert_eq!(found(&table, "198.51.100.7", "b.EXAMPLE"), Some(4));
        assert_eq!(found(&table, "203.0.113.1", "b.example"), Some(3));
        assert_eq!(found(&table, "203.0.113.1", "c.example"), Some(2));
        assert_eq!(found(&table, "198.51.100.7", "nobody"), Some(1));
        assert_eq!(found(&table, "203.0.113.1", "nobody"), None);
        let meeting = |pattern: &str| -> Vec<u32> {
            let pattern = pattern.parse().unwrap();
            let mut all: Vec<u32> = table.meeting(&pattern).map(|it| it.tunnel.0).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(meeting("B.example"), [1, 2, 3, 4]);
        assert_eq!(meeting("c.example"), [1, 2]);
        assert_eq!(meeting("*.example"), [1, 2, 3, 4]);
        assert_eq!(meeting("*.other"), [1, 2]);
        table.remove(TunnelId(4));
        assert_eq!(found(&table, "198.51.100.7", "b.example"), Some(3));
        assert!(table.get(TunnelId(4)).is_none());
    }
}
