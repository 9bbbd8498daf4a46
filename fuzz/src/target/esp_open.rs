//! ESP packets to an inbound SA whose key the harness has: raw octets, and plaintexts of the
//! fuzzer's making that it seals itself, so that trailers and inner headers are reached.
//!
//! An input is `suite flags` and then packets: `kind sequence(4) length(2) octets`.

use std::{net::SocketAddr, sync::Arc};

use crypto::aead::{Engines, SealJob, Suffix, SuiteKey, seal_burst};
use esp::{InboundSa, OpenOutcome, OpenPacket, open_burst};
use sa_store::{
    ChildId, DfPolicy, Direction, DomainId, DscpPolicy, EcnPolicy, Encapsulation, Esn, EspCipher,
    EspSpi, EspSuite, EspTransform, IntegrityAlgorithm, KeyMaterial, Lifetime, Limits, Mode,
    OffloadIntent, PairId, SaId, SaRecord, SecretBytes, TunnelId,
    live::{DropReason, LiveSa},
};

use crate::{Target, engine::Answer, seed};

/// The target.
pub const TARGET: Target =
    Target { name: "esp_open", run, repair: Some(repair), seeds: seed::esp_packets };

/// Packets of one input.
const MAX_PACKETS: usize = 40;
const SPI: u32 = 0xc000_0001;
const FLAG_ESN: u8 = 1;
const FLAG_NEAR_WRAP: u8 = 2;
const FLAG_LIMIT: u8 = 4;
const NEAR_WRAP: u64 = 0xffff_fff0;

fn suite(choice: u8) -> Option<EspSuite> {
    let mac = Some(IntegrityAlgorithm::HmacSha256_128);
    match choice % 5 {
        0 => EspSuite::new(EspCipher::AesGcm16(256), None),
        1 => EspSuite::new(EspCipher::AesGcm16(128), None),
        2 => EspSuite::new(EspCipher::ChaCha20Poly1305, None),
        3 => EspSuite::new(EspCipher::AesCbc(128), mac),
        _ => EspSuite::new(EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha512_256)),
    }
}

fn record(transform: EspTransform, flags: u8) -> Option<SaRecord> {
    let suite = transform.suite;
    let cipher = suite.cipher();
    let mac_len = suite.integrity().map_or(0, IntegrityAlgorithm::key_len);
    let hard = Limits { packets: (flags & FLAG_LIMIT != 0).then_some(3), ..Limits::default() };
    Some(SaRecord {
        id: SaId(1),
        pair: PairId(1),
        tunnel: TunnelId(1),
        child: ChildId(1),
        direction: Direction::Inbound,
        spi: EspSpi::new(SPI)?,
        local: SocketAddr::from(([192, 0, 2, 1], 4500)),
        remote: SocketAddr::from(([192, 0, 2, 2], 4500)),
        encapsulation: Encapsulation::None,
        mode: Mode::Tunnel,
        transform,
        keys: KeyMaterial {
            encryption: SecretBytes::new(vec![7; cipher.key_len() + cipher.salt_len()]),
            integrity: SecretBytes::new(vec![9; mac_len]),
        },
        replay_window: if flags & 8 == 0 { 64 } else { 4096 },
        replay_floor: if flags & FLAG_NEAR_WRAP == 0 { 0 } else { NEAR_WRAP },
        next_sequence: 1,
        local_selectors: vec!["10.1.0.0/16".parse().ok()?, "fd00:1::/32".parse().ok()?],
        remote_selectors: vec!["10.2.0.0/16".parse().ok()?, "fd00:2::/32[tcp/80]".parse().ok()?],
        lifetime: Lifetime { soft: Limits::default(), hard },
        dscp: DscpPolicy::default(),
        ecn: EcnPolicy::default(),
        df: DfPolicy::default(),
        domain: DomainId(0),
        mark: 0,
        interface_id: 0,
        offload: OffloadIntent::Auto,
    })
}

fn run(input: &[u8]) -> u64 {
    let mut answer = Answer::default();
    let Some(([choice, flags], rest)) = input.split_first_chunk() else { return 0 };
    let esn = if flags & FLAG_ESN == 0 { Esn::No } else { Esn::Yes };
    let Some(suite) = suite(*choice) else { return 0 };
    let Some(record) = record(EspTransform { suite, esn }, *flags) else { return 0 };
    let engines = Engines::portable();
    let live = Arc::new(LiveSa::new(&record));
    let sa = InboundSa::new(&record, Arc::clone(&live), &engines);
    let key = engines.key(suite, &record.keys);
    let (Ok(sa), Ok(key)) = (sa, key) else { unreachable!("the SA cannot be built") };

    let near = record.replay_floor;
    let mut packets: Vec<Vec<u8>> = split(rest)
        .map(|(kind, sequence, octets)| match kind % 4 {
            0 => octets.to_vec(),
            1 => [&SPI.to_be_bytes()[..], &sequence.to_be_bytes(), octets].concat(),
            _ => seal(&key, esn, near, sequence, octets),
        })
        .collect();
    let before: Vec<usize> = packets.iter().map(Vec::len).collect();
    let mut burst: Vec<OpenPacket<'_>> = packets
        .iter_mut()
        .enumerate()
        .map(|(at, packet)| OpenPacket::new(&sa, packet, (at % 2 == 0).then_some(3)))
        .collect();
    open_burst(&mut burst);

    let (mut passed, mut dropped, mut dummies) = (0, 0, 0);
    for (packet, length) in burst.iter_mut().zip(before) {
        answer.add(packet.authenticated().is_some().into());
        match packet.outcome() {
            OpenOutcome::Inner(opened) => {
                passed += 1;
                answer.add(1);
                assert!(packet.authenticated().is_some(), "a packet passed without its ICV");
                assert!(opened.start + opened.len <= length, "the inner packet is longer");
                let version = packet.inner().and_then(|inner| inner.first()).map(|it| it >> 4);
                assert!(matches!(version, Some(4 | 6)), "the inner packet is no IP packet");
            }
            OpenOutcome::Dummy => {
                dummies += 1;
                answer.add(2);
            }
            OpenOutcome::Dropped(reason) => {
                dropped += 1;
                answer.add(16 + reason as u64);
            }
        }
    }
    let counters = live.counters();
    let counted: u64 = DropReason::ALL.iter().map(|reason| counters.dropped(*reason)).sum();
    assert_eq!((passed, dropped, dummies), (counters.packets, counted, counters.dummies));
    answer.get()
}

/// The packets of an input; octets that make none are left out.
fn split(mut rest: &[u8]) -> impl Iterator<Item = (u8, u32, &[u8])> {
    std::iter::from_fn(move || {
        let ([kind, s0, s1, s2, s3, high, low], tail) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (octets, tail) = tail.split_at(length);
        rest = tail;
        Some((*kind, u32::from_be_bytes([*s0, *s1, *s2, *s3]), octets))
    })
    .take(MAX_PACKETS)
}

/// Seals a plaintext as it is, trailer and all, if it has the cipher's block length.
fn seal(key: &SuiteKey, esn: Esn, near: u64, sequence: u32, plaintext: &[u8]) -> Vec<u8> {
    let aead = key.suite().cipher().is_aead();
    // Near the wrap small numbers belong to the next 2^32.
    let high = u32::from(near != 0 && sequence < 0x8000_0000);
    let mut packet = [SPI.to_be_bytes(), sequence.to_be_bytes()].concat();
    let (aad, suffix) = match (esn, aead) {
        (Esn::No, _) => (packet.clone(), Suffix::NONE),
        (Esn::Yes, false) => (packet.clone(), Suffix::esn_high(high)),
        (Esn::Yes, true) => {
            let parts = [SPI.to_be_bytes(), high.to_be_bytes(), sequence.to_be_bytes()];
            (parts.concat(), Suffix::NONE)
        }
    };
    let mut record = vec![0x5a; key.iv_len()];
    record.extend_from_slice(plaintext);
    record.resize(record.len() + key.icv_len(), 0);
    // A wrong block length is refused here, and the packet goes out with a wrong ICV.
    let mut jobs = [SealJob::new(key, &aad[..], suffix, &mut record)];
    seal_burst(&mut jobs);
    packet.extend_from_slice(&record);
    packet
}

/// Sealed packets get a plausible trailer now and then: the plaintext's length decides.
fn repair(input: &mut [u8]) {
    let mut at = 2;
    while let Some([high, low]) =
        input.get(at + 5..at + 7).and_then(|it| <[u8; 2]>::try_from(it).ok())
    {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let left = input.len() - at - 7;
        if length > left || length % 16 != 0 && input[at] % 4 >= 2 {
            let length = length.min(left) / 16 * 16;
            let octets = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            input[at + 5..at + 7].copy_from_slice(&octets);
            at += 7 + length;
        } else {
            at += 7 + length;
        }
    }
}
