//! Network namespaces, named after the process that made them, so that a later run can take away
//! what a killed one left.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::command::{Finished, must, run};
use crate::failure::{Failure, Outcome};

static NEXT_GROUP: AtomicU32 = AtomicU32::new(0);

/// What marks a namespace as one of this harness: `pt-<pid>-ic<group>-<host>`.
const MARK: &str = "-ic";

/// One network namespace, deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// Names a group of namespaces that nobody else uses.
pub fn new_group() -> String {
    let group = NEXT_GROUP.fetch_add(1, Ordering::Relaxed);
    format!("pt-{}{MARK}{group}", std::process::id())
}

impl Namespace {
    /// Creates `<group>-<host>` with its loopback up and no automatic address anywhere.
    pub fn new(group: &str, host: &str) -> Outcome<Self> {
        let name = format!("{group}-{host}");
        must(&["ip", "netns", "add", &name]).map_err(|failure| {
            failure.while_doing("a network namespace could not be made (scenarios need root)")
        })?;
        let namespace = Self { name };
        namespace.sysctl(&[
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
        ])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it.
    pub fn ip(&self, arguments: &[&str]) -> Outcome<Finished> {
        let mut argv = vec!["ip", "-n", &self.name];
        argv.extend_from_slice(arguments);
        must(&argv)
    }

    /// Runs several `ip` commands in it, one a line.
    pub fn ip_lines(&self, lines: &str) -> Outcome {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.ip(&line.split_whitespace().collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Runs a program in it that has to succeed.
    pub fn must(&self, argv: &[&str]) -> Outcome<Finished> {
        must(&self.inside(argv))
    }

    /// Runs a program in it.
    pub fn run(&self, argv: &[&str], limit: Duration) -> Outcome<Finished> {
        run(&self.inside(argv), limit)
    }

    /// The command line that runs `argv` in it.
    pub fn inside<'a>(&'a self, argv: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["ip", "netns", "exec", &self.name];
        all.extend_from_slice(argv);
        all
    }

    /// Gives programs in it names for addresses, as lines of /etc/hosts.
    pub fn hosts(&self, lines: &str) -> Outcome {
        let folder = hosts_folder(&self.name);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join("hosts"), lines)?)
    }

    /// Writes kernel settings by their dotted names.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Outcome {
        let script: String = settings
            .iter()
            .map(|(key, value)| format!("echo {value} > /proc/sys/{} &&", key.replace('.', "/")))
            .collect();
        self.must(&["sh", "-c", &format!("{script} true")]).map(drop)
    }

    /// Replaces all of nftables in it by this rule set; an empty one removes every rule.
    pub fn nft(&self, rules: &str) -> Outcome {
        self.must(&["nft", &format!("flush ruleset\n{rules}")]).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Kills what still runs in a namespace of ours and deletes it. Best effort: it runs in drops.
fn remove(name: &str) {
    let limit = Duration::from_secs(5);
    if let Ok(pids) = run(&["ip", "netns", "pids", name], limit) {
        for pid in pids.stdout.split_whitespace() {
            let _ = run(&["sh", "-c", &format!("kill -KILL {pid}")], limit);
        }
    }
    let _ = run(&["ip", "netns", "del", name], limit);
    let _ = fs::remove_dir_all(hosts_folder(name));
}

/// `ip netns exec` puts the files in this folder over those in /etc.
fn hosts_folder(name: &str) -> PathBuf {
    Path::new("/etc/netns").join(name)
}

/// Takes away the namespaces of earlier runs of this harness whose process is gone.
pub fn sweep() -> Outcome {
    let listed = must(&["ip", "netns", "list"])?;
    for line in listed.stdout.lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let Some((pid, _)) = name.strip_prefix("pt-").and_then(|rest| rest.split_once(MARK)) else {
            continue;
        };
        let pid: u32 = match pid.parse() {
            Ok(pid) => pid,
            Err(_) => continue,
        };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            remove(name);
        }
    }
    Ok(())
}

/// Fails in one sentence when the scenario is not run as root.
pub fn require_root() -> Outcome {
    let id = must(&["id", "-u"])?;
    if id.stdout.trim() == "0" {
        return Ok(());
    }
    Err(Failure::new("interop scenarios make network namespaces: run them as root (sudo)"))
}
