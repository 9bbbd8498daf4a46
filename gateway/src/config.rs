//! What holds for a whole gateway.

use std::{fmt, time::Duration};

use crypto::{aead::Engines, random::RandomSource};
use ike::config::EndpointConfig;

/// Limits and timers of a gateway.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Those of IKE.
    pub ike: EndpointConfig,
    /// The UDP port IKE starts from and calls; default 500.
    pub ike_port: u16,
    /// First pause of an always-on tunnel after a failed attempt; default 1 s.
    pub backoff_first: Duration,
    /// Longest pause between two attempts; default 60 s.
    pub backoff_longest: Duration,
    /// How long a peer may take to confirm a delete before we go on without it; default 10 s.
    pub delete_patience: Duration,
    /// How long [`crate::command::Command::Shutdown`] waits for the peers; default 3 s.
    pub shutdown_patience: Duration,
    /// What seals and opens IKE messages; default [`Engines::portable`].
    pub engines: Engines,
    /// Events that are kept for readers; default 1000.
    pub events: usize,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            ike: EndpointConfig::default(),
            ike_port: 500,
            backoff_first: Duration::from_secs(1),
            backoff_longest: Duration::from_secs(60),
            delete_patience: Duration::from_secs(10),
            shutdown_patience: Duration::from_secs(3),
            engines: Engines::portable(),
            events: 1000,
        }
    }
}

/// Where randomness comes from; separate sources, so that in a simulation one part drawing more
/// or less does not change the others.
pub struct Randomness {
    /// IKE: nonces, SPIs of IKE SAs, cookies, IVs, jitter of its timers.
    pub ike: Box<dyn RandomSource + Send>,
    /// Tags of ESP SPIs.
    pub spis: Box<dyn RandomSource + Send>,
    /// Jitter of the back-off.
    pub jitter: Box<dyn RandomSource + Send>,
}

impl fmt::Debug for Randomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Randomness")
    }
}
