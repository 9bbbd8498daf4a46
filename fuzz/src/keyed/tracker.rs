//! The keys of every IKE SA between two endpoints, from the messages alone and the shared
//! secrets, which are known.

use std::collections::{HashMap, VecDeque};

use crypto::aead::Engines;
use ike::{
    config::{IkeProposal, IkeSuite},
    fragment::{Progress, Reassembly},
    keys::{IkeKeys, Opened, Opener, Sealer, SkD, Skeyseed},
    negotiate::check_ike,
    wire::{
        ExchangeType, FragmentNumber, Header, Message, Payload, PayloadType, Payloads, ProtocolId,
    },
};
use sa_store::{IkeSpi, KeGroup, SecretBytes};

use crate::random::Random;

/// IKE SAs whose keys are kept.
const MAX_SESSIONS: usize = 16;
/// First requests whose nonces are kept.
const MAX_REQUESTS: usize = 32;

/// The secret that every key agreement of a group comes to.
#[must_use]
pub fn shared_secret(group: KeGroup) -> SecretBytes {
    SecretBytes::new(vec![0x42; group.shared_len()])
}

/// Everything there is to know about the keys in use.
#[derive(Debug)]
pub struct Tracker {
    proposals: Vec<IkeProposal>,
    engines: Engines,
    first_nonces: VecDeque<(IkeSpi, Vec<u8>)>,
    sessions: VecDeque<Session>,
}

/// The keys of one IKE SA. Index 0 is the original initiator's direction.
#[derive(Debug)]
struct Session {
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    d: SkD,
    openers: [Opener; 2],
    sealers: [Sealer; 2],
    reassembly: [Reassembly; 2],
    /// By sender and Message ID: SPI and nonce of a request to rekey the IKE SA.
    rekeys: HashMap<(usize, u32), (IkeSpi, Vec<u8>)>,
}

/// The decrypted content of a message.
#[derive(Clone, Debug)]
pub struct Plain {
    /// Its header.
    pub header: Header,
    /// Its payloads.
    pub opened: Opened,
}

impl Tracker {
    /// For endpoints that both propose these.
    #[must_use]
    pub fn new(proposals: Vec<IkeProposal>) -> Self {
        Self {
            proposals,
            engines: Engines::portable(),
            first_nonces: VecDeque::new(),
            sessions: VecDeque::new(),
        }
    }

    /// Opens a message that is delivered, and learns from it.
    pub fn open(&mut self, datagram: &[u8]) -> Option<Plain> {
        let message = Message::parse(datagram).ok()?;
        let header = message.header;
        if header.exchange == ExchangeType::IKE_SA_INIT {
            self.learn_init(&header, &message.clear);
            return None;
        }
        let session = self.session(&header)?;
        let side = sender(&header);
        let protected = message.protected?;
        let progress =
            session.reassembly[side].add(&session.openers[side], header.message_id, &protected);
        let Ok(Progress::Complete(opened)) = progress else {
            return None;
        };
        let plain = Plain { header, opened };
        self.learn(&plain);
        Some(plain)
    }

    /// Seals octets that are to be payloads: as they are, whether or not they make sense, whole
    /// or as a fragment.
    pub fn seal(
        &mut self,
        header: &Header,
        first: u8,
        fragment: Option<FragmentNumber>,
        octets: &[u8],
    ) -> Option<Vec<u8>> {
        let session = self.session(header)?;
        let sealer = &mut session.sealers[sender(header)];
        sealer.seal_inner(header, PayloadType(first), fragment, octets).ok()
    }

    /// Seals payloads.
    pub fn seal_payloads(&mut self, header: &Header, payloads: &[Payload<'_>]) -> Option<Vec<u8>> {
        let session = self.session(header)?;
        session.sealers[sender(header)].seal(header, payloads).ok()
    }

    /// A header with the SPIs of the newest IKE SA, or of the one before (`back`).
    #[must_use]
    pub fn header(&self, back: usize) -> Option<(IkeSpi, IkeSpi)> {
        let at = self.sessions.len().checked_sub(1 + back)?;
        self.sessions.get(at).map(|session| (session.spi_i, session.spi_r))
    }

    fn session(&mut self, header: &Header) -> Option<&mut Session> {
        self.sessions
            .iter_mut()
            .rev()
            .find(|session| session.spi_i == header.spi_i && session.spi_r == header.spi_r)
    }

    fn learn_init(&mut self, header: &Header, payloads: &Payloads<'_>) {
        let Some(nonce) = payloads.nonce() else {
            return;
        };
        if !header.response {
            if self.first_nonces.len() == MAX_REQUESTS {
                self.first_nonces.pop_front();
            }
            self.first_nonces.push_back((header.spi_i, nonce.0.to_vec()));
            return;
        }
        let request = self.first_nonces.iter().rev().find(|(spi, _)| *spi == header.spi_i);
        let Some((_, nonce_i)) = request.cloned() else {
            return;
        };
        let Some(sa) = payloads.sa() else { return };
        let Ok(choice) = check_ike(&self.proposals, sa, false) else {
            return;
        };
        let shared = shared_secret(choice.suite.group);
        let seed = Skeyseed::initial(choice.suite.prf, &nonce_i, &nonce.0, &shared);
        let (spi_i, spi_r) = (header.spi_i, header.spi_r);
        if let Ok(keys) = seed.derive(choice.suite, &nonce_i, &nonce.0, spi_i, spi_r) {
            self.add(choice.suite, keys, spi_i, spi_r);
        }
    }

    /// Rekeys of the IKE SA (RFC 7296 §1.3.2, §2.18).
    fn learn(&mut self, plain: &Plain) {
        let header = plain.header;
        if header.exchange != ExchangeType::CREATE_CHILD_SA {
            return;
        }
        let Ok(payloads) = plain.opened.payloads() else {
            return;
        };
        let (Some(sa), Some(nonce)) = (payloads.sa(), payloads.nonce()) else {
            return;
        };
        let first = sa.proposals.first().filter(|first| first.protocol == ProtocolId::IKE);
        let Some(spi) = first.and_then(|first| first.spi.ike()) else {
            return;
        };
        let proposals = self.proposals.clone();
        let Some(session) = self.session(&header) else {
            return;
        };
        let side = sender(&header);
        if !header.response {
            if session.rekeys.len() < MAX_REQUESTS {
                session.rekeys.insert((side, header.message_id), (spi, nonce.0.to_vec()));
            }
            return;
        }
        let Some((spi_i, nonce_i)) = session.rekeys.get(&(1 - side, header.message_id)).cloned()
        else {
            return;
        };
        let Ok(choice) = check_ike(&proposals, sa, true) else {
            return;
        };
        let shared = shared_secret(choice.suite.group);
        let seed = Skeyseed::rekey(&session.d, &shared, &nonce_i, &nonce.0);
        if let Ok(keys) = seed.derive(choice.suite, &nonce_i, &nonce.0, spi_i, spi) {
            self.add(choice.suite, keys, spi_i, spi);
        }
    }

    fn add(&mut self, suite: IkeSuite, keys: IkeKeys, spi_i: IkeSpi, spi_r: IkeSpi) {
        let known = |session: &Session| session.spi_i == spi_i && session.spi_r == spi_r;
        if self.sessions.iter().any(known) {
            return;
        }
        let opener = |keys| Opener::new(&self.engines, suite.suite, keys).ok();
        // An epoch of our own: the endpoints count in epoch 0.
        let mut random = Random::new(spi_i.0);
        let mut sealer = |keys| Sealer::new(&self.engines, suite.suite, keys, 1, &mut random).ok();
        let openers = (opener(&keys.initiator), opener(&keys.responder));
        let sealers = (sealer(&keys.initiator), sealer(&keys.responder));
        let (Some(open_i), Some(open_r)) = openers else {
            return;
        };
        let (Some(seal_i), Some(seal_r)) = sealers else {
            return;
        };
        if self.sessions.len() == MAX_SESSIONS {
            self.sessions.pop_front();
        }
        self.sessions.push_back(Session {
            spi_i,
            spi_r,
            d: keys.d,
            openers: [open_i, open_r],
            sealers: [seal_i, seal_r],
            reassembly: Default::default(),
            rekeys: HashMap::new(),
        });
    }
}

/// 0 when the original initiator sent it.
fn sender(header: &Header) -> usize {
    usize::from(!header.initiator)
}
