//! What the two operators want of their gateways.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use gateway::spec::{ChildSpec, ConnectionSpec, RemoteAddress, TunnelMode};
use ike::config::{AuthMethod, EncapPolicy, EspProposal, IkeProposal};
use sa_store::{IdentityPattern, Limits, OffloadIntent, Prefix, SecretBytes, TrafficSelector};

use crate::scenario::{NAME_OF_B, Scenario};

/// The name of the one tunnel.
pub(crate) const TUNNEL: &str = "peer";

/// What one side's configuration says and the scenario does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Want {
    /// Soft lifetime of children and of IKE SAs.
    pub(crate) lifetimes: (Duration, Duration),
    /// Quiet time until the peer is asked for a sign of life.
    pub(crate) dpd: Duration,
    /// Which children.
    pub(crate) children: Vec<usize>,
}

impl Want {
    /// What both want at first.
    pub(crate) fn first(scenario: &Scenario) -> Self {
        Self {
            lifetimes: scenario.lifetimes,
            dpd: Duration::from_secs(30),
            children: (0..scenario.children).collect(),
        }
    }

    /// The tunnel as A (0) or B (1) wants it.
    pub(crate) fn connection(&self, scenario: &Scenario, side: usize) -> ConnectionSpec {
        let [a, b] = scenario.addresses;
        let remote = match (side, scenario.nat) {
            (0, _) if scenario.named => RemoteAddress::Host(NAME_OF_B.into()),
            (0, _) => RemoteAddress::Address(b),
            (_, true) => RemoteAddress::Any,
            (_, false) => RemoteAddress::Address(a),
        };
        let calls = side == 0 || scenario.both_call;
        let identity = |name: &str| name.parse().ok();
        let (local_id, remote_id) =
            if side == 0 { ("a.example", "b.example") } else { ("b.example", "a.example") };
        ConnectionSpec {
            name: TUNNEL.into(),
            mode: if calls { TunnelMode::AlwaysOn } else { TunnelMode::Passive },
            local: match side {
                0 if scenario.named => Vec::new(),
                0 => vec![a],
                _ => vec![b],
            },
            remote: vec![remote],
            local_id: identity(local_id),
            remote_id: identity(remote_id).map_or(IdentityPattern::Any, IdentityPattern::Exact),
            auth: AuthMethod::Psk(SecretBytes::from_slice(b"a secret of the simulation")),
            proposals: vec![IkeProposal {
                ciphers: vec![scenario.suite.cipher()],
                integrity: scenario.suite.integrity().into_iter().collect(),
                prfs: vec![scenario.prf],
                groups: vec![scenario.group],
            }],
            rekey: Some(self.lifetimes.1),
            dpd: Some(self.dpd),
            encap: EncapPolicy::Auto,
            children: self
                .children
                .iter()
                .map(|index| self.child(scenario, side, *index))
                .collect(),
        }
    }

    fn child(&self, scenario: &Scenario, side: usize, index: usize) -> ChildSpec {
        let networks = [host(side, index), host(1 - side, index)].map(|address| {
            Prefix::of(IpAddr::V4(address), 24).map(TrafficSelector::prefix).into_iter().collect()
        });
        let [local, remote] = networks;
        let soft = self.lifetimes.0;
        ChildSpec {
            name: child_name(index),
            local,
            remote,
            proposals: vec![EspProposal {
                ciphers: vec![scenario.suite.cipher()],
                integrity: scenario.suite.integrity().into_iter().collect(),
                groups: if scenario.pfs { vec![scenario.group] } else { Vec::new() },
                esn: vec![scenario.esn],
            }],
            rekey: Limits { time: Some(soft), bytes: None, packets: scenario.packets },
            life: Limits {
                time: Some(soft + soft / 2),
                bytes: None,
                packets: scenario.packets.map(|packets| packets * 50),
            },
            replay_window: 256,
            bypass: Vec::new(),
            offload: OffloadIntent::Auto,
        }
    }
}

/// The name of a child.
pub(crate) fn child_name(index: usize) -> String {
    format!("net{index}")
}

/// A host in the network of a child on one side.
pub(crate) fn host(side: usize, child: usize) -> Ipv4Addr {
    let octet = |number: usize| u8::try_from(number).unwrap_or(0);
    Ipv4Addr::new(10, 1 + octet(side), octet(child), 7)
}
