//! A pause behind a burst of raw ESP, as network cards moderate their interrupts.
//!
//! A message on a raw socket is one packet, and a worker that takes each as it comes is woken for
//! each: every wake-up is an interrupt to another CPU, and every few packets are a write to TUN,
//! a turn of the TCP stack and an acknowledgement back through the tunnel. UDP sockets have
//! `UDP_GRO` against that. Here the worker leaves the CPU for a moment when packets come fast, and
//! finds more of them at once. One TCP stream through two gateways on two CPUs: a pause of 30 us
//! took 18 % less CPU time a packet, made half as many acknowledgements and 10 % more throughput;
//! 10 us gained half of it, 50 us and more cost throughput.

use std::num::NonZeroU64;

use rustix::thread::Timespec;

use crate::io::sys::RECEIVE_BATCH;

/// Packets of one turn that show a burst. A few at a time are answered at once.
const BURST: usize = 8;
/// How long to collect: about what a packet takes to cross this machine with its wake-ups.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 30_000 };
/// By how much the kernel may be late, in nanoseconds; 50,000 when nobody asks.
const SLACK: u64 = 1_000;

/// The pause that is due after a turn that took `packets` from a raw socket. A turn that filled
/// its buffer has left others behind, and there is nothing to wait for.
pub(super) const fn after(packets: usize) -> Option<Timespec> {
    if packets >= BURST && packets < RECEIVE_BATCH { Some(PAUSE) } else { None }
}

/// Lets this thread sleep as shortly as it asks to.
pub(super) fn allow_short_pauses() {
    // Where it may not, pauses are longer and bursts larger.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(SLACK));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_burst_that_is_not_behind_is_followed_by_a_pause() {
        for (packets, pauses) in [
            (0, false),
            (1, false),
            (BURST, true),
            (RECEIVE_BATCH - 1, true),
            (RECEIVE_BATCH, false),
        ] {
            assert_eq!(after(packets).is_some(), pauses, "{packets}");
        }
    }
}
