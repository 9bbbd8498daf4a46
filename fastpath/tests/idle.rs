//! Workers without packets do nothing. In a process of its own, because it counts the time of
//! this one's threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod common;

use std::{fs, time::Duration};

use common::sites::{Pairing, Sites};
use sa_store::Encapsulation;

/// How many threads of data planes there are, and the nanoseconds they have run for.
fn data_planes() -> (usize, u64) {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let ran = |task: std::path::PathBuf| {
        let name = fs::read_to_string(task.join("comm")).ok()?;
        // The first number of schedstat is the time on a CPU.
        let stat = fs::read_to_string(task.join("schedstat")).ok()?;
        name.starts_with("postern-esp").then(|| stat.split(' ').next()?.parse::<u64>().ok())?
    };
    let all: Vec<u64> = tasks.filter_map(ran).collect();
    (all.len(), all.iter().sum())
}

#[test]
fn an_idle_tunnel_costs_no_cpu_time() {
    for encapsulation in [Encapsulation::None, Encapsulation::Udp] {
        let mut sites = Sites::new();
        sites.up(&Pairing { encapsulation, ..Pairing::nets() }, 2);
        // It has been busy before: a descriptor that stays readable would show now.
        for target in ["10.2.0.2", "fd02::2"] {
            assert!(sites.a.client.pings(target), "{encapsulation} {target}");
        }
        let (threads, before) = data_planes();
        assert_eq!(threads, 6, "two workers and a control thread on each side");
        std::thread::sleep(Duration::from_secs(2));
        let (_, after) = data_planes();
        let ran = Duration::from_nanos(after - before);
        // One thread that never waits has a good part of a CPU even on a crowded machine.
        assert!(ran < Duration::from_millis(50), "{encapsulation}: {ran:?} in two idle seconds");
        sites.a.release();
        sites.b.release();
    }
}
