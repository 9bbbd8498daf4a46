//! Who is let in before anybody is known: cookies and half-open limits (RFC 7296 §2.6).
//!
//! ```text
//! Initiator                              Responder
//! HDR(A,0), SAi1, KEi, Ni        -->                       too many are half open
//!                                <--     HDR(A,0), N(COOKIE)     nothing is kept
//! HDR(A,0), N(COOKIE), SAi1, KEi, Ni  -->                  the address is proven
//!                                <--     HDR(A,B), SAr1, KEr, Nr
//! ```

mod sources;

use alloc::vec::Vec;
use core::{net::IpAddr, time::Duration};

use crypto::random::RandomSource;
use sa_store::{IkeSpi, Instant, PrfAlgorithm, SecretBytes};

use self::sources::Sources;
use crate::{config::EndpointConfig, output::Standing, view::IkeSaId};

/// How long a secret makes cookies; it is accepted for as long again.
const ROTATION: Duration = Duration::from_secs(60);
/// Octets of a cookie: the version of the secret, then a MAC.
const COOKIE_LEN: usize = 1 + 16;
/// The longest IKE_SA_INIT request that is looked at.
pub(crate) const MAX_INIT_LEN: usize = 4096;

/// Octets of fragments that every half-open IKE SA may hold, whatever others hold: an IKE_AUTH
/// with a pre-shared key and some dozen selectors.
const FRAGMENTS_EACH: usize = 4 << 10;
/// Octets of fragments that a half-open IKE SA may hold at most: an IKE_AUTH with as many IPv6
/// selectors as fit takes 20 KiB. Certificates will need more.
const FRAGMENTS_MOST: usize = 24 << 10;
/// Octets of fragments that all half-open IKE SAs share beyond what each may hold anyway.
const FRAGMENTS_SHARED: usize = 8 << 20;

/// What to do with an IKE_SA_INIT request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Negotiate.
    Admit,
    /// Answer with this cookie and keep nothing.
    Challenge(Vec<u8>),
}

/// Cookie secrets and the count of half-open IKE SAs.
#[derive(Debug)]
pub(crate) struct Admission {
    current: Secret,
    previous: Option<Secret>,
    half_open: Sources,
    /// Octets of fragments that half-open IKE SAs hold.
    fragments: usize,
}

#[derive(Clone, Debug)]
struct Secret {
    version: u8,
    key: SecretBytes,
    since: Instant,
}

impl Secret {
    fn draw(version: u8, random: &mut dyn RandomSource, since: Instant) -> Self {
        let mut key = alloc::vec![0; 32];
        random.fill(&mut key);
        Self { version, key: SecretBytes::new(key), since }
    }

    /// `<VersionIDofSecret> | Hash(Ni | IPi | SPIi | <secret>)` of RFC 7296 §2.6, with a MAC.
    fn cookie(&self, source: IpAddr, spi_i: IkeSpi, nonce_i: &[u8]) -> Vec<u8> {
        let mut address = [0; 17];
        match source {
            IpAddr::V4(v4) => address[1..5].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => {
                address[0] = 1;
                address[1..].copy_from_slice(&v6.octets());
            }
        }
        let mac = crypto::prf::prf(
            PrfAlgorithm::HmacSha256,
            self.key.expose(),
            &[&address, &spi_i.0.to_be_bytes(), nonce_i],
        );
        let mut cookie = Vec::with_capacity(COOKIE_LEN);
        cookie.push(self.version);
        cookie.extend(mac.expose().iter().take(COOKIE_LEN - 1));
        cookie
    }
}

impl Admission {
    pub(crate) fn new(random: &mut dyn RandomSource) -> Self {
        Self {
            current: Secret::draw(0, random, Instant::ZERO),
            previous: None,
            half_open: Sources::default(),
            fragments: 0,
        }
    }

    /// Decides on an IKE_SA_INIT request. Costs two MACs at most and keeps nothing.
    pub(crate) fn judge(
        &mut self,
        now: Instant,
        config: &EndpointConfig,
        random: &mut dyn RandomSource,
        (source, spi_i, nonce_i): (IpAddr, IkeSpi, &[u8]),
        cookie: Option<&[u8]>,
    ) -> Verdict {
        self.rotate(now, random);
        if self.half_open.len() < config.cookie_threshold {
            return Verdict::Admit;
        }
        if !cookie.is_some_and(|cookie| self.valid(cookie, source, spi_i, nonce_i)) {
            return Verdict::Challenge(self.current.cookie(source, spi_i, nonce_i));
        }
        Verdict::Admit
    }

    fn valid(&self, cookie: &[u8], source: IpAddr, spi_i: IkeSpi, nonce_i: &[u8]) -> bool {
        [Some(&self.current), self.previous.as_ref()].into_iter().flatten().any(|secret| {
            cookie.first() == Some(&secret.version)
                && crypto::ct::equal(cookie, &secret.cookie(source, spi_i, nonce_i))
        })
    }

    fn rotate(&mut self, now: Instant, random: &mut dyn RandomSource) {
        let age = now.since(self.current.since);
        if age < ROTATION {
            return;
        }
        let next = Secret::draw(self.current.version.wrapping_add(1), random, now);
        let old = core::mem::replace(&mut self.current, next);
        self.previous = (age < 2 * ROTATION).then_some(old);
    }

    /// One more is half open. Gives whose has to go for it, when there are too many.
    pub(crate) fn enter(
        &mut self,
        config: &EndpointConfig,
        (standing, source): (Standing, IpAddr),
        ike: IkeSaId,
    ) -> Option<IkeSaId> {
        self.half_open.enter(standing, source, ike);
        self.half_open.excess(config.half_open_limit)
    }

    /// One less is half open.
    pub(crate) fn leave(&mut self, (standing, source): (Standing, IpAddr), ike: IkeSaId) {
        self.half_open.leave(standing, source, ike);
        debug_assert!(self.half_open.len() > 0 || self.fragments == 0, "nobody holds fragments");
    }

    /// How long somebody may be half open: a quarter of what is configured for strangers when half
    /// of the room is taken.
    pub(crate) fn life(&self, config: &EndpointConfig, standing: Standing) -> Duration {
        let pressed = self.half_open.len() > config.half_open_limit / 2;
        if pressed && standing > Standing::Address {
            config.half_open_timeout / 4
        } else {
            config.half_open_timeout
        }
    }

    /// Counts the half-open IKE SAs anew, with the octets of fragments each holds.
    pub(crate) fn recount(
        &mut self,
        all: impl Iterator<Item = ((Standing, IpAddr), IkeSaId, usize)>,
    ) {
        (self.half_open, self.fragments) = (Sources::default(), 0);
        for ((standing, source), ike, held) in all {
            self.half_open.enter(standing, source, ike);
            self.hold_fragments(0, held);
        }
    }

    /// How many octets of fragments a half-open IKE SA may hold that holds so many now.
    pub(crate) fn room_for_fragments(&self, held: usize) -> usize {
        let shared = FRAGMENTS_SHARED.saturating_sub(self.fragments);
        held.saturating_add(shared).clamp(FRAGMENTS_EACH, FRAGMENTS_MOST)
    }

    /// A half-open IKE SA that held so many octets of fragments holds so many now.
    pub(crate) fn hold_fragments(&mut self, before: usize, now: usize) {
        debug_assert!(before <= self.fragments, "more is given back than was taken");
        self.fragments = self.fragments.saturating_sub(before).saturating_add(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(u64);
    impl RandomSource for Counter {
        fn fill(&mut self, out: &mut [u8]) {
            for octet in out {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *octet = self.0.to_be_bytes()[0];
            }
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_cookie_proves_one_address_for_two_rotations_at_most() {
        let config = EndpointConfig { cookie_threshold: 0, ..EndpointConfig::default() };
        let mut random = Counter(7);
        let mut admission = Admission::new(&mut random);
        let source: IpAddr = "192.0.2.1".parse().unwrap();
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        let key = (source, IkeSpi(5), &b"nonce"[..]);
        let mut judge = |now, key, cookie: Option<&[u8]>| {
            admission.judge(now, &config, &mut random, key, cookie)
        };
        let Verdict::Challenge(cookie) = judge(at(1), key, None) else { panic!("no challenge") };
        assert_eq!(judge(at(1), key, Some(&cookie)), Verdict::Admit);
        assert_eq!(judge(at(70), key, Some(&cookie)), Verdict::Admit);
        for wrong in [(other, key.1, key.2), (source, IkeSpi(6), key.2), (source, key.1, b"n")] {
            assert_ne!(judge(at(70), wrong, Some(&cookie)), Verdict::Admit);
        }
        assert_ne!(judge(at(70), key, Some(&cookie[..16])), Verdict::Admit);
        assert_ne!(judge(at(200), key, Some(&cookie)), Verdict::Admit);
    }

    #[test]
    fn fragments_of_all_strangers_share_one_budget_and_each_has_a_little() {
        let mut admission = Admission::new(&mut Counter(3));
        assert_eq!(admission.room_for_fragments(0), FRAGMENTS_MOST);
        // So many that each holds what it may.
        let mut held = Vec::new();
        for _ in 0..4096 {
            let room = admission.room_for_fragments(0);
            admission.hold_fragments(0, room);
            held.push(room);
        }
        assert!(held.iter().sum::<usize>() <= FRAGMENTS_SHARED + 4097 * FRAGMENTS_EACH);
        assert_eq!(admission.room_for_fragments(0), FRAGMENTS_EACH);
        assert_eq!(admission.room_for_fragments(10_000), 10_000);
        for room in held {
            admission.hold_fragments(room, 0);
        }
        assert_eq!((admission.fragments, admission.room_for_fragments(0)), (0, FRAGMENTS_MOST));
    }
}
