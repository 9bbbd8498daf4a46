//! What an operator touches: `posternd --check`, `postern check`, exit codes, and refusals that
//! say where the error is, as the interface promises.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use conformance::command::{Dialogue, Finished, run};
use conformance::failure::ensure;
use conformance::lab::{Lab, Turn};
use conformance::postern::{Options, built};
use conformance::scenario::{Pair, Starter, peer_tunnel, tunnel};
use conformance::topology::{Family, Side, Wire};
use conformance::{Failure, Outcome};

/// A complete configuration that is right.
const GOOD: &str = r#"[gateway]
name = "site-a"

[tunnels.site-b]
local = { address = "192.0.2.1", id = "a.example" }
remote = { address = "192.0.2.2", id = "b.example" }
auth = { psk = "correct horse battery staple" }

[tunnels.site-b.children.net]
local = ["10.1.0.0/16"]
remote = ["10.2.0.0/16"]
"#;

/// A folder of this test, deleted at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Outcome<Self> {
        let folder = std::env::temp_dir().join(format!("pt-{}-cli-{name}", std::process::id()));
        fs::DirBuilder::new().mode(0o755).create(&folder)?;
        Ok(Self(folder))
    }

    /// Writes a file that only its owner can read.
    fn write(&self, name: &str, text: &str) -> Outcome<String> {
        let file = self.0.join(name);
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(file.display().to_string())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort: it is under the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn postern(arguments: &[&str]) -> Outcome<Finished> {
    let program = built("postern")?.display().to_string();
    let mut argv = vec![program.as_str()];
    argv.extend_from_slice(arguments);
    run(&argv, Duration::from_secs(20))
}

/// Checks `text` with both binaries; both have to say the same thing with the same exit status.
fn check(name: &str, text: &str) -> Outcome<Finished> {
    let folder = Folder::new(name)?;
    let file = folder.write("config.toml", text)?;
    let by_cli = postern(&["check", &file])?;
    let daemon = built("posternd")?.display().to_string();
    let by_daemon = run(&[&daemon, "--config", &file, "--check"], Duration::from_secs(20))?;
    ensure(by_cli.code == by_daemon.code, || format!("{by_cli:?} but {by_daemon:?}"))?;
    Ok(by_cli)
}

/// Refused with exit status 1, naming the file, the line and every one of `words`.
fn refused(name: &str, text: &str, line: usize, words: &[&str]) -> Outcome {
    let said = check(name, text)?;
    ensure(said.code == 1, || format!("exit status 1 was wanted: {said:?}"))?;
    let place = format!("config.toml:{line}:");
    let shown = text.lines().nth(line - 1).unwrap_or_default().trim();
    for word in words.iter().copied().chain([place.as_str(), shown]) {
        ensure(said.text().contains(word), || format!("`{word}` is not said:\n{}", said.text()))?;
    }
    Ok(())
}

#[test]
fn a_good_configuration_passes() -> Outcome {
    let said = check("good", GOOD)?;
    ensure(said.code == 0, || format!("{said:?}"))
}

#[test]
fn the_default_configuration_of_the_repository_passes() -> Outcome {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config.toml");
    let said = check("default", &fs::read_to_string(top)?)?;
    ensure(said.code == 0, || format!("{said:?}"))
}

#[test]
fn an_unknown_key_is_refused_and_the_nearest_named() -> Outcome {
    let text = GOOD.replace("remote = { address", "remotte = { address");
    refused("key", &text, 6, &["remotte", "remote"])
}

#[test]
fn an_unknown_table_is_refused() -> Outcome {
    let text = format!("{GOOD}\n[gatway]\nname = \"x\"\n");
    refused("table", &text, 13, &["gatway", "gateway"])
}

#[test]
fn a_wrong_type_is_refused() -> Outcome {
    refused("type", &GOOD.replace("[\"10.1.0.0/16\"]", "16"), 10, &[])
}

#[test]
fn a_wrong_proposal_is_refused_and_the_nearest_named() -> Outcome {
    let text = GOOD
        .replace("auth = ", "ike = { proposals = [\"aes256gcm16-prfsha384-ecp348\"] }\nauth = ");
    refused("proposal", &text, 7, &["ecp348", "ecp384"])
}

#[test]
fn a_wrong_network_is_refused() -> Outcome {
    refused("network", &GOOD.replace("10.2.0.0/16", "10.2.0.0/33"), 11, &["10.2.0.0/33"])
}

#[test]
fn a_wrong_duration_is_refused() -> Outcome {
    let text = GOOD.replace("auth = ", "ike = { rekey = \"4 hours\" }\nauth = ");
    refused("duration", &text, 7, &["4 hours"])
}

/// What comes later is refused as such, never accepted and ignored.
#[test]
fn what_is_not_available_yet_is_refused() -> Outcome {
    let certificate = "auth = { cert = \"a.pem\", key = \"a.key\", ca = [\"ca.pem\"] }";
    for (name, from, to) in [
        ("on-demand", "[tunnels.site-b]", "[tunnels.site-b]\nmode = \"on-demand\""),
        ("kernel", "name = \"site-a\"", "name = \"site-a\"\ndataplane = \"kernel\""),
        ("grpc", "[tunnels.site-b]", "[api]\ngrpc = \"127.0.0.1:50151\"\n\n[tunnels.site-b]"),
        ("certificate", "auth = { psk = \"correct horse battery staple\" }", certificate),
        ("interface", "[\"10.1.0.0/16\"]", "[\"10.1.0.0/16\"]\ninterface = \"ipsec7\""),
    ] {
        let said = check(name, &GOOD.replacen(from, to, 1))?;
        ensure(said.code == 1, || format!("{name} was accepted: {said:?}"))?;
        ensure(said.text().contains("not available yet"), || format!("{name}: {}", said.text()))?;
    }
    Ok(())
}

/// Files with secrets that others can read are refused.
#[test]
fn a_secret_that_others_can_read_is_refused() -> Outcome {
    let folder = Folder::new("secret")?;
    let text = GOOD.replace("psk = \"correct horse battery staple\"", "psk_file = \"site-b.psk\"");
    let file = folder.write("config.toml", &text)?;
    let key = folder.write("site-b.psk", "a secret that nobody may see\n")?;
    let good = postern(&["check", &file])?;
    ensure(good.code == 0, || format!("{good:?}"))?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let said = postern(&["check", &file])?;
    ensure(said.code == 1 && said.text().contains("site-b.psk"), || format!("{said:?}"))?;
    ensure(!said.text().contains("nobody may see"), || format!("the secret is shown: {said:?}"))?;
    fs::remove_file(&key)?;
    let said = postern(&["check", &file])?;
    ensure(said.code == 1 && said.text().contains("site-b.psk"), || format!("{said:?}"))
}

/// No daemon answers: exit status 2 and one sentence on standard error. Wrong use: 2.
#[test]
fn no_daemon_and_wrong_use_exit_with_2() -> Outcome {
    for arguments in [
        &["--socket", "/nonexistent/control.sock", "sa"][..],
        &["--socket", "/nonexistent/control.sock", "sa", "--json"],
        &["--socket", "/nonexistent/control.sock", "up", "site"],
        &["frobnicate"],
        &["up"],
    ] {
        let said = postern(arguments)?;
        ensure(said.code == 2, || format!("{arguments:?}: {said:?}"))?;
        ensure(said.stdout.is_empty() && !said.stderr.is_empty(), || {
            format!("{arguments:?} has to speak on standard error only: {said:?}")
        })?;
    }
    Ok(())
}

/// `posternd` with an error in its configuration ends with 1 and has touched nothing.
#[test]
fn a_daemon_with_a_wrong_configuration_touches_nothing() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let gateway = lab.net.gateway(Side::Left);
        // Something to be captured, so that the capture is known to work.
        gateway.must(&["ping", "-c", "1", "-W", "2", "192.0.2.2"])?;
        let state = || -> Outcome<String> {
            let mut all = gateway.must(&["nft", "list", "ruleset"])?.stdout;
            for arguments in [&["-o", "link"][..], &["rule"], &["route", "show", "table", "all"]] {
                all.push_str(&gateway.ip(arguments)?.stdout);
            }
            Ok(all)
        };
        let before = state()?;
        let folder = Folder::new("untouched")?;
        let file = folder.write("config.toml", &GOOD.replace("remote = [", "remott = ["))?;
        let daemon = built("posternd")?.display().to_string();
        let said = gateway.run(&[&daemon, "--config", &file], Duration::from_secs(10))?;
        ensure(said.code == 1, || format!("{said:?}"))?;
        ensure(state()? == before, || "the system was touched".to_owned())
    })
}

/// Exit codes and outputs of the commands against a running daemon.
#[test]
fn commands_answer_as_promised() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        lab.net.gateway(Side::Left).must(&["ping", "-c", "1", "-W", "2", "192.0.2.2"])?;
        let ours = tunnel(lab, Starter::Peer, Family::V4, Family::V4);
        let us = lab.postern(Side::Left, &[ours], &Options::default())?;
        // A passive tunnel that is down is no problem of ours.
        us.must_cli(&["sa"])?;
        let version = us.must_cli(&["version"])?;
        ensure(version.stdout.matches(env!("CARGO_PKG_VERSION")).count() >= 2, || {
            format!("of the CLI and the daemon: {version:?}")
        })?;
        let sa = us.sa()?;
        for (what, right) in [
            ("schema", sa["schema"] == 1),
            ("gateway", sa["gateway"] == "subject"),
            ("no_sa", sa["no_sa"].is_u64()),
            ("name", sa["tunnels"][0]["name"] == "site"),
            ("mode", sa["tunnels"][0]["mode"] == "passive"),
            ("state", sa["tunnels"][0]["state"] == "down"),
            ("last_error", sa["tunnels"][0].get("last_error").is_some()),
            ("children", sa["tunnels"][0]["children"][0]["name"] == "net"),
        ] {
            ensure(right, || format!("{what} in {sa}"))?;
        }
        for arguments in [&["up", "nowhere"][..], &["rekey", "site/none"], &["sa", "nowhere"]] {
            let said = us.cli(arguments)?;
            ensure(said.code != 0, || format!("{arguments:?}: {said:?}"))?;
            let named = said.stderr.contains("nowhere") || said.stderr.contains("none");
            ensure(named, || format!("{arguments:?} does not say what is unknown: {said:?}"))?;
        }
        let events = us.must_cli(&["events", "--json"])?;
        for line in events.stdout.lines() {
            serde_json::from_str::<serde_json::Value>(line)
                .map_err(|_| Failure::new(format!("not JSON: {line}")))?;
        }
        let secret = "correct horse";
        ensure(!us.log().contains(secret), || "the log shows a key".to_owned())?;
        us.stop()?;
        let gone = us.cli(&["sa"])?;
        ensure(gone.code == 2, || format!("{gone:?}"))
    })
}

/// `events --follow --json` tells what happens while it happens, one JSON document a line.
#[test]
fn events_are_followed() -> Outcome {
    Lab::run(Turn::Shared, Wire::Direct, |lab| {
        let ours = tunnel(lab, Starter::Us, Family::V4, Family::V4);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        pair.bring_up(Starter::Us, &ours)?;
        let command = pair.us.cli_line(&["events", "--follow", "--json"]);
        let argv: Vec<&str> = command.iter().map(String::as_str).collect();
        let followed = Dialogue::start("postern events", &argv, false)?;
        let limit = Duration::from_secs(10);
        followed.hear_about("child-installed", limit)?;
        pair.us.must_cli(&["rekey", "site/net"])?;
        let line = followed.hear_about("child-rekeyed", limit)?;
        serde_json::from_str::<serde_json::Value>(&line)?;
        pair.us.must_cli(&["down", "site"])?;
        let line = followed.hear_about("ike-down", limit)?;
        ensure(line.contains("deleted-by-operator"), || line.clone())
    })
}
