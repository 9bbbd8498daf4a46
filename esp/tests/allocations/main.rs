//! Sealing and opening allocate nothing: not in Rust, and not in the C library of an engine.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod counted;

use std::sync::Arc;

use crypto::aead::Engines;
use esp::{
    InboundSa, OpenOutcome, OpenPacket, OutboundOptions, OutboundSa, SealPacket, SealSource,
    open_burst, seal_burst,
};
use sa_store::{
    ChildId, Direction, DomainId, Encapsulation, Esn, EspCipher, EspSpi, EspSuite, EspTransform,
    IntegrityAlgorithm, KeyMaterial, Lifetime, Mode, OffloadIntent, PairId, SaId, SaRecord,
    SecretBytes, TunnelId, live::LiveSa,
};

const BURST: usize = 44;
const INNER: usize = 1300;

fn suites() -> Vec<EspSuite> {
    let aead = [EspCipher::AesGcm16(128), EspCipher::AesGcm16(256), EspCipher::ChaCha20Poly1305];
    let macs = [
        IntegrityAlgorithm::HmacSha256_128,
        IntegrityAlgorithm::HmacSha384_192,
        IntegrityAlgorithm::HmacSha512_256,
    ];
    let cbc = [128, 192, 256].map(EspCipher::AesCbc);
    let pairs = cbc.into_iter().flat_map(|cipher| macs.map(|mac| (cipher, Some(mac))));
    aead.map(|cipher| (cipher, None))
        .into_iter()
        .chain(pairs)
        .map(|(cipher, mac)| EspSuite::new(cipher, mac).unwrap())
        .collect()
}

fn record(suite: EspSuite, direction: Direction) -> SaRecord {
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
            encryption: SecretBytes::new(vec![1; cipher]),
            integrity: SecretBytes::new(vec![2; suite.keymat_len() - cipher]),
        },
        replay_window: 4096,
        replay_floor: 0,
        next_sequence: 1,
        local_selectors: vec!["0.0.0.0/0".parse().unwrap()],
        remote_selectors: vec!["0.0.0.0/0".parse().unwrap()],
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

/// Seals a burst, and opens it with one packet broken and one doubled; how many passed.
fn burst(out: &OutboundSa, into: &InboundSa, inner: &[u8], buffer: &mut [u8]) -> usize {
    let room = out.sealed_len(inner.len());
    let mut slots = buffer.chunks_exact_mut(room);
    let mut sealing: [SealPacket<'_>; BURST] = core::array::from_fn(|_| {
        let source = SealSource::Parts { head: inner, body: &[] };
        SealPacket::new(out, source, slots.next().unwrap())
    });
    seal_burst(&mut sealing);
    assert!(sealing.iter().all(|packet| packet.outcome().is_ok()));
    buffer[3 * room + 40] ^= 1;
    buffer.copy_within(4 * room..5 * room, 5 * room);
    let mut packets = buffer.chunks_exact_mut(room);
    let mut opening: [OpenPacket<'_>; BURST] =
        core::array::from_fn(|_| OpenPacket::new(into, packets.next().unwrap(), None));
    open_burst(&mut opening);
    opening.iter().filter(|packet| matches!(packet.outcome(), OpenOutcome::Inner(_))).count()
}

#[test]
fn no_suite_allocates_for_a_packet_good_or_bad() {
    let mut inner = vec![0; INNER];
    inner[..4].copy_from_slice(&[0x45, 0, (INNER >> 8) as u8, (INNER & 0xff) as u8]);
    let start = std::time::Instant::now();
    let mut clock = || u64::try_from(start.elapsed().as_nanos()).unwrap();
    let engines = [Engines::portable(), Engines::calibrated(&mut clock)];
    for (engines, suite) in
        engines.iter().flat_map(|one| suites().into_iter().map(move |s| (one, s)))
    {
        let (outbound, inbound) =
            (record(suite, Direction::Outbound), record(suite, Direction::Inbound));
        let live = |record: &SaRecord| Arc::new(LiveSa::new(record));
        let options = OutboundOptions::new([3; 16]);
        let out = OutboundSa::new(&outbound, live(&outbound), engines, &options).unwrap();
        let into = InboundSa::new(&inbound, live(&inbound), engines).unwrap();
        let mut buffer = vec![0; out.sealed_len(INNER) * BURST];
        // What a library makes once for each thread, such as its queue of errors.
        assert_eq!(burst(&out, &into, &inner, &mut buffer), BURST - 2);
        let before = counted::allocations();
        for _ in 0..20 {
            assert_eq!(burst(&out, &into, &inner, &mut buffer), BURST - 2);
        }
        assert_eq!(counted::allocations(), before, "{suite:?}");
    }
}

#[test]
fn allocations_are_counted() {
    let before = counted::allocations();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert!(counted::allocations() > before);
}
