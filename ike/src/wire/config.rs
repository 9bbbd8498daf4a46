//! The Configuration payload (RFC 7296 §3.15).

use alloc::{borrow::Cow, vec::Vec};

use super::{
    codec::{Reader, put_u16},
    error::{EncodeError, Fault},
    numbers::{ConfigType, PayloadType},
};

/// Attributes of one Configuration payload.
pub const MAX_CONFIG_ATTRIBUTES: usize = 256;

/// The CP payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configuration<'a> {
    /// Request, reply, set or acknowledgement.
    pub kind: ConfigType,
    /// The attributes in order.
    pub attributes: Vec<ConfigAttribute<'a>>,
}

/// One configuration attribute (§3.15.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigAttribute<'a> {
    /// The attribute type, 15 bits.
    pub kind: u16,
    /// Its value; empty in most requests.
    pub value: Cow<'a, [u8]>,
}

impl<'a> Configuration<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let kind = ConfigType(reader.u8().ok_or(Fault::Short)?);
        reader.take(3).ok_or(Fault::Short)?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            if attributes.len() == MAX_CONFIG_ATTRIBUTES {
                return Err(Fault::Count);
            }
            let kind = reader.u16().ok_or(Fault::Short)? & 0x7fff;
            let length = usize::from(reader.u16().ok_or(Fault::Short)?);
            let value = reader.take(length).ok_or(Fault::Short)?.into();
            attributes.push(ConfigAttribute { kind, value });
        }
        Ok(Self { kind, attributes })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.attributes.len() > MAX_CONFIG_ATTRIBUTES {
            return Err(EncodeError::TooMany(PayloadType::CP));
        }
        out.extend_from_slice(&[self.kind.0, 0, 0, 0]);
        for attribute in &self.attributes {
            let length = u16::try_from(attribute.value.len())
                .map_err(|_| EncodeError::PayloadTooLong(PayloadType::CP))?;
            put_u16(out, attribute.kind & 0x7fff);
            put_u16(out, length);
            out.extend_from_slice(&attribute.value);
        }
        Ok(())
    }
}
