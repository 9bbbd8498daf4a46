//! Pauses between attempts.

use core::time::Duration;

use crypto::random::RandomSource;

use crate::config::GatewayConfig;

/// The pause after `failures` failed rounds in a row: doubled each time up to the longest, then
/// anything from three quarters of it to all of it, so that many tunnels do not call in step.
pub(crate) fn pause(
    config: &GatewayConfig,
    failures: u32,
    random: &mut dyn RandomSource,
) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
    let full = config.backoff_first.saturating_mul(factor).min(config.backoff_longest);
    full - share(full / 4, random)
}

/// Anything from nothing to all of `span`.
pub(crate) fn share(span: Duration, random: &mut dyn RandomSource) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 { Duration::ZERO } else { Duration::from_nanos(random.next_u64() % nanos) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Constant(u8);

    impl RandomSource for Constant {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(self.0);
        }
    }

    #[test]
    fn pauses_grow_to_the_longest_and_stay() {
        let config = GatewayConfig::default();
        let at = |failures| pause(&config, failures, &mut Constant(0)).as_secs();
        assert_eq!([1, 2, 3, 4, 7, 40, u32::MAX].map(at), [1, 2, 4, 8, 60, 60, 60]);
        for octet in 1..=255 {
            let pause = pause(&config, 9, &mut Constant(octet));
            assert!(pause > Duration::from_secs(45) - Duration::from_millis(1));
            assert!(pause <= Duration::from_secs(60));
        }
    }
}
