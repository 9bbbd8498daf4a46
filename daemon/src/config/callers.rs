//! Tunnels between which nothing decides when a peer calls: the first one gets every caller (RFC
//! 4301 §4.4.3 wants the peer authorization database to be unambiguous).

use std::collections::HashMap;

use gateway::spec::{ConnectionSpec, RemoteAddress};
use ike::config::AuthMethod;
use sa_store::{Identity, IdentityPattern, Prefix};

/// Comparisons at most, so that a hostile file costs bounded time.
const BUDGET: usize = 1_000_000;

/// From where a peer calls, as far as it decides. A host name may stand for any address.
#[derive(PartialEq)]
enum Source {
    Anywhere,
    Host(std::net::IpAddr),
    Network(Prefix),
}

fn source(remote: &RemoteAddress) -> Source {
    match remote {
        RemoteAddress::Any | RemoteAddress::Host(_) => Source::Anywhere,
        RemoteAddress::Address(address) => Source::Host(*address),
        RemoteAddress::Prefix(prefix) => Source::Network(*prefix),
    }
}

/// Who the two ends say they are. Names are the same in upper and lower case.
fn identities(tunnel: &ConnectionSpec) -> String {
    let (ours, peers): (&Option<Identity>, &IdentityPattern) =
        (&tunnel.local_id, &tunnel.remote_id);
    format!("{ours:?} {peers:?}").to_ascii_lowercase()
}

/// Pairs of tunnels (first, second) in which every caller of the second is taken for one of the
/// first, and is held against another key.
pub(super) fn indistinct(tunnels: &[ConnectionSpec]) -> Vec<(usize, usize)> {
    let mut budget = BUDGET;
    let mut alike: HashMap<String, Vec<usize>> = HashMap::new();
    let mut found = Vec::new();
    for (second, tunnel) in tunnels.iter().enumerate() {
        let earlier = alike.entry(identities(tunnel)).or_default();
        let first = earlier.iter().copied().find(|&first| {
            budget = budget.saturating_sub(1);
            budget > 0 && tunnels.get(first).is_some_and(|first| takes_callers_of(first, tunnel))
        });
        found.extend(first.map(|first| (first, second)));
        earlier.push(second);
    }
    found
}

/// Whether the addresses, the algorithms and the keys leave every caller of `second` to `first`.
fn takes_callers_of(first: &ConnectionSpec, second: &ConnectionSpec) -> bool {
    let (AuthMethod::Psk(one), AuthMethod::Psk(other)) = (&first.auth, &second.auth);
    // A tunnel that names its own address counts before one that does not.
    let local = first.local.is_empty() == second.local.is_empty()
        && second.local.iter().all(|address| first.local.contains(address));
    let known =
        |address: &RemoteAddress| first.remote.iter().any(|it| source(it) == source(address));
    one.expose() != other.expose()
        && local
        && second.remote.iter().all(known)
        && first.proposals == second.proposals
}
