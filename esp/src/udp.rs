//! ESP in UDP (RFC 3948).

/// Octets of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;

/// The four zero octets in front of an IKE message on port 4500 (RFC 3948 §2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// The payload of a NAT keepalive (RFC 3948 §2.3).
pub const NAT_KEEPALIVE: [u8; 1] = [0xff];

/// What a datagram on an encapsulation port (4500) carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpPayload<'a> {
    /// A NAT keepalive: ignored.
    Keepalive,
    /// An IKE message, without its marker.
    Ike(&'a [u8]),
    /// An ESP packet, from its SPI on.
    Esp(&'a [u8]),
    /// Neither: too short for a marker or an SPI.
    Malformed,
}

/// Tells ESP, IKE and keepalives apart.
#[must_use]
pub const fn classify(payload: &[u8]) -> UdpPayload<'_> {
    match payload {
        [0xff] => UdpPayload::Keepalive,
        [0, 0, 0, 0, ike @ ..] => UdpPayload::Ike(ike),
        [_, _, _, _, ..] => UdpPayload::Esp(payload),
        _ => UdpPayload::Malformed,
    }
}
