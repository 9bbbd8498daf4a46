//! NAT detection, the float to port 4500 and keepalives (RFC 7296 §2.23, RFC 3948 §4).

use core::net::{IpAddr, SocketAddr};

use crypto::{hash::sha1_nat_detection, random::RandomSource};
use sa_store::{Encapsulation, IkeSpi};

use crate::{
    config::{EncapPolicy, Endpoints},
    wire::{Notify, NotifyType, Payload, Payloads},
};

/// The port both ends use once a NAT is known.
pub(crate) const NAT_PORT: u16 = 4500;

/// What is known about NATs between the peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Nat {
    /// In front of us.
    pub(crate) local: bool,
    /// In front of the peer.
    pub(crate) remote: bool,
    /// We want ESP in UDP whether or not there is one.
    pub(crate) forced: bool,
}

impl Nat {
    pub(crate) const fn any(self) -> bool {
        self.local || self.remote || self.forced
    }

    /// How ESP travels between such peers.
    pub(crate) const fn encapsulation(self) -> Encapsulation {
        if self.any() { Encapsulation::Udp } else { Encapsulation::None }
    }
}

fn hash(spi_i: IkeSpi, spi_r: IkeSpi, end: SocketAddr) -> [u8; 20] {
    let port = end.port().to_be_bytes();
    let (spi_i, spi_r) = (spi_i.0.to_be_bytes(), spi_r.0.to_be_bytes());
    match end.ip() {
        IpAddr::V4(v4) => sha1_nat_detection(&[&spi_i, &spi_r, &v4.octets(), &port]),
        IpAddr::V6(v6) => sha1_nat_detection(&[&spi_i, &spi_r, &v6.octets(), &port]),
    }
}

/// The two notifications of a message that we send; none if the policy does not want them.
pub(crate) fn notifies(
    policy: EncapPolicy,
    random: &mut dyn RandomSource,
    (spi_i, spi_r): (IkeSpi, IkeSpi),
    path: Endpoints,
) -> [Option<Payload<'static>>; 2] {
    let mut source = hash(spi_i, spi_r, path.local);
    match policy {
        EncapPolicy::Never => return [None, None],
        EncapPolicy::Always => random.fill(&mut source),
        EncapPolicy::Auto => {}
    }
    let destination = hash(spi_i, spi_r, path.remote);
    let payload =
        |kind, hash: [u8; 20]| Some(Payload::Notify(Notify::with_data(kind, hash.to_vec())));
    [
        payload(NotifyType::NAT_DETECTION_SOURCE_IP, source),
        payload(NotifyType::NAT_DETECTION_DESTINATION_IP, destination),
    ]
}

/// What the peer's notifications say; `None` if it does not do NAT traversal.
pub(crate) fn detect(
    policy: EncapPolicy,
    payloads: &Payloads<'_>,
    (spi_i, spi_r): (IkeSpi, IkeSpi),
    path: Endpoints,
) -> Option<Nat> {
    if policy == EncapPolicy::Never {
        return None;
    }
    let said = |kind| payloads.notifies().filter(move |notify| notify.kind == kind);
    let matches = |kind, end| {
        let expected = hash(spi_i, spi_r, end);
        said(kind).any(|notify| notify.data.as_ref() == expected)
    };
    said(NotifyType::NAT_DETECTION_SOURCE_IP).next()?;
    said(NotifyType::NAT_DETECTION_DESTINATION_IP).next()?;
    Some(Nat {
        local: !matches(NotifyType::NAT_DETECTION_DESTINATION_IP, path.local),
        remote: !matches(NotifyType::NAT_DETECTION_SOURCE_IP, path.remote),
        forced: policy == EncapPolicy::Always,
    })
}

/// Both ports 4500 (RFC 7296 §2.23).
pub(crate) fn float(path: Endpoints) -> Endpoints {
    let mut floated = path;
    floated.local.set_port(NAT_PORT);
    if path.local.port() != NAT_PORT {
        floated.remote.set_port(NAT_PORT);
    }
    floated
}
