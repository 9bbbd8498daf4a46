//! ESP alone, in memory: tunnel mode seal and open against the AEAD they are made of.
//!
//! Both take turns within each round; a number is the median of the rounds, the ratio is the
//! share of the AEAD's rate that ESP keeps (headers, trailer, sequence and replay, selectors).

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may panic")]

use std::{sync::Arc, time::Instant};

use crypto::aead::{
    Engines, OpenJob, SealJob, Suffix, SuiteKey, open_burst as aead_open, seal_burst as aead_seal,
};
use esp::{
    InboundSa, OpenOutcome, OpenPacket, OutboundOptions, OutboundSa, SealPacket, SealSource,
    open_burst, seal_burst,
};
use sa_store::{
    ChildId, Direction, DomainId, Encapsulation, Esn, EspCipher, EspSpi, EspSuite, EspTransform,
    IntegrityAlgorithm, KeyMaterial, Lifetime, Mode, OffloadIntent, PairId, SaId, SaRecord,
    SecretBytes, TunnelId, live::LiveSa,
};

const BURST: usize = 32;
const BURSTS: usize = 12;
const ROUNDS: usize = 61;
const SIZES: [usize; 3] = [64, 512, 1420];

fn main() {
    let start = Instant::now();
    let mut clock = || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let engines = Engines::calibrated(&mut clock);
    println!("esp: ns a packet (Gbit/s of inner packets), and the share of the AEAD's rate kept");
    for suite in [
        EspSuite::new(EspCipher::AesGcm16(128), None),
        EspSuite::new(EspCipher::AesGcm16(256), None),
        EspSuite::new(EspCipher::ChaCha20Poly1305, None),
        EspSuite::new(EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha256_128)),
    ]
    .into_iter()
    .flatten()
    {
        for size in SIZES {
            one_sa(&engines, suite, size);
        }
    }
    let suite = EspSuite::new(EspCipher::AesGcm16(128), None).unwrap();
    for size in SIZES {
        many_sas(&engines, suite, size);
    }
}

fn record(suite: EspSuite, direction: Direction) -> SaRecord {
    let net = |text: &str| vec![text.parse().unwrap()];
    let cipher = suite.cipher().key_len() + suite.cipher().salt_len();
    SaRecord {
        id: SaId(1),
        pair: PairId(1),
        tunnel: TunnelId(1),
        child: ChildId(1),
        direction,
        spi: EspSpi::new(0xc0ff_ee01).unwrap(),
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: "192.0.2.2:4500".parse().unwrap(),
        encapsulation: Encapsulation::Udp,
        mode: Mode::Tunnel,
        transform: EspTransform { suite, esn: Esn::Yes },
        keys: KeyMaterial {
            encryption: SecretBytes::new(vec![7; cipher]),
            integrity: SecretBytes::new(vec![8; suite.keymat_len() - cipher]),
        },
        replay_window: 4096,
        replay_floor: 0,
        next_sequence: 1,
        local_selectors: net(if direction == Direction::Inbound {
            "10.2.0.0/16"
        } else {
            "10.1.0.0/16"
        }),
        remote_selectors: net(if direction == Direction::Inbound {
            "10.1.0.0/16"
        } else {
            "10.2.0.0/16"
        }),
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

fn pair(engines: &Engines, suite: EspSuite) -> (OutboundSa, InboundSa) {
    let out = record(suite, Direction::Outbound);
    let inb = record(suite, Direction::Inbound);
    let how = OutboundOptions::new([5; 16]);
    (
        OutboundSa::new(&out, Arc::new(LiveSa::new(&out)), engines, &how).unwrap(),
        InboundSa::new(&inb, Arc::new(LiveSa::new(&inb)), engines).unwrap(),
    )
}

/// A UDP packet from 10.1.0.1 to 10.2.0.2.
fn inner(len: usize) -> Vec<u8> {
    let total = u16::try_from(len).unwrap().to_be_bytes();
    let mut packet =
        vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 63, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 2];
    packet.resize(len, 0x33);
    packet
}

#[derive(Default)]
struct Times {
    seal: Vec<f64>,
    open: Vec<f64>,
}

fn one_sa(engines: &Engines, suite: EspSuite, size: usize) {
    let sas = vec![pair(engines, suite)];
    let inner = inner(size);
    let slot_len = sas[0].0.sealed_len(size);
    let key = engines.key(suite, &record(suite, Direction::Outbound).keys).unwrap();
    let (mut esp, mut aead) = (Times::default(), Times::default());
    let mut slots = vec![0; slot_len * BURST];
    for _ in 0..ROUNDS {
        esp_round(&sas, &inner, slot_len, &mut slots, &mut esp);
        aead_round(&key, slot_len - 8, &mut slots, &mut aead);
    }
    let engine = key.engine().name();
    for (what, esp, aead) in [
        ("seal", median(&mut esp.seal), median(&mut aead.seal)),
        ("open", median(&mut esp.open), median(&mut aead.open)),
    ] {
        println!(
            "esp {what} {suite} {size} B: {esp:.0} ({:.1}); aead alone ({engine}) {aead:.0}; {:.2}x",
            size as f64 * 8.0 / esp,
            aead / esp
        );
    }
}

/// 1000 SAs in turns, one packet each, against one SA: what cold state costs.
fn many_sas(engines: &Engines, suite: EspSuite, size: usize) {
    let one = vec![pair(engines, suite)];
    let many: Vec<_> = (0..1000).map(|_| pair(engines, suite)).collect();
    let inner = inner(size);
    let slot_len = one[0].0.sealed_len(size);
    let mut slots = vec![0; slot_len * BURST];
    let (mut few, mut all) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        esp_round(&one, &inner, slot_len, &mut slots, &mut few);
        esp_round(&many, &inner, slot_len, &mut slots, &mut all);
    }
    for (what, one, many) in [
        ("seal", median(&mut few.seal), median(&mut all.seal)),
        ("open", median(&mut few.open), median(&mut all.open)),
    ] {
        println!(
            "esp {what} {suite} {size} B, 1000 SAs: {many:.0}; one SA {one:.0}; {:.2}x",
            one / many
        );
    }
}

fn esp_round(
    sas: &[(OutboundSa, InboundSa)],
    inner: &[u8],
    slot_len: usize,
    slots: &mut [u8],
    times: &mut Times,
) {
    let (mut sealing, mut opening) = (0, 0);
    for burst in 0..BURSTS {
        let sa = |i: usize| &sas[(burst * BURST + i) % sas.len()];
        let start = Instant::now();
        let mut room = slots.chunks_exact_mut(slot_len);
        let mut packets: [SealPacket<'_>; BURST] = core::array::from_fn(|i| {
            let source = SealSource::Parts { head: &[], body: inner };
            SealPacket::new(&sa(i).0, source, room.next().unwrap())
        });
        seal_burst(&mut packets);
        sealing += start.elapsed().as_nanos();
        assert!(packets.iter().all(|packet| packet.outcome().is_ok()));

        let start = Instant::now();
        let mut room = slots.chunks_exact_mut(slot_len);
        let mut packets: [OpenPacket<'_>; BURST] =
            core::array::from_fn(|i| OpenPacket::new(&sa(i).1, room.next().unwrap(), Some(0)));
        open_burst(&mut packets);
        opening += start.elapsed().as_nanos();
        assert!(packets.iter().all(|p| matches!(p.outcome(), OpenOutcome::Inner(_))));
    }
    let packets = (BURST * BURSTS) as f64;
    times.seal.push(sealing as f64 / packets);
    times.open.push(opening as f64 / packets);
}

/// The same records by the AEAD alone.
fn aead_round(key: &SuiteKey, record: usize, buffer: &mut [u8], times: &mut Times) {
    let (mut sealing, mut opening) = (0, 0);
    for burst in 0..BURSTS {
        for (i, record) in buffer.chunks_exact_mut(record).take(BURST).enumerate() {
            record[..8].copy_from_slice(&((burst * BURST + i) as u64).to_be_bytes());
        }
        let start = Instant::now();
        let mut records = buffer.chunks_exact_mut(record);
        let mut jobs: [SealJob<'_>; BURST] = core::array::from_fn(|_| {
            SealJob::new(key, [1; 12], Suffix::NONE, records.next().unwrap())
        });
        aead_seal(&mut jobs);
        sealing += start.elapsed().as_nanos();
        assert!(jobs.iter().all(|job| job.state().result().is_ok()));

        let start = Instant::now();
        let mut records = buffer.chunks_exact_mut(record);
        let mut jobs: [OpenJob<'_>; BURST] = core::array::from_fn(|_| {
            OpenJob::new(key, [1; 12], Suffix::NONE, records.next().unwrap())
        });
        aead_open(&mut jobs);
        opening += start.elapsed().as_nanos();
        assert!(jobs.iter().all(|job| job.state().result().is_ok()));
    }
    let packets = (BURST * BURSTS) as f64;
    times.seal.push(sealing as f64 / packets);
    times.open.push(opening as f64 / packets);
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
