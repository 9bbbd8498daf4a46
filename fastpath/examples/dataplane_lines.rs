//! The inline data plane driven by lines on standard input, in the network namespace it is started
//! in: for judges that stand on both sides of it and know its keys (`conformance/scapy/judge.py
//! --wire`, or a kernel), and for tests that need a process of its own to kill.
//!
//! ```text
//! sa in|outN in|out WORDS...   -> ok | error WHY   remembers one SA of pair N (record_line.rs)
//! start                        -> ok | error WHY   policies, SAs and traffic, all at once
//! policy LOCAL,... REMOTE,...  -> ok | error WHY   protects this without any SA
//! counters                     -> ok | error WHY   counters of all SAs, on standard error
//! release                      -> ok | error WHY   stops, takes away what it made, and ends
//! ```
//!
//! The end of standard input releases as well; a kill does not.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "answers go to standard output, what a person may want to see to standard error"
)]

#[path = "../../conformance/scapy/record_line.rs"]
mod record_line;

use std::error::Error;
use std::io::BufRead as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crypto::aead::Engines;
use fastpath::{InlineBackend, InlineConfig, SteeringConfig, release};
use hw_offload::{Backend, Notice, Operation, Policy, PolicyAction, PolicySet, Ticket};
use sa_store::live::LiveTable;
use sa_store::{
    ChildId, Direction, DomainId, Instant, OffloadIntent, SaId, SaRecord, TrafficSelector, TunnelId,
};

/// How long a batch may take.
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn Error>> {
    let start = std::time::Instant::now();
    let engines =
        Engines::calibrated(&mut || start.elapsed().as_nanos().try_into().unwrap_or(u64::MAX));
    let backend = InlineBackend::start(
        InlineConfig { engines, ..InlineConfig::default() },
        Arc::new(LiveTable::default()),
        Arc::new(|_| {}),
    )?;
    let (woken, wake) = channel();
    let mut plane = Plane { backend, wake, records: Vec::new(), installed: Vec::new() };
    plane.backend.set_waker(Arc::new(move || {
        // Nobody listens any more while the program ends.
        let _ = woken.send(());
    }));
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == "release" {
            drop(plane);
            release(&SteeringConfig::default())?;
            println!("ok");
            return Ok(());
        }
        match plane.command(&line) {
            Ok(()) => println!("ok"),
            Err(why) => println!("error {why}"),
        }
    }
    drop(plane);
    release(&SteeringConfig::default())?;
    Ok(())
}

struct Plane {
    backend: InlineBackend,
    wake: Receiver<()>,
    records: Vec<SaRecord>,
    installed: Vec<SaId>,
}

impl Plane {
    fn command(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["sa", name, record @ ..] => {
                let number = name.trim_start_matches(|letter: char| !letter.is_ascii_digit());
                let number = number.parse().map_err(|_| "the name ends with a number")?;
                self.records.push(record_line::parse(record, number)?);
                Ok(())
            }
            ["start"] => self.start(),
            ["policy", local, remote] => {
                let (local, remote) = (selectors(local)?, selectors(remote)?);
                let action = PolicyAction::Protect {
                    tunnel: TunnelId(1),
                    child: ChildId(1),
                    peers: Vec::new(),
                    offload: OffloadIntent::Auto,
                };
                let policy = Policy { domain: DomainId(0), action, local, remote };
                self.submit(vec![Operation::SetPolicies(PolicySet { policies: vec![policy] })])
            }
            ["counters"] => self.counters(),
            _ => Err("unknown line".to_owned()),
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let records = std::mem::take(&mut self.records);
        let outbound = || records.iter().filter(|sa| sa.direction == Direction::Outbound);
        let policies = outbound().map(policy).collect();
        let activate: Vec<SaId> = outbound().map(|sa| sa.id).collect();
        self.installed = records.iter().map(|sa| sa.id).collect();
        let mut batch = vec![Operation::SetPolicies(PolicySet { policies })];
        batch.extend(records.into_iter().map(|sa| Operation::Install(Box::new(sa))));
        batch.extend(activate.into_iter().map(Operation::Activate));
        self.submit(batch)
    }

    fn counters(&mut self) -> Result<(), String> {
        self.submit(self.installed.iter().copied().map(Operation::Query).collect())
    }

    fn submit(&mut self, batch: Vec<Operation>) -> Result<(), String> {
        self.backend.submit(Ticket(1), batch).map_err(|busy| busy.to_string())?;
        let end = std::time::Instant::now() + LIMIT;
        loop {
            while let Some(notice) = self.backend.poll(Instant::default()) {
                match notice {
                    Notice::Done(_) => return Ok(()),
                    Notice::Refused { operation, reason, .. } => {
                        return Err(format!("operation {operation} was refused: {reason}"));
                    }
                    other => eprintln!("{other:?}"),
                }
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            self.wake.recv_timeout(left).map_err(|_| "the data plane did not answer")?;
        }
    }
}

fn selectors(list: &str) -> Result<Vec<TrafficSelector>, String> {
    list.split(',').map(|one| one.parse().map_err(|error| format!("{one}: {error}"))).collect()
}

/// What an outbound SA is for.
fn policy(sa: &SaRecord) -> Policy {
    Policy {
        domain: DomainId(0),
        action: PolicyAction::Protect {
            tunnel: sa.tunnel,
            child: sa.child,
            peers: vec![sa.remote.ip()],
            offload: OffloadIntent::Auto,
        },
        local: sa.local_selectors.clone(),
        remote: sa.remote_selectors.clone(),
    }
}
