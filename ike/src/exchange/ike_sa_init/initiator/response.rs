//! What responses in clear say, and what the initiator makes of it: an answer to follow, another
//! request to send besides, a refusal to remember. None of it is believed.

use alloc::{boxed::Box, format, vec::Vec};

use sa_store::{IkeSpi, KeGroup};

use super::{
    super::{
        Transcript,
        answer::{Answered, Line, Reading},
        attempt::Next,
        does_fragmentation,
    },
    Anew, COOKIE_PATIENCE, Initiating,
};
use crate::{
    config::Endpoints,
    event::{Failure, FailureCode},
    exchange::refusal,
    negotiate::{Mismatch, check_ike, offers_group},
    sa::nat,
    shared::Shared,
    wire::{ExchangeType, Message, Notify, NotifyType, Payloads},
};

impl Initiating {
    /// Reads a response: what fits a request is given back.
    pub(in crate::exchange) fn read(
        &mut self,
        shared: &mut Shared,
        path: Endpoints,
        datagram: &[u8],
    ) -> Option<Box<Answered>> {
        let Ok(message) = Message::parse(datagram) else {
            shared.counters.malformed += 1;
            return None;
        };
        let header = message.header;
        let fits = header.response
            && !header.initiator
            && header.exchange == ExchangeType::IKE_SA_INIT
            && header.message_id == 0
            && header.spi_i == self.attempt.spi_i
            && path.remote.ip() == self.target.path.remote.ip();
        if !fits || message.protected.is_some() || self.attempt.current().is_none() {
            shared.counters.unexpected += 1;
            return None;
        }
        let payloads = &message.clear;
        if payloads.sa().is_none() {
            self.on_notify(shared, payloads);
            return None;
        }
        match self.accept(path, header.spi_r, payloads, datagram) {
            Ok(answered) => Some(Box::new(answered)),
            Err(failure) => {
                self.hinted(shared, failure);
                None
            }
        }
    }

    /// A response without SA payload: the peer wants something else, or refuses.
    fn on_notify(&mut self, shared: &mut Shared, payloads: &Payloads<'_>) {
        if let Some(cookie) = payloads.notify(NotifyType::COOKIE) {
            self.on_cookie(shared, &cookie.data);
            return;
        }
        if let Some(notify) = payloads.notify(NotifyType::INVALID_KE_PAYLOAD) {
            let wanted = notify.data_u16().and_then(KeGroup::from_transform_id);
            let making = self.making.map(|(_, group)| group);
            let current = self.attempt.current().map(|round| round.group);
            if wanted.is_some() && wanted == making.or(current) {
                // The answer to an earlier request, once more: what it wants is on its way.
                return;
            }
            let offered =
                wanted.filter(|group| offers_group(&self.target.connection.proposals, *group));
            if let Some(group) = offered
                && making.is_none()
                && self.on_wish(shared, group)
            {
                return;
            }
        }
        match payloads.error_notify() {
            Some(notify) => {
                let failure = self.refusal(notify);
                self.hinted(shared, failure);
            }
            None => shared.counters.unexpected += 1,
        }
    }

    fn on_cookie(&mut self, shared: &mut Shared, cookie: &[u8]) {
        match self.attempt.on_cookie(cookie) {
            Next::Nothing => {}
            Next::Known(round) => self.attempt.turn_back(round),
            Next::Send | Next::MakeKey if self.anew == Anew::Done => {
                let held = self.held.take();
                let until = held.map_or(shared.now + COOKIE_PATIENCE, |(_, until)| until);
                self.held = Some((cookie.to_vec(), until));
            }
            Next::Send | Next::MakeKey => self.send_cookie(shared, cookie.to_vec()),
        }
    }

    pub(super) fn send_cookie(&mut self, shared: &mut Shared, cookie: Vec<u8>) {
        let Some(group) = self.attempt.current().map(|round| round.group) else { return };
        let written = self.attempt.repeat(&self.target, group, cookie);
        self.send(shared, written);
    }

    /// Whether there is something new to send for a method that the peer wants.
    fn on_wish(&mut self, shared: &mut Shared, group: KeGroup) -> bool {
        match self.attempt.on_wish(group) {
            Next::Nothing => return false,
            Next::Known(round) => {
                self.attempt.turn_back(round);
                return false;
            }
            Next::Send => {
                let cookie = self.attempt.current().map(|round| round.cookie.clone());
                let written = self.attempt.repeat(&self.target, group, cookie.unwrap_or_default());
                self.send(shared, written);
            }
            Next::MakeKey => self.make_key(shared, group),
        }
        true
    }

    fn refusal(&self, notify: &Notify<'_>) -> Failure {
        let mut failure = refusal::failure_of(notify, "our IKE_SA_INIT");
        if failure.code == FailureCode::NoProposalChosen {
            let proposals = self.target.connection.proposals.iter();
            let ours: Vec<_> = proposals.map(|it| format!("{it}")).collect();
            failure.message.push_str(&format!(" (we offered {})", ours.join(", ")));
        }
        failure
    }

    fn accept(
        &self,
        path: Endpoints,
        spi_r: IkeSpi,
        payloads: &Payloads<'_>,
        datagram: &[u8],
    ) -> Result<Answered, Failure> {
        let syntax = |error| {
            let message = format!("the peer's IKE_SA_INIT response is incomplete: {error}");
            Failure::new(FailureCode::InvalidSyntax, message)
        };
        let mismatch =
            |mismatch: Mismatch| Failure::new(FailureCode::NoProposalChosen, format!("{mismatch}"));
        let connection = &self.target.connection;
        let answer = payloads.require_sa().map_err(syntax)?;
        let suite = check_ike(&connection.proposals, answer, false).map_err(mismatch)?.suite;
        let ke = payloads.require_ke().map_err(syntax)?;
        let nonce_r = payloads.require_nonce().map_err(syntax)?.0.to_vec();
        let fits =
            ke.known_group() == Some(suite.group) && ke.data.len() == suite.group.public_len();
        let round = self.attempt.answered(suite.group).filter(|_| fits && !spi_r.is_zero());
        let Some(round) = round else {
            let message = "the peer's public value is not of the method that was asked for";
            return Err(Failure::new(FailureCode::InvalidKe, message));
        };
        let spis = (self.attempt.spi_i, spi_r);
        let reading = Reading {
            response: datagram.to_vec(),
            nat: nat::detect(connection.encap, payloads, spis, path).unwrap_or_default(),
            fragmentation: does_fragmentation(payloads),
        };
        let transcript = Transcript {
            request: round.request.clone(),
            response: reading.response.clone(),
            nonce_i: self.attempt.nonce_i.clone(),
            nonce_r: nonce_r.clone(),
        };
        let line = Line { suite, spi_r, nonce_r, peer_public: ke.data.to_vec() };
        let private = round.private.clone();
        Ok(Answered { line, private, transcript, readings: alloc::vec![reading] })
    }
}
