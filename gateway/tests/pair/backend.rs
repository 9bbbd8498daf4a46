//! A place without packets: it remembers what it was told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use hw_offload::{Backend, Busy, Capabilities, Notice, Operation, PolicySet, Ticket, Waker};
use sa_store::{ChildId, EspCipher, EspSuite, Instant, Path, SaId, SaRecord, live::LiveTable};

#[derive(Default)]
pub(crate) struct State {
    pub(crate) sas: BTreeMap<SaId, SaRecord>,
    pub(crate) active: BTreeMap<ChildId, SaId>,
    pub(crate) policies: PolicySet,
    /// How often policies were set.
    pub(crate) policies_set: u32,
    pub(crate) notices: VecDeque<Notice>,
    pub(crate) refuse_installs: bool,
    pub(crate) refuse_policies: bool,
    /// Refuses this many removals.
    pub(crate) refuse_removals: u32,
    pub(crate) busy: bool,
    pub(crate) flushed: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Memory {
    pub(crate) live: Arc<LiveTable>,
    state: Arc<Mutex<State>>,
}

impl Memory {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Traffic of the pairs that are installed: `packets` of 100 octets each way.
    pub(crate) fn traffic(&self, packets: u64) {
        let mut state = self.state();
        let State { sas, active, notices, .. } = &mut *state;
        for (id, record) in sas {
            let inbound = record.direction == sa_store::Direction::Inbound;
            if inbound || active.values().any(|active| active == id) {
                self.live.get(*id).unwrap().charge(packets, packets * 100).unwrap();
            }
            if inbound {
                notices.push_back(Notice::FirstInbound(*id));
            }
        }
    }

    fn run(&self, operation: &Operation) -> Result<(), String> {
        let mut state = self.state();
        match operation {
            Operation::SetPolicies(_) if state.refuse_policies => return Err("no room".into()),
            Operation::SetPolicies(policies) => {
                state.policies = policies.clone();
                state.policies_set += 1;
            }
            Operation::Install(_) if state.refuse_installs => return Err("table full".into()),
            Operation::Install(record) => {
                self.live.insert(record);
                state.sas.insert(record.id, SaRecord::clone(record));
            }
            Operation::Activate(sa) => {
                let child = state.sas.get(sa).ok_or("unknown SA")?.child;
                state.active.insert(child, *sa);
            }
            Operation::UpdateAddresses { sa, local, remote } => {
                let record = state.sas.get_mut(sa).ok_or("unknown SA")?;
                (record.local, record.remote) = (*local, *remote);
            }
            Operation::Remove(_) if state.refuse_removals > 0 => {
                state.refuse_removals -= 1;
                return Err("the device hangs".into());
            }
            Operation::Remove(sa) => {
                if let Some(record) = state.sas.remove(sa)
                    && state.active.get(&record.child) == Some(sa)
                {
                    state.active.remove(&record.child);
                }
                self.live.remove(*sa);
            }
            Operation::Query(_) => {}
            Operation::Flush => {
                state.sas.clear();
                state.active.clear();
                state.flushed = true;
            }
        }
        Ok(())
    }
}

impl Backend for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            path: Path::Inline,
            max_sas: 10_000,
            used_sas: self.state().sas.len() as u64,
            suites: vec![EspSuite::new(EspCipher::AesGcm16(256), None).unwrap()],
            esn: true,
            udp_encapsulation: true,
            raw_esp: true,
            transport_mode: false,
            max_replay_window: 4096,
        }
    }

    fn submit(&mut self, ticket: Ticket, batch: Vec<Operation>) -> Result<(), Busy> {
        if std::mem::take(&mut self.state().busy) {
            return Err(Busy(batch));
        }
        for (operation, what) in batch.iter().enumerate() {
            if let Err(reason) = self.run(what) {
                for undo in &batch {
                    if let Operation::Install(record) = undo {
                        self.state().sas.remove(&record.id);
                    }
                }
                self.state().notices.push_back(Notice::Refused { ticket, operation, reason });
                return Ok(());
            }
        }
        self.state().notices.push_back(Notice::Done(ticket));
        Ok(())
    }

    fn poll(&mut self, _now: Instant) -> Option<Notice> {
        self.state().notices.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn set_waker(&mut self, _waker: Waker) {}
}
