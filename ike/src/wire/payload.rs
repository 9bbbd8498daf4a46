//! One payload of any kind, and all payloads of a message.

use alloc::{borrow::Cow, vec::Vec};
use core::fmt;

use super::{
    MAX_PAYLOADS,
    auth::{Authentication, Certificate, Identification, KeyExchange, Nonce},
    chain::{GENERIC_HEADER_LEN, PayloadChain},
    codec::finish,
    config::Configuration,
    error::{EncodeError, Fault, WireError},
    notify::{Delete, Notify},
    numbers::{NotifyType, PayloadType},
    sa::SecurityAssociation,
    selectors::TrafficSelectors,
};

/// A payload with its content. SK and SKF are not here: they hold the others, see
/// [`super::Message`].
#[derive(Clone, PartialEq, Eq)]
pub enum Payload<'a> {
    /// SA (33).
    Sa(SecurityAssociation),
    /// KE (34).
    Ke(KeyExchange<'a>),
    /// IDi (35).
    IdI(Identification<'a>),
    /// IDr (36).
    IdR(Identification<'a>),
    /// CERT (37).
    Cert(Certificate<'a>),
    /// CERTREQ (38).
    CertReq(Certificate<'a>),
    /// AUTH (39).
    Auth(Authentication<'a>),
    /// Nonce (40).
    Nonce(Nonce<'a>),
    /// N (41).
    Notify(Notify<'a>),
    /// D (42).
    Delete(Delete),
    /// V (43).
    VendorId(Cow<'a, [u8]>),
    /// TSi (44).
    TsI(TrafficSelectors),
    /// TSr (45).
    TsR(TrafficSelectors),
    /// CP (47).
    Cp(Configuration<'a>),
    /// EAP (48), opaque.
    Eap(Cow<'a, [u8]>),
}

impl<'a> Payload<'a> {
    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> PayloadType {
        match self {
            Self::Sa(_) => PayloadType::SA,
            Self::Ke(_) => PayloadType::KE,
            Self::IdI(_) => PayloadType::ID_I,
            Self::IdR(_) => PayloadType::ID_R,
            Self::Cert(_) => PayloadType::CERT,
            Self::CertReq(_) => PayloadType::CERTREQ,
            Self::Auth(_) => PayloadType::AUTH,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::Delete(_) => PayloadType::DELETE,
            Self::VendorId(_) => PayloadType::VENDOR_ID,
            Self::TsI(_) => PayloadType::TS_I,
            Self::TsR(_) => PayloadType::TS_R,
            Self::Cp(_) => PayloadType::CP,
            Self::Eap(_) => PayloadType::EAP,
        }
    }

    /// Reads the content of a payload; `Ok(None)` for a type that this codec does not know.
    fn parse(kind: PayloadType, body: &'a [u8]) -> Result<Option<Self>, WireError> {
        let payload = match kind {
            PayloadType::SA => SecurityAssociation::parse(body).map(Self::Sa),
            PayloadType::KE => KeyExchange::parse(body).map(Self::Ke),
            PayloadType::ID_I => Identification::parse(body).map(Self::IdI),
            PayloadType::ID_R => Identification::parse(body).map(Self::IdR),
            PayloadType::CERT => Certificate::parse(body).map(Self::Cert),
            PayloadType::CERTREQ => Certificate::parse(body).map(Self::CertReq),
            PayloadType::AUTH => Authentication::parse(body).map(Self::Auth),
            PayloadType::NONCE => Nonce::parse(body).map(Self::Nonce),
            PayloadType::NOTIFY => Notify::parse(body).map(Self::Notify),
            PayloadType::DELETE => Delete::parse(body).map(Self::Delete),
            PayloadType::VENDOR_ID => Ok(Self::VendorId(body.into())),
            PayloadType::TS_I => TrafficSelectors::parse(body).map(Self::TsI),
            PayloadType::TS_R => TrafficSelectors::parse(body).map(Self::TsR),
            PayloadType::CP => Configuration::parse(body).map(Self::Cp),
            PayloadType::EAP if body.len() < 4 => Err(Fault::Short),
            PayloadType::EAP => Ok(Self::Eap(body.into())),
            _ => return Ok(None),
        };
        payload.map(Some).map_err(|fault| WireError::Malformed(kind, fault))
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Sa(sa) => sa.write(out)?,
            Self::Ke(ke) => ke.write(out),
            Self::IdI(id) | Self::IdR(id) => id.write(out),
            Self::Cert(cert) | Self::CertReq(cert) => cert.write(out),
            Self::Auth(auth) => auth.write(out),
            Self::Nonce(nonce) => nonce.write(out)?,
            Self::Notify(notify) => notify.write(out)?,
            Self::Delete(delete) => delete.write(out)?,
            Self::VendorId(octets) | Self::Eap(octets) => out.extend_from_slice(octets),
            Self::TsI(selectors) | Self::TsR(selectors) => selectors.write(self.kind(), out)?,
            Self::Cp(configuration) => configuration.write(out)?,
        }
        Ok(())
    }
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match self {
            Self::Sa(sa) => write!(f, "{kind} {sa:?}"),
            Self::Ke(ke) => write!(f, "{kind} {ke:?}"),
            Self::IdI(id) | Self::IdR(id) => write!(f, "{kind} {id:?}"),
            Self::Cert(cert) | Self::CertReq(cert) => {
                write!(f, "{kind} {{ encoding: {}, {} octets }}", cert.encoding, cert.data.len())
            }
            Self::Auth(auth) => write!(f, "{kind} {auth:?}"),
            Self::Nonce(nonce) => write!(f, "{kind} {nonce:?}"),
            Self::Notify(notify) => write!(f, "{kind} {notify:?}"),
            Self::Delete(delete) => write!(f, "{kind} {delete:?}"),
            Self::VendorId(octets) => write!(f, "{kind} {octets:02x?}"),
            // EAP may carry passwords.
            Self::Eap(octets) => write!(f, "{kind} ({} octets)", octets.len()),
            Self::TsI(selectors) | Self::TsR(selectors) => write!(f, "{kind} {selectors:?}"),
            Self::Cp(configuration) => write!(f, "{kind} {configuration:?}"),
        }
    }
}

/// Writes a chain of payloads: the type of the first one and the octets.
///
/// # Errors
/// A payload does not fit its length field, or holds what its format cannot carry.
pub fn encode_payloads(payloads: &[Payload<'_>]) -> Result<(PayloadType, Vec<u8>), EncodeError> {
    encode_chain(payloads, PayloadType::NONE)
}

/// As [`encode_payloads`], with `after` announced behind the last payload.
pub(crate) fn encode_chain(
    payloads: &[Payload<'_>],
    after: PayloadType,
) -> Result<(PayloadType, Vec<u8>), EncodeError> {
    let mut out = Vec::new();
    let following = payloads.iter().skip(1).map(Payload::kind).chain([after]);
    for (payload, next) in payloads.iter().zip(following) {
        let begin = out.len();
        out.extend_from_slice(&[next.0, 0, 0, 0]);
        payload.write(&mut out)?;
        finish(&mut out, begin, 2).ok_or(EncodeError::PayloadTooLong(payload.kind()))?;
    }
    debug_assert!(out.is_empty() || out.len() >= GENERIC_HEADER_LEN);
    Ok((payloads.first().map_or(after, Payload::kind), out))
}

/// All payloads of a message or of its encrypted part: known ones with their content, in order.
/// Those that may stand once do so.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Payloads<'a> {
    list: Vec<Payload<'a>>,
    unknown: usize,
}

macro_rules! single {
    ($($(#[$doc:meta])* $get:ident, $require:ident: $variant:ident($type:ty) = $kind:ident;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $get(&self) -> Option<&$type> {
                self.list.iter().find_map(|payload| match payload {
                    Payload::$variant(content) => Some(content),
                    _ => None,
                })
            }

            $(#[$doc])*
            ///
            /// # Errors
            /// It is missing.
            pub fn $require(&self) -> Result<&$type, WireError> {
                self.$get().ok_or(WireError::Missing(PayloadType::$kind))
            }
        )*
    };
}

macro_rules! several {
    ($($(#[$doc:meta])* $get:ident: $variant:ident($type:ty);)*) => {
        $(
            $(#[$doc])*
            pub fn $get(&self) -> impl Iterator<Item = &$type> {
                self.list.iter().filter_map(|payload| match payload {
                    Payload::$variant(content) => Some(content),
                    _ => None,
                })
            }
        )*
    };
}

impl<'a> Payloads<'a> {
    /// Reads a chain that begins with a payload of type `first` and fills `octets` exactly. An
    /// SK or SKF payload is not expected in it.
    ///
    /// # Errors
    /// Any [`WireError`] but those of the header.
    pub fn parse(first: PayloadType, octets: &'a [u8]) -> Result<Self, WireError> {
        let mut payloads = Self::default();
        for raw in PayloadChain::new(first, octets) {
            let raw = raw?;
            if matches!(raw.kind, PayloadType::SK | PayloadType::SKF) {
                return Err(WireError::Unexpected(raw.kind));
            }
            payloads.push(raw.kind, raw.body)?;
        }
        Ok(payloads)
    }

    pub(crate) fn push(&mut self, kind: PayloadType, body: &'a [u8]) -> Result<(), WireError> {
        let repeated = self.list.iter().any(|payload| payload.kind() == kind);
        if repeated && !kind.may_repeat() {
            return Err(WireError::Duplicate(kind));
        }
        match Payload::parse(kind, body)? {
            Some(payload) => self.list.push(payload),
            None => self.unknown += 1,
        }
        debug_assert!(self.list.len() + self.unknown <= MAX_PAYLOADS);
        Ok(())
    }

    /// The payloads in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Payload<'a>] {
        &self.list
    }

    /// How many payloads were skipped because their type is not known (and not critical).
    #[must_use]
    pub const fn unknown(&self) -> usize {
        self.unknown
    }

    /// Whether there is no known payload.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The first notification of a type.
    #[must_use]
    pub fn notify(&self, kind: NotifyType) -> Option<&Notify<'a>> {
        self.notifies().find(|notify| notify.kind == kind)
    }

    /// Whether there is a notification of a type.
    #[must_use]
    pub fn has_notify(&self, kind: NotifyType) -> bool {
        self.notify(kind).is_some()
    }

    /// The first notification that reports an error.
    #[must_use]
    pub fn error_notify(&self) -> Option<&Notify<'a>> {
        self.notifies().find(|notify| notify.kind.is_error())
    }

    single! {
        /// The SA payload.
        sa, require_sa: Sa(SecurityAssociation) = SA;
        /// The KE payload.
        ke, require_ke: Ke(KeyExchange<'a>) = KE;
        /// The IDi payload.
        id_i, require_id_i: IdI(Identification<'a>) = ID_I;
        /// The IDr payload.
        id_r, require_id_r: IdR(Identification<'a>) = ID_R;
        /// The AUTH payload.
        auth, require_auth: Auth(Authentication<'a>) = AUTH;
        /// The Nonce payload.
        nonce, require_nonce: Nonce(Nonce<'a>) = NONCE;
        /// The TSi payload.
        ts_i, require_ts_i: TsI(TrafficSelectors) = TS_I;
        /// The TSr payload.
        ts_r, require_ts_r: TsR(TrafficSelectors) = TS_R;
        /// The CP payload.
        cp, require_cp: Cp(Configuration<'a>) = CP;
        /// The EAP payload.
        eap, require_eap: Eap(Cow<'a, [u8]>) = EAP;
    }

    several! {
        /// The CERT payloads.
        certs: Cert(Certificate<'a>);
        /// The CERTREQ payloads.
        cert_requests: CertReq(Certificate<'a>);
        /// The N payloads.
        notifies: Notify(Notify<'a>);
        /// The D payloads.
        deletes: Delete(Delete);
        /// The V payloads.
        vendor_ids: VendorId(Cow<'a, [u8]>);
    }
}
