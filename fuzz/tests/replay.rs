//! Replays every committed input, and a short run of mutations of each target.

use fuzz::{
    TARGETS, corpus,
    engine::{self, Limit},
};

#[test]
fn committed_inputs_have_no_finding() {
    for target in TARGETS {
        let inputs = corpus(target).expect("every target has a folder of inputs");
        assert!(inputs.len() >= 5, "{} has {} inputs", target.name, inputs.len());
        let mut answers: Vec<u64> = inputs.iter().map(|(_, input)| (target.run)(input)).collect();
        let again: Vec<u64> = inputs.iter().map(|(_, input)| (target.run)(input)).collect();
        assert_eq!(answers, again, "{} does not repeat itself", target.name);
        answers.sort_unstable();
        answers.dedup();
        assert!(answers.len() > 2, "the inputs of {} all do the same", target.name);
    }
}

#[test]
fn a_short_run_has_no_finding() {
    for target in TARGETS {
        let inputs = corpus(target).expect("every target has a folder of inputs");
        let inputs = inputs.into_iter().map(|(_, input)| input).collect();
        let summary = engine::run(target, inputs, 7, Limit::Executions(3_000));
        assert!(summary.finding.is_none(), "{}: {:?}", target.name, summary.finding);
        assert!(summary.outcomes > 20, "{}: {summary:?}", target.name);
    }
}

/// The runner finds what is planted.
#[test]
fn a_planted_fault_is_found() {
    fn planted(input: &[u8]) -> u64 {
        let matching = input.iter().zip(b"POST").take_while(|(a, b)| a == b).count();
        assert!(matching < 3, "planted");
        u64::try_from(matching).unwrap_or_default()
    }
    let target = fuzz::Target { name: "planted", run: planted, repair: None, seeds: Vec::new };
    let summary = engine::run(&target, vec![vec![0; 4]], 3, Limit::Executions(5_000_000));
    assert!(summary.finding.is_some_and(|(_, why)| why.contains("planted")));
}
