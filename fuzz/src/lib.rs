//! Fuzz targets. Each is a plain function over octets that panics on a finding, so that the
//! runner ([`engine`]), libFuzzer and an ordinary test that replays `seeds/` drive the same code.
//!
//! `cargo run --release --manifest-path fuzz/Cargo.toml --bin run -- TARGET --executions N --seed S`

pub mod engine;
pub mod keyed;
pub mod random;
pub mod seed;
pub mod target;

use std::path::PathBuf;

/// A target: what it is called and what it does with an input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its folder in `seeds/`.
    pub name: &'static str,
    /// Runs one input; panics on a finding. The answer stands for what happened: inputs with a
    /// new one are kept and mutated further, in place of coverage.
    pub run: fn(&[u8]) -> u64,
    /// Makes an altered input plausible again (lengths, counters), so that mutations reach deep.
    pub repair: Option<fn(&mut [u8])>,
    /// The inputs it starts from.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target::ike_message::TARGET,
    target::ike_keyed::TARGET,
    target::esp_open::TARGET,
    target::config::TARGET,
];

/// The folder of a target's committed inputs.
#[must_use]
pub fn seed_folder(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name)
}

/// The committed inputs of a target, with their file names, in order.
///
/// # Errors
/// The folder cannot be read.
pub fn corpus(target: &Target) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(seed_folder(target))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push((name, std::fs::read(&path)?));
    }
    all.sort();
    Ok(all)
}
