//! `run TARGET --executions N --seed S`: mutates the committed inputs of a target.
//!
//! A finding is written to `fuzz/findings/`, named, and ends the run with status 1.

use std::{error::Error, path::PathBuf, process::ExitCode, time::Duration};

use fuzz::{
    TARGETS, Target, corpus,
    engine::{self, Limit},
};

const USAGE: &str = "usage: run TARGET [--executions N | --seconds N] [--seed S]
       run TARGET FILE...       runs these inputs and shows what happens";

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            for target in TARGETS {
                eprintln!("       target {}", target.name);
            }
            ExitCode::from(2)
        }
    }
}

fn start() -> Result<bool, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("no target is named")?;
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .ok_or_else(|| format!("there is no target `{name}`"))?;
    let mut limit = Limit::Executions(1_000_000);
    let mut seed = 1;
    let mut files = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, Box<dyn Error>> {
            let text = arguments.next().ok_or_else(|| format!("`{argument}` needs a number"))?;
            Ok(text.replace('_', "").parse()?)
        };
        match argument.as_str() {
            "--executions" => limit = Limit::Executions(number()?),
            "--seconds" => limit = Limit::Time(Duration::from_secs(number()?)),
            "--seed" => seed = number()?,
            option if option.starts_with('-') => Err(format!("`{option}` is no option"))?,
            file => files.push(PathBuf::from(file)),
        }
    }
    if !files.is_empty() {
        for file in files {
            let answer = (target.run)(&std::fs::read(&file)?);
            println!("{}: {answer:016x}", file.display());
        }
        return Ok(true);
    }
    fuzz_until(target, seed, limit)
}

fn fuzz_until(target: &Target, seed: u64, limit: Limit) -> Result<bool, Box<dyn Error>> {
    let inputs = corpus(target)?.into_iter().map(|(_, input)| input).collect();
    let summary = engine::run(target, inputs, seed, limit);
    let seconds = summary.elapsed.as_secs_f64();
    println!(
        "{}: {} executions in {seconds:.1} s ({:.0}/s), seed {seed}, {} outcomes, {} inputs kept, \
         slowest {:.2?}, {} findings",
        target.name,
        summary.executions,
        f64::from(u32::try_from(summary.executions).unwrap_or(u32::MAX)) / seconds.max(0.001),
        summary.outcomes,
        summary.corpus,
        summary.slowest,
        u8::from(summary.finding.is_some()),
    );
    let Some((input, why)) = summary.finding else { return Ok(true) };
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("findings");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}-{seed}-{}", target.name, summary.executions));
    std::fs::write(&file, input)?;
    println!("{why}\nthe input is {}", file.display());
    Ok(false)
}
