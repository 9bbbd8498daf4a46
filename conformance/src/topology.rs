//! The networks scenarios run in: two gateways, a client behind each, and a wire between them.
//!
//! ```text
//!  client-left --- left --- wire --- right --- client-right
//!      10.1.0.10   192.0.2.1       192.0.2.2   10.2.0.10
//!      fd01::10    2001:db8:0:f::1  ...::2      fd02::10
//! ```
//!
//! The wire is a bridge, or a router that masquerades for one of the gateways. Each gateway's
//! default route points at the other gateway (or the router), so that whatever IPsec does not
//! hold back really leaves in clear and arrives, where the captures and clients see it.

use std::net::IpAddr;
use std::path::Path;

use crate::capture::Capture;
use crate::failure::{Failure, Outcome};
use crate::netns::{Namespace, new_group};

/// One of the two gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// 192.0.2.1, in front of 10.1.0.0/16.
    Left,
    /// 192.0.2.2, in front of 10.2.0.0/16.
    Right,
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What stands between the gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Nothing: both are on one link.
    Direct,
    /// A router that masquerades for this gateway.
    NatBefore(Side),
}

/// Which messages of IKE are stopped, and which are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ike {
    /// CREATE_CHILD_SA exchanges are stopped and counted.
    Creates,
    /// CREATE_CHILD_SA responses are stopped and counted.
    Answers,
    /// INFORMATIONAL exchanges are stopped, CREATE_CHILD_SA responses pass and are counted.
    Deletes,
}

impl Side {
    /// The other gateway.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// Its name in namespaces and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    /// Its place where both sides stand in order.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Left => 0,
            Self::Right => 1,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Left => 1,
            Self::Right => 2,
        }
    }
}

/// The five namespaces of a scenario.
#[derive(Debug)]
pub struct Network {
    wire_kind: Wire,
    left: Namespace,
    right: Namespace,
    client_left: Namespace,
    client_right: Namespace,
    wire: Namespace,
}

impl Network {
    /// Builds all of it.
    pub fn new(wire_kind: Wire) -> Outcome<Self> {
        let group = new_group();
        let network = Self {
            wire_kind,
            left: Namespace::new(&group, "left")?,
            right: Namespace::new(&group, "right")?,
            client_left: Namespace::new(&group, "cl")?,
            client_right: Namespace::new(&group, "cr")?,
            wire: Namespace::new(&group, "wire")?,
        };
        for side in [Side::Left, Side::Right] {
            network.join_client(side)?;
            network.join_wire(side)?;
        }
        match wire_kind {
            Wire::Direct => network.bridge()?,
            Wire::NatBefore(side) => network.masquerade(side)?,
        }
        network.default_routes()?;
        Ok(network)
    }

    /// The namespace of a gateway.
    pub fn gateway(&self, side: Side) -> &Namespace {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// The namespace of the client behind a gateway.
    pub fn client(&self, side: Side) -> &Namespace {
        match side {
            Side::Left => &self.client_left,
            Side::Right => &self.client_right,
        }
    }

    /// What stands between the gateways.
    pub fn wire(&self) -> &Namespace {
        &self.wire
    }

    /// The outer address a gateway has itself.
    pub fn outer(&self, side: Side, family: Family) -> String {
        let number = side.number();
        match (self.wire_kind, family) {
            (Wire::NatBefore(natted), Family::V4) if natted == side => format!("172.31.0.{number}"),
            (_, Family::V4) => format!("192.0.2.{number}"),
            (_, Family::V6) => format!("2001:db8:0:f::{number}"),
        }
    }

    /// The outer address at which the other gateway sees this one.
    pub fn seen(&self, side: Side, family: Family) -> String {
        match (self.wire_kind, family) {
            (Wire::NatBefore(natted), Family::V4) if natted == side => "192.0.2.254".to_owned(),
            _ => self.outer(side, family),
        }
    }

    /// The network behind a gateway.
    pub fn inner(&self, side: Side, family: Family) -> String {
        match family {
            Family::V4 => format!("10.{}.0.0/16", side.number()),
            Family::V6 => format!("fd0{}::/48", side.number()),
        }
    }

    /// The address of the client behind a gateway.
    pub fn client_address(&self, side: Side, family: Family) -> IpAddr {
        let number = side.number();
        match family {
            Family::V4 => IpAddr::from([10, number, 0, 10]),
            Family::V6 => IpAddr::from([0xfd00 | u16::from(number), 0, 0, 0, 0, 0, 0, 0x10]),
        }
    }

    /// The gateway's own address in the network behind it.
    pub fn gateway_inner(&self, side: Side, family: Family) -> String {
        match family {
            Family::V4 => format!("10.{}.0.1", side.number()),
            Family::V6 => format!("fd0{}::1", side.number()),
        }
    }

    /// Gives the client behind `side` one more address, reached through its gateway.
    pub fn add_client_address(&self, side: Side, address: &str) -> Outcome {
        let (length, family) = if address.contains(':') { (128, "-6") } else { (32, "-4") };
        let whole = format!("{address}/{length}");
        self.client(side).ip(&["addr", "add", &whole, "dev", "eth"])?;
        self.gateway(side).ip(&[family, "route", "replace", &whole, "dev", "in"]).map(drop)
    }

    /// Gives a gateway one more address behind it. strongSwan's user-space ESP wants one inside
    /// every local selector.
    pub fn add_gateway_address(&self, side: Side, address: &str) -> Outcome {
        if address.contains(':') {
            let whole = format!("{address}/128");
            self.gateway(side).ip(&["addr", "add", &whole, "dev", "in", "nodad"]).map(drop)
        } else {
            let whole = format!("{address}/32");
            self.gateway(side).ip(&["addr", "add", &whole, "dev", "in"]).map(drop)
        }
    }

    /// Lets nothing that is forwarded leave a gateway in clear. strongSwan has no policy without
    /// an SA; an operator who wants what Postern promises adds such a rule.
    pub fn hold_back(&self, side: Side) -> Outcome {
        self.gateway(side).nft(
            "table inet closed { chain forward {\ntype filter hook forward priority 0\n\
             oifname \"out\" drop\n}\n}",
        )
    }

    /// Takes back [`Network::hold_back`].
    pub fn let_go(&self, side: Side) -> Outcome {
        self.gateway(side).nft("")
    }

    /// Stops everything on the wire, as a cut cable does that nobody notices.
    pub fn cut(&self) -> Outcome {
        match self.wire_kind {
            Wire::Direct => self.wire.nft(
                "table bridge cut { chain forward {\ntype filter hook forward priority 0; policy drop;\n}\n}",
            ),
            Wire::NatBefore(_) => Err(Failure::new("only a direct wire can be cut")),
        }
    }

    /// Drops this share of the packets on the wire, in percent. The neighbours' own talk is
    /// spared: a gateway that cannot resolve its neighbour loses packets by itself.
    pub fn lose(&self, percent: u8) -> Outcome {
        self.wire.nft(&format!(
            "table bridge lossy {{ chain forward {{\ntype filter hook forward priority 0\n\
             ether type ip numgen random mod 100 < {percent} drop\n\
             ether type ip6 ip6 nexthdr != ipv6-icmp numgen random mod 100 < {percent} drop\n\
             }}\n}}"
        ))
    }

    /// Drops every such packet on the wire: a loss that hits everything, and never the same
    /// exchange for long.
    pub fn lose_every(&self, packet: u8) -> Outcome {
        self.wire.nft(&format!(
            "table bridge lossy {{ chain forward {{\ntype filter hook forward priority 0\n\
             ether type ip numgen inc mod {packet} == 0 drop\n\
             }}\n}}"
        ))
    }

    /// Stops these messages of IKE on the wire, in place of what it stopped before, and nothing
    /// else: ESP in UDP passes. Only for gateways that have moved to port 4500.
    pub fn hold_ike(&self, what: Ike) -> Outcome {
        // ESP in UDP starts with an SPI, IKE on port 4500 with four zero octets (RFC 3948 §2.2).
        // Exchange type and flags are at octets 18 and 19 of IKE's header (RFC 7296 §3.1).
        let ike = "ether type ip udp dport 4500 @th,64,32 0";
        let create = format!("{ike} @th,240,8 36");
        let answer = format!("{create} @th,248,8 & 0x20 == 0x20");
        let inform = format!("{ike} @th,240,8 37");
        let lines = match what {
            Ike::Creates => vec![format!("{create} counter drop")],
            Ike::Answers => vec![format!("{answer} counter drop")],
            Ike::Deletes => vec![format!("{answer} counter"), format!("{inform} drop")],
        };
        let from = |side: Side| -> String {
            let port = format!("iifname \"{}\"", side.name());
            lines.iter().map(|line| format!("{port} {line}\n")).collect()
        };
        let rules = from(Side::Left) + &from(Side::Right);
        self.wire.nft(&format!(
            "table bridge ike {{ chain forward {{\ntype filter hook forward priority 0\n{rules}}}\n}}"
        ))
    }

    /// How many of the messages that [`Network::hold_ike`] counts came from each gateway: left,
    /// right.
    pub fn ike_counted(&self) -> Outcome<(u64, u64)> {
        let listed = self.wire.must(&["nft", "list", "table", "bridge", "ike"])?.stdout;
        let of = |side: Side| {
            let from = format!("iifname \"{}\"", side.name());
            let lines = listed.lines().filter(|line| line.contains(&from));
            lines
                .filter_map(|line| line.split("counter packets ").nth(1)?.split(' ').next())
                .filter_map(|count| count.parse::<u64>().ok())
                .sum()
        };
        Ok((of(Side::Left), of(Side::Right)))
    }

    /// Takes back [`Network::cut`], [`Network::hold_ike`] and [`Network::lose`].
    pub fn mend(&self) -> Outcome {
        self.wire.nft("")
    }

    /// Starts captures of all outer interfaces, with their files in `folder`.
    pub fn capture(&self, folder: &Path) -> Outcome<Vec<Capture>> {
        [Side::Left, Side::Right]
            .into_iter()
            .map(|side| {
                let file = folder.join(format!("{}.pcap", side.name()));
                Capture::start(self.gateway(side), "out", &file)
            })
            .collect()
    }

    fn join_client(&self, side: Side) -> Outcome {
        let (gateway, client) = (self.gateway(side), self.client(side));
        gateway.ip(&[
            "link",
            "add",
            "in",
            "type",
            "veth",
            "peer",
            "name",
            "eth",
            "netns",
            client.name(),
        ])?;
        let n = side.number();
        gateway.sysctl(&[
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
        ])?;
        gateway.ip_lines(&format!(
            "link set in up
             addr add 10.{n}.0.1/16 dev in
             addr add fd0{n}::1/48 dev in nodad"
        ))?;
        client.ip_lines(&format!(
            "link set eth up
             addr add 10.{n}.0.10/16 dev eth
             addr add fd0{n}::10/48 dev eth nodad
             route add default via 10.{n}.0.1
             -6 route add default via fd0{n}::1"
        ))
    }

    fn join_wire(&self, side: Side) -> Outcome {
        let gateway = self.gateway(side);
        let port = side.name();
        gateway.ip(&[
            "link",
            "add",
            "out",
            "type",
            "veth",
            "peer",
            "name",
            port,
            "netns",
            self.wire.name(),
        ])?;
        let length = 24;
        gateway.ip_lines(&format!(
            "link set out up
             addr add {}/{length} dev out
             addr add {}/64 dev out nodad",
            self.outer(side, Family::V4),
            self.outer(side, Family::V6),
        ))?;
        self.wire.ip(&["link", "set", port, "up"]).map(drop)
    }

    fn bridge(&self) -> Outcome {
        self.wire.ip_lines(
            "link add name br0 type bridge forward_delay 0 mcast_snooping 0
             link set left master br0
             link set right master br0
             link set br0 up",
        )
    }

    fn masquerade(&self, natted: Side) -> Outcome {
        let (inside, outside) = (natted.name(), natted.other().name());
        self.wire.sysctl(&[("net.ipv4.ip_forward", "1")])?;
        self.wire.ip_lines(&format!(
            "addr add 172.31.0.254/24 dev {inside}
             addr add 192.0.2.254/24 dev {outside}"
        ))?;
        self.wire.nft(&format!(
            "table ip nat {{ chain post {{\ntype nat hook postrouting priority 100\n\
             oifname \"{outside}\" masquerade\n}}\n}}"
        ))
    }

    fn default_routes(&self) -> Outcome {
        for side in [Side::Left, Side::Right] {
            let (v4, v6) = match self.wire_kind {
                Wire::NatBefore(natted) => {
                    let v4 = if natted == side { "172.31.0.254" } else { "192.0.2.254" };
                    (v4.to_owned(), None)
                }
                Wire::Direct => {
                    let other = side.other();
                    (self.outer(other, Family::V4), Some(self.outer(other, Family::V6)))
                }
            };
            let gateway = self.gateway(side);
            gateway.ip(&["route", "add", "default", "via", &v4])?;
            if let Some(v6) = v6 {
                gateway.ip(&["-6", "route", "add", "default", "via", &v6])?;
            }
        }
        Ok(())
    }
}
