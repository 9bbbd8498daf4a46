//! ESP held against scapy's, packet by packet, in both directions.
//!
//! `conformance/scapy/judge.py` makes the packets and the verdicts; what it judges are programs
//! that speak its lines. First a mirror with scapy on both sides and faults planted in one, which
//! the judge has to notice; then Postern's `esp`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conformance::command::{Finished, require, run};
use conformance::failure::{Failure, Outcome, ensure};
use conformance::judge::enough_were_judged;

/// Debian's scapy is only visible to Debian's Python; `POSTERN_SCAPY_PYTHON` names another.
const PYTHON: &str = "/usr/bin/python3";
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn the_judge_notices_planted_faults() -> Outcome {
    let mirror = here("mirror.py");
    let content = judge(&mirror, 768, "")?;
    ensure(content.code == 0, || format!("scapy disagrees with itself:\n{}", content.text()))?;
    for fault in ["esn", "iv", "padding", "replay", "forgery", "selectors", "checksum"] {
        let noticed = judge(&mirror, 1536, fault)?;
        ensure(noticed.code == 1 && noticed.stdout.contains("FAILED"), || {
            format!("the fault `{fault}` was not noticed:\n{}", noticed.text())
        })?;
    }
    Ok(())
}

#[test]
fn esp_agrees_with_scapy_on_ten_thousand_packets() -> Outcome {
    let example = conformance::postern::beside_the_tests("examples/esp_lines").map_err(|_| {
        Failure::new(
            "esp_lines is not built: run `cargo build -p esp --examples` (`make test` does)",
        )
    })?;
    let verdict = judge(&example, 10_000, "")?;
    ensure(verdict.code == 0, || format!("esp and scapy disagree:\n{}", verdict.text()))?;
    enough_were_judged(&verdict.stdout, 5000)
}

fn judge(program: &Path, packets: u32, fault: &str) -> Outcome<Finished> {
    let python = std::env::var("POSTERN_SCAPY_PYTHON").unwrap_or_else(|_| PYTHON.to_owned());
    require(&python)?;
    let scapy = run(&[&python, "-c", "import scapy.layers.ipsec, cryptography"], LIMIT)?;
    ensure(scapy.code == 0, || {
        format!(
            "{python} has no scapy: install the Debian packages `python3-scapy` and \
             `python3-cryptography` (scripts/install-deps test)\n{}",
            scapy.text()
        )
    })?;
    let (program, packets) = (program.display().to_string(), packets.to_string());
    let (script, plant) = (here("judge.py").display().to_string(), format!("PLANT={fault}"));
    run(&["env", &plant, &python, &script, "--program", &program, "--packets", &packets], LIMIT)
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy").join(file)
}
