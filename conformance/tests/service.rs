//! What `make install` puts into a system, and its systemd unit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conformance::command::{must, require, run};
use conformance::failure::{Failure, Outcome, ensure};
use conformance::install::make;
use conformance::postern::built;

/// What remains for an attacker with the daemon's powers, in tenths, as `systemd-analyze
/// security` counts: 96 for a unit that restricts nothing.
const EXPOSURE: u8 = 30;

/// A folder that is removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Outcome<Self> {
        let path = std::env::temp_dir().join(format!("pt-{}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort: it is under the temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Every file below `root` with its mode, sorted.
fn files(root: &Path) -> Outcome<Vec<(String, u32)>> {
    let (mut all, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            let name = path.strip_prefix(root).map_err(|error| Failure::new(error.to_string()))?;
            all.push((name.display().to_string(), mode));
        }
    }
    all.sort();
    Ok(all)
}

#[test]
fn make_install_puts_everything_in_its_place_and_uninstall_takes_it_away() -> Outcome {
    let root = Folder::new("install")?;
    make("install", &root.0, "/opt/it")?;
    let all = files(&root.0)?;
    let expected = [
        ("etc/postern/config.toml", 0o600),
        ("opt/it/lib/systemd/system/posternd.service", 0o644),
        ("opt/it/sbin/postern", 0o755),
        ("opt/it/sbin/posternd", 0o755),
        ("opt/it/share/doc/postern/README.md", 0o644),
        ("opt/it/share/doc/postern/docs/install.md", 0o644),
    ];
    for (name, mode) in expected {
        ensure(all.contains(&(name.to_owned(), mode)), || format!("{name} {mode:o}: {all:?}"))?;
    }
    let etc = fs::metadata(root.0.join("etc/postern"))?.permissions().mode() & 0o777;
    ensure(etc == 0o700, || format!("/etc/postern has mode {etc:o}"))?;
    let unit = root.0.join("opt/it/lib/systemd/system/posternd.service");
    let unit = fs::read_to_string(unit)?;
    ensure(unit.contains("ExecStart=/opt/it/sbin/posternd "), || unit.clone())?;
    ensure(!unit.contains("/usr/local"), || unit.clone())?;

    // An operator's configuration outlives both.
    let config = root.0.join("etc/postern/config.toml");
    let checked = run(
        &[
            &built("posternd")?.display().to_string(),
            "--check",
            "--config",
            &config.display().to_string(),
        ],
        Duration::from_secs(10),
    )?;
    ensure(checked.code == 0 && checked.stdout.contains("valid"), || checked.text())?;
    fs::write(&config, "[gateway]\nname = \"mine\"\n")?;
    make("install", &root.0, "/opt/it")?;
    make("uninstall", &root.0, "/opt/it")?;
    ensure(fs::read_to_string(&config)?.contains("mine"), || "it was replaced".to_owned())?;
    let left = files(&root.0)?;
    ensure(left.len() == 1, || format!("left: {left:?}"))
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit_and_little_to_attack() -> Outcome {
    require("systemd-analyze")?;
    let root = Folder::new("unit")?;
    make("install", &root.0, "/usr/local")?;
    let installed = root.0.join("usr/local");
    let unit = fs::read_to_string(installed.join("lib/systemd/system/posternd.service"))?;
    // It is looked at with the programs where they are.
    let here = unit.replace("/usr/local", &installed.display().to_string());
    let file = root.0.join("posternd.service");
    fs::write(&file, here)?;
    let file = file.display().to_string();
    let said = must(&["systemd-analyze", "--man=no", "verify", &file])?;
    ensure(said.text().trim().is_empty(), || said.text())?;
    let threshold = format!("--threshold={EXPOSURE}");
    let judged =
        must(&["systemd-analyze", "security", "--no-pager", "--offline=true", &threshold, &file])?;
    ensure(judged.stdout.contains("Overall exposure level"), || judged.text())?;
    // It has to see the difference.
    fs::write(&file, "[Service]\nExecStart=/bin/true\n")?;
    let bare = run(
        &["systemd-analyze", "security", "--no-pager", "--offline=true", &threshold, &file],
        Duration::from_secs(10),
    )?;
    ensure(bare.code != 0, || format!("a unit without restrictions passes: {}", bare.text()))
}
