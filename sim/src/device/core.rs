//! Inside the device.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crypto::{aead::Engines, random::RandomSource};
use esp::{
    InboundSa, OpenOutcome, OpenPacket, OutboundOptions, OutboundSa, SealPacket, SealSource,
    open_burst, seal_burst,
};
use hw_offload::{
    Busy, Capabilities, DropCounters, Notice, Operation, PolicyAction, PolicySet, SaCounters,
    Ticket, Waker,
};
use sa_store::{
    ChildId, Direction, Encapsulation, EspCipher, EspSpi, EspSuite, Instant, IntegrityAlgorithm,
    Path, SaId, SaRecord,
    live::{DropReason, LiveSa, LiveTable},
};

use super::{Faults, Planted};
use crate::{packet, random::Seeded};

/// Notices about traffic of one SA or child come at most this often.
const NOTICE_PAUSE: Duration = Duration::from_secs(1);

/// What became of a clear packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sent {
    /// An ESP packet between these addresses.
    Sealed {
        /// Our outer address and port.
        source: SocketAddr,
        /// The peer's.
        destination: SocketAddr,
        /// In UDP, or raw.
        udp: bool,
        /// From the SPI on.
        esp: Vec<u8>,
    },
    /// No active SA: it was held back.
    Blocked,
    /// The active SA did not take it.
    Dropped(DropReason),
    /// No policy wants it protected.
    NotCovered,
}

/// What became of an ESP packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The inner packet.
    Inner(Vec<u8>),
    /// No SA has this SPI.
    UnknownSpi,
    /// The SA dropped it.
    Dropped(DropReason),
}

enum Half {
    Inbound { sa: InboundSa, heard: Option<Instant>, opened: u64 },
    Outbound { sa: OutboundSa, sealed: u64 },
}

struct Sa {
    record: SaRecord,
    live: Arc<LiveSa>,
    half: Half,
}

/// The device: its tables, and what is on its way in and out.
pub struct Core {
    faults: Faults,
    engines: Engines,
    live: Arc<LiveTable>,
    random: Seeded,
    sas: BTreeMap<SaId, Sa>,
    by_spi: BTreeMap<EspSpi, SaId>,
    active: BTreeMap<ChildId, SaId>,
    policies: PolicySet,
    has_policies: bool,
    acquired: BTreeMap<ChildId, Instant>,
    jobs: VecDeque<(Instant, Ticket, Vec<Operation>)>,
    notices: BTreeMap<(Instant, u64), Notice>,
    next_notice: u64,
    now: Instant,
    waker: Option<Waker>,
}

impl Core {
    pub(super) fn new(
        faults: Faults,
        engines: Engines,
        live: Arc<LiveTable>,
        random: Seeded,
    ) -> Self {
        Self {
            faults,
            engines,
            live,
            random,
            sas: BTreeMap::new(),
            by_spi: BTreeMap::new(),
            active: BTreeMap::new(),
            policies: PolicySet::default(),
            has_policies: false,
            acquired: BTreeMap::new(),
            jobs: VecDeque::new(),
            notices: BTreeMap::new(),
            next_notice: 0,
            now: Instant::ZERO,
            waker: None,
        }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        let aead =
            [EspCipher::AesGcm16(128), EspCipher::AesGcm16(256), EspCipher::ChaCha20Poly1305];
        let suites = aead
            .into_iter()
            .map(|cipher| (cipher, None))
            .chain([(EspCipher::AesCbc(256), Some(IntegrityAlgorithm::HmacSha256_128))])
            .filter_map(|(cipher, mac)| EspSuite::new(cipher, mac))
            .collect();
        Capabilities {
            path: Path::Packet("sim0".into()),
            max_sas: self.faults.capacity,
            used_sas: self.sas.len() as u64,
            suites,
            esn: true,
            udp_encapsulation: true,
            raw_esp: true,
            transport_mode: false,
            max_replay_window: 4096,
        }
    }

    pub(super) fn set_waker(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    pub(super) fn submit(&mut self, ticket: Ticket, batch: Vec<Operation>) -> Result<(), Busy> {
        if self.jobs.len() >= self.faults.queue {
            return Err(Busy(batch));
        }
        // One engine does the work: batches never overtake each other.
        let earliest = self.jobs.back().map_or(self.now, |(at, ..)| *at);
        let at = earliest + self.spread(self.faults.work);
        self.jobs.push_back((at, ticket, batch));
        self.wake();
        Ok(())
    }

    fn spread(&mut self, longest: Duration) -> Duration {
        Duration::from_nanos(self.random.below(u64::try_from(longest.as_nanos()).unwrap_or(0) + 1))
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker();
        }
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<Notice> {
        self.advance(now);
        let (at, _) = *self.notices.first_key_value()?.0;
        if at > now {
            return None;
        }
        self.notices.pop_first().map(|(_, notice)| notice)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let notice = self.notices.keys().next().map(|(at, _)| *at);
        [self.jobs.front().map(|(at, ..)| *at), notice].into_iter().flatten().min()
    }

    /// Does the work that is due.
    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while self.jobs.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((at, ticket, batch)) = self.jobs.pop_front() else { return };
            let answer = match self.run(&batch) {
                Ok(()) => Notice::Done(ticket),
                Err((operation, reason)) => Notice::Refused { ticket, operation, reason },
            };
            let late = self.spread(self.faults.answer);
            self.tell(at + late, answer);
        }
    }

    /// Schedules a notice, sometimes twice.
    fn tell(&mut self, at: Instant, notice: Notice) {
        if self.random.chance(self.faults.twice) {
            let later = at + self.spread(Duration::from_millis(200));
            self.push(later, notice.clone());
        }
        self.push(at, notice);
        self.wake();
    }

    fn push(&mut self, at: Instant, notice: Notice) {
        self.notices.insert((at, self.next_notice), notice);
        self.next_notice += 1;
    }

    /// Runs a batch, all of it or nothing.
    fn run(&mut self, batch: &[Operation]) -> Result<(), (usize, String)> {
        let installs = |op: &Operation| matches!(op, Operation::Install(_));
        if let Some(at) = batch.iter().position(installs)
            && self.random.chance(self.faults.refuses)
        {
            return Err((at, "the device has a bad moment".into()));
        }
        let mut installed = Vec::new();
        let active = self.active.clone();
        for (index, operation) in batch.iter().enumerate() {
            if let Operation::Install(record) = operation
                && !self.sas.contains_key(&record.id)
            {
                installed.push(record.id);
            }
            if let Err(reason) = self.operate(operation) {
                for sa in installed {
                    self.remove(sa);
                }
                self.active = active;
                return Err((index, reason));
            }
        }
        Ok(())
    }

    fn operate(&mut self, operation: &Operation) -> Result<(), String> {
        match operation {
            Operation::SetPolicies(policies) => {
                self.policies = policies.clone();
                self.has_policies = true;
            }
            Operation::Install(record) => self.install(record)?,
            Operation::Activate(id) => {
                let sa = self.sas.get(id).ok_or_else(|| unknown(*id))?;
                self.active.insert(sa.record.child, *id);
            }
            Operation::UpdateAddresses { sa: id, local, remote } => {
                let sa = self.sas.get_mut(id).ok_or_else(|| unknown(*id))?;
                (sa.record.local, sa.record.remote) = (*local, *remote);
                if let Half::Outbound { sa: outbound, .. } = &mut sa.half {
                    *outbound =
                        outbound.with_addresses(*local, *remote).map_err(|e| e.to_string())?;
                }
            }
            Operation::Remove(sa) => self.remove(*sa),
            Operation::Query(id) => {
                let sa = self.sas.get(id).ok_or_else(|| unknown(*id))?;
                let counters = sa.counters();
                let now = self.now;
                self.push(now, Notice::Counters(counters));
            }
            Operation::Flush => {
                let all: Vec<SaId> = self.sas.keys().copied().collect();
                all.into_iter().for_each(|sa| self.remove(sa));
            }
        }
        Ok(())
    }

    fn install(&mut self, record: &SaRecord) -> Result<(), String> {
        if self.sas.contains_key(&record.id) {
            return Err(format!("SA {} is installed already", record.id));
        }
        self.capabilities().can_run(record)?;
        let live = self.live.insert(record);
        let half = match record.direction {
            Direction::Inbound => {
                if self.by_spi.contains_key(&record.spi) {
                    return Err(format!("SPI {} is in use", record.spi));
                }
                let watched = match self.faults.planted {
                    Some(Planted::TakesReplays) => {
                        let blind = SaRecord { replay_window: 0, ..record.clone() };
                        Arc::new(LiveSa::new(&blind))
                    }
                    _ => Arc::clone(&live),
                };
                let sa = InboundSa::new(record, watched, &self.engines)
                    .map_err(|error| error.to_string())?;
                self.by_spi.insert(record.spi, record.id);
                Half::Inbound { sa, heard: None, opened: 0 }
            }
            Direction::Outbound => {
                let mut iv_seed = [0; 16];
                self.random.fill(&mut iv_seed);
                let options = OutboundOptions::new(iv_seed);
                let sa = OutboundSa::new(record, Arc::clone(&live), &self.engines, &options)
                    .map_err(|error| error.to_string())?;
                Half::Outbound { sa, sealed: 0 }
            }
        };
        self.plant(record);
        self.sas.insert(record.id, Sa { record: record.clone(), live, half });
        Ok(())
    }

    fn plant(&mut self, record: &SaRecord) {
        match self.faults.planted {
            Some(Planted::ActivatesEarly) if record.direction == Direction::Outbound => {
                self.active.insert(record.child, record.id);
            }
            Some(Planted::BreaksBeforeMake) => {
                let same = |sa: &&Sa| {
                    sa.record.child == record.child && sa.record.direction == record.direction
                };
                let older: Vec<SaId> =
                    self.sas.values().filter(same).map(|sa| sa.record.id).collect();
                older.into_iter().for_each(|sa| self.remove(sa));
            }
            _ => {}
        }
    }

    fn remove(&mut self, id: SaId) {
        if self.faults.planted == Some(Planted::KeepsRemoved) {
            return;
        }
        if let Some(sa) = self.sas.remove(&id) {
            self.live.remove(id);
            if sa.record.direction == Direction::Inbound {
                self.by_spi.remove(&sa.record.spi);
            }
            self.active.retain(|_, active| *active != id);
        }
    }

    /// SAs that are installed.
    #[must_use]
    pub fn installed(&self) -> Vec<SaId> {
        self.sas.keys().copied().collect()
    }

    /// The SPIs of a child: of its inbound SAs, and of its active outbound SA.
    #[must_use]
    pub fn spis(&self, child: ChildId) -> (Vec<EspSpi>, Option<EspSpi>) {
        let inbound = self
            .sas
            .values()
            .filter(|sa| sa.record.child == child && sa.record.direction == Direction::Inbound)
            .map(|sa| sa.record.spi)
            .collect();
        let outbound = self.active.get(&child).and_then(|id| self.sas.get(id));
        (inbound, outbound.map(|sa| sa.record.spi))
    }

    /// Whether it was ever told what to protect.
    #[must_use]
    pub const fn has_policies(&self) -> bool {
        self.has_policies
    }

    /// Loses an SA, as a device that is reset does; gives what it was.
    pub fn lose(&mut self, now: Instant, id: SaId) -> Option<SaRecord> {
        let lost = self.sas.get(&id).map(|sa| (sa.record.clone(), sa.live.sequence.next()));
        let (record, next_sequence) = lost.unzip();
        self.remove(id);
        self.tell(
            now,
            Notice::Lost { sa: id, next_sequence, reason: "the device was reset".into() },
        );
        record
    }

    /// Stops being unreliable.
    pub fn heal(&mut self) {
        let capacity = self.faults.capacity;
        let planted = self.faults.planted;
        self.faults = Faults { capacity, planted, ..Faults::none() };
    }

    /// A clear packet that should leave.
    pub fn send(&mut self, now: Instant, inner: &[u8]) -> Sent {
        self.advance(now);
        let Some((source, destination)) = packet::addresses(inner) else { return Sent::NotCovered };
        let wanted = self.policies.policies.iter().find(|policy| {
            let one = |set: &[sa_store::TrafficSelector], address: IpAddr| {
                set.iter().any(|selector| selector.contains_address(address))
            };
            one(&policy.local, source) && one(&policy.remote, destination)
        });
        let child = match wanted.map(|policy| &policy.action) {
            Some(PolicyAction::Protect { child, .. }) => *child,
            Some(PolicyAction::Discard) => return Sent::Blocked,
            Some(PolicyAction::Bypass) | None => return Sent::NotCovered,
        };
        let Some(id) = self.active.get(&child).copied() else {
            if self.faults.planted == Some(Planted::LeaksClear) {
                return Sent::NotCovered;
            }
            self.acquire(now, child, source, destination);
            return Sent::Blocked;
        };
        let planted = self.faults.planted;
        let Some(Sa { record, live, half: Half::Outbound { sa, sealed } }) = self.sas.get_mut(&id)
        else {
            return Sent::Blocked;
        };
        *sealed += 1;
        assert!(planted != Some(Planted::Panics(*sealed)), "a planted panic");
        if planted == Some(Planted::RestartsSequence(*sealed)) {
            *live = Arc::new(LiveSa::new(record));
            let options = OutboundOptions::new([0; 16]);
            if let Ok(fresh) = OutboundSa::new(record, Arc::clone(live), &self.engines, &options) {
                *sa = fresh;
            }
        }
        let mut slot = vec![0; sa.sealed_len(inner.len())];
        let source = SealSource::Parts { head: inner, body: &[] };
        let mut packets = [SealPacket::new(sa, source, &mut slot)];
        seal_burst(&mut packets);
        let [packet] = packets;
        let sent = match packet.outcome() {
            Ok(_) => Sent::Sealed {
                source: record.local,
                destination: record.remote,
                udp: record.encapsulation == Encapsulation::Udp,
                esp: packet.sealed().unwrap_or_default().to_vec(),
            },
            Err(reason) => Sent::Dropped(reason),
        };
        self.limits(now, id);
        sent
    }

    fn acquire(&mut self, now: Instant, child: ChildId, source: IpAddr, destination: IpAddr) {
        let due = self.acquired.get(&child).is_none_or(|at| now.since(*at) >= NOTICE_PAUSE);
        if due {
            self.acquired.insert(child, now);
            let (source, destination) = ((source, 0), (destination, 0));
            self.tell(now, Notice::Acquire { child, source, destination, protocol: 17 });
        }
    }

    /// Tells of limits that were reached.
    fn limits(&mut self, now: Instant, id: SaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        let (soft, hard) = (sa.live.take_soft_event(), sa.live.take_hard_event());
        if soft.is_some() {
            self.push(now, Notice::SoftExpired(id));
        }
        if let Some(limit) = hard {
            self.push(now, Notice::HardExpired { sa: id, reason: limit.to_string() });
        }
        if soft.is_some() || hard.is_some() {
            self.wake();
        }
    }

    /// An ESP packet that arrived from `remote`.
    pub fn receive(&mut self, now: Instant, remote: SocketAddr, esp: &[u8]) -> Verdict {
        self.advance(now);
        let id = esp::peek_spi(esp).and_then(|spi| self.by_spi.get(&spi)).copied();
        let Some(id) = id else { return Verdict::UnknownSpi };
        let Some(Sa { record, half: Half::Inbound { sa, heard, opened }, .. }) =
            self.sas.get_mut(&id)
        else {
            return Verdict::UnknownSpi;
        };
        let mut octets = esp.to_vec();
        let mut packets = [OpenPacket::new(sa, &mut octets, None)];
        open_burst(&mut packets);
        let [mut packet] = packets;
        let newest = packet.authenticated().is_some_and(|authenticated| authenticated.newest);
        let verdict = match packet.outcome() {
            OpenOutcome::Inner(_) => {
                Verdict::Inner(packet.inner().map(|inner| inner.to_vec()).unwrap_or_default())
            }
            OpenOutcome::Dummy => Verdict::Inner(Vec::new()),
            OpenOutcome::Dropped(reason) => Verdict::Dropped(reason),
        };
        *opened += 1;
        let verdict = match self.faults.planted {
            Some(Planted::Loses(one_in)) if opened.is_multiple_of(one_in) => {
                Verdict::Dropped(DropReason::Malformed)
            }
            _ => verdict,
        };
        let mut notices = Vec::new();
        if matches!(verdict, Verdict::Inner(_)) {
            match heard {
                None => notices.push(Notice::FirstInbound(id)),
                Some(at) if now.since(*at) >= NOTICE_PAUSE => {
                    notices.push(Notice::LastInbound { sa: id, at: now });
                }
                Some(_) => {}
            }
            if !notices.is_empty() {
                *heard = Some(now);
            }
        }
        let moved = record.encapsulation == Encapsulation::Udp && record.remote != remote;
        if newest && moved {
            notices.push(Notice::MappingChanged { sa: id, remote });
        }
        for notice in notices {
            self.tell(now, notice);
        }
        self.limits(now, id);
        verdict
    }
}

impl Sa {
    fn counters(&self) -> SaCounters {
        let counters = self.live.counters();
        SaCounters {
            sa: self.record.id,
            packets: counters.packets,
            bytes: counters.bytes,
            sequence: match self.record.direction {
                Direction::Inbound => self.live.replay.highest(),
                Direction::Outbound => self.live.sequence.next(),
            },
            dropped: DropCounters {
                replay: counters.dropped(DropReason::Replay),
                auth: counters.dropped(DropReason::Auth),
                policy: counters.dropped(DropReason::Policy),
                malformed: counters.dropped(DropReason::Malformed),
                expired: counters.dropped(DropReason::Expired),
            },
        }
    }
}

fn unknown(sa: SaId) -> String {
    format!("there is no SA {sa}")
}
