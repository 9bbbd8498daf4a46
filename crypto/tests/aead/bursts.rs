//! Bursts of many SAs and engines, the choice of engines, the nonce auditor, CBC IVs.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Instant,
};

use crypto::aead::{
    Engines, IvGenerator, JobState, KeyId, NonceAudit, OpenJob, SealJob, Suffix, open_burst,
    seal_burst, split_keymat,
};
use sa_store::EspSuite;

use super::{engines, some_key, suites};

#[test]
fn a_burst_may_mix_suites_engines_and_vacant_places() {
    let keys: Vec<_> = suites()
        .into_iter()
        .flat_map(|suite| engines().map(|engine| some_key(engine, suite, 3)))
        .collect();
    let made = keys.iter().flatten().count();
    assert_eq!(made, 3 + 2 + 3 + 9, "AWS-LC does all, ring the AEADs, aes-gcm AES-GCM");
    let text: Vec<u8> = (0..48).collect();
    let mut records: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| {
            key.as_ref().map_or_else(Vec::new, |key| {
                let mut record = vec![9; key.iv_len()];
                record.extend(&text);
                record.resize(record.len() + key.icv_len(), 0);
                record
            })
        })
        .collect();

    let mut jobs: Vec<SealJob<'_>> = keys
        .iter()
        .zip(&mut records)
        .map(|(key, record)| match key {
            Some(key) => SealJob::new(key, [1; 12], Suffix::NONE, record),
            None => SealJob::vacant(),
        })
        .collect();
    seal_burst(&mut jobs);
    for (key, job) in keys.iter().zip(&jobs) {
        let expected = if key.is_some() { JobState::Done } else { JobState::Failed };
        assert_eq!(job.state(), expected);
    }
    drop(jobs);

    // Every third packet is damaged; the others must not care.
    for record in records.iter_mut().step_by(3).filter(|record| !record.is_empty()) {
        record[20] ^= 1;
    }
    let mut jobs: Vec<OpenJob<'_>> = keys
        .iter()
        .zip(&mut records)
        .map(|(key, record)| match key {
            Some(key) => OpenJob::new(key, [1; 12], Suffix::NONE, record),
            None => OpenJob::vacant(),
        })
        .collect();
    open_burst(&mut jobs);
    let states: Vec<JobState> = jobs.iter().map(OpenJob::state).collect();
    drop(jobs);
    for (i, ((key, record), state)) in keys.iter().zip(&records).zip(states).enumerate() {
        let good = key.is_some() && i % 3 != 0;
        assert_eq!(state == JobState::Done, good, "{i}");
        if let (Some(key), true) = (key, good) {
            assert_eq!(record[key.iv_len()..record.len() - key.icv_len()], text[..]);
        }
    }
}

#[test]
fn calibration_measures_every_aead_suite_and_takes_the_fastest() {
    let start = Instant::now();
    let mut clock = || u64::try_from(start.elapsed().as_nanos()).unwrap();
    let chosen = Engines::calibrated(&mut clock);
    assert_eq!(chosen.choices().len(), 3);
    for choice in chosen.choices() {
        let total = |nanos: [u64; 3]| nanos.iter().sum::<u64>();
        assert_eq!(choice.measurements().len(), 2, "{choice:?}");
        let best = choice.measurements().iter().map(|m| total(m.nanos)).min().unwrap();
        let taken =
            choice.measurements().iter().find(|m| m.engine == choice.engine().name()).unwrap();
        assert_eq!(total(taken.nanos), best, "{choice:?}");
        assert_eq!(chosen.engine(choice.suite()).name(), choice.engine().name());
    }
    // A clock that stands still must not break the choice.
    assert_eq!(Engines::calibrated(&mut || 0).choices().len(), 3);
}

#[test]
fn every_suite_has_an_engine_without_calibration() {
    for suite in suites() {
        let keymat: Vec<u8> = vec![7; suite.keymat_len()];
        let keys = split_keymat(suite, &keymat).unwrap();
        let key = Engines::portable().key(suite, &keys).unwrap();
        assert_eq!(key.suite(), suite);
        assert!(split_keymat(suite, &keymat[1..]).is_none());
        assert!(!format!("{key:?}").contains('7'), "{key:?}");
    }
}

#[derive(Default)]
struct Audited {
    pairs: BTreeSet<(KeyId, Vec<u8>)>,
    repeated: usize,
}

#[derive(Default)]
struct Auditor(Mutex<Audited>);

impl NonceAudit for Auditor {
    fn sealed(&self, id: &KeyId, iv: &[u8]) {
        let mut audited = self.0.lock().unwrap();
        if !audited.pairs.insert((*id, iv.to_vec())) {
            audited.repeated += 1;
        }
    }
}

#[test]
fn the_auditor_sees_a_nonce_that_is_used_twice_even_through_two_copies_of_a_key() {
    for suite in suites() {
        let auditor = Arc::new(Auditor::default());
        let engines = Engines::portable().with_audit(Arc::<Auditor>::clone(&auditor));
        let key = |fill: u8| {
            let keys = split_keymat(suite, &vec![fill; suite.keymat_len()]).unwrap();
            engines.key(suite, &keys).unwrap()
        };
        let (one, copy, other) = (key(1), key(1), key(2));
        let seal = |key: &crypto::aead::SuiteKey, iv: u8| {
            let mut record = vec![iv; key.iv_len() + 16 + key.icv_len()];
            key.seal(b"", &mut record).unwrap();
        };
        seal(&one, 1);
        seal(&one, 2);
        seal(&other, 1);
        assert_eq!(auditor.0.lock().unwrap().repeated, 0, "{suite}");
        seal(&copy, 2);
        assert_eq!(auditor.0.lock().unwrap().repeated, 1, "{suite}");
        assert_eq!(auditor.0.lock().unwrap().pairs.len(), 3);
    }
}

#[test]
fn cbc_ivs_never_repeat_and_depend_on_the_seed() {
    let generator = IvGenerator::new(&[1; 16]).unwrap();
    let ivs: BTreeSet<[u8; 16]> = (1..=10_000).map(|n| generator.iv(n).unwrap()).collect();
    assert_eq!(ivs.len(), 10_000);
    let other = IvGenerator::new(&[2; 16]).unwrap();
    assert!((1..=1000).all(|n| !ivs.contains(&other.iv(n).unwrap())));
    assert_eq!(generator.iv(1).unwrap(), IvGenerator::new(&[1; 16]).unwrap().iv(1).unwrap());
}

#[test]
fn suites_are_all_different() {
    let distinct: BTreeSet<EspSuite> = suites().into_iter().collect();
    assert_eq!(distinct.len(), 12);
}
