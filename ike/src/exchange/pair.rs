//! From a negotiated child to two SA records (RFC 7296 §2.17, RFC 4301 §4.4.2.1).

use alloc::{boxed::Box, vec::Vec};
use core::time::Duration;

use sa_store::{
    Direction, EspSpi, Instant, KeyMaterial, Lifetime, Limits, Mode, PairId, SaRecord, SecretBytes,
    TrafficSelector,
};

use crate::{
    config::ChildConfig,
    event::{Failure, FailureCode},
    negotiate::EspChoice,
    sa::{
        channel::Role,
        child::{ChildSa, Phase},
        established::Established,
    },
    shared::Shared,
};

/// What two ends agreed on for a child.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) choice: EspChoice,
    pub(crate) spi_in: EspSpi,
    pub(crate) local: Vec<TrafficSelector>,
    pub(crate) remote: Vec<TrafficSelector>,
    pub(crate) nonce_i: Vec<u8>,
    pub(crate) nonce_r: Vec<u8>,
    /// Our role in the exchange that made it: it decides on the keys.
    pub(crate) role: Role,
}

/// Backends stop an SA this long after its hard lifetime, should nobody have removed it.
const MARGIN: Duration = Duration::from_secs(60);

/// Derives the keys of a child and asks for its installation. With `standby` traffic does not
/// move to it yet.
pub(crate) fn install(
    sa: &Established,
    shared: &mut Shared,
    config: &ChildConfig,
    made: Made,
    secret: Option<&SecretBytes>,
    replaces: Option<PairId>,
    standby: bool,
) -> Result<PairId, Failure> {
    let suite = made.choice.transform.suite;
    let keys = sa
        .sk_d
        .child_keys(suite, secret, &made.nonce_i, &made.nonce_r)
        .map_err(|error| Failure::new(FailureCode::Internal, alloc::format!("{error}")))?;
    let (key_in, key_out) = match made.role {
        Role::Initiator => (keys.responder, keys.initiator),
        Role::Responder => (keys.initiator, keys.responder),
    };
    let child = ChildSa {
        pair: shared.next_pair_id(),
        sa_in: shared.next_sa_id(),
        sa_out: shared.next_sa_id(),
        tunnel: sa.peer.tunnel(),
        child: config.child,
        owner: sa.id,
        remote_id: sa.peer.remote_id.clone(),
        line: sa.peer.line,
        spi_in: made.spi_in,
        spi_out: made.choice.peer_spi,
        transform: made.choice.transform,
        encapsulation: sa.channel.nat.encapsulation(),
        path: sa.channel.path,
        moving: false,
        local: made.local,
        remote: made.remote,
        group: made.choice.group,
        replaces,
        installed: shared.now,
        rekey_at: Instant::NEVER,
        expires_at: Instant::NEVER,
        first: false,
        nonce: super::collision::lower(&made.nonce_i, &made.nonce_r).to_vec(),
        ours: made.role == Role::Initiator,
        standby,
        carry_at: Instant::NEVER,
        displaces: None,
        announced: false,
        phase: Phase::Installing,
    };
    let inbound = record(sa, &child, config, Direction::Inbound, key_in);
    let outbound = record(sa, &child, config, Direction::Outbound, key_out);
    let pair = child.pair;
    shared.install_pair(child, (Box::new(inbound), Box::new(outbound)));
    Ok(pair)
}

fn record(
    sa: &Established,
    child: &ChildSa,
    config: &ChildConfig,
    direction: Direction,
    keys: KeyMaterial,
) -> SaRecord {
    let inbound = direction == Direction::Inbound;
    SaRecord {
        id: if inbound { child.sa_in } else { child.sa_out },
        pair: child.pair,
        tunnel: child.tunnel,
        child: child.child,
        direction,
        spi: if inbound { child.spi_in } else { child.spi_out },
        local: sa.channel.path.local,
        remote: sa.channel.path.remote,
        encapsulation: child.encapsulation,
        mode: Mode::Tunnel,
        transform: child.transform,
        keys,
        replay_window: config.replay_window,
        replay_floor: 0,
        next_sequence: 1,
        local_selectors: child.local.clone(),
        remote_selectors: child.remote.clone(),
        lifetime: Lifetime {
            soft: Limits { time: None, ..config.rekey },
            hard: Limits { time: config.life.time.map(|time| time + MARGIN), ..config.life },
        },
        dscp: config.dscp,
        ecn: config.ecn,
        df: config.df,
        domain: config.domain,
        mark: config.mark,
        interface_id: config.interface_id,
        offload: config.offload.clone(),
    }
}
