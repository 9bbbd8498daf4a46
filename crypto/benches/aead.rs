//! AEAD alone: every engine on every suite it does, bursts of 32 packets, 8 octets of AAD.
//!
//! Engines take turns within each round, so that they share whatever else the machine does; a
//! number is the median of the rounds, a ratio compares medians of this run.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may panic")]

use std::time::Instant;

use crypto::aead::{
    AwsLc, Engine, OpenJob, Ring, RustCrypto, SealJob, Suffix, SuiteKey, open_burst, seal_burst,
    split_keymat,
};
use sa_store::{EspCipher, EspSuite, IntegrityAlgorithm};

const BURST: usize = 32;
/// Bursts in a round.
const BURSTS: usize = 12;
const ROUNDS: usize = 61;
/// About 64, 512 and 1420 octets; multiples of the CBC block.
const SIZES: [usize; 3] = [64, 512, 1424];

struct Row {
    key: SuiteKey,
    seal: Vec<f64>,
    open: Vec<f64>,
}

fn main() {
    let mut suites = vec![
        EspSuite::new(EspCipher::AesGcm16(128), None),
        EspSuite::new(EspCipher::AesGcm16(256), None),
        EspSuite::new(EspCipher::ChaCha20Poly1305, None),
    ];
    suites.extend([
        EspSuite::new(EspCipher::AesCbc(128), Some(IntegrityAlgorithm::HmacSha256_128)),
        EspSuite::new(EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha512_256)),
    ]);
    println!("aead: ns a packet (Gbit/s), and how many times as long as the fastest engine");
    for suite in suites.into_iter().flatten() {
        for size in SIZES {
            measure(suite, size);
        }
    }
}

fn measure(suite: EspSuite, size: usize) {
    let engines: [&'static dyn Engine; 3] = [AwsLc::engine(), Ring::engine(), RustCrypto::engine()];
    let keys = split_keymat(suite, &vec![0x42; suite.keymat_len()]).unwrap();
    let mut rows: Vec<Row> = engines
        .into_iter()
        .filter_map(|engine| SuiteKey::new(engine, suite, &keys).ok())
        .map(|key| Row { key, seal: Vec::new(), open: Vec::new() })
        .collect();
    let record = suite.cipher().iv_len() + size + suite.icv_len();
    let mut buffer = vec![0; record * BURST];
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let (seal, open) = round(&row.key, record, &mut buffer);
            row.seal.push(seal);
            row.open.push(open);
        }
    }
    for (what, medians) in [
        ("seal", rows.iter_mut().map(|row| median(&mut row.seal)).collect::<Vec<_>>()),
        ("open", rows.iter_mut().map(|row| median(&mut row.open)).collect()),
    ] {
        let best = medians.iter().copied().fold(f64::INFINITY, f64::min);
        let columns: Vec<String> = rows
            .iter()
            .zip(medians)
            .map(|(row, nanos)| {
                let rate = size as f64 * 8.0 / nanos;
                let ratio = nanos / best;
                format!("{} {nanos:.0} ({rate:.1}) {ratio:.2}x", row.key.engine().name())
            })
            .collect();
        println!("aead {what} {suite} {size} B: {}", columns.join("; "));
    }
}

/// Nanoseconds a packet for sealing and for opening what was sealed.
fn round(key: &SuiteKey, record: usize, buffer: &mut [u8]) -> (f64, f64) {
    let (mut sealing, mut opening) = (0, 0);
    for burst in 0..BURSTS {
        for (i, record) in buffer.chunks_exact_mut(record).enumerate() {
            record[..8].copy_from_slice(&((burst * BURST + i) as u64).to_be_bytes());
        }
        let start = Instant::now();
        let mut records = buffer.chunks_exact_mut(record);
        let mut jobs: [SealJob<'_>; BURST] = core::array::from_fn(|_| {
            SealJob::new(key, [1; 8], Suffix::NONE, records.next().unwrap())
        });
        seal_burst(&mut jobs);
        sealing += start.elapsed().as_nanos();
        assert!(jobs.iter().all(|job| job.state().result().is_ok()));

        let start = Instant::now();
        let mut records = buffer.chunks_exact_mut(record);
        let mut jobs: [OpenJob<'_>; BURST] = core::array::from_fn(|_| {
            OpenJob::new(key, [1; 8], Suffix::NONE, records.next().unwrap())
        });
        open_burst(&mut jobs);
        opening += start.elapsed().as_nanos();
        assert!(jobs.iter().all(|job| job.state().result().is_ok()));
    }
    let packets = (BURST * BURSTS) as f64;
    (sealing as f64 / packets, opening as f64 / packets)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
