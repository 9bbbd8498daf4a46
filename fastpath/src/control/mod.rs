//! The control thread: applies batches, publishes tables, watches the system and the SAs.

mod model;
mod path_mtu;
mod retired;
mod system;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
};

use crypto::random::{OsRandom, RandomSource};
use esp::{InboundSa, OutboundOptions, OutboundSa};
use hw_offload::{Capabilities, DropCounters, Notice, Operation, SaCounters, Ticket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sa_store::{
    Direction, SaId, SaRecord,
    live::{DropReason, LimitReached, LiveSa, LiveTable},
};

use self::{
    model::{Entry, Installed, Model, Undo},
    path_mtu::PathMtu,
    retired::Retired,
};
use crate::{
    backend::{Batch, Outbox, Told},
    config::InlineConfig,
    steer::{Changes, LocalAddress, Steering, Watch},
    tables::{Event, Inbound, Outbound, Seen},
    worker::Shared,
};

/// How often SAs are looked at for lifetimes and for what was heard.
const TICK: u64 = 1_000_000_000;
/// How often path MTUs are asked for anew, since a path may have grown, and the system is looked
/// at for what stands in the way.
const MTU_AGE: u64 = 30 * TICK;
/// How long the workers' use of old tables is waited for before other things get their turn.
const GRACE: u64 = TICK / 100;
/// How often it is looked whether the workers still use them after that.
const LOOK_AGAIN: u64 = TICK / 200;
/// Batches applied before tables are published.
const AT_ONCE: usize = 256;

/// State of the control thread.
pub(crate) struct Control {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    live: Arc<LiveTable>,
    steering: Steering,
    config: InlineConfig,
    capabilities: Capabilities,
    model: Model,
    /// Tables that were replaced, and what is told when no worker uses them any more.
    retired: Retired,
    addresses: Vec<LocalAddress>,
    /// Interfaces that lead to peers: their networks are not left clear.
    outer: BTreeSet<u32>,
    watch: Option<Watch>,
    /// When to put everything into the system that may not be there.
    settle_at: Option<u64>,
    next_tick: u64,
    next_mtu: u64,
    /// What the operator was warned of at the last look.
    warned: Vec<String>,
}

impl Control {
    pub(crate) fn new(
        shared: Arc<Shared>,
        outbox: Arc<Outbox>,
        live: Arc<LiveTable>,
        steering: Steering,
        config: InlineConfig,
        capabilities: Capabilities,
    ) -> Self {
        // Before anything is looked at, so that no change is missed.
        let watch = steering
            .watch()
            .inspect_err(|error| {
                tracing::warn!(%error, "changes of addresses and routes will not be noticed");
            })
            .ok();
        Self {
            shared,
            outbox,
            live,
            steering,
            config,
            capabilities,
            model: Model::default(),
            retired: Retired::default(),
            addresses: Vec::new(),
            outer: BTreeSet::new(),
            // Nothing is known about the system yet.
            settle_at: Some(0),
            watch,
            next_tick: 0,
            next_mtu: 0,
            warned: Vec::new(),
        }
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self, commands: &Receiver<Batch>, events: &Receiver<Event>) {
        self.report_warnings();
        while !self.outbox.stop.load(Ordering::Acquire) {
            let changes = self.wait();
            self.shared.control.clear();
            self.follow(changes);
            self.batches(commands);
            self.events(events);
            self.look_after();
            self.tell_what_is_gone();
        }
    }

    /// Waits for something to do; what others changed in the system.
    fn wait(&self) -> Changes {
        let mut fds = vec![PollFd::new(self.shared.control.fd(), PollFlags::IN)];
        fds.extend(
            self.watch.iter().flat_map(|w| w.fds()).map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        let until = |at: u64| at.saturating_sub(self.shared.now());
        let tick = (!self.model.sas.is_empty()).then(|| until(self.next_tick));
        let settle = self.settle_at.map(until);
        let look_again = (!self.retired.is_empty()).then_some(LOOK_AGAIN);
        let timeout =
            [tick, settle, look_again].into_iter().flatten().min().map(|nanos| Timespec {
                tv_sec: i64::try_from(nanos / TICK).unwrap_or(1),
                tv_nsec: i64::try_from(nanos % TICK).unwrap_or(0),
            });
        // An interrupted wait only looks around once more.
        let _ = poll(&mut fds, timeout.as_ref());
        let changed = fds.iter().skip(1).any(|fd| !fd.revents().is_empty());
        match &self.watch {
            Some(watch) if changed => watch.take(),
            _ => Changes::default(),
        }
    }

    /// Applies what was submitted and answers once the workers see it.
    fn batches(&mut self, commands: &Receiver<Batch>) {
        loop {
            let mut told = Vec::new();
            let mut count = 0;
            for (ticket, batch) in commands.try_iter().take(AT_ONCE) {
                count += 1;
                self.batch(ticket, batch, &mut told);
            }
            if count == 0 {
                return;
            }
            self.publish(told);
        }
    }

    fn batch(&mut self, ticket: Ticket, batch: Vec<Operation>, told: &mut Vec<Notice>) {
        let mut undo = Vec::new();
        let mut said = Vec::new();
        let mut refused = None;
        for (number, operation) in batch.into_iter().enumerate() {
            if let Err(reason) = self.operation(operation, &mut undo, &mut said) {
                refused = Some(Notice::Refused { ticket, operation: number, reason });
                break;
            }
        }
        let touched: Vec<SaId> = undo.iter().filter_map(Undo::sa).collect();
        if refused.is_some() {
            while let Some(step) = undo.pop() {
                self.undo(step);
            }
        } else {
            told.append(&mut said);
        }
        for id in touched {
            if !self.model.sas.contains_key(&id) {
                self.live.remove(id);
            }
        }
        told.push(refused.unwrap_or(Notice::Done(ticket)));
    }

    fn undo(&mut self, step: Undo) {
        match step {
            Undo::Policies(before) => self.undo_policies(before),
            Undo::Sa(id, before) => self.model.put(id, before.map(|installed| *installed)),
            Undo::Active(child, before) => self.model.activate(child, before),
        }
    }

    fn operation(
        &mut self,
        operation: Operation,
        undo: &mut Vec<Undo>,
        said: &mut Vec<Notice>,
    ) -> Result<(), String> {
        match operation {
            Operation::SetPolicies(set) => {
                undo.push(Undo::Policies(self.model.set.clone()));
                self.set_policies(set)?;
            }
            Operation::Install(record) => {
                let installed = self.install(&record)?;
                undo.push(Undo::Sa(installed.id, None));
                self.model.put(installed.id, Some(installed));
            }
            Operation::Activate(id) => {
                let installed = self.model.sa(id)?;
                if !matches!(installed.entry, Entry::Out(_)) {
                    return Err(format!("SA {id} is inbound and cannot be activated"));
                }
                let child = installed.child;
                undo.push(Undo::Active(child, self.model.active.get(&child).copied()));
                self.model.activate(child, Some(id));
            }
            Operation::UpdateAddresses { sa, local, remote } => {
                let before = self.model.sa(sa)?.clone();
                let entry = self.moved(&before, local, remote)?;
                undo.push(Undo::Sa(sa, Some(Box::new(before.clone()))));
                self.model.put(sa, Some(Installed { entry, ..before }));
            }
            Operation::Remove(id) => self.remove(id, undo),
            Operation::Query(id) => {
                said.push(Notice::Counters(counters(&self.model.sa(id)?.live)));
            }
            Operation::Flush => {
                let all: Vec<SaId> = self.model.sas.keys().copied().collect();
                for id in all {
                    self.remove(id, undo);
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, id: SaId, undo: &mut Vec<Undo>) {
        let Some(installed) = self.model.sas.get(&id).cloned() else { return };
        let child = installed.child;
        if self.model.active.get(&child) == Some(&id) {
            undo.push(Undo::Active(child, Some(id)));
            self.model.activate(child, None);
        }
        undo.push(Undo::Sa(id, Some(Box::new(installed))));
        self.model.put(id, None);
    }

    fn install(&self, record: &SaRecord) -> Result<Installed, String> {
        let used_sas = self.model.sas.len() as u64;
        Capabilities { used_sas, ..self.capabilities.clone() }.can_run(record)?;
        if self.model.sas.contains_key(&record.id) {
            return Err(format!("SA {} is installed already", record.id));
        }
        if record.interface_id != 0 {
            return Err("inline has no interfaces of children yet".to_owned());
        }
        if record.direction == Direction::Inbound
            && self.model.inbound.contains_key(&record.spi.get())
        {
            return Err(format!("the SPI {} is in use by another inbound SA", record.spi));
        }
        let live = self.live.insert(record);
        let entry = self.entry(record, Arc::clone(&live)).inspect_err(|_| {
            self.live.remove(record.id);
        })?;
        Ok(Installed {
            id: record.id,
            child: record.child,
            entry,
            live,
            expires: record.lifetime.hard.time.map(|hard| {
                let span =
                    u64::try_from((hard + self.config.dead_man).as_nanos()).unwrap_or(u64::MAX);
                self.shared.now().saturating_add(span)
            }),
        })
    }

    fn entry(&self, record: &SaRecord, live: Arc<LiveSa>) -> Result<Entry, String> {
        let engines = &self.config.engines;
        match record.direction {
            Direction::Inbound => {
                let sa =
                    InboundSa::new(record, live, engines).map_err(|error| error.to_string())?;
                Ok(Entry::In(Arc::new(Inbound {
                    id: record.id,
                    child: record.child,
                    sa,
                    remote: record.remote,
                    encapsulation: record.encapsulation,
                    seen: Arc::new(Seen::default()),
                })))
            }
            Direction::Outbound => {
                let mut random = OsRandom::new().map_err(|error| error.to_string())?;
                // Made in place: the options wipe their seed.
                let mut options = OutboundOptions::new([0; 16]);
                random.fill(&mut options.iv_seed);
                let sa = OutboundSa::new(record, live, engines, &options)
                    .map_err(|error| error.to_string())?;
                let outbound = Outbound {
                    id: record.id,
                    sa,
                    local: record.local,
                    remote: record.remote,
                    path: Arc::default(),
                };
                self.measure(&outbound);
                Ok(Entry::Out(Arc::new(outbound)))
            }
        }
    }

    /// The entry of an SA whose addresses changed: same key, same numbers.
    fn moved(
        &self,
        before: &Installed,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Entry, String> {
        Ok(match &before.entry {
            Entry::In(old) => Entry::In(Arc::new(Inbound {
                id: old.id,
                child: old.child,
                sa: old.sa.clone(),
                remote,
                encapsulation: old.encapsulation,
                seen: Arc::clone(&old.seen),
            })),
            Entry::Out(old) => {
                let sa = old.sa.with_addresses(local, remote).map_err(|error| error.to_string())?;
                let path = Arc::clone(&old.path);
                let outbound = Outbound { id: old.id, sa, local, remote, path };
                self.measure(&outbound);
                Entry::Out(Arc::new(outbound))
            }
        })
    }

    /// Asks the kernel for the path MTU and tells the workers what fits the path and the TUN
    /// interface: TCP that agreed on more would depend on ICMP to learn of the latter.
    fn measure(&self, outbound: &Outbound) {
        let mark = self.config.steering.marks().bypass;
        let PathMtu { mtu, cut } = path_mtu::of(outbound.local.ip(), outbound.remote.ip(), mark);
        let interface = usize::try_from(self.config.mtu).unwrap_or(usize::MAX);
        let fits = outbound.sa.max_inner_len(mtu).min(interface);
        outbound.path.max_inner.store(fits, Ordering::Relaxed);
        outbound.path.cut.store(cut, Ordering::Relaxed);
    }

    /// Gives the workers new tables, and tells `told` when none of them uses the old ones: what was
    /// removed is really gone then.
    fn publish(&mut self, told: Vec<Notice>) {
        let tables = Arc::new(self.model.tables());
        self.retired.push(self.shared.tables.swap(tables), told);
        self.outbox.used.store(self.model.sas.len() as u64, Ordering::Release);
        // A worker holds tables for one burst, some microseconds when it is not kept from running.
        let until = self.shared.now() + GRACE;
        loop {
            self.tell_what_is_gone();
            if self.retired.is_empty() || self.shared.now() >= until {
                return;
            }
            std::thread::yield_now();
        }
    }

    fn tell_what_is_gone(&mut self) {
        let told = self.retired.take();
        if !told.is_empty() {
            self.outbox.tell(told.into_iter().map(Told::Notice));
        }
    }

    fn events(&mut self, events: &Receiver<Event>) {
        let told: Vec<Told> = events
            .try_iter()
            .filter_map(|event| {
                let notice = match event {
                    Event::Acquire { child, source, destination, protocol } => {
                        Notice::Acquire { child, source, destination, protocol }
                    }
                    Event::First(id) => Notice::FirstInbound(id),
                    Event::Moved(sa, remote) => Notice::MappingChanged { sa, remote },
                    Event::TooLong(id) => {
                        if let Some(Installed { entry: Entry::Out(outbound), .. }) =
                            self.model.sas.get(&id)
                        {
                            self.measure(outbound);
                        }
                        return None;
                    }
                };
                Some(Told::Notice(notice))
            })
            .collect();
        self.outbox.tell(told);
    }

    /// Lifetimes, and what was heard of peers.
    fn look_after(&mut self) {
        let now = self.shared.now();
        let tick = now >= self.next_tick;
        let attention = self.shared.stats.attention.swap(false, Ordering::AcqRel);
        if !tick && !attention {
            return;
        }
        let mut told = Vec::new();
        for installed in self.model.sas.values() {
            if tick && installed.expires.is_some_and(|expires| now >= expires) {
                installed.live.stop(LimitReached::Time);
            }
            if installed.live.take_soft_event().is_some() {
                told.push(Told::Notice(Notice::SoftExpired(installed.id)));
            }
            if let Some(limit) = installed.live.take_hard_event() {
                let reason = format!("the hard limit is reached: {limit}");
                told.push(Told::Notice(Notice::HardExpired { sa: installed.id, reason }));
            }
            if let Entry::In(inbound) = &installed.entry
                && tick
            {
                let last = inbound.seen.last.load(Ordering::Relaxed);
                if last != inbound.seen.told.swap(last, Ordering::Relaxed) {
                    told.push(Told::LastInbound(installed.id, last));
                }
            }
        }
        if tick {
            self.next_tick = now + TICK;
        }
        if now >= self.next_mtu {
            self.next_mtu = now + MTU_AGE;
            for installed in self.model.sas.values() {
                if let Entry::Out(outbound) = &installed.entry {
                    self.measure(outbound);
                }
            }
            self.report_warnings();
        }
        self.outbox.tell(told);
    }
}

fn counters(live: &LiveSa) -> SaCounters {
    let counters = live.counters();
    let sequence = match live.direction() {
        Direction::Outbound => live.sequence.next(),
        Direction::Inbound => live.replay.highest(),
    };
    let dropped = |reason| counters.dropped(reason);
    SaCounters {
        sa: live.id(),
        packets: counters.packets,
        bytes: counters.bytes,
        sequence,
        dropped: DropCounters {
            replay: dropped(DropReason::Replay),
            auth: dropped(DropReason::Auth),
            policy: dropped(DropReason::Policy),
            malformed: dropped(DropReason::Malformed),
            expired: dropped(DropReason::Expired),
        },
    }
}
