//! The Notify and Delete payloads (RFC 7296 §3.10, §3.11).

use alloc::{borrow::Cow, vec, vec::Vec};

use sa_store::{EspSpi, KeGroup};

use super::{
    codec::{Reader, put_u16},
    error::{EncodeError, Fault},
    numbers::{NotifyType, PayloadType, ProtocolId},
    sa::Spi,
};

/// SPIs of one Delete payload.
pub const MAX_DELETE_SPIS: usize = 4096;

/// The Notify payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notify<'a> {
    /// The protocol of the SA it concerns, if it concerns one.
    pub protocol: ProtocolId,
    /// The SPI of that SA.
    pub spi: Spi,
    /// What it says.
    pub kind: NotifyType,
    /// Notification Data.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Notify<'a> {
    /// A notification about no particular SA, without data.
    #[must_use]
    pub const fn new(kind: NotifyType) -> Self {
        Self { protocol: ProtocolId::NONE, spi: Spi::None, kind, data: Cow::Borrowed(&[]) }
    }

    /// A notification about no particular SA.
    #[must_use]
    pub fn with_data(kind: NotifyType, data: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { data: data.into(), ..Self::new(kind) }
    }

    /// A notification about an ESP SA: `REKEY_SA`, `CHILD_SA_NOT_FOUND`.
    #[must_use]
    pub fn about_esp(kind: NotifyType, spi: EspSpi) -> Self {
        Self { protocol: ProtocolId::ESP, spi: spi.into(), ..Self::new(kind) }
    }

    /// `INVALID_KE_PAYLOAD` with the group that is wanted (RFC 7296 §1.2).
    #[must_use]
    pub fn invalid_ke(wanted: KeGroup) -> Self {
        let group = wanted.transform_id().to_be_bytes();
        Self::with_data(NotifyType::INVALID_KE_PAYLOAD, group.to_vec())
    }

    /// `UNSUPPORTED_CRITICAL_PAYLOAD` with the payload type (RFC 7296 §2.5).
    #[must_use]
    pub fn unsupported_critical(kind: PayloadType) -> Self {
        Self::with_data(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0])
    }

    /// The 16-bit number that the data is: the group of `INVALID_KE_PAYLOAD`.
    #[must_use]
    pub fn data_u16(&self) -> Option<u16> {
        <[u8; 2]>::try_from(self.data.as_ref()).ok().map(u16::from_be_bytes)
    }

    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let [protocol, spi_len] = reader.array().ok_or(Fault::Short)?;
        let kind = NotifyType(reader.u16().ok_or(Fault::Short)?);
        let spi = Spi::from_octets(reader.take(usize::from(spi_len)).ok_or(Fault::Short)?);
        Ok(Self { protocol: ProtocolId(protocol), spi, kind, data: reader.rest().into() })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let spi_len =
            u8::try_from(self.spi.len()).map_err(|_| EncodeError::Value(PayloadType::NOTIFY))?;
        out.extend_from_slice(&[self.protocol.0, spi_len]);
        put_u16(out, self.kind.0);
        self.spi.write(out);
        out.extend_from_slice(&self.data);
        Ok(())
    }
}

/// The Delete payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delete {
    /// Which protocol's SAs.
    pub protocol: ProtocolId,
    /// Their SPIs, as the sender of the payload expects them in packets that it receives;
    /// none for the IKE SA itself.
    pub spis: Vec<Spi>,
}

impl Delete {
    /// Deletes the IKE SA.
    #[must_use]
    pub const fn ike() -> Self {
        Self { protocol: ProtocolId::IKE, spis: Vec::new() }
    }

    /// Deletes ESP SAs.
    #[must_use]
    pub fn esp(spis: impl IntoIterator<Item = EspSpi>) -> Self {
        Self { protocol: ProtocolId::ESP, spis: spis.into_iter().map(Spi::from).collect() }
    }

    /// The ESP SPIs that may exist.
    pub fn esp_spis(&self) -> impl Iterator<Item = EspSpi> + '_ {
        let ours = self.protocol == ProtocolId::ESP;
        self.spis.iter().filter(move |_| ours).filter_map(Spi::esp)
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let [protocol, spi_len] = reader.array().ok_or(Fault::Short)?;
        let protocol = ProtocolId(protocol);
        let count = usize::from(reader.u16().ok_or(Fault::Short)?);
        let spi_len = usize::from(spi_len);
        let expected = match protocol {
            ProtocolId::IKE => Some(0),
            ProtocolId::AH | ProtocolId::ESP => Some(4),
            _ => None,
        };
        if expected.is_some_and(|expected| expected != spi_len) || (spi_len == 0 && count > 0) {
            return Err(Fault::Value);
        }
        if count > MAX_DELETE_SPIS {
            return Err(Fault::Count);
        }
        let spis = (0..count)
            .map(|_| reader.take(spi_len).map(Spi::from_octets).ok_or(Fault::Count))
            .collect::<Result<Vec<_>, _>>()?;
        if reader.is_empty() { Ok(Self { protocol, spis }) } else { Err(Fault::Count) }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let value = EncodeError::Value(PayloadType::DELETE);
        let spi_len = match self.spis.first() {
            Some(spi) => spi.len(),
            None if matches!(self.protocol, ProtocolId::AH | ProtocolId::ESP) => 4,
            None => 0,
        };
        if self.spis.iter().any(|spi| spi.len() != spi_len || spi.len() == 0) {
            return Err(value);
        }
        if self.spis.len() > MAX_DELETE_SPIS {
            return Err(EncodeError::TooMany(PayloadType::DELETE));
        }
        let spi_len = u8::try_from(spi_len).map_err(|_| value)?;
        let count = u16::try_from(self.spis.len())
            .map_err(|_| EncodeError::TooMany(PayloadType::DELETE))?;
        out.extend_from_slice(&[self.protocol.0, spi_len]);
        put_u16(out, count);
        self.spis.iter().for_each(|spi| spi.write(out));
        Ok(())
    }
}
