//! Reads the verdict of the scapy judge.

use crate::failure::{Failure, Outcome, ensure};

/// Fails unless the judge says that at least `least` packets went each way: a judge that judged
/// nothing agrees with everybody.
pub fn enough_were_judged(verdict: &str, least: u32) -> Outcome {
    for way in ["sealed by Postern, opened by scapy", "sealed by scapy, opened by Postern"] {
        let count = verdict
            .lines()
            .find_map(|line| line.trim().strip_suffix(way))
            .and_then(|count| count.trim().parse::<u32>().ok())
            .ok_or_else(|| Failure::new(format!("no count of `{way}` in:\n{verdict}")))?;
        ensure(count >= least, || format!("{count} packets {way}, {least} wanted"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::enough_were_judged;

    #[test]
    fn a_judge_that_judged_nothing_is_noticed() {
        let verdict = "  5184 sealed by Postern, opened by scapy\n    10 sealed by scapy, opened by Postern\n";
        assert!(enough_were_judged(verdict, 10).is_ok());
        assert!(enough_were_judged(verdict, 11).is_err());
        assert!(enough_were_judged("", 0).is_err());
    }
}
