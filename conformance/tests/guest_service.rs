//! The service as an operator runs it: what `make install` installs, under a real systemd with
//! every restriction of the unit, in a guest that is the gateway. What the unit forbids and the
//! daemon needs shows here and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use conformance::failure::{Failure, Outcome, ensure};
use conformance::guest::Guest;
use conformance::install::make;
use conformance::lab::{Lab, Turn};
use conformance::packet::Kind;
use conformance::scenario::{Starter, peer_tunnel, tunnel};
use conformance::topology::{Family, Side, Wire};
use conformance::traffic::Shape;
use conformance::{postern, strongswan, wait};

/// An emulated machine takes its time, beside everything else that runs.
const LIMIT: Duration = Duration::from_secs(60);

/// What `CapabilityBoundingSet=` leaves: CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW,
/// CAP_PERFMON and CAP_BPF.
const CAPABILITIES: u64 = 1 << 10 | 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;

const CONFIG: &str = "/etc/postern/config.toml";

#[test]
fn the_unit_runs_reloads_restarts_and_stops_under_systemd() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        let _peer = lab.strongswan(Side::Right, &[theirs], &strongswan::Options::default())?;
        lab.net.hold_back(Side::Right)?;
        let tree = lab.folder(Side::Left)?.join("installed");
        fs::create_dir_all(&tree)?;
        make("install", &tree, "/usr/local")?;
        let config = postern::tunnels_text(std::slice::from_ref(&ours));
        configure(&tree, &config)?;
        let us = lab.service(Side::Left, &tree)?;

        // Started: it says so itself, and comes with all its restrictions.
        us.must("systemctl enable --now posternd")?;
        us.must("postern up site --timeout 30")?;
        let status = us.must("postern sa")?;
        ensure(!status.contains("filters of interfaces"), || status.clone())?;
        restricted(&us)?;
        passes(lab)?;

        // Killed: systemd starts it again, nothing leaves in clear, traffic comes back.
        let mut flow = lab.flow(Family::V4, &Shape { rate: 200, ..Shape::default() })?;
        flow.start()?;
        flow.flows(20, LIMIT)?;
        let before = main_process(&us)?;
        us.must(&format!("kill -9 {before}"))?;
        wait::until("systemd to start it again", LIMIT, || match main_process(&us) {
            Ok(now) if now != before && now != "0" => Ok(()),
            Ok(now) => Err(now),
            Err(failure) => Err(failure.to_string()),
        })?;
        flow.flows(100, LIMIT)?;
        flow.finish()?;

        // Reloaded: what is wrong is refused and changes nothing, what is right is taken.
        us.write(CONFIG, &config.replace("remote =", "remoet ="))?;
        let refused = us.run("systemctl reload posternd", LIMIT)?;
        ensure(refused.code != 0, || "a broken configuration was taken".to_owned())?;
        us.must("systemctl is-active posternd && postern sa site")?;
        us.write(
            CONFIG,
            &config
                .replace("[tunnels.site]", "[tunnels.other]")
                .replace("[tunnels.site.children.net]", "[tunnels.other.children.net]"),
        )?;
        us.must("systemctl reload posternd && postern up other --timeout 30")?;
        passes(lab)?;

        // Stopped: cleanly, in time, and what it protects stays blocked.
        us.must("systemctl stop posternd")?;
        let result = us.must("systemctl show -P Result -P ActiveState posternd")?;
        ensure(result.lines().eq(["success", "inactive"]), || format!("it ended as {result}"))?;
        let report = lab.exchange(Family::V4, 100, 200)?;
        ensure(report.there.lost == report.there.sent, || format!("packets left: {report}"))?;

        // Flushed, with nobody to put anything back: the filters of the interfaces hold.
        us.must(
            "nft flush ruleset; ip rule flush; ip -6 rule flush; \
             ip rule add pref 32766 lookup main; ip -6 rule add pref 32766 lookup main",
        )?;
        let report = lab.exchange(Family::V4, 100, 2000)?;
        ensure(report.there.lost == report.there.sent, || format!("packets left: {report}"))?;
        let log = us.must("journalctl -u posternd -o cat --no-pager")?;
        for word in ["not permitted", "ermission denied", "panicked"] {
            ensure(!log.contains(word), || format!("`{word}` in the journal:\n{log}"))?;
        }
        for seen in lab.no_canary_so_far()? {
            ensure(seen.octets(Kind::EspInUdp) > 0, || format!("{:?}", seen.kinds()))?;
        }
        Ok(())
    })
}

/// Puts the configuration into what was installed.
fn configure(tree: &Path, text: &str) -> Outcome {
    let file = tree.join("etc/postern/config.toml");
    fs::write(&file, text)?;
    Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?)
}

fn main_process(us: &Guest) -> Outcome<String> {
    Ok(us.must("systemctl show -P MainPID posternd")?.trim().to_owned())
}

/// The restrictions of the unit are in force: they would prove nothing if systemd had left them
/// out for want of something in the guest.
fn restricted(us: &Guest) -> Outcome {
    let process = main_process(us)?;
    let status = us.must(&format!("cat /proc/{process}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).ok_or_else(|| Failure::new(format!("no {name} in\n{status}")))
    };
    ensure(field("NoNewPrivs")? == "1" && field("Seccomp")? == "2", || status.clone())?;
    let bounding = u64::from_str_radix(field("CapBnd")?, 16).unwrap_or(u64::MAX);
    ensure(bounding == CAPABILITIES, || format!("capabilities {bounding:x}"))?;
    // A file system of its own, read only where it should be.
    let mounts = us.must(&format!("cat /proc/{process}/mounts"))?;
    let read_only = |at: &str| {
        mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(at) && words.nth(1).is_some_and(|how| how.starts_with("ro"))
        })
    };
    ensure(read_only("/") && read_only("/proc/sys"), || format!("its mounts:\n{mounts}"))
}

/// Packets of all sizes pass, both ways.
fn passes(lab: &Lab) -> Outcome {
    lab.exchange(Family::V4, 100, 1200)?.must_be_whole()
}
