//! No (key, nonce) pair is used twice, whoever seals.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    thread,
};

use crypto::aead::{Engines, KeyId, NonceAudit};
use esp::{OutboundOptions, OutboundSa, SealPacket, SealSource, seal_burst};
use sa_store::{Direction, Esn, live::LiveSa};

use super::{ipv4, record, suites};

#[derive(Default)]
struct Auditor(Mutex<Vec<(KeyId, Vec<u8>)>>);

impl NonceAudit for Auditor {
    fn sealed(&self, id: &KeyId, iv: &[u8]) {
        self.0.lock().unwrap().push((*id, iv.to_vec()));
    }
}

/// How many pairs were used, and how many different ones.
fn audit(auditor: &Auditor) -> (usize, usize) {
    let pairs = auditor.0.lock().unwrap();
    (pairs.len(), pairs.iter().collect::<BTreeSet<_>>().len())
}

fn seal_some(sa: &OutboundSa, bursts: usize, size: usize) {
    let inner = ipv4(64, 0);
    let mut slots = vec![vec![0; sa.sealed_len(64)]; size];
    for _ in 0..bursts {
        let source = SealSource::Parts { head: &inner, body: &[] };
        let mut burst: Vec<_> =
            slots.iter_mut().map(|slot| SealPacket::new(sa, source, slot)).collect();
        seal_burst(&mut burst);
        assert!(burst.iter().all(|packet| packet.outcome().is_ok()));
    }
}

#[test]
fn workers_that_share_an_sa_never_share_a_nonce() {
    for suite in suites() {
        let auditor = Arc::new(Auditor::default());
        let engines = Engines::portable().with_audit(Arc::<Auditor>::clone(&auditor));
        let record = record(suite, Esn::Yes, Direction::Outbound);
        let live = Arc::new(LiveSa::new(&record));
        let sa = OutboundSa::new(&record, live, &engines, &OutboundOptions::new([7; 16])).unwrap();
        thread::scope(|scope| {
            for size in [1, 7, 32, 50] {
                let sa = sa.clone();
                scope.spawn(move || seal_some(&sa, 20, size));
            }
        });
        assert_eq!(audit(&auditor), (20 * 90, 20 * 90), "{suite}");
    }
}

/// What the auditor is for: an SA whose numbers start again is found out.
#[test]
fn an_sa_that_starts_again_is_caught() {
    for suite in suites() {
        let auditor = Arc::new(Auditor::default());
        let engines = Engines::portable().with_audit(Arc::<Auditor>::clone(&auditor));
        let record = record(suite, Esn::Yes, Direction::Outbound);
        for _ in 0..2 {
            let live = Arc::new(LiveSa::new(&record));
            let how = OutboundOptions::new([7; 16]);
            seal_some(&OutboundSa::new(&record, live, &engines, &how).unwrap(), 1, 5);
        }
        assert_eq!(audit(&auditor), (10, 5), "{suite}");
    }
}
