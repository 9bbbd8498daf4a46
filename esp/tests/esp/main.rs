//! ESP from outside: what goes in comes out, and nothing else does.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod ecn;
mod esn;
mod hostile;
mod limits;
mod nonces;
mod outer;
mod round_trip;
mod selectors;

use std::sync::Arc;

use crypto::aead::{Engines, SuiteKey};
use esp::{
    InboundSa, OpenOutcome, OpenPacket, OutboundOptions, OutboundSa, SealPacket, SealSource,
    Sealed, open_burst, seal_burst,
};
use sa_store::{
    ChildId, Direction, DomainId, Encapsulation, Esn, EspCipher, EspSpi, EspSuite, EspTransform,
    IntegrityAlgorithm, KeyMaterial, Lifetime, Mode, OffloadIntent, PairId, SaId, SaRecord,
    SecretBytes, TunnelId,
    live::{DropReason, LiveSa},
};

pub(crate) const SPI: u32 = 0xc0ff_ee01;

/// Every suite there is.
pub(crate) fn suites() -> Vec<EspSuite> {
    let aead = [EspCipher::AesGcm16(128), EspCipher::AesGcm16(256), EspCipher::ChaCha20Poly1305];
    let macs = [
        IntegrityAlgorithm::HmacSha256_128,
        IntegrityAlgorithm::HmacSha384_192,
        IntegrityAlgorithm::HmacSha512_256,
    ];
    let mut suites: Vec<_> =
        aead.into_iter().map(|cipher| EspSuite::new(cipher, None).unwrap()).collect();
    for bits in [128, 192, 256] {
        for mac in macs {
            suites.push(EspSuite::new(EspCipher::AesCbc(bits), Some(mac)).unwrap());
        }
    }
    suites
}

pub(crate) fn gcm() -> EspSuite {
    EspSuite::new(EspCipher::AesGcm16(128), None).unwrap()
}

pub(crate) fn cbc() -> EspSuite {
    EspSuite::new(EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha512_256)).unwrap()
}

pub(crate) fn keys(suite: EspSuite) -> KeyMaterial {
    let cipher = suite.cipher().key_len() + suite.cipher().salt_len();
    KeyMaterial {
        encryption: SecretBytes::new((1..).take(cipher).collect()),
        integrity: SecretBytes::new((101..).take(suite.keymat_len() - cipher).collect()),
    }
}

/// A record both directions can be made from; selectors let everything pass.
pub(crate) fn record(suite: EspSuite, esn: Esn, direction: Direction) -> SaRecord {
    let any = || vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    SaRecord {
        id: SaId(1),
        pair: PairId(1),
        tunnel: TunnelId(1),
        child: ChildId(1),
        direction,
        spi: EspSpi::new(SPI).unwrap(),
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: "192.0.2.2:4501".parse().unwrap(),
        encapsulation: Encapsulation::None,
        mode: Mode::Tunnel,
        transform: EspTransform { suite, esn },
        keys: keys(suite),
        replay_window: 64,
        replay_floor: 0,
        next_sequence: 1,
        local_selectors: any(),
        remote_selectors: any(),
        lifetime: Lifetime::default(),
        dscp: Default::default(),
        ecn: Default::default(),
        df: Default::default(),
        domain: DomainId(0),
        mark: 0,
        interface_id: 0,
        offload: OffloadIntent::Auto,
    }
}

pub(crate) fn outbound_of(record: &SaRecord, options: &OutboundOptions) -> OutboundSa {
    let live = Arc::new(LiveSa::new(record));
    OutboundSa::new(record, live, &Engines::portable(), options).unwrap()
}

pub(crate) fn inbound_of(record: &SaRecord) -> InboundSa {
    InboundSa::new(record, Arc::new(LiveSa::new(record)), &Engines::portable()).unwrap()
}

pub(crate) fn outbound(suite: EspSuite, esn: Esn) -> OutboundSa {
    outbound_of(&record(suite, esn, Direction::Outbound), &OutboundOptions::new([3; 16]))
}

pub(crate) fn inbound(suite: EspSuite, esn: Esn) -> InboundSa {
    inbound_of(&record(suite, esn, Direction::Inbound))
}

/// Seals one packet.
pub(crate) fn seal(
    sa: &OutboundSa,
    source: SealSource<'_>,
) -> Result<(Vec<u8>, Sealed), DropReason> {
    let len = match source {
        SealSource::Parts { head, body } => head.len() + body.len(),
        SealSource::InPlace { len } | SealSource::Dummy { len } => len,
    };
    let mut slot = vec![0; sa.sealed_len(len)];
    let mut burst = [SealPacket::new(sa, source, &mut slot)];
    seal_burst(&mut burst);
    let sealed = burst[0].outcome()?;
    Ok((burst[0].sealed().unwrap().to_vec(), sealed))
}

pub(crate) fn seal_inner(sa: &OutboundSa, inner: &[u8]) -> Vec<u8> {
    seal(sa, SealSource::Parts { head: &[], body: inner }).unwrap().0
}

/// Opens one packet; gives the inner packet, empty for a dummy.
pub(crate) fn open(sa: &InboundSa, esp: &[u8], tos: Option<u8>) -> Result<Vec<u8>, DropReason> {
    let mut esp = esp.to_vec();
    let mut burst = [OpenPacket::new(sa, &mut esp, tos)];
    open_burst(&mut burst);
    match burst[0].outcome() {
        OpenOutcome::Inner(_) => Ok(burst[0].inner().unwrap().to_vec()),
        OpenOutcome::Dummy => Ok(Vec::new()),
        OpenOutcome::Dropped(reason) => Err(reason),
    }
}

/// An ESP packet with any text (payload and trailer) inside, made without the code under test.
pub(crate) fn forge(suite: EspSuite, sequence: u32, text: &[u8]) -> Vec<u8> {
    let key = SuiteKey::new(crypto::aead::AwsLc::engine(), suite, &keys(suite)).unwrap();
    let header = [SPI.to_be_bytes(), sequence.to_be_bytes()].concat();
    let mut record = vec![0x11; key.iv_len()];
    record.extend_from_slice(text);
    record.resize(record.len() + key.icv_len(), 0);
    key.seal(&header, &mut record).unwrap();
    [header, record].concat()
}

/// An IPv4 UDP packet of `len` octets (28 at least) with a valid header checksum.
pub(crate) fn ipv4(len: usize, tos: u8) -> Vec<u8> {
    let total = u16::try_from(len).unwrap().to_be_bytes();
    let mut packet = vec![
        0x45, tos, total[0], total[1], 0x12, 0x34, 0x40, 0, 63, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 2,
        0x30, 0x39, 0, 53, 0, 0, 0, 0,
    ];
    let sum = ipv4_checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend((0..=255).cycle().take(len - 28));
    packet
}

/// An IPv6 UDP packet of `len` octets (48 at least).
pub(crate) fn ipv6(len: usize, tos: u8) -> Vec<u8> {
    let payload = u16::try_from(len - 40).unwrap().to_be_bytes();
    let mut packet = vec![0x60 | tos >> 4, tos << 4, 0, 0, payload[0], payload[1], 17, 63];
    let address = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    packet.extend(address(1));
    packet.extend(address(2));
    packet.extend([0x30, 0x39, 0, 53, 0, 0, 0, 0]);
    packet.extend((0..=255).cycle().take(len - 48));
    packet
}

/// Zero for a header with a right checksum; the checksum for one whose field is zero.
pub(crate) fn ipv4_checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap()).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}
