//! Following a peer whose NAT gives it other addresses (RFC 7296 §2.23), but not at any rate: each
//! move changes SAs and policies, and an authenticated peer may claim to move with every message.

use core::time::Duration;

use sa_store::Instant;

use crate::config::Endpoints;

/// The least time between two moves of one IKE SA.
const PAUSE: Duration = Duration::from_secs(1);

/// When the peer moved last, and where it has been seen since.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mobility {
    /// Before this time it is not followed again.
    until: Instant,
    /// Its newest path, if that is not the one in use.
    newest: Option<Endpoints>,
}

impl Mobility {
    /// The peer was seen at `path`, while `current` is in use.
    pub(crate) fn seen(&mut self, path: Endpoints, current: Endpoints) {
        self.newest = (path != current).then_some(path);
    }

    /// Where to follow the peer now; the newest place wins.
    pub(crate) fn follow(&mut self, now: Instant) -> Option<Endpoints> {
        let path = self.newest.take_if(|_| self.until <= now)?;
        self.until = now + PAUSE;
        Some(path)
    }

    /// When [`Self::follow`] is due.
    pub(crate) fn due(&self) -> Instant {
        self.newest.map_or(Instant::NEVER, |_| self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Endpoints {
        let at = |port| core::net::SocketAddr::from(([192, 0, 2, 1], port));
        Endpoints { local: at(4500), remote: at(port) }
    }

    #[test]
    fn the_first_move_is_at_once_and_the_newest_a_pause_later() {
        let mut mobility = Mobility::default();
        let (start, soon) = (Instant::from_nanos(5), Instant::from_nanos(6));
        assert_eq!(mobility.due(), Instant::NEVER);
        mobility.seen(path(1), path(0));
        assert_eq!(mobility.follow(start), Some(path(1)));
        for port in 2..10 {
            mobility.seen(path(port), path(1));
            assert_eq!(mobility.follow(soon), None);
        }
        assert_eq!(mobility.due(), start + PAUSE);
        assert_eq!(mobility.follow(start + PAUSE), Some(path(9)));
        assert_eq!(mobility.due(), Instant::NEVER);
        assert_eq!(mobility.follow(start + PAUSE * 9), None);
    }

    #[test]
    fn who_comes_back_in_time_has_not_moved() {
        let mut mobility = Mobility::default();
        let start = Instant::from_nanos(5);
        mobility.seen(path(1), path(0));
        mobility.follow(start);
        mobility.seen(path(2), path(1));
        mobility.seen(path(1), path(1));
        assert_eq!(mobility.due(), Instant::NEVER);
        assert_eq!(mobility.follow(start + PAUSE), None);
    }
}
