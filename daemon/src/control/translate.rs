//! The gateway's read model in the words of the control protocol.

use std::net::SocketAddr;

use api::postern::v1 as proto;
use gateway::read_model::{ChildStatus, IkeSaStatus, LastError, Status, TunnelState, TunnelStatus};
use ike::view::{ChildState, IkeState};
use sa_store::Instant;

use crate::{
    control::grpc::NodeStatus,
    runtime::handle::{Snapshot, TimedEvent},
};

pub(super) fn status(
    gateway: String,
    snapshot: Snapshot,
    node: NodeStatus,
) -> proto::GetStatusResponse {
    let Snapshot { status, now, internal_errors } = snapshot;
    let Status { tunnels, no_sa: counted, ike_dropped } = status;
    proto::GetStatusResponse {
        gateway,
        tunnels: tunnels.into_iter().map(|t| tunnel(t, now)).collect(),
        no_sa: node.no_sa.saturating_add(counted),
        ike_dropped: counts(ike_dropped.into_iter().chain([("overload", node.ike_overload)])),
        internal_errors: internal_errors.saturating_add(node.panics),
        dropped: counts(node.dropped),
        warnings: node.warnings,
        clear: node
            .clear
            .into_iter()
            .map(|(network, interface)| proto::ClearNetwork { network, interface })
            .collect(),
    }
}

fn counts(all: impl IntoIterator<Item = (&'static str, u64)>) -> Vec<proto::Count> {
    all.into_iter().map(|(reason, count)| proto::Count { reason: reason.into(), count }).collect()
}

fn tunnel(tunnel: TunnelStatus, now: Instant) -> proto::Tunnel {
    let state = match tunnel.state {
        TunnelState::Down => "down",
        TunnelState::Connecting => "connecting",
        TunnelState::Established => "established",
        TunnelState::Deleting => "deleting",
    };
    let mut remote = end(tunnel.remote, tunnel.remote_id);
    if remote.address.is_empty() {
        remote.address = tunnel.remote_configured;
    }
    proto::Tunnel {
        name: tunnel.name,
        mode: tunnel.mode.into(),
        state: state.into(),
        local: Some(end(tunnel.local, tunnel.local_id)),
        remote: Some(remote),
        ike_sas: tunnel.ike_sas.into_iter().map(|sa| ike_sa(sa, now)).collect(),
        children: tunnel.children.into_iter().map(|c| child(c, now)).collect(),
        last_error: tunnel.last_error.map(|error| last_error(error, now)),
        held: tunnel.held,
        next_attempt_in_s: tunnel.next_attempt.and_then(|at| until(at, now)),
    }
}

fn end(address: SocketAddr, id: String) -> proto::Endpoint {
    proto::Endpoint {
        address: if address.ip().is_unspecified() {
            String::new()
        } else {
            address.ip().to_string()
        },
        port: address.port().into(),
        id,
    }
}

fn ike_sa(sa: IkeSaStatus, now: Instant) -> proto::IkeSa {
    let state = match sa.state {
        IkeState::Connecting => "connecting",
        IkeState::Established => "established",
        IkeState::Rekeying => "rekeying",
        IkeState::Deleting => "deleting",
    };
    proto::IkeSa {
        id: sa.id,
        state: state.into(),
        initiator: sa.initiator,
        spi_i: sa.spi_i,
        spi_r: sa.spi_r,
        proposal: sa.proposal,
        established_s: sa.established.map(|at| now.since(at).as_secs()),
        rekey_in_s: sa.rekey_at.and_then(|at| until(at, now)),
        nat_local: sa.nat_local,
        nat_remote: sa.nat_remote,
    }
}

fn child(child: ChildStatus, now: Instant) -> proto::Child {
    let state = match child.state {
        // A child that is down holds its traffic; a pair that drains has left its place.
        None | Some(ChildState::Draining) => "trap",
        Some(ChildState::Installing) => "installing",
        Some(ChildState::Installed) => "installed",
        Some(ChildState::Rekeying) => "rekeying",
        Some(ChildState::Deleting) => "deleting",
    };
    proto::Child {
        name: child.name,
        id: child.id,
        state: state.into(),
        mode: "tunnel".into(),
        path: child.path,
        encap: child.encap,
        spi_in: child.spi_in,
        spi_out: child.spi_out,
        proposal: child.proposal,
        esn: child.esn,
        local: child.local,
        remote: child.remote,
        bytes_in: child.bytes_in,
        packets_in: child.packets_in,
        bytes_out: child.bytes_out,
        packets_out: child.packets_out,
        dropped: Some(proto::Dropped {
            replay: child.dropped.replay,
            auth: child.dropped.auth,
            policy: child.dropped.policy,
            malformed: child.dropped.malformed,
            expired: child.dropped.expired,
        }),
        installed_s: child.installed.map(|at| now.since(at).as_secs()),
        rekey_in_s: child.rekey_at.and_then(|at| until(at, now)),
        expires_in_s: child.expires_at.and_then(|at| until(at, now)),
        draining: child
            .draining
            .into_iter()
            .map(|pair| proto::DrainingPair {
                id: pair.id,
                spi_in: pair.spi_in,
                spi_out: pair.spi_out,
            })
            .collect(),
        passed_over: child.passed_over,
        narrowed: child.narrowed,
        uncovered_local: child.uncovered_local,
        uncovered_remote: child.uncovered_remote,
    }
}

fn last_error(error: LastError, now: Instant) -> proto::LastError {
    proto::LastError {
        code: error.code,
        message: error.message,
        ago_s: now.since(error.at).as_secs(),
    }
}

/// Seconds until `at`; never has none.
fn until(at: Instant, now: Instant) -> Option<u64> {
    (at != Instant::NEVER).then(|| at.since(now).as_secs())
}

pub(super) fn event(event: TimedEvent) -> proto::Event {
    let TimedEvent { unix_ms, record } = event;
    proto::Event {
        sequence: record.sequence,
        unix_ms,
        tunnel: record.tunnel.unwrap_or_default(),
        child: record.child.unwrap_or_default(),
        kind: record.kind.into(),
        code: record.code.unwrap_or_default(),
        message: record.message,
    }
}
