//! The IKE header (RFC 7296 §3.1).

use alloc::vec::Vec;

use sa_store::IkeSpi;

use super::{
    codec::{Reader, put_u32, put_u64},
    error::WireError,
    numbers::{ExchangeType, PayloadType},
};

/// Octets of the header.
pub const HEADER_LEN: usize = 28;

/// Major version 2, minor version 0.
const VERSION: u8 = 0x20;

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_VERSION: u8 = 0x10;
const FLAG_RESPONSE: u8 = 0x20;

/// The fields that identify a message; lengths and versions are the codec's business.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header {
    /// The SPI of the IKE SA's original initiator.
    pub spi_i: IkeSpi,
    /// The SPI of its responder; zero in the first request.
    pub spi_r: IkeSpi,
    /// The exchange.
    pub exchange: ExchangeType,
    /// Flag I: the sender is the original initiator of the IKE SA.
    pub initiator: bool,
    /// Flag R: a response to the message with the same Message ID.
    pub response: bool,
    /// The Message ID.
    pub message_id: u32,
}

impl Header {
    /// Reads the header of a datagram (without non-ESP marker). Also returns the type of the
    /// first payload.
    ///
    /// # Errors
    /// Too short, another major version, or a length that is not that of the datagram. The
    /// minor version, flag V and the reserved flags are ignored, as the RFC demands.
    pub fn parse(datagram: &[u8]) -> Result<(Self, PayloadType), WireError> {
        // IKEv1 has the version at the same place, and nothing else of it is looked at.
        let major = datagram.get(17).map(|version| version >> 4);
        if major == Some(1) {
            return Err(WireError::IkeV1);
        }
        let mut reader = Reader::new(datagram);
        let (header, first, major, length) =
            Self::read(&mut reader).ok_or(WireError::ShortHeader)?;
        if major != 2 {
            return Err(WireError::MajorVersion { header, major });
        }
        if usize::try_from(length) != Ok(datagram.len()) {
            return Err(WireError::MessageLength { header: length, datagram: datagram.len() });
        }
        Ok((header, first))
    }

    fn read(reader: &mut Reader<'_>) -> Option<(Self, PayloadType, u8, u32)> {
        let spi_i = IkeSpi(reader.u64()?);
        let spi_r = IkeSpi(reader.u64()?);
        let first = PayloadType(reader.u8()?);
        let version = reader.u8()?;
        let exchange = ExchangeType(reader.u8()?);
        let flags = reader.u8()?;
        let message_id = reader.u32()?;
        let length = reader.u32()?;
        let header = Self {
            spi_i,
            spi_r,
            exchange,
            initiator: flags & FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            message_id,
        };
        Some((header, first, version >> 4, length))
    }

    /// Writes the header of a message of `length` octets whose first payload is `first`.
    pub(crate) fn write(&self, first: PayloadType, length: u32, out: &mut Vec<u8>) {
        put_u64(out, self.spi_i.0);
        put_u64(out, self.spi_r.0);
        let mut flags = 0;
        if self.initiator {
            flags |= FLAG_INITIATOR;
        }
        if self.response {
            flags |= FLAG_RESPONSE;
        }
        debug_assert_eq!(flags & FLAG_VERSION, 0, "we speak no higher major version");
        out.extend_from_slice(&[first.0, VERSION, self.exchange.0, flags]);
        put_u32(out, self.message_id);
        put_u32(out, length);
    }
}
