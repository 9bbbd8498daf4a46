//! What one process leaves behind and the next one takes over.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use crate::{
    CANARY,
    common::{Capture, Namespace, eventually, sites::Sites},
    process::{Flood, Process},
};

const NETS: &str = "policy 10.1.0.0/16,fd01::/64 10.2.0.0/16,fd02::/64";

/// A directory with a program `nft` that refuses what a line of shell says of its input.
pub(crate) struct BrokenNft(PathBuf);

impl BrokenNft {
    /// `refuses` finds the input in `$input`.
    pub(crate) fn new(name: &str, refuses: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pt-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let script = format!(
            "#!/bin/sh\ninput=$(cat)\nif {refuses}; then echo planted >&2; exit 1; fi\n\
             PATH=${{PATH#*:}}\nprintf '%s\\n' \"$input\" | nft \"$@\"\n"
        );
        let program = folder.join("nft");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self(folder)
    }

    /// A data plane that runs it.
    pub(crate) fn process(&self, space: &Namespace) -> Process {
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.0.display());
        Process::start_with(space, &[("PATH", &path)])
    }
}

impl Drop for BrokenNft {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn first_policies_that_are_refused_open_nothing() {
    let sites = Sites::new();
    let wire = Capture::start(&sites.b.gateway);
    let mut first = Process::start(&sites.a.gateway);
    first.tell(NETS);
    let floods = ["10.2.0.2", "fd02::2"].map(|target| Flood::start(&sites.a.client, target));
    let blocked = |when: &str| {
        for target in ["10.2.0.2", "fd02::2"] {
            assert!(sites.a.client.no_ping(target), "{when}: client to {target}");
        }
        assert_eq!(wire.count(CANARY), 0, "{when}: clear packets were seen");
    };
    first.kill();
    blocked("the first was killed");
    let nft = BrokenNft::new(
        "refused",
        "echo \"$input\" | grep -q 'table inet postern {' && echo \"$input\" | grep -q 10.2.0.0",
    );
    let mut second = nft.process(&sites.a.gateway);
    let answer = second.ask(NETS);
    assert!(answer.contains("planted"), "{answer}");
    blocked("the second was refused");
    second.kill();
    blocked("the second was killed");
    // What happens around a process that has no policies yet opens nothing either.
    let mut third = Process::start(&sites.a.gateway);
    sites.a.gateway.ip("addr add 172.16.0.1/24 dev lan");
    // Answered after what happened before it was followed.
    third.tell("counters");
    blocked("an address changed before the third had policies");
    third.tell(NETS);
    blocked("the third has policies");
    drop(floods);
    assert_eq!(wire.count(CANARY), 0);
    third.release();
    assert!(sites.a.client.pings("10.2.0.2"), "control: after release it passes");
    assert!(wire.count(CANARY) > 0, "control: the capture would have seen it");
}

#[test]
fn own_traffic_from_other_addresses_keeps_its_way_behind_a_dead_process() {
    let sites = Sites::new();
    let from = |source: &str, target: &str| {
        sites.a.gateway.exec(&format!("ping -n -q -c 1 -W 1 -I {source} {target}")).0
    };
    let free = [("192.0.2.1", "10.2.0.2"), ("2001:db8::1", "fd02::2")];
    let held = [("10.1.0.1", "10.2.0.2"), ("fd01::1", "fd02::2")];
    let mut process = Process::start(&sites.a.gateway);
    process.tell(NETS);
    let check = |when: &str| {
        assert!(free.iter().all(|(source, target)| from(source, target)), "{when}");
        assert!(!held.iter().any(|(source, target)| from(source, target)), "{when}");
    };
    check("it runs");
    process.kill();
    check("it was killed");
    // Taken over: an address that is gone is forgotten, and nothing is left in the end.
    sites.a.gateway.ip("addr add 2001:db8::9/64 dev wan nodad");
    let mut process = Process::start(&sites.a.gateway);
    process.tell(NETS);
    let rules = || sites.a.gateway.exec("ip -6 rule").1;
    assert!(rules().contains("from 2001:db8::9 "), "{}", rules());
    sites.a.gateway.ip("addr del 2001:db8::9/64 dev wan");
    eventually("the rule to go", || !rules().contains("from 2001:db8::9 "));
    check("it was started again");
    process.release();
    assert!(!rules().contains("15"), "{}", rules());
    assert!(held.iter().all(|(source, target)| from(source, target)), "control");
}

#[test]
fn what_could_not_be_put_back_is_tried_again() {
    let sites = Sites::new();
    let (broken, refused) = ("\"${0%/*}\"/broken", "\"${0%/*}\"/refused");
    let nft = BrokenNft::new("retried", &format!("test -e {broken} && touch {refused}"));
    let mut process = nft.process(&sites.a.gateway);
    process.tell(NETS);
    fs::write(nft.0.join("broken"), "").unwrap();
    assert!(sites.a.gateway.exec("nft flush ruleset").0);
    eventually("a failed repair", || nft.0.join("refused").exists());
    let stands = || sites.a.gateway.exec("nft list table inet postern").1.contains("10.2.0.0");
    assert!(!stands());
    // Something else that changes, and can be followed, makes nobody forget it.
    sites.a.gateway.ip("addr add 192.0.2.77/24 dev wan");
    process.tell("counters");
    fs::remove_file(nft.0.join("broken")).unwrap();
    eventually("the repair", stands);
    process.release();
}
