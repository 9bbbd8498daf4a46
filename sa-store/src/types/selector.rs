//! Traffic selectors (RFC 7296 §3.13, RFC 4301 §4.4.1.1) and the prefixes operators write.

use core::{fmt, net::IpAddr, str::FromStr};

/// An inclusive range of ports, or of ICMP type (high octet) and code (low octet).
///
/// `OPAQUE` (start 65535, end 0) is RFC 7296 §3.13.1's "the port is not available".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    /// First port.
    pub start: u16,
    /// Last port.
    pub end: u16,
}

impl PortRange {
    /// Every port.
    pub const ANY: Self = Self { start: 0, end: u16::MAX };
    /// Ports are not available in the packets (fragments).
    pub const OPAQUE: Self = Self { start: u16::MAX, end: 0 };

    /// One port.
    #[must_use]
    pub const fn single(port: u16) -> Self {
        Self { start: port, end: port }
    }

    /// One ICMP type, all its codes.
    #[must_use]
    pub const fn icmp_type(kind: u8) -> Self {
        let high = (kind as u16) << 8;
        Self { start: high, end: high | 0xff }
    }

    /// Whether this is [`PortRange::ANY`].
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.start == 0 && self.end == u16::MAX
    }

    /// Whether `port` lies in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.start <= port && port <= self.end
    }

    /// Whether all of `other` lies in the range.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        if self.is_any() {
            return true;
        }
        // OPAQUE runs backwards: as numbers it would lie in every range.
        if self.start > self.end || other.start > other.end {
            return self.start == other.start && self.end == other.end;
        }
        self.start <= other.start && other.end <= self.end
    }

    /// What both ranges have; `None` if they are disjoint.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        if self == other {
            return Some(self);
        }
        if self.is_any() {
            return Some(other);
        }
        if other.is_any() {
            return Some(self);
        }
        let range = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (range.start <= range.end).then_some(range)
    }
}

/// One traffic selector: a protocol (0 is any), a range of addresses of one family and a range
/// of ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TrafficSelector {
    protocol: u8,
    ports: PortRange,
    start: IpAddr,
    end: IpAddr,
}

impl TrafficSelector {
    /// `None` if the addresses are of different families or `start` lies behind `end`.
    #[must_use]
    pub fn new(protocol: u8, start: IpAddr, end: IpAddr, ports: PortRange) -> Option<Self> {
        let ordered = start.is_ipv4() == end.is_ipv4() && start <= end;
        ordered.then_some(Self { protocol, ports, start, end })
    }

    /// All protocols and ports of one address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self { protocol: 0, ports: PortRange::ANY, start: address, end: address }
    }

    /// All protocols and ports of a prefix.
    #[must_use]
    pub fn prefix(prefix: Prefix) -> Self {
        Self { protocol: 0, ports: PortRange::ANY, start: prefix.first(), end: prefix.last() }
    }

    /// The same addresses, for one protocol and some of its ports.
    #[must_use]
    pub const fn with_protocol(mut self, protocol: u8, ports: PortRange) -> Self {
        self.protocol = protocol;
        self.ports = ports;
        self
    }

    /// IP protocol number; 0 is any.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Ports, or ICMP types and codes.
    #[must_use]
    pub const fn ports(&self) -> PortRange {
        self.ports
    }

    /// First address.
    #[must_use]
    pub const fn start(&self) -> IpAddr {
        self.start
    }

    /// Last address.
    #[must_use]
    pub const fn end(&self) -> IpAddr {
        self.end
    }

    /// Whether the selector is of IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.start.is_ipv4()
    }

    /// Whether `address` lies in the address range.
    #[must_use]
    pub fn contains_address(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && self.start <= address && address <= self.end
    }

    /// Whether a packet's side (address, protocol, port) matches. `port` is `None` when the
    /// packet has none to see (a later fragment, a protocol without ports): then only
    /// selectors for any or opaque ports match.
    #[must_use]
    pub fn matches(&self, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        self.contains_address(address)
            && (self.protocol == 0 || self.protocol == protocol)
            && (self.ports.is_any()
                || match port {
                    Some(port) => self.ports.contains(port),
                    None => self.ports == PortRange::OPAQUE,
                })
    }

    /// Whether everything `other` selects is selected by this one too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.contains_address(other.start)
            && self.contains_address(other.end)
            && (self.protocol == 0 || self.protocol == other.protocol)
            && self.ports.covers(other.ports)
    }

    /// What both select; `None` if nothing (RFC 7296 §2.9 narrowing works with this).
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.is_ipv4() != other.is_ipv4() {
            return None;
        }
        let protocol = match (self.protocol, other.protocol) {
            (0, any) => any,
            (one, 0) => one,
            (one, same) if one == same => one,
            _ => return None,
        };
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        if start > end {
            return None;
        }
        Some(Self { protocol, ports: self.ports.intersect(other.ports)?, start, end })
    }

    /// The prefix the address range is, if it is one.
    #[must_use]
    pub fn as_prefix(&self) -> Option<Prefix> {
        let (start, end, width) = (bits(self.start), bits(self.end), width(self.start));
        let length = width - (start ^ end).checked_ilog2().map_or(0, |top| top + 1);
        let prefix = Prefix { address: self.start, length: u8::try_from(length).ok()? };
        (prefix.first() == self.start && prefix.last() == self.end).then_some(prefix)
    }
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_prefix() {
            Some(prefix) => write!(f, "{prefix}")?,
            None => write!(f, "{}..{}", self.start, self.end)?,
        }
        if self.protocol == 0 && self.ports.is_any() {
            return Ok(());
        }
        match self.protocol {
            0 => f.write_str("[any")?,
            1 => f.write_str("[icmp")?,
            6 => f.write_str("[tcp")?,
            17 => f.write_str("[udp")?,
            58 => f.write_str("[ipv6-icmp")?,
            132 => f.write_str("[sctp")?,
            other => write!(f, "[{other}")?,
        }
        let (start, end) = (self.ports.start, self.ports.end);
        if self.ports.is_any() {
            return f.write_str("]");
        }
        if self.ports == PortRange::OPAQUE {
            return f.write_str("/opaque]");
        }
        if matches!(self.protocol, 1 | 58) {
            let (kind, code) = (start >> 8, start & 0xff);
            return if start == end {
                write!(f, "/{kind}({code})]")
            } else if end >> 8 == kind && code == 0 && end & 0xff == 0xff {
                write!(f, "/{kind}]")
            } else {
                write!(f, "/{kind}({code})-{}({})]", end >> 8, end & 0xff)
            };
        }
        if start == end { write!(f, "/{start}]") } else { write!(f, "/{start}-{end}]") }
    }
}

/// Why a selector or prefix could not be read; `Display` says what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SelectorError {
    /// Not an address, prefix or range.
    Address(String),
    /// The prefix length is no number or longer than the address.
    PrefixLength(String),
    /// Bits behind the prefix are set; holds the prefix that was probably meant.
    HostBits(String),
    /// The range mixes families or runs backwards.
    Range(String),
    /// Not a protocol name or number.
    Protocol(String),
    /// Not a port, a range of ports, `opaque` or `any`.
    Port(String),
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(text) => {
                write!(
                    f,
                    "`{text}` is no address, prefix (10.1.0.0/16) or range (10.1.0.1..10.1.0.9)"
                )
            }
            Self::PrefixLength(text) => write!(f, "`{text}` is no prefix length for this address"),
            Self::HostBits(meant) => {
                write!(f, "bits are set behind the prefix length; did you mean `{meant}`?")
            }
            Self::Range(text) => {
                write!(
                    f,
                    "`{text}`: a range needs two addresses of one family, the lower one first"
                )
            }
            Self::Protocol(text) => {
                write!(
                    f,
                    "`{text}` is no protocol: use a number or tcp, udp, icmp, ipv6-icmp, sctp"
                )
            }
            Self::Port(text) => {
                write!(f, "`{text}` is no port: use a number, a range (1024-2047), any or opaque")
            }
        }
    }
}

impl core::error::Error for SelectorError {}

impl FromStr for TrafficSelector {
    type Err = SelectorError;

    /// Reads `net`, `net[proto]` and `net[proto/port]` where `net` is an address, a prefix or a
    /// range `a..b` (also `a-b`), as swanctl writes them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let (net, rest) = match text.split_once('[') {
            Some((net, rest)) => {
                let inner = rest
                    .strip_suffix(']')
                    .ok_or_else(|| SelectorError::Protocol(rest.to_owned()))?;
                (net.trim(), Some(inner.trim()))
            }
            None => (text, None),
        };
        let range = net.split_once("..").or_else(|| net.split_once('-'));
        let base = if let Some((start, end)) = range {
            let bad = || SelectorError::Range(net.to_owned());
            let start: IpAddr = start.trim().parse().map_err(|_| bad())?;
            let end: IpAddr = end.trim().parse().map_err(|_| bad())?;
            Self::new(0, start, end, PortRange::ANY).ok_or_else(bad)?
        } else {
            Self::prefix(net.parse()?)
        };
        let Some(rest) = rest else { return Ok(base) };
        let (protocol, port) = match rest.split_once('/') {
            Some((protocol, port)) => (protocol.trim(), Some(port.trim())),
            None => (rest, None),
        };
        let protocol = parse_protocol(protocol)?;
        let ports = match port {
            None | Some("any" | "%any" | "") => PortRange::ANY,
            Some("opaque" | "%opaque") => PortRange::OPAQUE,
            Some(port) => parse_ports(protocol, port)?,
        };
        Ok(base.with_protocol(protocol, ports))
    }
}

fn parse_protocol(text: &str) -> Result<u8, SelectorError> {
    Ok(match text {
        "" | "any" | "%any" => 0,
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "gre" => 47,
        "ipv6-icmp" | "icmpv6" => 58,
        "sctp" => 132,
        number => number.parse().map_err(|_| SelectorError::Protocol(number.to_owned()))?,
    })
}

fn parse_ports(protocol: u8, text: &str) -> Result<PortRange, SelectorError> {
    let bad = || SelectorError::Port(text.to_owned());
    let number = |part: &str| -> Result<u16, SelectorError> {
        let part = part.trim();
        match part {
            "http" => return Ok(80),
            "https" => return Ok(443),
            "ssh" => return Ok(22),
            "domain" => return Ok(53),
            _ => {}
        }
        if matches!(protocol, 1 | 58) {
            let (kind, code) = match part.split_once('(') {
                Some((kind, code)) => (kind, code.strip_suffix(')').ok_or_else(bad)?),
                None => (part, "0"),
            };
            let kind: u8 = kind.trim().parse().map_err(|_| bad())?;
            let code: u8 = code.trim().parse().map_err(|_| bad())?;
            return Ok(u16::from_be_bytes([kind, code]));
        }
        part.parse().map_err(|_| bad())
    };
    let icmp_type_only = matches!(protocol, 1 | 58) && !text.contains('(');
    let range = match text.split_once('-') {
        Some((start, end)) => {
            let end = number(end)?;
            PortRange { start: number(start)?, end: if icmp_type_only { end | 0xff } else { end } }
        }
        None if icmp_type_only => {
            let start = number(text)?;
            PortRange { start, end: start | 0xff }
        }
        None => PortRange::single(number(text)?),
    };
    if range.start > range.end { Err(bad()) } else { Ok(range) }
}

/// An address prefix in canonical form: no bits set behind its length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// `None` if the length does not fit the family or bits behind it are set.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let prefix = Self { address, length };
        (u32::from(length) <= width(address) && prefix.first() == address).then_some(prefix)
    }

    /// The prefix of `length` that `address` lies in; `None` if the length does not fit.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> Option<Self> {
        let loose = Self { address, length };
        (u32::from(length) <= width(address)).then(|| Self { address: loose.first(), length })
    }

    /// The network address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        from_bits(self.address, bits(self.address) & !self.host_mask())
    }

    /// The highest address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        from_bits(self.address, bits(self.address) | self.host_mask())
    }

    /// The length in bits.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies in the prefix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && self.first() <= address
            && address <= self.last()
    }

    fn host_mask(&self) -> u128 {
        let host = width(self.address).saturating_sub(u32::from(self.length));
        1u128.checked_shl(host).map_or(u128::MAX, |bit| bit - 1)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = SelectorError;

    /// Reads `address` or `address/length`; bits behind the length are an error that names the
    /// prefix probably meant.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address.trim(), Some(length.trim())),
            None => (text.trim(), None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| SelectorError::Address(text.to_owned()))?;
        let length = match length {
            None => u8::try_from(width(address)).unwrap_or(128),
            Some(length) => length
                .parse()
                .ok()
                .filter(|length: &u8| u32::from(*length) <= width(address))
                .ok_or_else(|| SelectorError::PrefixLength(length.to_owned()))?,
        };
        let loose = Self { address, length };
        let meant = Self { address: loose.first(), length };
        if meant == loose { Ok(loose) } else { Err(SelectorError::HostBits(meant.to_string())) }
    }
}

const fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn from_bits(family: IpAddr, bits: u128) -> IpAddr {
    match family {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(bits & 0xffff_ffff).unwrap_or(u32::MAX).into()),
        IpAddr::V6(_) => IpAddr::V6(bits.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> TrafficSelector {
        text.parse().unwrap()
    }

    #[test]
    fn reads_and_shows_what_swanctl_writes() {
        for text in [
            "10.1.0.0/16",
            "0.0.0.0/0",
            "::/0",
            "10.1.0.1/32[icmp/8]",
            "10.1.0.0/16[tcp/22]",
            "fec1::/16[udp/1024-2047]",
            "10.0.0.1..10.0.0.9",
            "10.0.0.0/8[tcp]",
            "10.0.0.0/8[47]",
        ] {
            assert_eq!(ts(text).to_string(), text);
        }
        assert_eq!(ts("10.1.0.1").to_string(), "10.1.0.1/32");
        assert_eq!(
            "10.1.0.1/16".parse::<TrafficSelector>(),
            Err(SelectorError::HostBits("10.1.0.0/16".into()))
        );
        for bad in [
            "",
            "10.1.0.0/33",
            "10.0.0.9..10.0.0.1",
            "1.2.3.4..::1",
            "10.0.0.0/8[tcp",
            "10.0.0.0/8[foo]",
            "10.0.0.0/8[tcp/70000]",
        ] {
            assert!(bad.parse::<TrafficSelector>().is_err(), "{bad}");
        }
    }

    #[test]
    fn intersects_and_covers() {
        let wide = ts("10.0.0.0/8");
        let narrow = ts("10.1.0.0/16[tcp/80]");
        assert_eq!(wide.intersect(&narrow), Some(narrow));
        assert!(wide.covers(&narrow) && !narrow.covers(&wide));
        assert_eq!(ts("10.0.0.0/8[udp]").intersect(&narrow), None);
        assert_eq!(ts("::/0").intersect(&wide), None);
        let opaque = ts("10.1.0.0/16[tcp/opaque]");
        assert!(wide.covers(&opaque) && opaque.covers(&opaque));
        assert!(!narrow.covers(&opaque) && !opaque.covers(&narrow));
        assert!(narrow.matches("10.1.2.3".parse().unwrap(), 6, Some(80)));
        assert!(!narrow.matches("10.1.2.3".parse().unwrap(), 6, None));
        assert!(ts("0.0.0.0/0").as_prefix().is_some_and(|p| p.length() == 0));
        assert!(ts("::/0").as_prefix().is_some_and(|p| p.length() == 0));
    }
}
