//! What is installed, as the control thread keeps it.

use std::{collections::BTreeMap, sync::Arc};

use hw_offload::PolicySet;
use sa_store::{ChildId, SaId, live::LiveSa};

use crate::{
    policy::PolicyIndex,
    tables::{Inbound, Outbound, Tables},
};

/// An SA as workers get it.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// Inbound.
    In(Arc<Inbound>),
    /// Outbound.
    Out(Arc<Outbound>),
}

/// An installed SA.
#[derive(Clone, Debug)]
pub(super) struct Installed {
    pub id: SaId,
    pub child: ChildId,
    pub entry: Entry,
    pub live: Arc<LiveSa>,
    /// When the data plane stops it by itself, in nanoseconds of its clock.
    pub expires: Option<u64>,
}

/// How to take back one step of a batch.
#[derive(Debug)]
pub(super) enum Undo {
    /// These were the policies; see [`Model::set`].
    Policies(Option<PolicySet>),
    /// This was the SA, if there was one.
    Sa(SaId, Option<Box<Installed>>),
    /// This was the child's outbound SA, if there was one.
    Active(ChildId, Option<SaId>),
}

impl Undo {
    /// The SA a step was about.
    pub(super) const fn sa(&self) -> Option<SaId> {
        match self {
            Self::Sa(id, _) => Some(*id),
            Self::Policies(_) | Self::Active(..) => None,
        }
    }
}

/// Everything.
#[derive(Default)]
pub(super) struct Model {
    /// The policies; `None` before the first ones. What stands in the system is then what the
    /// process before left behind, and not ours to take away.
    pub set: Option<PolicySet>,
    pub policies: Arc<PolicyIndex>,
    pub sas: BTreeMap<SaId, Installed>,
    pub active: BTreeMap<ChildId, SaId>,
    /// Inbound SAs by SPI.
    pub inbound: BTreeMap<u32, SaId>,
}

impl Model {
    /// An SA that must be there.
    pub(super) fn sa(&self, id: SaId) -> Result<&Installed, String> {
        self.sas.get(&id).ok_or_else(|| format!("the inline data plane holds no SA {id}"))
    }

    /// Sets or removes an SA.
    pub(super) fn put(&mut self, id: SaId, installed: Option<Installed>) {
        let spi = |installed: &Installed| match &installed.entry {
            Entry::In(inbound) => Some(inbound.sa.spi().get()),
            Entry::Out(_) => None,
        };
        if let Some(spi) = self.sas.remove(&id).as_ref().and_then(spi) {
            self.inbound.remove(&spi);
        }
        if let Some(installed) = installed {
            if let Some(spi) = spi(&installed) {
                self.inbound.insert(spi, id);
            }
            self.sas.insert(id, installed);
        }
    }

    /// Sets or removes the outbound SA of a child.
    pub(super) fn activate(&mut self, child: ChildId, id: Option<SaId>) {
        match id {
            Some(id) => self.active.insert(child, id),
            None => self.active.remove(&child),
        };
    }

    /// The tables workers are to see.
    pub(super) fn tables(&self) -> Tables {
        let active = self
            .active
            .iter()
            .filter_map(|(child, id)| match &self.sas.get(id)?.entry {
                Entry::Out(outbound) => Some((*child, Arc::clone(outbound))),
                Entry::In(_) => None,
            })
            .collect();
        let inbound = self
            .sas
            .values()
            .filter_map(|installed| match &installed.entry {
                Entry::In(inbound) => Some((inbound.sa.spi().get(), Arc::clone(inbound))),
                Entry::Out(_) => None,
            })
            .collect();
        Tables { policies: Arc::clone(&self.policies), active, inbound }
    }
}
