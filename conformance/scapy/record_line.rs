//! One SA in a line of words, as `subject.py` writes it.
//!
//! ```text
//! sa NAME in|out spi=HEX local=ADDRESS|PORT remote=ADDRESS|PORT encap=none|udp suite=NAME
//!    esn=0|1 key=HEX mac=HEX|- window=N floor=N next=N [local_ts=PREFIX,...] [remote_ts=PREFIX,...]
//! ```
//!
//! Included by the examples of `esp` and `fastpath` that the judge talks to.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use sa_store::{
    ChildId, DfPolicy, Direction, DomainId, DscpPolicy, EcnPolicy, Encapsulation, Esn, EspCipher,
    EspSpi, EspSuite, EspTransform, IntegrityAlgorithm, KeyMaterial, Lifetime, Mode, OffloadIntent,
    PairId, SaId, SaRecord, SecretBytes, TrafficSelector, TunnelId,
};

/// What a line says. Both directions of pair `number` share its tunnel and child.
pub(crate) fn parse(words: &[&str], number: u32) -> Result<SaRecord, String> {
    let (direction, fields) = match words.split_first() {
        Some((&"in", fields)) => (Direction::Inbound, fields),
        Some((&"out", fields)) => (Direction::Outbound, fields),
        _ => return Err("`in` or `out` comes first".to_owned()),
    };
    let fields: BTreeMap<&str, &str> =
        fields.iter().filter_map(|word| word.split_once('=')).collect();
    let field = |name: &str| fields.get(name).copied().ok_or(format!("`{name}=` is missing"));
    let value = |name: &str| field(name)?.parse::<u64>().map_err(|_| format!("`{name}` is bad"));
    let secret = |name: &str| match field(name)? {
        "-" => Ok(SecretBytes::default()),
        text => hex(text).map(SecretBytes::new).ok_or(format!("`{name}` is not hex")),
    };
    let selectors = |name: &str| match fields.get(name) {
        None => Ok(["0.0.0.0/0", "::/0"].iter().filter_map(|all| prefix(all)).collect()),
        Some(list) => list
            .split(',')
            .map(|text| prefix(text).ok_or(format!("`{text}` is no prefix")))
            .collect::<Result<Vec<_>, String>>(),
    };
    Ok(SaRecord {
        id: SaId(u64::from(number) * 2 + u64::from(direction == Direction::Outbound)),
        pair: PairId(number.into()),
        tunnel: TunnelId(number),
        child: ChildId(number),
        direction,
        spi: u32::from_str_radix(field("spi")?, 16)
            .ok()
            .and_then(EspSpi::new)
            .ok_or("`spi` is bad")?,
        local: address(field("local")?).ok_or("`local` is bad")?,
        remote: address(field("remote")?).ok_or("`remote` is bad")?,
        encapsulation: match field("encap")? {
            "udp" => Encapsulation::Udp,
            _ => Encapsulation::None,
        },
        mode: Mode::Tunnel,
        transform: EspTransform {
            suite: suite(field("suite")?).ok_or("`suite` is unknown")?,
            esn: if field("esn")? == "1" { Esn::Yes } else { Esn::No },
        },
        keys: KeyMaterial { encryption: secret("key")?, integrity: secret("mac")? },
        replay_window: u32::try_from(value("window")?).map_err(|_| "`window` is too large")?,
        replay_floor: value("floor")?,
        next_sequence: value("next")?,
        local_selectors: selectors("local_ts")?,
        remote_selectors: selectors("remote_ts")?,
        lifetime: Lifetime::default(),
        dscp: DscpPolicy::default(),
        ecn: EcnPolicy::default(),
        df: DfPolicy::default(),
        domain: DomainId(0),
        mark: 0,
        interface_id: 0,
        offload: OffloadIntent::Auto,
    })
}

/// Octets of a hexadecimal text.
pub(crate) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(pair).collect()
}

fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once('|')?;
    Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, port.parse().ok()?))
}

fn prefix(text: &str) -> Option<TrafficSelector> {
    Some(TrafficSelector::prefix(text.parse().ok()?))
}

fn suite(name: &str) -> Option<EspSuite> {
    let mut all = vec![
        EspSuite::new(EspCipher::AesGcm16(128), None),
        EspSuite::new(EspCipher::AesGcm16(256), None),
        EspSuite::new(EspCipher::ChaCha20Poly1305, None),
    ];
    for bits in [128, 192, 256] {
        for mac in [
            IntegrityAlgorithm::HmacSha256_128,
            IntegrityAlgorithm::HmacSha384_192,
            IntegrityAlgorithm::HmacSha512_256,
        ] {
            all.push(EspSuite::new(EspCipher::AesCbc(bits), Some(mac)));
        }
    }
    all.into_iter().flatten().find(|suite| suite.to_string() == name)
}
