//! Networks that are reachable without a router, and which of them a policy for everything leaves
//! clear.
//!
//! Whoever hands out addresses on a link decides which networks are connected there, so what stays
//! clear unasked is only what nobody gains by (CVE-2023-36672 is what happens otherwise):
//!
//! - never on an interface that leads to a peer or to the Internet;
//! - no network larger than a site has on one link ([`LARGEST_V4`], [`LARGEST_V6`]);
//! - nothing of the Internet, unless it is of the child's own side and that names networks;
//! - and only through the interface that it is connected to: see [`super::Verdict::Connected`].

use sa_store::{Prefix, TrafficSelector};

use super::{Span, rule::is_everything};

/// The shortest prefix of an IPv4 network that stays clear unasked: a link with more than 65,536
/// addresses is no link.
const LARGEST_V4: u8 = 16;
/// The same for IPv6: what a site gets as a whole (RFC 6177). Links have 64 bits.
const LARGEST_V6: u8 = 48;

/// A network that is reachable through one interface without a router.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Connected {
    /// The network.
    pub network: Prefix,
    /// Index of the interface.
    pub interface: u32,
}

impl Connected {
    fn span(&self) -> Span {
        Span::of_prefix(self.network)
    }

    /// Whether a child for everything whose own side is `local` leaves it clear.
    pub(crate) fn stays_clear(&self, local: &TrafficSelector) -> bool {
        let v4 = self.network.first().is_ipv4();
        let largest = if v4 { LARGEST_V4 } else { LARGEST_V6 };
        v4 == local.is_ipv4()
            && self.network.length() >= largest
            && (!of_the_internet(v4, self.span())
                || !is_everything(local) && super::rule::span(local).covers(self.span()))
    }
}

/// Networks that are not globally reachable (IANA's special-purpose address registries, RFC 6890).
const V4_AT_HOME: [(u32, u8); 9] = [
    (0x0a00_0000, 8),
    (0x6440_0000, 10),
    (0xac10_0000, 12),
    (0xc000_0000, 24),
    (0xc000_0200, 24),
    (0xc0a8_0000, 16),
    (0xc612_0000, 15),
    (0xc633_6400, 24),
    (0xcb00_7100, 24),
];
const V6_AT_HOME: [(u128, u8); 4] =
    [(0xfc << 120, 7), (0x2001_0db8 << 96, 32), (0x2001_0002 << 96, 48), (0x3fff << 112, 20)];

/// Whether some of it may be addresses of the Internet.
fn of_the_internet(v4: bool, span: Span) -> bool {
    let home = |first: u128, length: u8, width: u8| {
        let host = u32::from(width.saturating_sub(length));
        Span { start: first, end: first | ((1 << host) - 1) }.covers(span)
    };
    if v4 {
        !V4_AT_HOME.iter().any(|(first, length)| home((*first).into(), *length, 32))
    } else {
        !V6_AT_HOME.iter().any(|(first, length)| home(*first, *length, 128))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_somebody_gains_by_stays_clear() {
        let stays = |network: &str, local: &str| {
            let network = network.parse().unwrap();
            Connected { network, interface: 7 }.stays_clear(&local.parse().unwrap())
        };
        for (network, local, clear) in [
            ("10.9.0.0/24", "10.1.0.0/16", true),
            ("10.9.0.0/16", "10.1.0.0/16", true),
            ("10.8.0.0/15", "10.1.0.0/16", false),
            ("10.0.0.0/8", "10.0.0.0/8", false),
            ("0.0.0.0/1", "10.1.0.0/16", false),
            ("128.0.0.0/1", "0.0.0.0/0", false),
            ("0.0.0.0/0", "0.0.0.0/0", false),
            ("192.168.5.0/24", "0.0.0.0/0", true),
            ("100.64.0.0/16", "0.0.0.0/0", true),
            ("172.31.0.0/16", "10.1.0.0/16", true),
            ("172.32.0.0/16", "10.1.0.0/16", false),
            ("198.51.100.0/24", "10.1.0.0/16", true),
            ("8.8.8.0/24", "10.1.0.0/16", false),
            ("8.8.8.8/31", "0.0.0.0/0", false),
            ("8.8.8.0/24", "8.8.0.0/16", true),
            ("8.8.8.0/24", "8.8.8.0/25", false),
            ("10.9.0.0/24", "fd01::/64", false),
            ("fd09::/64", "fd01::/64", true),
            ("fd09::/48", "fd01::/64", true),
            ("fd00::/40", "fd01::/64", false),
            ("2001:db8:7::/64", "fd01::/64", true),
            ("2000::/3", "fd01::/64", false),
            ("2a00:1450:4001::/64", "fd01::/64", false),
            ("2a00:1450:4001::/64", "::/0", false),
            ("2a00:1450:4001::/64", "2a00:1450:4001::/48", true),
        ] {
            assert_eq!(stays(network, local), clear, "{network} beside {local}");
        }
    }
}
