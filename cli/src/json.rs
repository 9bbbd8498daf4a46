//! The documents of `--json`: their keys and the order of them are fixed and grow by addition.

use api::postern::v1 as proto;
use serde::Serialize;

use crate::time::rfc3339;

/// The version of the documents' shape.
pub const SCHEMA: u32 = 1;

/// `postern sa --json`
#[derive(Serialize)]
pub struct Status<'a> {
    schema: u32,
    gateway: &'a str,
    tunnels: Vec<Tunnel<'a>>,
    no_sa: u64,
    ike_dropped: std::collections::BTreeMap<&'a str, u64>,
    internal_errors: u64,
    dropped: std::collections::BTreeMap<&'a str, u64>,
    warnings: &'a [String],
    clear: Vec<Clear<'a>>,
}

/// A network that stays clear beside children for everything.
#[derive(Serialize)]
struct Clear<'a> {
    network: &'a str,
    /// Where it is connected; nothing where the configuration names it.
    interface: Option<&'a str>,
}

#[derive(Serialize)]
struct Tunnel<'a> {
    name: &'a str,
    mode: &'a str,
    state: &'a str,
    local: End<'a>,
    remote: End<'a>,
    ike_sas: Vec<IkeSa<'a>>,
    children: Vec<Child<'a>>,
    last_error: Option<LastError<'a>>,
    held: bool,
    next_attempt_in_s: Option<u64>,
}

#[derive(Serialize)]
struct End<'a> {
    address: Option<&'a str>,
    port: u32,
    id: &'a str,
}

#[derive(Serialize)]
struct IkeSa<'a> {
    id: u64,
    state: &'a str,
    initiator: bool,
    spi_i: &'a str,
    spi_r: &'a str,
    proposal: Option<&'a str>,
    established_s: Option<u64>,
    rekey_in_s: Option<u64>,
    nat: Nat,
}

#[derive(Serialize)]
struct Nat {
    local: bool,
    remote: bool,
}

#[derive(Serialize)]
struct Child<'a> {
    name: &'a str,
    id: u64,
    state: &'a str,
    mode: &'a str,
    path: Option<&'a str>,
    encap: Option<&'a str>,
    spi_in: Option<&'a str>,
    spi_out: Option<&'a str>,
    proposal: Option<&'a str>,
    esn: bool,
    local: &'a [String],
    remote: &'a [String],
    bytes_in: u64,
    packets_in: u64,
    bytes_out: u64,
    packets_out: u64,
    dropped: Dropped,
    installed_s: Option<u64>,
    rekey_in_s: Option<u64>,
    expires_in_s: Option<u64>,
    draining: Vec<Draining<'a>>,
    passed_over: &'a [String],
    uncovered: Uncovered<'a>,
}

/// Configured networks that the SA in use does not cover as a whole.
#[derive(Serialize)]
struct Uncovered<'a> {
    local: &'a [String],
    remote: &'a [String],
}

#[derive(Serialize)]
struct Dropped {
    replay: u64,
    auth: u64,
    policy: u64,
    malformed: u64,
    expired: u64,
}

#[derive(Serialize)]
struct Draining<'a> {
    id: u64,
    spi_in: &'a str,
    spi_out: &'a str,
}

#[derive(Serialize)]
struct LastError<'a> {
    code: &'a str,
    message: &'a str,
    ago_s: u64,
}

/// `postern events --json`
#[derive(Serialize)]
pub struct Events<'a> {
    schema: u32,
    events: Vec<Event<'a>>,
}

/// One event; with `--follow` each is a document of its own.
#[derive(Serialize)]
pub struct Event<'a> {
    sequence: u64,
    time: String,
    tunnel: Option<&'a str>,
    child: Option<&'a str>,
    kind: &'a str,
    code: Option<&'a str>,
    message: &'a str,
}

/// What stands for nothing is `null`.
fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl<'a> From<&'a proto::GetStatusResponse> for Status<'a> {
    fn from(status: &'a proto::GetStatusResponse) -> Self {
        Self {
            schema: SCHEMA,
            gateway: &status.gateway,
            tunnels: status.tunnels.iter().map(Tunnel::from).collect(),
            no_sa: status.no_sa,
            ike_dropped: status.ike_dropped.iter().map(|c| (&*c.reason, c.count)).collect(),
            internal_errors: status.internal_errors,
            dropped: status.dropped.iter().map(|c| (&*c.reason, c.count)).collect(),
            warnings: &status.warnings,
            clear: status
                .clear
                .iter()
                .map(|clear| Clear { network: &clear.network, interface: filled(&clear.interface) })
                .collect(),
        }
    }
}

impl<'a> From<&'a proto::Tunnel> for Tunnel<'a> {
    fn from(tunnel: &'a proto::Tunnel) -> Self {
        Self {
            name: &tunnel.name,
            mode: &tunnel.mode,
            state: &tunnel.state,
            local: End::from(tunnel.local.as_ref()),
            remote: End::from(tunnel.remote.as_ref()),
            ike_sas: tunnel.ike_sas.iter().map(IkeSa::from).collect(),
            children: tunnel.children.iter().map(Child::from).collect(),
            last_error: tunnel.last_error.as_ref().map(|error| LastError {
                code: &error.code,
                message: &error.message,
                ago_s: error.ago_s,
            }),
            held: tunnel.held,
            next_attempt_in_s: tunnel.next_attempt_in_s,
        }
    }
}

impl<'a> From<Option<&'a proto::Endpoint>> for End<'a> {
    fn from(end: Option<&'a proto::Endpoint>) -> Self {
        match end {
            Some(end) => Self { address: filled(&end.address), port: end.port, id: &end.id },
            None => Self { address: None, port: 0, id: "" },
        }
    }
}

impl<'a> From<&'a proto::IkeSa> for IkeSa<'a> {
    fn from(sa: &'a proto::IkeSa) -> Self {
        Self {
            id: sa.id,
            state: &sa.state,
            initiator: sa.initiator,
            spi_i: &sa.spi_i,
            spi_r: &sa.spi_r,
            proposal: filled(&sa.proposal),
            established_s: sa.established_s,
            rekey_in_s: sa.rekey_in_s,
            nat: Nat { local: sa.nat_local, remote: sa.nat_remote },
        }
    }
}

impl<'a> From<&'a proto::Child> for Child<'a> {
    fn from(child: &'a proto::Child) -> Self {
        let dropped = child.dropped.unwrap_or_default();
        Self {
            name: &child.name,
            id: child.id,
            state: &child.state,
            mode: &child.mode,
            path: filled(&child.path),
            encap: filled(&child.encap),
            spi_in: filled(&child.spi_in),
            spi_out: filled(&child.spi_out),
            proposal: filled(&child.proposal),
            esn: child.esn,
            local: &child.local,
            remote: &child.remote,
            bytes_in: child.bytes_in,
            packets_in: child.packets_in,
            bytes_out: child.bytes_out,
            packets_out: child.packets_out,
            dropped: Dropped {
                replay: dropped.replay,
                auth: dropped.auth,
                policy: dropped.policy,
                malformed: dropped.malformed,
                expired: dropped.expired,
            },
            installed_s: child.installed_s,
            rekey_in_s: child.rekey_in_s,
            expires_in_s: child.expires_in_s,
            draining: child
                .draining
                .iter()
                .map(|pair| Draining { id: pair.id, spi_in: &pair.spi_in, spi_out: &pair.spi_out })
                .collect(),
            passed_over: &child.passed_over,
            uncovered: Uncovered { local: &child.uncovered_local, remote: &child.uncovered_remote },
        }
    }
}

impl<'a> From<&'a [proto::Event]> for Events<'a> {
    fn from(events: &'a [proto::Event]) -> Self {
        Self { schema: SCHEMA, events: events.iter().map(Event::from).collect() }
    }
}

impl<'a> From<&'a proto::Event> for Event<'a> {
    fn from(event: &'a proto::Event) -> Self {
        Self {
            sequence: event.sequence,
            time: rfc3339(event.unix_ms),
            tunnel: filled(&event.tunnel),
            child: filled(&event.child),
            kind: &event.kind,
            code: filled(&event.code),
            message: &event.message,
        }
    }
}
