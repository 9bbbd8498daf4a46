//! The order in which policies count.
//!
//! ```text
//!   protect A: 10.2.0.0/16, bypass 10.2.9.0/24      protect B: 10.2.8.0/23
//!
//!   B: 10.2.8.0/23            more specific than A, so it stands first anyway
//!   ...                       what others protect of A's bypass
//!   bypass: 10.2.9.0/24       the rest of it is clear
//!   A: 10.2.0.0/16
//! ```
//!
//! A bypass takes packets out of the protection of its own child. It says nothing about other
//! children: what another one protects of these packets stands in front of the bypass.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Rank, SpdAction, SpdEntry, by_width};
use crate::{ChildId, TrafficSelector};

/// Policies at most that stand in front of bypasses because of other children. Only networks and
/// bypasses of many children that all overlap each other need more; their packets stay protected.
const PIECES: usize = 100_000;

/// So many children, one behind the other, may all leave a packet clear before it counts as
/// protected.
const DEPTH: usize = 32;

/// Puts policies into the order in which the first that matches decides.
pub(super) fn in_order(entries: Vec<SpdEntry>) -> Vec<SpdEntry> {
    let mut protects = Vec::new();
    let mut bypasses = BTreeMap::<ChildId, Vec<SpdEntry>>::new();
    for entry in entries {
        match entry.action {
            SpdAction::Bypass { child } => bypasses.entry(child).or_default().push(entry),
            SpdAction::Protect { .. } => {
                for (remote, remotes) in by_width(&entry.remote) {
                    for (local, locals) in by_width(&entry.local) {
                        let part = SpdEntry { local: locals, remote: remotes.clone(), ..entry };
                        protects.push((Rank { remote, local }, part));
                    }
                }
            }
        }
    }
    protects.sort_by_key(|(rank, _)| *rank);
    let protects: Vec<SpdEntry> = protects.into_iter().map(|(_, entry)| entry).collect();
    if bypasses.is_empty() {
        return protects;
    }
    let bounds = protects.iter().map(Bounds::of).collect();
    let mut order = Order { protects, bounds, bypasses, room: PIECES, done: Vec::new() };
    order.walk(0, None, &mut Vec::new());
    order.done
}

struct Order {
    /// Specific ones first.
    protects: Vec<SpdEntry>,
    /// Of `protects`.
    bounds: Vec<Bounds>,
    bypasses: BTreeMap<ChildId, Vec<SpdEntry>>,
    /// Pieces that may still be made.
    room: usize,
    done: Vec<SpdEntry>,
}

impl Order {
    /// Puts the protects from number `from` in order; of `region` only, if there is one. The
    /// children of `clear` have left it. Whether there was room for all of it.
    fn walk(&mut self, from: usize, region: Option<&SpdEntry>, clear: &mut Vec<ChildId>) -> bool {
        let known = clear.len();
        let bounds = region.map(Bounds::of);
        for index in from..self.protects.len() {
            let far = match (bounds, self.bounds.get(index)) {
                (Some(bounds), Some(other)) => !bounds.meet(*other),
                _ => false,
            };
            let Some(protect) = self.protects.get(index).filter(|_| !far) else { continue };
            let SpdAction::Protect { child, .. } = protect.action else { continue };
            if clear.contains(&child) {
                continue;
            }
            let part = match region {
                Some(region) => common(protect, region),
                None => Some(protect.clone()),
            };
            let Some(part) = part else { continue };
            let bypasses = self.bypasses.get(&child).cloned().unwrap_or_default();
            if region.is_some_and(|region| bypasses.iter().any(|bypass| covers(bypass, region))) {
                clear.push(child);
                continue;
            }
            for bypass in &bypasses {
                let Some(open) = common(bypass, &part).filter(|_| clear.len() < DEPTH) else {
                    continue;
                };
                let before = self.done.len();
                clear.push(child);
                let whole = self.walk(index + 1, Some(&open), clear);
                clear.pop();
                if whole {
                    self.done.push(open);
                } else {
                    self.done.truncate(before);
                }
            }
            if region.is_some() {
                let Some(left) = self.room.checked_sub(1) else {
                    clear.truncate(known);
                    return false;
                };
                self.room = left;
            }
            self.done.push(part);
        }
        clear.truncate(known);
        true
    }
}

/// What two policies have in common, with the action of the first.
fn common(one: &SpdEntry, other: &SpdEntry) -> Option<SpdEntry> {
    let meet = |ours: &[TrafficSelector], theirs: &[TrafficSelector]| -> Vec<TrafficSelector> {
        ours.iter().flat_map(|a| theirs.iter().filter_map(|b| a.intersect(b))).collect()
    };
    if one.domain != other.domain {
        return None;
    }
    let remote = meet(&one.remote, &other.remote);
    let local = if remote.is_empty() { Vec::new() } else { meet(&one.local, &other.local) };
    let empty = local.is_empty() || remote.is_empty();
    (!empty).then_some(SpdEntry { local, remote, ..*one })
}

/// Whether every selector of `inner` lies in one of `outer`.
fn covers(outer: &SpdEntry, inner: &SpdEntry) -> bool {
    let side = |outer: &[TrafficSelector], inner: &[TrafficSelector]| {
        inner.iter().all(|i| outer.iter().any(|o| o.covers(i)))
    };
    outer.domain == inner.domain
        && side(&outer.local, &inner.local)
        && side(&outer.remote, &inner.remote)
}

/// The first and the last address of both sides of a policy, per family: tells most pairs apart
/// quickly.
#[derive(Clone, Copy)]
struct Bounds([Option<[(IpAddr, IpAddr); 2]>; 2]);

impl Bounds {
    fn of(entry: &SpdEntry) -> Self {
        let side = |selectors: &[TrafficSelector], v4: bool| {
            let here = || selectors.iter().filter(|selector| selector.is_ipv4() == v4);
            let first = here().map(TrafficSelector::start).min()?;
            Some((first, here().map(TrafficSelector::end).max()?))
        };
        let family = |v4: bool| Some([side(&entry.local, v4)?, side(&entry.remote, v4)?]);
        Self([family(true), family(false)])
    }

    fn meet(self, other: Self) -> bool {
        let overlap = |(ours, theirs): ((IpAddr, IpAddr), (IpAddr, IpAddr))| {
            ours.0 <= theirs.1 && theirs.0 <= ours.1
        };
        let families = self.0.into_iter().zip(other.0);
        families
            .filter_map(|(ours, theirs)| ours.zip(theirs))
            .any(|(ours, theirs)| ours.into_iter().zip(theirs).all(overlap))
    }
}
