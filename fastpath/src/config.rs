//! What the data plane is started with.

use std::time::Duration;

use crypto::aead::Engines;

use crate::steer::SteeringConfig;

/// The MTU of the TUN interface. The largest inner packet of the usual suites over IPv4 and
/// Ethernet is 1,438 octets with AES-GCM and 1,399 with AES-CBC and SHA-512; SAs with less room
/// answer longer packets with ICMP themselves.
const MTU: u32 = 1400;

/// Configuration of the inline data plane.
#[derive(Clone, Debug)]
pub struct InlineConfig {
    /// Names and numbers in the system, and the ports.
    pub steering: SteeringConfig,
    /// Threads; `None` takes one for each CPU, four at most.
    pub workers: Option<usize>,
    /// MTU of the TUN interface.
    pub mtu: u32,
    /// SAs (single directions) it holds at most.
    pub max_sas: u64,
    /// Where keys run.
    pub engines: Engines,
    /// How much later than its hard time limit the data plane stops an SA by itself. The limit is
    /// whoever installed the SA's to keep; this is for when that one hangs.
    pub dead_man: Duration,
}

impl Default for InlineConfig {
    fn default() -> Self {
        Self {
            steering: SteeringConfig::default(),
            workers: None,
            mtu: MTU,
            max_sas: 1 << 20,
            engines: Engines::portable(),
            dead_man: Duration::from_secs(60),
        }
    }
}

impl InlineConfig {
    /// The number of threads.
    pub(crate) fn worker_count(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, usize::from).min(4);
        self.workers.unwrap_or_else(cpus).clamp(1, 64)
    }
}
