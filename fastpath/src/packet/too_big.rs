//! ICMP errors from routers on the way to a peer: "fragmentation needed" (RFC 1191 §4) and
//! "packet too big" (RFC 8201 §4), with what they quote of the packet that was too long.
//!
//! Anybody can send them. What they quote tells those of routers that saw a packet of ours from
//! those of everybody else: the SPI and the sequence number stand in the first eight octets of
//! ESP (RFC 4301 §8.2.1).

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, UdpHeaderSlice, checksum::Sum16BitWords};

/// Octets of an error that are looked at: an outer header with options, the ICMP header, and the
/// quoted headers down to the sequence number.
pub(crate) const LOOKED_AT: usize = 2048;

const ESP: u8 = 50;
const UDP: u8 = 17;
const HEADER: usize = 8;

/// What an error says about a packet of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooBig {
    /// The source of the quoted packet.
    pub local: IpAddr,
    /// Its destination.
    pub remote: IpAddr,
    /// Its UDP ports, when it is ESP in UDP.
    pub ports: Option<(u16, u16)>,
    /// Its SPI.
    pub spi: u32,
    /// Its sequence number, as it stands in the packet.
    pub sequence: u32,
    /// The largest packet that the next link takes, as the router claims; 0 from routers older
    /// than RFC 1191. Always less than the quoted packet.
    pub mtu: usize,
}

impl TooBig {
    /// Reads an ICMP message over IPv4, behind its IP header. `None` for everything that is no such
    /// error about a packet of ESP, that quotes too little to tell, or that makes no sense.
    pub(crate) fn read_v4(packet: &[u8]) -> Option<Self> {
        let icmp = packet.get(Ipv4HeaderSlice::from_slice(packet).ok()?.slice().len()..)?;
        let [3, 4, _, _, _, _, mtu_high, mtu_low] = *icmp.first_chunk::<HEADER>()? else {
            return None;
        };
        // The kernel gives raw sockets a copy before it looks at the checksum.
        if Sum16BitWords::new().add_slice(icmp).ones_complement() != 0 {
            return None;
        }
        let quote = icmp.get(HEADER..)?;
        let header = Ipv4HeaderSlice::from_slice(quote).ok()?;
        if header.fragments_offset().value() != 0 {
            return None;
        }
        let quoted = Quoted {
            local: header.source_addr().into(),
            remote: header.destination_addr().into(),
            protocol: header.protocol().0,
            len: header.total_len().into(),
            payload: quote.get(header.slice().len()..)?,
        };
        quoted.claims(u16::from_be_bytes([mtu_high, mtu_low]).into())
    }

    /// Reads an ICMP message over IPv6, whose checksum the kernel has verified. What claims less
    /// than 1280 is to be discarded (RFC 8201 §4).
    pub(crate) fn read_v6(icmp: &[u8]) -> Option<Self> {
        let [2, _, _, _, mtu @ ..] = *icmp.first_chunk::<HEADER>()? else { return None };
        let quote = icmp.get(HEADER..)?;
        let header = Ipv6HeaderSlice::from_slice(quote).ok()?;
        let quoted = Quoted {
            local: header.source_addr().into(),
            remote: header.destination_addr().into(),
            protocol: header.next_header().0,
            len: header.slice().len() + usize::from(header.payload_length()),
            payload: quote.get(header.slice().len()..)?,
        };
        let mtu = usize::try_from(u32::from_be_bytes(mtu)).ok()?;
        quoted.claims(mtu).filter(|claim| claim.mtu >= super::IPV6_LEAST)
    }
}

/// The packet an error is about.
struct Quoted<'q> {
    local: IpAddr,
    remote: IpAddr,
    protocol: u8,
    /// Octets of the whole packet, of which the quote may hold few.
    len: usize,
    payload: &'q [u8],
}

impl Quoted<'_> {
    fn claims(&self, mtu: usize) -> Option<TooBig> {
        let (ports, esp) = match self.protocol {
            ESP => (None, self.payload),
            UDP => {
                let udp = UdpHeaderSlice::from_slice(self.payload).ok()?;
                let ports = (udp.source_port(), udp.destination_port());
                (Some(ports), self.payload.get(udp.slice().len()..)?)
            }
            _ => return None,
        };
        let [a, b, c, d, sequence @ ..] = *esp.first_chunk::<HEADER>()?;
        // No router refuses a packet that its next link takes.
        (mtu < self.len).then_some(TooBig {
            local: self.local,
            remote: self.remote,
            ports,
            spi: u32::from_be_bytes([a, b, c, d]),
            sequence: u32::from_be_bytes(sequence),
            mtu,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{
        Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, PacketBuilder,
        icmpv4::DestUnreachableHeader,
    };

    const ESP_HEADER: [u8; 8] = [0, 0, 0x10, 1, 0, 0, 0, 7];

    fn esp(len: usize) -> Vec<u8> {
        let mut packet = ESP_HEADER.to_vec();
        packet.resize(len, 0xee);
        packet
    }

    fn outer(v4: bool, udp: bool, len: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = if v4 {
            PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        } else {
            PacketBuilder::ipv6([1; 16], [2; 16], 64)
        };
        let payload = esp(len);
        if udp {
            builder.udp(4500, 4501).write(&mut packet, &payload).unwrap();
        } else {
            builder.write(&mut packet, 50.into(), &payload).unwrap();
        }
        packet
    }

    fn error_v4(quote: &[u8], mtu: u16) -> Vec<u8> {
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu: mtu,
        });
        let mut icmp = Icmpv4Header::with_checksum(kind, quote).to_bytes().to_vec();
        icmp.extend_from_slice(quote);
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1], 64)
            .write(&mut packet, 1.into(), &icmp)
            .unwrap();
        packet
    }

    fn error_v6(quote: &[u8], mtu: u32) -> Vec<u8> {
        let kind = Icmpv6Type::PacketTooBig { mtu };
        let header = Icmpv6Header::with_checksum(kind, [3; 16], [1; 16], quote).unwrap();
        [&header.to_bytes()[..], quote].concat()
    }

    #[test]
    fn errors_are_read_with_what_they_quote() {
        for udp in [false, true] {
            let ports = udp.then_some((4500, 4501));
            // As much as RFC 792 asks for, when it is no UDP, and more.
            for quoted in [if udp { 36 } else { 28 }, 200] {
                let quote = outer(true, udp, 1400);
                let read = TooBig::read_v4(&error_v4(&quote[..quoted], 1300)).unwrap();
                let (local, remote) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
                let (spi, sequence) = (0x1001, 7);
                assert_eq!(read, TooBig { local, remote, ports, spi, sequence, mtu: 1300 });
                let quote = outer(false, udp, 1400);
                let read = TooBig::read_v6(&error_v6(&quote[..quoted + 20], 1300)).unwrap();
                let (local, remote) = ([1; 16].into(), [2; 16].into());
                assert_eq!(read, TooBig { local, remote, ports, spi, sequence, mtu: 1300 });
            }
        }
    }

    #[test]
    fn what_says_nothing_about_a_packet_of_esp_is_not_read() {
        let quote = outer(true, true, 1400);
        assert!(TooBig::read_v4(&error_v4(&quote, 0)).is_some(), "from an old router");
        assert_eq!(TooBig::read_v4(&error_v4(&quote, 1428)), None, "it would have fit");
        assert_eq!(TooBig::read_v4(&error_v4(&quote[..35], 1300)), None, "half a sequence number");
        let mut error = error_v4(&quote, 1300);
        error[30] ^= 1;
        assert_eq!(TooBig::read_v4(&error), None, "the checksum is wrong");
        let mut later = quote.clone();
        later[7] = 1;
        assert_eq!(TooBig::read_v4(&error_v4(&later, 1300)), None, "a later fragment");
        for protocol in [1, 6, 47] {
            let mut other = quote.clone();
            other[9] = protocol;
            assert_eq!(TooBig::read_v4(&error_v4(&other, 1300)), None);
        }
        let quote = outer(false, false, 1400);
        assert_eq!(TooBig::read_v6(&error_v6(&quote, 1279)), None, "no link has less");
        assert_eq!(TooBig::read_v6(&error_v6(&quote, 1440)), None, "it would have fit");
        let mut unreachable = error_v6(&quote, 1300);
        unreachable[0] = 1;
        assert_eq!(TooBig::read_v6(&unreachable), None);
    }

    #[test]
    fn no_octets_upset_the_reader() {
        for udp in [false, true] {
            for (error, v4) in [
                (error_v4(&outer(true, udp, 100), 90), true),
                (error_v6(&outer(false, udp, 1400), 1300), false),
            ] {
                let read = |bytes: &[u8]| {
                    if v4 { TooBig::read_v4(bytes) } else { TooBig::read_v6(bytes) }
                };
                for cut in 0..error.len().min(120) {
                    let _ = read(&error[..cut]);
                    for octet in [0, 0x0f, 0x45, 0x4f, 0xff] {
                        let mut changed = error.clone();
                        changed[cut] = octet;
                        let _ = read(&changed);
                    }
                }
            }
        }
    }
}
