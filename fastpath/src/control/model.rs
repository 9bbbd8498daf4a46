//! What is installed, as the control thread keeps it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use hw_offload::PolicySet;
use sa_store::{ChildId, Encapsulation, SaId, live::LiveSa};

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
    /// Outbound SAs by what their packets show on the wire.
    pub outbound: BTreeMap<OnTheWire, SaId>,
}

/// The SPI of an outbound SA and where its packets go; no port without UDP.
pub(super) type OnTheWire = (u32, SocketAddr);

/// As [`Model::outbound`] has it.
pub(super) fn on_the_wire(outbound: &Outbound) -> OnTheWire {
    let mut to = SocketAddr::new(outbound.remote.ip(), 0);
    if outbound.encapsulation() == Encapsulation::Udp {
        to.set_port(outbound.remote.port());
    }
    (outbound.sa.spi().get(), to)
}

impl Model {
    /// An SA that must be there.
    pub(super) fn sa(&self, id: SaId) -> Result<&Installed, String> {
        self.sas.get(&id).ok_or_else(|| format!("the inline data plane holds no SA {id}"))
    }

    /// Sets or removes an SA.
    pub(super) fn put(&mut self, id: SaId, installed: Option<Installed>) {
        match self.sas.remove(&id).map(|installed| installed.entry) {
            Some(Entry::In(inbound)) => {
                self.inbound.remove(&inbound.sa.spi().get());
            }
            Some(Entry::Out(outbound)) => {
                let place = on_the_wire(&outbound);
                // Peers choose these numbers: another SA may have come to have the same.
                if self.outbound.get(&place) == Some(&id) {
                    self.outbound.remove(&place);
                }
            }
            None => {}
        }
        if let Some(installed) = installed {
            match &installed.entry {
                Entry::In(inbound) => self.inbound.insert(inbound.sa.spi().get(), id),
                Entry::Out(outbound) => self.outbound.insert(on_the_wire(outbound), id),
            };
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
