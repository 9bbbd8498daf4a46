//! The requests of an attempt. What makes us send another one, a cookie or the wish for another
//! method, is not protected: every request stays usable with its key until a protected message
//! decides (RFC 7296 §2.4, §2.21.1).

use alloc::vec::Vec;

use crypto::ke::PrivateKey;
use sa_store::{IkeSpi, KeGroup};

use super::{extensions, initiator::Target};
use crate::{
    input::GeneratedKey,
    negotiate::ike_offer,
    sa::channel::{Role, Spis},
    shared::Shared,
    wire::{
        EncodeError, ExchangeType, Header, KeyExchange, Nonce, Notify, NotifyType, Payload,
        encode_message,
    },
};

/// Cookies that are followed in one attempt.
const MAX_COOKIES: usize = 4;
/// Requests of one attempt, each another pair of method and cookie.
const MAX_ROUNDS: usize = 12;

/// What a wish of the peer, or of somebody else, leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// It is not followed.
    Nothing,
    /// That has been sent.
    Known(usize),
    /// A request with a key that is there.
    Send,
    /// A request with a key that has to be made.
    MakeKey,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) spi_i: IkeSpi,
    pub(super) nonce_i: Vec<u8>,
    /// The status notifications, with what was drawn at random for them.
    extensions: Vec<Payload<'static>>,
    rounds: Vec<Round>,
    /// The one that is sent again.
    current: usize,
}

/// One request.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) group: KeGroup,
    pub(super) private: PrivateKey,
    public: Vec<u8>,
    pub(super) cookie: Vec<u8>,
    /// As it was on the wire.
    pub(super) request: Vec<u8>,
}

impl Attempt {
    /// Has a fresh SPI in the directory.
    pub(super) fn new(shared: &mut Shared, target: &Target) -> Self {
        let spi_i = shared.next_ike_spi();
        shared.directory.add_spi(spi_i, target.id);
        let nonce_i = shared.nonce();
        let spis = Spis { role: Role::Initiator, spi_i, spi_r: IkeSpi::ZERO };
        let extensions = extensions(shared, target.connection.encap, spis, target.path, true);
        Self { spi_i, nonce_i, extensions, rounds: Vec::new(), current: 0 }
    }

    pub(super) fn current(&self) -> Option<&Round> {
        self.rounds.get(self.current)
    }

    /// Whether some request has followed a cookie.
    pub(super) fn followed_cookies(&self) -> bool {
        self.rounds.iter().any(|round| !round.cookie.is_empty())
    }

    /// A request with a new key; the cookie of before stays (RFC 7296 §2.6.1).
    pub(super) fn add_key(
        &mut self,
        target: &Target,
        group: KeGroup,
        key: GeneratedKey,
    ) -> Result<(), EncodeError> {
        let cookie = self.current().map(|round| round.cookie.clone()).unwrap_or_default();
        let GeneratedKey { public, private } = key;
        self.add(target, Round { group, private, public, cookie, request: Vec::new() })
    }

    /// What there is to do about a cookie.
    pub(super) fn on_cookie(&self, cookie: &[u8]) -> Next {
        let Some(current) = self.current() else { return Next::Nothing };
        let mut cookies: Vec<&[u8]> = self.rounds.iter().map(|it| it.cookie.as_slice()).collect();
        cookies.sort_unstable();
        cookies.dedup();
        let known = cookies.contains(&cookie);
        let followed = cookies.iter().filter(|cookie| !cookie.is_empty()).count();
        if !(1..=64).contains(&cookie.len()) || !known && followed >= MAX_COOKIES {
            return Next::Nothing;
        }
        self.next(current.group, cookie)
    }

    /// What there is to do about the wish for a method that we offer.
    pub(super) fn on_wish(&self, group: KeGroup) -> Next {
        let Some(current) = self.current() else { return Next::Nothing };
        self.next(group, &current.cookie)
    }

    fn next(&self, group: KeGroup, cookie: &[u8]) -> Next {
        let same = |it: &Round| it.group == group && it.cookie == cookie;
        match (self.rounds.iter().position(same), self.rounds.len()) {
            (Some(known), _) => Next::Known(known),
            (None, MAX_ROUNDS..) => Next::Nothing,
            (None, _) if self.rounds.iter().any(|it| it.group == group) => Next::Send,
            (None, _) => Next::MakeKey,
        }
    }

    /// From now on an earlier request is the one that is sent again.
    pub(super) fn turn_back(&mut self, to: usize) {
        self.current = to;
    }

    /// Another request with the key that there is for a method.
    pub(super) fn repeat(
        &mut self,
        target: &Target,
        group: KeGroup,
        cookie: Vec<u8>,
    ) -> Result<(), EncodeError> {
        let known = self.rounds.iter().find(|round| round.group == group);
        let Some(Round { private, public, .. }) = known else { return Ok(()) };
        let (private, public) = (private.clone(), public.clone());
        self.add(target, Round { group, private, public, cookie, request: Vec::new() })
    }

    fn add(&mut self, target: &Target, mut round: Round) -> Result<(), EncodeError> {
        let mut payloads = Vec::new();
        if !round.cookie.is_empty() {
            let cookie = Notify::with_data(NotifyType::COOKIE, round.cookie.as_slice());
            payloads.push(Payload::Notify(cookie));
        }
        payloads.push(Payload::Sa(ike_offer(&target.connection.proposals, None)));
        payloads.push(Payload::Ke(KeyExchange::new(round.group, round.public.as_slice())));
        payloads.push(Payload::Nonce(Nonce(self.nonce_i.as_slice().into())));
        payloads.extend(self.extensions.iter().cloned());
        let header = Header {
            spi_i: self.spi_i,
            spi_r: IkeSpi::ZERO,
            exchange: ExchangeType::IKE_SA_INIT,
            initiator: true,
            response: false,
            message_id: 0,
        };
        let request = encode_message(&header, &payloads)?;
        drop(payloads);
        round.request = request;
        self.current = self.rounds.len();
        self.rounds.push(round);
        Ok(())
    }

    /// The request that a response with a public value of this method answers. Requests with the
    /// same method differ in their cookies, of which a response says nothing: the newest counts.
    pub(super) fn answered(&self, group: KeGroup) -> Option<&Round> {
        let fits = |round: &&Round| round.group == group;
        self.current().filter(fits).or_else(|| self.rounds.iter().rfind(fits))
    }
}
