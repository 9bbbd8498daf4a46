//! From what an operator wants to what IKE is told.

use std::{sync::Arc, time::Duration};

use ike::config::{AuthMethod, ChildConfig, Connection, RemoteMatch};
use sa_store::{
    ChildId, DfPolicy, DomainId, DscpPolicy, EcnPolicy, Identity, Prefix, pad::PadEntry,
};

use crate::{
    spec::{ChildSpec, ConnectionSpec, RemoteAddress},
    tunnel::Tunnel,
};

/// An IKE SA lives at least this much longer than its rekey is due: a few lost messages do not end
/// a tunnel that is rekeyed often.
const LEAST_OVERTIME: Duration = Duration::from_secs(30);

/// The connection of a tunnel, without the children an operator holds down.
pub(crate) fn connection(tunnel: &Tunnel) -> Arc<Connection> {
    let spec = &tunnel.spec;
    // A name may stand for another address tomorrow, but who comes from where it stood is known
    // better than anybody.
    let resolved = tunnel.resolved.iter().map(|ip| RemoteAddress::Address(*ip));
    let known = resolved.map(|address| accepted(&address));
    Arc::new(Connection {
        tunnel: tunnel.id,
        name: spec.name.clone(),
        local: spec.local.clone(),
        remote: spec.remote.iter().map(accepted).chain(known).collect(),
        local_id: spec.local_id.clone(),
        remote_id: spec.remote_id.clone(),
        auth: spec.auth.clone(),
        proposals: spec.proposals.clone(),
        rekey: spec.rekey,
        over_time: spec.rekey.map_or(Duration::ZERO, |rekey| (rekey / 10).max(LEAST_OVERTIME)),
        dpd: spec.dpd,
        encap: spec.encap,
        replace_duplicates: true,
        children: tunnel
            .children
            .iter()
            .filter(|child| !child.held)
            .map(|child| child_config(child.id, &child.spec))
            .collect(),
    })
}

/// The tunnel's entry in the peer authorization database.
pub(crate) fn peer(tunnel: &Tunnel) -> PadEntry {
    PadEntry {
        tunnel: tunnel.id,
        name: tunnel.spec.name.clone(),
        remote_id: tunnel.spec.remote_id.clone(),
    }
}

/// From where the peer may call. A host name may stand for another address at any time: then
/// the identity decides alone.
pub(crate) fn accepted(remote: &RemoteAddress) -> RemoteMatch {
    let width = |ip: &std::net::IpAddr| if ip.is_ipv4() { 32 } else { 128 };
    match remote {
        RemoteAddress::Address(ip) => {
            Prefix::new(*ip, width(ip)).map_or(RemoteMatch::Any, RemoteMatch::Prefix)
        }
        RemoteAddress::Prefix(prefix) => RemoteMatch::Prefix(*prefix),
        RemoteAddress::Host(_) | RemoteAddress::Any => RemoteMatch::Any,
    }
}

fn child_config(child: ChildId, spec: &ChildSpec) -> ChildConfig {
    ChildConfig {
        child,
        name: spec.name.clone(),
        local: spec.local.clone(),
        remote: spec.remote.clone(),
        proposals: spec.proposals.clone(),
        rekey: spec.rekey,
        life: spec.life,
        replay_window: spec.replay_window,
        dscp: DscpPolicy::default(),
        ecn: EcnPolicy::default(),
        df: DfPolicy::default(),
        domain: DomainId::default(),
        mark: 0,
        interface_id: 0,
        offload: spec.offload.clone(),
    }
}

/// Whether two specs of a tunnel need different IKE SAs.
pub(crate) fn same_ike(a: &ConnectionSpec, b: &ConnectionSpec) -> bool {
    let same_id = |a: &Option<Identity>, b: &Option<Identity>| a == b;
    same_id(&a.local_id, &b.local_id)
        && a.remote_id == b.remote_id
        && a.local == b.local
        && a.remote == b.remote
        && same_auth(&a.auth, &b.auth)
        && a.proposals == b.proposals
        && a.rekey == b.rekey
        && a.dpd == b.dpd
        && a.encap == b.encap
}

fn same_auth(a: &AuthMethod, b: &AuthMethod) -> bool {
    match (a, b) {
        (AuthMethod::Psk(a), AuthMethod::Psk(b)) => crypto::ct::equal(a.expose(), b.expose()),
    }
}
