//! Outer headers: a template made once for an SA, patched per packet at fixed offsets.

use core::net::{IpAddr, SocketAddr};

use sa_store::{DfPolicy, Encapsulation};

use crate::{
    BuildError, PROTOCOL_ESP, checksum,
    inner::{IpHeader, Version, protocol},
    udp::UDP_HEADER_LEN,
};

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const MAX_LEN: usize = IPV6_LEN + UDP_HEADER_LEN;

/// The outer IP header, and the UDP header if there is one.
#[derive(Clone, Debug)]
pub(crate) struct OuterTemplate {
    bytes: [u8; MAX_LEN],
    ip_len: usize,
    len: usize,
    /// Sum of the addresses, for checksums of headers and of UDP over IPv6.
    address_sum: u64,
}

impl OuterTemplate {
    pub(crate) fn new(
        local: SocketAddr,
        remote: SocketAddr,
        encapsulation: Encapsulation,
        hop_limit: u8,
    ) -> Result<Self, BuildError> {
        let udp = encapsulation == Encapsulation::Udp;
        let next = if udp { protocol::UDP } else { PROTOCOL_ESP };
        let mut bytes = [0; MAX_LEN];
        let (ip_len, address_sum) = match (local.ip(), remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes[0] = 0x45;
                bytes[8] = hop_limit;
                bytes[9] = next;
                bytes[12..16].copy_from_slice(&from.octets());
                bytes[16..20].copy_from_slice(&to.octets());
                (IPV4_LEN, checksum::sum(0, &bytes[12..20]))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                bytes[0] = 0x60;
                bytes[6] = next;
                bytes[7] = hop_limit;
                bytes[8..24].copy_from_slice(&from.octets());
                bytes[24..40].copy_from_slice(&to.octets());
                (IPV6_LEN, checksum::sum(0, &bytes[8..40]))
            }
            _ => return Err(BuildError::AddressFamily),
        };
        let mut len = ip_len;
        if udp {
            bytes[len..len + 2].copy_from_slice(&local.port().to_be_bytes());
            bytes[len + 2..len + 4].copy_from_slice(&remote.port().to_be_bytes());
            len += UDP_HEADER_LEN;
        }
        Ok(Self { bytes, ip_len, len, address_sum })
    }

    /// Octets of all outer headers.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Octets of the outer IP header.
    pub(crate) const fn is_ipv4(&self) -> bool {
        self.ip_len == IPV4_LEN
    }

    const fn has_udp(&self) -> bool {
        self.len > self.ip_len
    }

    /// Writes the headers in front of the ESP packet that fills the rest of `packet`. `id` is
    /// the IPv4 identification of a packet that may be fragmented.
    ///
    /// The UDP checksum is zero over IPv4 (RFC 3948 §2.1) and computed over IPv6: receivers may
    /// drop a zero one there (RFC 8200 §8.1; RFC 6935 relaxes it only for those who opt in).
    pub(crate) fn write(&self, packet: &mut [u8], traffic_class: u8, df: bool, id: u16) {
        let total = packet.len();
        let Some((headers, esp)) = packet.split_at_mut_checked(self.len) else { return };
        headers.copy_from_slice(&self.bytes[..self.len]);
        let (ip, udp) = headers.split_at_mut(self.ip_len);
        if self.is_ipv4() {
            ip[1] = traffic_class;
            ip[2..4].copy_from_slice(&length(total));
            if df {
                ip[6] = 0x40;
            } else {
                ip[4..6].copy_from_slice(&id.to_be_bytes());
            }
            let sum = checksum::finish(checksum::sum(self.address_sum, &ip[..12]));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip[0] |= traffic_class >> 4;
            ip[1] |= traffic_class << 4;
            ip[4..6].copy_from_slice(&length(total - IPV6_LEN));
        }
        if self.has_udp() {
            udp[4..6].copy_from_slice(&length(total - self.ip_len));
            if !self.is_ipv4() {
                let pseudo = self.address_sum
                    + u64::from(protocol::UDP)
                    + u64::from(u16::from_be_bytes([udp[4], udp[5]]));
                let sum = checksum::finish(checksum::sum(checksum::sum(pseudo, udp), esp));
                let sum = if sum == 0 { u16::MAX } else { sum };
                udp[6..8].copy_from_slice(&sum.to_be_bytes());
            }
        }
    }

    /// The DF bit of the outer header (RFC 4301 §8.1).
    pub(crate) fn dont_fragment(&self, policy: DfPolicy, inner: &IpHeader) -> bool {
        !self.is_ipv4()
            || match policy {
                DfPolicy::Copy => inner.version == Version::V6 || inner.dont_fragment,
                DfPolicy::Set => true,
                DfPolicy::Clear => false,
            }
    }
}

/// Lengths beyond 16 bits cannot happen: inner packets have at most 65,575 octets and longer
/// results are refused before.
fn length(octets: usize) -> [u8; 2] {
    u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes()
}
