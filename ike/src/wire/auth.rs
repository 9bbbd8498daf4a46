//! Payloads of authentication: KE, Nonce, IDi/IDr, CERT, CERTREQ, AUTH (RFC 7296 §3.4 to §3.9).

use alloc::{borrow::Cow, vec::Vec};
use core::fmt;

use sa_store::{Identity, IdentityError, KeGroup};

use super::{
    codec::{Reader, put_u16},
    error::{EncodeError, Fault},
    numbers::{AuthMethod, PayloadType},
};

/// Octets a nonce has (RFC 7296 §3.9).
pub const NONCE_LEN: core::ops::RangeInclusive<usize> = 16..=256;

/// The KE payload (§3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct KeyExchange<'a> {
    /// The key exchange method's transform ID.
    pub group: u16,
    /// Key Exchange Data.
    pub data: Cow<'a, [u8]>,
}

impl<'a> KeyExchange<'a> {
    /// For a group that Postern speaks.
    #[must_use]
    pub fn new(group: KeGroup, data: impl Into<Cow<'a, [u8]>>) -> Self {
        Self { group: group.transform_id(), data: data.into() }
    }

    /// The group, if Postern speaks it.
    #[must_use]
    pub fn known_group(&self) -> Option<KeGroup> {
        KeGroup::from_transform_id(self.group)
    }

    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let group = reader.u16().ok_or(Fault::Short)?;
        reader.u16().ok_or(Fault::Short)?;
        let data = reader.rest();
        if data.is_empty() {
            return Err(Fault::Short);
        }
        Ok(Self { group, data: data.into() })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put_u16(out, self.group);
        put_u16(out, 0);
        out.extend_from_slice(&self.data);
    }
}

impl fmt::Debug for KeyExchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyExchange {{ group: {}, data: {} octets }}", self.group, self.data.len())
    }
}

/// The Nonce payload (§3.9): 16 to 256 octets.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce<'a>(pub Cow<'a, [u8]>);

impl<'a> Nonce<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        if NONCE_LEN.contains(&body.len()) { Ok(Self(body.into())) } else { Err(Fault::Value) }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !NONCE_LEN.contains(&self.0.len()) {
            return Err(EncodeError::Value(PayloadType::NONCE));
        }
        out.extend_from_slice(&self.0);
        Ok(())
    }
}

impl fmt::Debug for Nonce<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({} octets)", self.0.len())
    }
}

/// An IDi or IDr payload (§3.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identification<'a> {
    /// The ID type.
    pub id_type: u8,
    /// Reserved octets as received: the AUTH payload covers them.
    pub reserved: [u8; 3],
    /// Identification Data.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Identification<'a> {
    /// The payload for an identity.
    #[must_use]
    pub fn new(identity: &Identity) -> Identification<'static> {
        Identification {
            id_type: identity.id_type(),
            reserved: [0; 3],
            data: identity.data().into(),
        }
    }

    /// The identity it names.
    ///
    /// # Errors
    /// An unknown ID type, or data that does not fit it.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::from_wire(self.id_type, &self.data)
    }

    /// RestOfInitIDPayload / RestOfRespIDPayload of §2.15: the payload without generic header.
    #[must_use]
    pub fn rest_of_payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.data.len());
        self.write(&mut out);
        out
    }

    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let id_type = reader.u8().ok_or(Fault::Short)?;
        let reserved = reader.array().ok_or(Fault::Short)?;
        Ok(Self { id_type, reserved, data: reader.rest().into() })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.id_type);
        out.extend_from_slice(&self.reserved);
        out.extend_from_slice(&self.data);
    }
}

/// A CERT (§3.6) or CERTREQ (§3.7) payload: an encoding and what it says, not looked into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate<'a> {
    /// Cert Encoding; 4 is an X.509 certificate for signatures.
    pub encoding: u8,
    /// Certificate Data, or the Certification Authority field of a request.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Certificate<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let (encoding, data) = body.split_first().ok_or(Fault::Short)?;
        Ok(Self { encoding: *encoding, data: data.into() })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.encoding);
        out.extend_from_slice(&self.data);
    }
}

/// The AUTH payload (§3.8). `Debug` does not show the data: with a weak shared key it can be
/// searched for.
#[derive(Clone, PartialEq, Eq)]
pub struct Authentication<'a> {
    /// How the sender authenticates.
    pub method: AuthMethod,
    /// Authentication Data.
    pub data: Cow<'a, [u8]>,
}

impl<'a> Authentication<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let method = AuthMethod(reader.u8().ok_or(Fault::Short)?);
        reader.take(3).ok_or(Fault::Short)?;
        Ok(Self { method, data: reader.rest().into() })
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.method.0, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }
}

impl fmt::Debug for Authentication<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authentication {{ method: {}, data: {} octets }}", self.method, self.data.len())
    }
}
