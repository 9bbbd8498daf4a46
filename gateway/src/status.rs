//! The read model, made on request.

use std::{collections::BTreeMap, net::SocketAddr};

use ike::view::{ChildState, ChildView, IkeSaView};
use sa_store::{ChildId, Esn, Instant, TunnelId};

use crate::{
    counters::Totals,
    gateway::Gateway,
    narrowing,
    read_model::{ChildStatus, DrainingPair, IkeSaStatus, Status, TunnelState, TunnelStatus},
    spec::{RemoteAddress, TunnelMode},
    tunnel::{Child, Phase, Tunnel, Will},
};

/// Everything there is to know.
pub(crate) fn status(gateway: &Gateway, now: Instant) -> Status {
    let mut views = BTreeMap::<TunnelId, Vec<IkeSaView>>::new();
    for view in gateway.ike.ike_sas() {
        if let Some(tunnel) = view.tunnel {
            views.entry(tunnel).or_default().push(view);
        }
    }
    let totals = gateway.installer.totals();
    let mut tunnels: Vec<&Tunnel> = gateway.tunnels.values().collect();
    tunnels.sort_by_key(|tunnel| (&tunnel.origin, tunnel.rank));
    let tunnels = tunnels
        .into_iter()
        .filter(|tunnel| tunnel.will != Will::Removed)
        .map(|tunnel| {
            let views = views.remove(&tunnel.id).unwrap_or_default();
            tunnel_status(gateway, tunnel, &views, &totals, now)
        })
        .collect();
    Status { tunnels, no_sa: 0, ike_dropped: gateway.ike.dropped() }
}

fn tunnel_status(
    gateway: &Gateway,
    tunnel: &Tunnel,
    views: &[IkeSaView],
    totals: &BTreeMap<ChildId, Totals>,
    now: Instant,
) -> TunnelStatus {
    let spec = &tunnel.spec;
    let unknown = if spec.local.first().is_some_and(|local| local.is_ipv6()) {
        SocketAddr::from(([0u16; 8], gateway.config.ike_port))
    } else {
        SocketAddr::from(([0u8; 4], gateway.config.ike_port))
    };
    let newest = views.iter().rev().find(|view| view.established.is_some()).or(views.last());
    let path = newest.map(|view| view.path).or(tunnel.last_path);
    let configured = spec.local.first().map(|ip| SocketAddr::new(*ip, gateway.config.ike_port));
    let local = path.map(|path| path.local).or(configured).unwrap_or(unknown);
    let known_remote = spec.remote.iter().find_map(|remote| match remote {
        RemoteAddress::Address(ip) => Some(SocketAddr::new(*ip, gateway.config.ike_port)),
        _ => None,
    });
    let local_id = newest
        .and_then(|view| view.local_id.as_ref())
        .or(spec.local_id.as_ref())
        .map_or_else(|| local.ip().to_string(), ToString::to_string);
    let remote_id = newest
        .and_then(|view| view.remote_id.as_ref())
        .map_or_else(|| spec.remote_id.to_string(), ToString::to_string);
    TunnelStatus {
        name: spec.name.clone(),
        mode: match spec.mode {
            TunnelMode::AlwaysOn => "always-on",
            TunnelMode::Passive => "passive",
        },
        state: state(tunnel),
        held: tunnel.will == Will::Held
            || (matches!(tunnel.phase, Phase::Idle) && !tunnel.wants_children()),
        local,
        local_id,
        remote: path.map(|path| path.remote).or(known_remote).unwrap_or(unknown),
        remote_configured: spec.remote.iter().map(remote_text).collect::<Vec<_>>().join(", "),
        remote_id,
        ike_sas: views.iter().map(ike_status).collect(),
        children: tunnel
            .children
            .iter()
            .map(|child| child_status(gateway, child, views, totals))
            .collect(),
        last_error: tunnel.last_error.clone(),
        next_attempt: match tunnel.phase {
            Phase::Waiting(until) => Some(until.max(now)),
            _ => None,
        },
    }
}

fn state(tunnel: &Tunnel) -> TunnelState {
    match tunnel.phase {
        Phase::Deleting(_) => TunnelState::Deleting,
        _ if tunnel.is_whole() => TunnelState::Established,
        Phase::Up | Phase::Trying(_) | Phase::Waiting(_) => TunnelState::Connecting,
        Phase::Idle => TunnelState::Down,
    }
}

fn remote_text(remote: &RemoteAddress) -> String {
    match remote {
        RemoteAddress::Address(ip) => ip.to_string(),
        RemoteAddress::Host(host) => host.clone(),
        RemoteAddress::Prefix(prefix) => prefix.to_string(),
        RemoteAddress::Any => "any".into(),
    }
}

fn ike_status(view: &IkeSaView) -> IkeSaStatus {
    IkeSaStatus {
        id: view.id.0,
        state: view.state,
        initiator: view.initiator,
        spi_i: view.spi_i.to_string(),
        spi_r: view.spi_r.to_string(),
        proposal: view.suite.map(|suite| suite.to_string()).unwrap_or_default(),
        established: view.established,
        rekey_at: view.rekey_at,
        nat_local: view.nat_local,
        nat_remote: view.nat_remote,
    }
}

fn child_status(
    gateway: &Gateway,
    child: &Child,
    views: &[IkeSaView],
    totals: &BTreeMap<ChildId, Totals>,
) -> ChildStatus {
    let mut all = child.retired;
    if let Some(standing) = totals.get(&child.id) {
        all.add(standing);
    }
    let pairs: Vec<&ChildView> = views
        .iter()
        .flat_map(|view| &view.children)
        .filter(|pair| pair.child == child.id)
        .collect();
    // The pair in use; while there is none, the one that is coming or going.
    let rank = |pair: &&&ChildView| match pair_state(gateway, pair) {
        ChildState::Installed | ChildState::Rekeying => 3,
        ChildState::Installing => 2,
        ChildState::Deleting => 1,
        ChildState::Draining => 0,
    };
    let current = pairs.iter().max_by_key(|pair| (rank(pair), pair.pair)).copied();
    let current = current.filter(|pair| pair.state != ChildState::Draining);
    let text = |selectors: &[sa_store::TrafficSelector]| {
        selectors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let placement = current.map(|pair| gateway.installer.placement(pair.sa_out));
    let narrowed = current.filter(|pair| !pair.local.is_empty() && !pair.remote.is_empty());
    let (open_local, open_remote) = narrowed.map_or_else(Default::default, |pair| {
        let open = sa_store::uncovered;
        (open(&child.spec.local, &pair.local), open(&child.spec.remote, &pair.remote))
    });
    ChildStatus {
        name: child.spec.name.clone(),
        id: current.map_or(0, |pair| pair.pair.0),
        state: current.map(|pair| pair_state(gateway, pair)),
        path: placement.as_ref().map(|at| at.path.to_string()).unwrap_or_default(),
        passed_over: placement.map(|at| at.passed_over).unwrap_or_default(),
        encap: current.map(|pair| pair.encapsulation.to_string()).unwrap_or_default(),
        spi_in: current.map(|pair| pair.spi_in.to_string()).unwrap_or_default(),
        spi_out: current
            .and_then(|pair| pair.spi_out)
            .map(|spi| spi.to_string())
            .unwrap_or_default(),
        proposal: current
            .and_then(|pair| pair.transform)
            .map(|transform| transform.to_string())
            .unwrap_or_default(),
        esn: current.and_then(|pair| pair.transform).is_some_and(|t| t.esn == Esn::Yes),
        local: text(narrowed.map_or(&child.spec.local, |pair| &pair.local)),
        remote: text(narrowed.map_or(&child.spec.remote, |pair| &pair.remote)),
        narrowed: narrowing::sentence(&open_local, &open_remote, &child.spec).unwrap_or_default(),
        uncovered_local: text(&open_local),
        uncovered_remote: text(&open_remote),
        bytes_in: all.inbound.bytes,
        packets_in: all.inbound.packets,
        bytes_out: all.outbound.bytes,
        packets_out: all.outbound.packets,
        dropped: all.dropped,
        installed: current.and_then(|pair| pair.installed),
        rekey_at: current.and_then(|pair| pair.rekey_at),
        expires_at: current.and_then(|pair| pair.expires_at),
        draining: pairs
            .iter()
            .filter(|pair| current.is_none_or(|current| current.pair != pair.pair))
            .map(|pair| DrainingPair {
                id: pair.pair.0,
                spi_in: pair.spi_in.to_string(),
                spi_out: pair.spi_out.map(|spi| spi.to_string()).unwrap_or_default(),
            })
            .collect(),
    }
}

/// One that lets nothing in any more is on its way out, whatever is said about it elsewhere.
fn pair_state(gateway: &Gateway, pair: &ChildView) -> ChildState {
    match pair.state {
        ChildState::Installed | ChildState::Rekeying
            if gateway.installer.is_withdrawn(pair.pair) =>
        {
            ChildState::Deleting
        }
        state => state,
    }
}
