//! What status shows: plain values, made on request, holding no lock.

use std::net::SocketAddr;

use hw_offload::DropCounters;
use ike::view::{ChildState, IkeState};
use sa_store::Instant;

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Tunnels in the order of the configuration.
    pub tunnels: Vec<TunnelStatus>,
    /// Packets for no known SA.
    pub no_sa: u64,
    /// IKE datagrams that were dropped, by reason.
    pub ike_dropped: Vec<(&'static str, u64)>,
}

/// One tunnel.
#[derive(Clone, Debug)]
pub struct TunnelStatus {
    /// Name.
    pub name: String,
    /// `always-on` or `passive`.
    pub mode: &'static str,
    /// State.
    pub state: TunnelState,
    /// Held down by an operator.
    pub held: bool,
    /// Our end; the address is unspecified while unknown.
    pub local: SocketAddr,
    /// Our identity.
    pub local_id: String,
    /// The peer's end.
    pub remote: SocketAddr,
    /// The peer as configured (a host name, a prefix, any).
    pub remote_configured: String,
    /// The peer's identity: proven, else configured.
    pub remote_id: String,
    /// IKE SAs.
    pub ike_sas: Vec<IkeSaStatus>,
    /// One per configured child.
    pub children: Vec<ChildStatus>,
    /// The last failure that is not resolved yet.
    pub last_error: Option<LastError>,
    /// When the next attempt is due, while down.
    pub next_attempt: Option<Instant>,
}

/// Where a tunnel is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelState {
    /// Nothing is up and nothing is tried.
    Down,
    /// It is tried (also between two attempts of an always-on tunnel).
    Connecting,
    /// An IKE SA and all children are up.
    Established,
    /// It is being taken down.
    Deleting,
}

/// One IKE SA.
#[derive(Clone, Debug)]
pub struct IkeSaStatus {
    /// Number.
    pub id: u64,
    /// State.
    pub state: IkeState,
    /// Whether we initiated.
    pub initiator: bool,
    /// Lower-case hex, 16 digits.
    pub spi_i: String,
    /// Lower-case hex, 16 digits.
    pub spi_r: String,
    /// Keywords; empty before it is negotiated.
    pub proposal: String,
    /// Since when.
    pub established: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// A NAT in front of us.
    pub nat_local: bool,
    /// A NAT in front of the peer.
    pub nat_remote: bool,
}

/// One child.
#[derive(Clone, Debug)]
pub struct ChildStatus {
    /// Name.
    pub name: String,
    /// Number of the pair in use, 0 if none.
    pub id: u64,
    /// `None`: down (shown as `trap` when its traffic is held).
    pub state: Option<ChildState>,
    /// `inline`, `kernel`, ...; empty while down.
    pub path: String,
    /// Places that were considered before that path, each with the reason why it is not there.
    pub passed_over: Vec<String>,
    /// `none` or `udp`.
    pub encap: String,
    /// Lower-case hex, 8 digits; empty while down.
    pub spi_in: String,
    /// Lower-case hex, 8 digits; empty while down.
    pub spi_out: String,
    /// Keywords; empty while down.
    pub proposal: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Selectors of our side: negotiated, else configured.
    pub local: Vec<String>,
    /// Selectors of the peer's side.
    pub remote: Vec<String>,
    /// What is configured and the SA in use does not carry, so that it stays blocked: a sentence
    /// for people, empty when there is nothing.
    pub narrowed: String,
    /// Configured selectors of our side that the SA in use does not cover as a whole.
    pub uncovered_local: Vec<String>,
    /// Those of the peer's side.
    pub uncovered_remote: Vec<String>,
    /// Cumulative across rekeys.
    pub bytes_in: u64,
    /// Cumulative across rekeys.
    pub packets_in: u64,
    /// Cumulative across rekeys.
    pub bytes_out: u64,
    /// Cumulative across rekeys.
    pub packets_out: u64,
    /// Cumulative across rekeys.
    pub dropped: DropCounters,
    /// Since when.
    pub installed: Option<Instant>,
    /// When it will be rekeyed.
    pub rekey_at: Option<Instant>,
    /// When it stops.
    pub expires_at: Option<Instant>,
    /// Pairs that are being replaced.
    pub draining: Vec<DrainingPair>,
}

/// A pair that is being replaced.
#[derive(Clone, Debug)]
pub struct DrainingPair {
    /// Number.
    pub id: u64,
    /// Hex.
    pub spi_in: String,
    /// Hex.
    pub spi_out: String,
}

/// The last failure of a tunnel.
#[derive(Clone, Debug)]
pub struct LastError {
    /// Stable code.
    pub code: String,
    /// For people.
    pub message: String,
    /// When.
    pub at: Instant,
}

/// One event as operators see it.
#[derive(Clone, Debug)]
pub struct EventRecord {
    /// Counts up by one.
    pub sequence: u64,
    /// When.
    pub at: Instant,
    /// Which tunnel, if any.
    pub tunnel: Option<String>,
    /// Which child, if any.
    pub child: Option<String>,
    /// A stable word: `ike-established`, `child-installed`, `failed`, ...
    pub kind: &'static str,
    /// A stable failure code, if it is a failure.
    pub code: Option<String>,
    /// Anybody can cause it at will: it has to take no room from others.
    pub stranger: bool,
    /// For people.
    pub message: String,
}
