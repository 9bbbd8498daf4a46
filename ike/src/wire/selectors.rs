//! The TSi and TSr payloads (RFC 7296 §3.13).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sa_store::{PortRange, TrafficSelector};

use super::{
    codec::{Reader, finish, put_u16},
    error::{EncodeError, Fault},
    numbers::{PayloadType, TsType},
};

/// A TS payload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrafficSelectors {
    /// The selectors in order.
    pub selectors: Vec<TrafficSelector>,
    /// How many selectors of unknown types stood among them: they select nothing here.
    pub unknown: usize,
}

impl TrafficSelectors {
    /// A payload to send.
    #[must_use]
    pub const fn new(selectors: Vec<TrafficSelector>) -> Self {
        Self { selectors, unknown: 0 }
    }

    pub(crate) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(body);
        let count = reader.u8().ok_or(Fault::Short)?;
        reader.take(3).ok_or(Fault::Short)?;
        let mut payload = Self::default();
        for _ in 0..count {
            match selector(&mut reader)? {
                Some(selector) => payload.selectors.push(selector),
                None => payload.unknown += 1,
            }
        }
        if reader.is_empty() { Ok(payload) } else { Err(Fault::Count) }
    }

    /// Writes the known selectors; `kind` is TSi or TSr.
    pub(crate) fn write(&self, kind: PayloadType, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let count = u8::try_from(self.selectors.len()).map_err(|_| EncodeError::TooMany(kind))?;
        out.extend_from_slice(&[count, 0, 0, 0]);
        for selector in &self.selectors {
            let begin = out.len();
            let ts_type = if selector.is_ipv4() {
                TsType::TS_IPV4_ADDR_RANGE
            } else {
                TsType::TS_IPV6_ADDR_RANGE
            };
            out.extend_from_slice(&[ts_type.0, selector.protocol(), 0, 0]);
            put_u16(out, selector.ports().start);
            put_u16(out, selector.ports().end);
            for address in [selector.start(), selector.end()] {
                match address {
                    IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
                }
            }
            finish(out, begin, 2).ok_or(EncodeError::PayloadTooLong(kind))?;
        }
        Ok(())
    }
}

/// `None` for a type that is not known.
fn selector(reader: &mut Reader<'_>) -> Result<Option<TrafficSelector>, Fault> {
    let [ts_type, protocol] = reader.array().ok_or(Fault::Count)?;
    let length = usize::from(reader.u16().ok_or(Fault::Short)?);
    let rest = length.checked_sub(4).ok_or(Fault::Value)?;
    let mut body = Reader::new(reader.take(rest).ok_or(Fault::Short)?);
    let ts_type = TsType(ts_type);
    if !matches!(ts_type, TsType::TS_IPV4_ADDR_RANGE | TsType::TS_IPV6_ADDR_RANGE) {
        return Ok(None);
    }
    let ports =
        PortRange { start: body.u16().ok_or(Fault::Short)?, end: body.u16().ok_or(Fault::Short)? };
    let (start, end) = if ts_type == TsType::TS_IPV4_ADDR_RANGE {
        let mut next = || body.array().map(|octets: [u8; 4]| IpAddr::V4(Ipv4Addr::from(octets)));
        (next(), next())
    } else {
        let mut next = || body.array().map(|octets: [u8; 16]| IpAddr::V6(Ipv6Addr::from(octets)));
        (next(), next())
    };
    let (start, end) = (start.ok_or(Fault::Short)?, end.ok_or(Fault::Short)?);
    if !body.is_empty() {
        return Err(Fault::Long);
    }
    if ports.start > ports.end && ports != PortRange::OPAQUE {
        return Err(Fault::Value);
    }
    TrafficSelector::new(protocol, start, end, ports).map(Some).ok_or(Fault::Value)
}
