//! Bugs planted in the device: every one of them must be found, in a world that is good without.

use sim::{Report, Scenario, device::Planted, run};

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
