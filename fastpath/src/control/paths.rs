//! Keeps what the workers know of paths up to date.

use std::{net::IpAddr, sync::atomic::Ordering};

use sa_store::{Encapsulation, SaId};

use super::{
    Control, TICK,
    model::{Entry, Installed, Model},
    path_mtu::PathMtu,
};
use crate::{packet::too_big::TooBig, tables::Outbound};

/// Between two measurements of everything at least this many times as long as one takes: a router
/// may change thousands of routes a second.
const SHARE: u64 = 20;

impl Control {
    /// Finds out what fits the path of an SA and tells the workers.
    pub(super) fn measure(&mut self, outbound: &Outbound) {
        tell_workers(outbound, self.paths.of(outbound), self.config.mtu);
    }

    /// Measures the paths of all SAs, each path once.
    pub(super) fn measure_all(&mut self) {
        let start = self.shared.now();
        self.paths.ask_again();
        self.measure_where(|_| true);
        let now = self.shared.now();
        self.measured = (now, now.saturating_sub(start));
    }

    fn measure_where(&mut self, wanted: impl Fn(&Outbound) -> bool) {
        for installed in self.model.sas.values() {
            if let Entry::Out(outbound) = &installed.entry
                && wanted(outbound)
            {
                tell_workers(outbound, self.paths.of(outbound), self.config.mtu);
            }
        }
    }

    /// The interface takes less than a packet of this SA.
    pub(super) fn too_long(&mut self, id: SaId) {
        if let Some(Entry::Out(outbound)) = self.model.sas.get(&id).map(|sa| sa.entry.clone()) {
            self.paths.ask_again();
            self.measure(&outbound);
        }
    }

    /// Measures soon, when routes or interfaces have changed.
    pub(super) fn path_changes(&mut self, changed: bool) {
        if changed {
            let (last, took) = self.measured;
            let soon = last + TICK.max(took.saturating_mul(SHARE));
            self.next_mtu = self.next_mtu.min(soon);
            // Now, unless it has just been done.
            self.shared.stats.attention.store(true, Ordering::Release);
        }
    }

    /// Hears routers that have less room for a packet of ours than its neighbour, and nobody else:
    /// they quote the packet.
    pub(super) fn path_errors(&mut self) {
        let mut news = Vec::new();
        if let Some(errors) = &self.path_errors {
            let now = self.shared.now();
            errors.take(|error| {
                if let Some(Entry::Out(outbound)) =
                    self.model.sent(&error).map(|installed| &installed.entry)
                    && self.paths.learn(outbound, error.mtu, now)
                {
                    news.push((outbound.local.ip(), outbound.remote.ip()));
                }
            });
        }
        if !news.is_empty() {
            let on = |outbound: &Outbound| -> (IpAddr, IpAddr) {
                (outbound.local.ip(), outbound.remote.ip())
            };
            self.measure_where(|outbound| news.contains(&on(outbound)));
        }
    }
}

/// Tells the workers what fits both the path and the TUN interface: TCP that agreed on more would
/// depend on ICMP to learn of the latter.
fn tell_workers(outbound: &Outbound, PathMtu { mtu, cut }: PathMtu, interface: u32) {
    let interface = usize::try_from(interface).unwrap_or(usize::MAX);
    let fits = outbound.sa.max_inner_len(mtu).min(interface);
    outbound.path.max_inner.store(fits, Ordering::Relaxed);
    outbound.path.cut.store(cut, Ordering::Relaxed);
}

impl Model {
    /// The SA that lately sent the packet that an error quotes.
    fn sent(&self, error: &TooBig) -> Option<&Installed> {
        let (from, to) = error.ports.unwrap_or((0, 0));
        let id = self.outbound.get(&(error.spi, (error.remote, to).into()))?;
        let installed = self.sas.get(id)?;
        let Entry::Out(outbound) = &installed.entry else { return None };
        let udp = outbound.encapsulation() == Encapsulation::Udp;
        let local = outbound.local;
        let ours = (local.ip().is_unspecified() || local.ip() == error.local)
            && udp == error.ports.is_some()
            && (!udp || local.port() == from);
        let next = installed.live.sequence.next();
        (ours && outbound.path.lately_sent(error.sequence, next)).then_some(installed)
    }
}
