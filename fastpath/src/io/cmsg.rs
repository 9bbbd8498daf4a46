//! Socket addresses and control messages as bytes, built and read without `unsafe`.

use std::{
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

/// Octets of the largest socket address used here, `sockaddr_in6`.
pub(crate) const SOCKADDR_LEN: usize = size_of::<libc::sockaddr_in6>();

/// A `sockaddr_in` or `sockaddr_in6` in the kernel's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketAddress {
    bytes: [u8; SOCKADDR_LEN],
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = to.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

fn get<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

impl SocketAddress {
    /// In the kernel's layout.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut bytes = [0; SOCKADDR_LEN];
        put(&mut bytes, 2, &address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                put(&mut bytes, 0, &(libc::AF_INET as u16).to_ne_bytes());
                put(&mut bytes, 4, &v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                put(&mut bytes, 0, &(libc::AF_INET6 as u16).to_ne_bytes());
                put(&mut bytes, 8, &v6.ip().octets());
                put(&mut bytes, 24, &v6.scope_id().to_ne_bytes());
            }
        }
        Self { bytes }
    }

    /// Takes what the kernel wrote.
    pub(crate) const fn from_bytes(bytes: [u8; SOCKADDR_LEN]) -> Self {
        Self { bytes }
    }

    /// The bytes and the length the kernel wants for the family.
    pub(crate) fn as_bytes(&self) -> (&[u8; SOCKADDR_LEN], usize) {
        let v4 = i32::from(u16::from_ne_bytes(get(&self.bytes, 0))) == libc::AF_INET;
        (&self.bytes, if v4 { size_of::<libc::sockaddr_in>() } else { SOCKADDR_LEN })
    }

    /// As the standard library writes it; `None` for an unknown family.
    pub(crate) fn to_std(self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(get(&self.bytes, 2));
        match i32::from(u16::from_ne_bytes(get(&self.bytes, 0))) {
            libc::AF_INET => Some((Ipv4Addr::from(get::<4>(&self.bytes, 4)), port).into()),
            libc::AF_INET6 => {
                let scope = u32::from_ne_bytes(get(&self.bytes, 24));
                let ip = Ipv6Addr::from(get::<16>(&self.bytes, 8));
                Some(SocketAddrV6::new(ip, port, 0, scope).into())
            }
            _ => None,
        }
    }
}

const ALIGN: usize = size_of::<usize>();
const HEADER: usize = size_of::<usize>() + 8;

const fn aligned(len: usize) -> usize {
    len.div_ceil(ALIGN) * ALIGN
}

/// What control messages told about a received message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Control {
    /// The address it was sent to.
    pub local: Option<IpAddr>,
    /// DSCP and ECN.
    pub tos: u8,
    /// Size of the datagrams that the kernel joined (`UDP_GRO`); 0 when it is one datagram.
    pub segment: u16,
}

impl Control {
    /// Reads a control buffer; unknown and malformed messages are skipped.
    pub(crate) fn parse(mut bytes: &[u8]) -> Self {
        let mut control = Self::default();
        while bytes.len() >= HEADER {
            let len = usize::from_ne_bytes(get(bytes, 0));
            let level = i32::from_ne_bytes(get(bytes, ALIGN));
            let kind = i32::from_ne_bytes(get(bytes, ALIGN + 4));
            let Some(data) = bytes.get(HEADER..len) else { break };
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= 12 => {
                    control.local = Some(Ipv4Addr::from(get::<4>(data, 8)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= 20 => {
                    control.local = Some(Ipv6Addr::from(get::<16>(data, 0)).into());
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    control.tos = data.first().copied().unwrap_or(0);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    // A traffic class fits the low octet of the int.
                    control.tos = (i32::from_ne_bytes(get(data, 0)) & 0xff) as u8;
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = i32::from_ne_bytes(get(data, 0));
                    control.segment = u16::try_from(size).unwrap_or(0);
                }
                _ => {}
            }
            bytes = bytes.get(aligned(len)..).unwrap_or(&[]);
        }
        control
    }
}

/// Control messages for one `sendmsg`, on the stack.
#[derive(Clone, Copy)]
pub(crate) struct ControlBuilder {
    bytes: [u8; 128],
    len: usize,
}

impl ControlBuilder {
    /// No messages.
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; 128], len: 0 }
    }

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = self.len;
        put(&mut self.bytes, at, &(HEADER + data.len()).to_ne_bytes());
        put(&mut self.bytes, at + ALIGN, &level.to_ne_bytes());
        put(&mut self.bytes, at + ALIGN + 4, &kind.to_ne_bytes());
        put(&mut self.bytes, at + HEADER, data);
        self.len += HEADER + aligned(data.len());
    }

    /// The source address; nothing for the unspecified one (the kernel chooses).
    pub(crate) fn source(&mut self, address: IpAddr) {
        match address {
            address if address.is_unspecified() => {}
            IpAddr::V4(v4) => {
                let mut info = [0; 12];
                put(&mut info, 4, &v4.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(v6) => {
                let mut info = [0; 20];
                put(&mut info, 0, &v6.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// DSCP and ECN of the outer header.
    pub(crate) fn tos(&mut self, v4: bool, tos: u8) {
        if tos == 0 {
            return;
        }
        let (level, kind) = if v4 {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        self.push(level, kind, &i32::from(tos).to_ne_bytes());
    }

    /// Cut the data into datagrams of `size` octets.
    pub(crate) fn segment(&mut self, size: u16) {
        self.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
    }

    /// The buffer for `msg_control`.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_through_the_kernel_layout() {
        for text in ["192.0.2.1:4500", "[2001:db8::7]:500", "[fe80::1%3]:4500"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddress::new(address).to_std(), Some(address));
        }
        assert_eq!(SocketAddress::from_bytes([0xff; SOCKADDR_LEN]).to_std(), None);
    }

    #[test]
    fn truncated_control_messages_are_skipped() {
        let mut builder = ControlBuilder::new();
        builder.push(libc::SOL_UDP, libc::UDP_GRO, &1400_i32.to_ne_bytes());
        let bytes = builder.as_bytes();
        assert_eq!(Control::parse(bytes).segment, 1400);
        for cut in 0..bytes.len() - 4 {
            assert_eq!(Control::parse(&bytes[..cut]).segment, 0);
        }
        let mut endless = bytes.to_vec();
        endless[..ALIGN].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(Control::parse(&endless), Control::default());
    }
}
