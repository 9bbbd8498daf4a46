//! The Security Association payload (RFC 7296 §3.3): proposals, transforms, attributes.

use alloc::vec::Vec;
use core::fmt;

use sa_store::{EspSpi, IkeSpi};

use super::{
    codec::{Reader, finish, put_u16},
    error::{EncodeError, Fault},
    numbers::{PayloadType, ProtocolId, TransformType},
};

/// Proposals of one payload; the number field has one octet anyway.
pub const MAX_PROPOSALS: usize = 64;
/// Transforms of one payload, over all proposals.
pub const MAX_TRANSFORMS: usize = 1024;
/// Attributes of one transform.
pub const MAX_ATTRIBUTES: usize = 8;

const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
const KEY_LENGTH: u16 = 14;
const FORMAT_TV: u16 = 0x8000;

/// An SPI as payloads carry it: its length is written before it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub enum Spi {
    /// Of length 0.
    #[default]
    None,
    /// Of length 4: ESP or AH. Reserved values (below 256) are kept, and are not acceptable.
    Esp(u32),
    /// Of length 8: IKE.
    Ike(IkeSpi),
    /// Of any other length, which no known protocol has.
    Other(Vec<u8>),
}

impl Spi {
    /// From octets.
    #[must_use]
    pub fn from_octets(octets: &[u8]) -> Self {
        if octets.is_empty() {
            Self::None
        } else if let Ok(four) = <[u8; 4]>::try_from(octets) {
            Self::Esp(u32::from_be_bytes(four))
        } else if let Ok(eight) = <[u8; 8]>::try_from(octets) {
            Self::Ike(IkeSpi(u64::from_be_bytes(eight)))
        } else {
            Self::Other(octets.to_vec())
        }
    }

    /// The SPI of an ESP SA, if this is one that may exist.
    #[must_use]
    pub const fn esp(&self) -> Option<EspSpi> {
        match self {
            Self::Esp(value) => EspSpi::new(*value),
            _ => None,
        }
    }

    /// The SPI of an IKE SA, if this is one that may exist.
    #[must_use]
    pub const fn ike(&self) -> Option<IkeSpi> {
        match self {
            Self::Ike(spi) if !spi.is_zero() => Some(*spi),
            _ => None,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Esp(_) => 4,
            Self::Ike(_) => 8,
            Self::Other(octets) => octets.len(),
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => {}
            Self::Esp(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::Ike(spi) => out.extend_from_slice(&spi.0.to_be_bytes()),
            Self::Other(octets) => out.extend_from_slice(octets),
        }
    }
}

impl From<EspSpi> for Spi {
    fn from(spi: EspSpi) -> Self {
        Self::Esp(spi.get())
    }
}

impl From<IkeSpi> for Spi {
    fn from(spi: IkeSpi) -> Self {
        Self::Ike(spi)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("Spi()"),
            Self::Esp(value) => write!(f, "Spi({value:08x})"),
            Self::Ike(spi) => write!(f, "Spi({spi})"),
            Self::Other(octets) => write!(f, "Spi({octets:02x?})"),
        }
    }
}

/// The SA payload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SecurityAssociation {
    /// The proposals in order of preference.
    pub proposals: Vec<Proposal>,
}

/// One proposal: alternatives for each transform type, for one protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// From 1 on; an answer carries the number of the proposal it accepts.
    pub number: u8,
    /// What the SA is for.
    pub protocol: ProtocolId,
    /// The sender's inbound SPI; none for the first IKE SA.
    pub spi: Spi,
    /// The transforms; several of one type are alternatives.
    pub transforms: Vec<Transform>,
}

/// One transform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transform {
    /// What the transform is for.
    pub kind: TransformType,
    /// The transform ID within its type.
    pub id: u16,
    /// Attributes as they were; Key Length is the only one defined.
    pub attributes: Vec<Attribute>,
}

/// An attribute of a transform (RFC 7296 §3.3.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// Type 14: the key length in bits.
    KeyLength(u16),
    /// Any other attribute in short format: type (15 bits) and value.
    Short(u16, u16),
    /// An attribute in long format: type (15 bits) and value. No defined attribute has it.
    Long(u16, Vec<u8>),
}

impl Transform {
    /// A transform without attributes.
    #[must_use]
    pub const fn new(kind: TransformType, id: u16) -> Self {
        Self { kind, id, attributes: Vec::new() }
    }

    /// A transform with a key length in bits, if there is one.
    #[must_use]
    pub fn with_key_length(kind: TransformType, id: u16, bits: Option<u16>) -> Self {
        Self { kind, id, attributes: bits.map(Attribute::KeyLength).into_iter().collect() }
    }

    /// The key length in bits; `Err` if there are attributes that are not understood or the key
    /// length stands twice: such a transform cannot be chosen (RFC 7296 §3.3.6).
    ///
    /// # Errors
    /// `()`: the transform must be skipped.
    #[expect(clippy::result_unit_err, reason = "there is nothing to say but `not this one`")]
    pub fn key_length(&self) -> Result<Option<u16>, ()> {
        match self.attributes.as_slice() {
            [] => Ok(None),
            [Attribute::KeyLength(bits)] => Ok(Some(*bits)),
            _ => Err(()),
        }
    }
}

impl SecurityAssociation {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let mut proposals = Vec::new();
        let mut budget = MAX_TRANSFORMS;
        let mut more = true;
        while more {
            if proposals.len() == MAX_PROPOSALS {
                return Err(Fault::Count);
            }
            let (proposal, follows) = Proposal::parse(&mut reader, &mut budget)?;
            proposals.push(proposal);
            more = follows;
        }
        if reader.is_empty() { Ok(Self { proposals }) } else { Err(Fault::Long) }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.proposals.is_empty() {
            return Err(EncodeError::Value(PayloadType::SA));
        }
        let last = self.proposals.len() - 1;
        for (at, proposal) in self.proposals.iter().enumerate() {
            proposal.write(at != last, out)?;
        }
        Ok(())
    }
}

/// Reads "last or more", the reserved octet and the structure's length, and gives the rest of it.
fn substructure<'a>(reader: &mut Reader<'a>, more_value: u8) -> Result<(bool, Reader<'a>), Fault> {
    let more = match reader.u8().ok_or(Fault::Short)? {
        0 => false,
        value if value == more_value => true,
        _ => return Err(Fault::Value),
    };
    reader.u8().ok_or(Fault::Short)?;
    let length = usize::from(reader.u16().ok_or(Fault::Short)?);
    let rest = length.checked_sub(4).ok_or(Fault::Value)?;
    Ok((more, Reader::new(reader.take(rest).ok_or(Fault::Short)?)))
}

impl Proposal {
    fn parse(reader: &mut Reader<'_>, budget: &mut usize) -> Result<(Self, bool), Fault> {
        let (more, mut body) = substructure(reader, MORE_PROPOSALS)?;
        let [number, protocol, spi_len, count] = body.array().ok_or(Fault::Short)?;
        let spi = Spi::from_octets(body.take(usize::from(spi_len)).ok_or(Fault::Short)?);
        *budget = budget.checked_sub(usize::from(count)).ok_or(Fault::Count)?;
        let mut transforms = Vec::new();
        for remaining in (0..count).rev() {
            let (transform, follows) = Transform::parse(&mut body)?;
            if follows != (remaining != 0) {
                return Err(Fault::Count);
            }
            transforms.push(transform);
        }
        if !body.is_empty() {
            return Err(Fault::Count);
        }
        Ok((Self { number, protocol: ProtocolId(protocol), spi, transforms }, more))
    }

    fn write(&self, more: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let too_many = EncodeError::TooMany(PayloadType::SA);
        let begin = out.len();
        let spi_len =
            u8::try_from(self.spi.len()).map_err(|_| EncodeError::Value(PayloadType::SA))?;
        let count = u8::try_from(self.transforms.len()).map_err(|_| too_many)?;
        let follows = if more { MORE_PROPOSALS } else { 0 };
        out.extend_from_slice(&[follows, 0, 0, 0]);
        out.extend_from_slice(&[self.number, self.protocol.0, spi_len, count]);
        self.spi.write(out);
        for (at, transform) in self.transforms.iter().enumerate() {
            transform.write(at + 1 != self.transforms.len(), out)?;
        }
        finish(out, begin, 2).ok_or(EncodeError::PayloadTooLong(PayloadType::SA))
    }
}

impl Transform {
    fn parse(reader: &mut Reader<'_>) -> Result<(Self, bool), Fault> {
        let (more, mut body) = substructure(reader, MORE_TRANSFORMS)?;
        let kind = TransformType(body.u8().ok_or(Fault::Short)?);
        body.u8().ok_or(Fault::Short)?;
        let id = body.u16().ok_or(Fault::Short)?;
        let mut attributes = Vec::new();
        while !body.is_empty() {
            if attributes.len() == MAX_ATTRIBUTES {
                return Err(Fault::Count);
            }
            attributes.push(Attribute::parse(&mut body).ok_or(Fault::Short)?);
        }
        Ok((Self { kind, id, attributes }, more))
    }

    fn write(&self, more: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let begin = out.len();
        let follows = if more { MORE_TRANSFORMS } else { 0 };
        out.extend_from_slice(&[follows, 0, 0, 0, self.kind.0, 0]);
        put_u16(out, self.id);
        for attribute in &self.attributes {
            attribute.write(out)?;
        }
        finish(out, begin, 2).ok_or(EncodeError::PayloadTooLong(PayloadType::SA))
    }
}

impl Attribute {
    fn parse(reader: &mut Reader<'_>) -> Option<Self> {
        let kind = reader.u16()?;
        let value = reader.u16()?;
        if kind & FORMAT_TV == 0 {
            return Some(Self::Long(kind, reader.take(usize::from(value))?.to_vec()));
        }
        Some(match kind & !FORMAT_TV {
            KEY_LENGTH => Self::KeyLength(value),
            kind => Self::Short(kind, value),
        })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::KeyLength(bits) => {
                put_u16(out, KEY_LENGTH | FORMAT_TV);
                put_u16(out, *bits);
            }
            Self::Short(kind, value) => {
                put_u16(out, kind | FORMAT_TV);
                put_u16(out, *value);
            }
            Self::Long(kind, value) => {
                let length = u16::try_from(value.len())
                    .map_err(|_| EncodeError::PayloadTooLong(PayloadType::SA))?;
                put_u16(out, kind & !FORMAT_TV);
                put_u16(out, length);
                out.extend_from_slice(value);
            }
        }
        Ok(())
    }
}
