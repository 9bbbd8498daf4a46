//! The configuration of the two endpoints, and what must hold for every SA that comes of it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use ike::config::{
    AuthMethod, ChildConfig, Connection, EncapPolicy, Endpoints, EspProposal, IkeProposal,
    RemoteMatch,
};
use sa_store::{
    ChildId, Direction, DomainId, Identity, IdentityPattern, Limits, OffloadIntent, SaRecord,
    SecretBytes, TunnelId,
};

/// The one tunnel.
pub(super) const TUNNEL: TunnelId = TunnelId(1);

/// What every SA that is to be installed has.
pub(super) fn assert_fits(record: &SaRecord, direction: Direction) {
    assert_eq!(record.direction, direction);
    let keys = record.keys.encryption.len() + record.keys.integrity.len();
    assert_eq!(keys, record.transform.suite.keymat_len());
    assert!(!record.local_selectors.is_empty() && !record.remote_selectors.is_empty());
    let ours = if record.local.ip() == address(0) { 0 } else { 1 };
    let mine = networks(ours);
    let theirs = networks(1 - ours);
    let inside = |selectors: &[sa_store::TrafficSelector], networks: &[&str]| {
        let networks: Vec<sa_store::TrafficSelector> =
            networks.iter().filter_map(|text| text.parse().ok()).collect();
        selectors.iter().all(|it| networks.iter().any(|network| network.covers(it)))
    };
    assert!(inside(&record.local_selectors, mine), "{record:?}");
    assert!(inside(&record.remote_selectors, theirs), "{record:?}");
}

/// The address of a side.
pub(super) fn address(side: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, if side == 0 { 1 } else { 2 }))
}

/// Seen from a side.
pub(super) fn path(side: usize) -> Endpoints {
    Endpoints {
        local: SocketAddr::new(address(side), 500),
        remote: SocketAddr::new(address(1 - side), 500),
    }
}

/// What a side protects.
pub(super) const fn networks(side: usize) -> &'static [&'static str] {
    if side == 0 { &["10.1.0.0/16", "fd00:1::/32"] } else { &["10.2.0.0/16", "fd00:2::/32"] }
}

/// The tunnel as one side has it.
pub(super) fn connection(
    side: usize,
    flags: u8,
    proposals: Vec<IkeProposal>,
    esp: &[EspProposal],
) -> Option<Connection> {
    let secret: &[u8] = if flags & 1 != 0 && side == 1 { b"another" } else { b"secret" };
    let name = |at: usize| if at == 0 { "a.example" } else { "b.example" };
    let id = |at: usize| name(at).parse::<Identity>().ok();
    let child = |number: u32| -> Option<ChildConfig> {
        let selectors = |texts: &[&str]| -> Option<Vec<_>> {
            texts.iter().map(|text| text.parse().ok()).collect()
        };
        Some(ChildConfig {
            child: ChildId(number),
            name: format!("child{number}"),
            local: selectors(networks(side))?,
            remote: selectors(networks(1 - side))?,
            proposals: esp.to_vec(),
            rekey: Limits { time: Some(Duration::from_secs(3600)), ..Limits::default() },
            life: Limits { time: Some(Duration::from_secs(4000)), ..Limits::default() },
            replay_window: 64,
            dscp: Default::default(),
            ecn: Default::default(),
            df: Default::default(),
            domain: DomainId(0),
            mark: 0,
            interface_id: 0,
            offload: OffloadIntent::Auto,
        })
    };
    Some(Connection {
        tunnel: TUNNEL,
        name: "tunnel".to_owned(),
        local: vec![address(side)],
        remote: vec![RemoteMatch::Any],
        local_id: id(side),
        remote_id: IdentityPattern::Exact(id(1 - side)?),
        auth: AuthMethod::Psk(SecretBytes::from_slice(secret)),
        proposals,
        rekey: Some(Duration::from_secs(14_400)),
        over_time: Duration::from_secs(1440),
        dpd: Some(Duration::from_secs(30)),
        encap: if flags & 16 == 0 { EncapPolicy::Auto } else { EncapPolicy::Always },
        replace_duplicates: flags & 32 == 0,
        children: vec![child(1)?, child(2)?],
    })
}
