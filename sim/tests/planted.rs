//! Bugs planted in the device: every one of them must be found, in a world that is good without.

use std::time::Duration;

use sim::{Incident, Report, Scenario, device::Planted, run};

/// Runs worlds with a bug in A's device until one of them finds it.
fn find(bug: Planted, says: &str) {
    let with = |seed| {
        let mut scenario = Scenario::of(seed);
        scenario.faults[0].planted = Some(bug);
        run(scenario)
    };
    for seed in 1..=3 {
        let honest = run(Scenario::of(seed));
        assert!(honest.is_good(), "{honest}");
    }
    let reports: Vec<Report> = (1..=3).map(with).collect();
    let found = |report: &Report| report.violations.iter().any(|what| what.contains(says));
    assert!(reports.iter().any(found), "{bug:?} was not found:\n{}", reports[0]);
}

#[test]
fn nonces_that_repeat_are_found() {
    find(Planted::RestartsSequence(5), "was used twice with nonce");
}

#[test]
fn a_lost_packet_is_found() {
    find(Planted::Loses(400), "was lost: Dropped(Malformed)");
}

/// A device that loses SAs all the time excuses the packets of these SAs alone: what else is lost
/// is found at once, not when the losses are over.
#[test]
fn a_lost_packet_is_found_while_sas_are_lost() {
    let lossy = |seed, planted| {
        let lose = |n: u64| (Duration::from_secs(10 + 200 * n), Incident::LoseSa(n as usize % 2));
        let incidents = (0..18).map(lose).collect();
        let mut scenario = Scenario { incidents, ..Scenario::of(seed) };
        scenario.faults[0].planted = planted;
        (scenario.storm, run(scenario))
    };
    let mut found = false;
    for seed in 1..=3 {
        let (_, honest) = lossy(seed, None);
        assert!(honest.is_good(), "{honest}");
        let (storm, report) = lossy(seed, Some(Planted::Loses(200)));
        let lost = |what: &String| what.contains("was lost: Dropped(Malformed)");
        found |= report.violations.iter().any(lost) && report.lasted < storm;
    }
    assert!(found);
}

#[test]
fn a_replayed_packet_is_found() {
    find(Planted::TakesReplays, "twice");
}

#[test]
fn a_packet_in_clear_is_found() {
    find(Planted::LeaksClear, "in clear");
}

#[test]
fn sas_that_stay_are_found() {
    find(Planted::KeepsRemoved, "the device holds");
}

#[test]
fn traffic_that_moves_too_early_is_found() {
    find(Planted::ActivatesEarly, "was lost: UnknownSpi");
}

#[test]
fn a_break_before_make_is_found() {
    find(Planted::BreaksBeforeMake, "packet");
}
