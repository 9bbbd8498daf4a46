//! One end: an endpoint with a key exchange and a backend that answer at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use crypto::random::RandomSource;
use ike::{
    Endpoint,
    config::EndpointConfig,
    event::Event,
    input::{Agreement, Completion, CompletionResult, GeneratedKey, Input, KeFailure, SpiSource},
    output::{Output, RequestKind, Ticket},
};
use sa_store::{ChildId, EspSpi, Instant, PairId, SaRecord, SecretBytes};

use super::{B, Sent};

/// Deterministic randomness (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl RandomSource for Dice {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes()[..chunk.len()]);
        }
    }
}

/// The node-wide allocator.
#[derive(Debug)]
pub struct Allocator {
    next: u32,
    pub used: BTreeSet<u32>,
    pub limit: usize,
    /// The next allocation is a bug of ours: the endpoint panics in the middle of what it does.
    pub panics: bool,
}

struct Spis(Arc<Mutex<Allocator>>);

impl SpiSource for Spis {
    fn allocate(&mut self) -> Option<EspSpi> {
        let mut allocator = self.0.lock().unwrap();
        if std::mem::take(&mut allocator.panics) {
            drop(allocator);
            panic!("planted");
        }
        if allocator.used.len() >= allocator.limit {
            return None;
        }
        allocator.next += 1;
        let next = allocator.next;
        assert!(allocator.used.insert(next), "an SPI was given out twice");
        EspSpi::new(next)
    }

    fn release(&mut self, spi: EspSpi) {
        assert!(self.0.lock().unwrap().used.remove(&spi.get()), "{spi} was not in use");
    }
}

type Hold = fn(&RequestKind) -> bool;

pub struct Node {
    pub index: usize,
    pub endpoint: Endpoint,
    pub events: Vec<(Instant, Event)>,
    pub spis: Arc<Mutex<Allocator>>,
    pub pairs: BTreeMap<PairId, (SaRecord, SaRecord)>,
    pub active: BTreeMap<ChildId, PairId>,
    /// Requests that are not answered until [`super::World::release`].
    pub hold: Option<Hold>,
    pub held: Vec<(Ticket, RequestKind)>,
    /// What the backend says to the next installations, first one first.
    pub refuse_installs: u32,
    pub requests: Vec<String>,
    /// What key agreements came to, for a peer that plays by rules of its own.
    pub secrets: Vec<SecretBytes>,
    dice: Dice,
}

impl Node {
    pub fn new(index: usize, seed: u64, config: EndpointConfig) -> Self {
        // A third node gives out the SPIs of A: B must tell them apart by the peer.
        let base = if index == B { 0xb000_0000 } else { 0xa000_0000 };
        let spis = Allocator { next: base, used: BTreeSet::new(), limit: 1000, panics: false };
        let spis = Arc::new(Mutex::new(spis));
        let random = Dice(seed.wrapping_mul(2).wrapping_add(index as u64).wrapping_mul(77_777));
        Self {
            index,
            endpoint: Endpoint::new(
                config,
                Box::new(random.clone()),
                Box::new(Spis(Arc::clone(&spis))),
            ),
            events: Vec::new(),
            spis,
            pairs: BTreeMap::new(),
            active: BTreeMap::new(),
            hold: None,
            held: Vec::new(),
            refuse_installs: 0,
            requests: Vec::new(),
            secrets: Vec::new(),
            dice: Dice(random.0 ^ 0x55),
        }
    }

    pub fn name(&self) -> &'static str {
        ["A", "B", "C"][self.index]
    }

    /// Takes all outputs; gives the datagrams.
    pub fn drain(&mut self, now: Instant) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Transmit { path, payload, keepalive } => {
                    sent.push(Sent { from: self.index, path, payload, keepalive });
                }
                Output::Event(event) => self.events.push((now, event)),
                Output::Request { ticket, kind } => {
                    if self.hold.is_some_and(|hold| hold(&kind)) {
                        self.held.push((ticket, kind));
                    } else {
                        self.answer(now, ticket, kind);
                    }
                }
            }
        }
        sent
    }

    pub fn answer(&mut self, now: Instant, ticket: Ticket, kind: RequestKind) {
        let result = self.perform(kind);
        let completion = Completion { ticket, result };
        self.handle(now, Input::Completion(completion));
    }

    /// As a driver that survives a planted panic.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        if self.spis.lock().unwrap().panics {
            let _ = catch_unwind(AssertUnwindSafe(|| self.endpoint.handle(now, input)));
        } else {
            self.endpoint.handle(now, input);
        }
    }

    fn perform(&mut self, kind: RequestKind) -> CompletionResult {
        match kind {
            RequestKind::GenerateKey { group } => {
                self.requests.push(format!("generate {group}"));
                let pair = crypto::ke::generate(group, &mut self.dice).unwrap();
                let key = GeneratedKey { public: pair.public, private: pair.private };
                CompletionResult::KeyGenerated(Ok(key))
            }
            RequestKind::Agree { group, private, peer_public } => {
                self.requests.push(format!("agree {group}"));
                CompletionResult::Agreed(match private.agree(&peer_public) {
                    Ok(shared) => {
                        self.secrets.push(shared.clone());
                        Ok(Agreement { public: None, shared })
                    }
                    Err(_) => Err(KeFailure::InvalidPublicValue),
                })
            }
            RequestKind::GenerateAndAgree { group, peer_public, .. } => {
                self.requests.push(format!("generate and agree {group}"));
                let pair = crypto::ke::generate(group, &mut self.dice).unwrap();
                CompletionResult::Agreed(match pair.private.agree(&peer_public) {
                    Ok(shared) => Ok(Agreement { public: Some(pair.public), shared }),
                    Err(_) => Err(KeFailure::InvalidPublicValue),
                })
            }
            RequestKind::Install { inbound, outbound, activate } => {
                self.requests.push("install".to_owned());
                if self.refuse_installs > 0 {
                    self.refuse_installs -= 1;
                    return CompletionResult::Installed(Err("the table is full".to_owned()));
                }
                assert_eq!(inbound.pair, outbound.pair);
                let (pair, child) = (inbound.pair, inbound.child);
                if activate {
                    self.active.insert(child, pair);
                }
                assert!(self.pairs.insert(pair, (*inbound, *outbound)).is_none());
                CompletionResult::Installed(Ok(()))
            }
            RequestKind::Activate { pair } => {
                self.requests.push("activate".to_owned());
                let child = self.pairs[&pair].0.child;
                self.active.insert(child, pair);
                CompletionResult::Activated(Ok(()))
            }
            RequestKind::UpdateAddresses { pair, path } => {
                self.requests.push("update".to_owned());
                let (inbound, outbound) = self.pairs.get_mut(&pair).unwrap();
                for record in [inbound, outbound] {
                    record.local = path.local;
                    record.remote = path.remote;
                }
                CompletionResult::Updated(Ok(()))
            }
            RequestKind::Remove { pair } => {
                self.requests.push("remove".to_owned());
                assert!(self.pairs.remove(&pair).is_some(), "removed twice");
                self.active.retain(|_, active| *active != pair);
                CompletionResult::Removed
            }
        }
    }

    /// SPIs that packets are sent with, one a child.
    pub fn outbound_spis(&self) -> Vec<u32> {
        self.active.values().map(|pair| self.pairs[pair].1.spi.get()).collect()
    }

    pub fn inbound_spis(&self) -> Vec<u32> {
        self.pairs.values().map(|(inbound, _)| inbound.spi.get()).collect()
    }

    pub fn inbound_pair(&self, spi: u32) -> Option<PairId> {
        let mut pairs = self.pairs.iter();
        pairs.find(|(_, (inbound, _))| inbound.spi.get() == spi).map(|(pair, _)| *pair)
    }
}
