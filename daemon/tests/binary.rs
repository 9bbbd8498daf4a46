//! `posternd` as a program: exit status and what it says, without touching any system.

use std::{
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pt-{}-binary-{name}", std::process::id()));
        let _ = std::fs::DirBuilder::new().mode(0o755).create(&folder);
        Self(folder)
    }

    fn write(&self, name: &str, mode: u32, text: &str) -> std::io::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn posternd(words: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_posternd")).args(words).output()
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

const GOOD: &str = "\
[tunnels.b]
remote = { address = \"192.0.2.2\" }
auth = { psk = \"planted-key-51c2\" }
[tunnels.b.children.net]
local = [\"10.1.0.0/16\"]
remote = [\"10.2.0.0/16\"]
";

#[test]
fn check_says_what_is_there_or_what_is_wrong() -> std::io::Result<()> {
    let folder = Folder::new("check");
    let good = folder.write("good.toml", 0o600, GOOD)?;
    let said = posternd(&["--check", "--config", shown(&good)])?;
    assert_eq!(said.status.code(), Some(0), "{said:?}");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(text, format!("{}: valid, 1 tunnel and 1 child\n", shown(&good)));

    for (name, mode, text, says) in [
        ("bad.toml", 0o600, GOOD.replace("local", "locla"), "did you mean `local`?"),
        ("open.toml", 0o644, GOOD.to_owned(), "chmod 600"),
        ("binary.toml", 0o600, "\u{0}\u{1}".to_owned(), "no valid TOML"),
    ] {
        let path = folder.write(name, mode, &text)?;
        for words in [&["--check", "--config"][..], &["--config"]] {
            let words = [words, &[shown(&path)]].concat();
            let said = posternd(&words)?;
            let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
            assert_eq!(said.status.code(), Some(1), "{said:?}");
            assert!(stderr.contains(says) && stderr.contains(name), "{stderr}");
            assert!(!stderr.contains("planted-key"), "{stderr}");
            assert!(said.stdout.is_empty(), "{said:?}");
        }
    }
    Ok(())
}

/// The journal is told how bad each line is, and not what time it is.
#[test]
fn lines_for_the_journal_have_a_priority_and_no_time() -> std::io::Result<()> {
    let folder = Folder::new("journal");
    let text = format!("[gateway]\nstate_dir = \"/dev/null/x\"\n{GOOD}");
    let text = text.replace("[tunnels.b.ch", "ike = { rekey = \"59s\" }\n[tunnels.b.ch");
    let config = folder.write("config.toml", 0o600, &text)?;
    let log = folder.write("log", 0o600, "")?;
    let told = std::fs::metadata(&log)?;
    for (stream, journal) in
        [(format!("{}:{}", told.dev(), told.ino()), true), ("1:2".into(), false)]
    {
        std::fs::write(&log, "")?;
        let status = Command::new(env!("CARGO_BIN_EXE_posternd"))
            .args(["--config", shown(&config)])
            .env("JOURNAL_STREAM", stream)
            .stderr(std::fs::File::options().append(true).open(&log)?)
            .status()?;
        assert_eq!(status.code(), Some(1));
        let said = std::fs::read_to_string(&log)?;
        let lines: Vec<&str> = said.lines().collect();
        let warnings = lines.iter().filter(|line| line.starts_with("<4>")).count();
        let last = lines.last().copied().unwrap_or_default();
        if journal {
            assert!(warnings > 1 && lines[0].contains("WARN"), "each line of a report: {said}");
            assert!(last.starts_with("<3>posternd: the state folder"), "{said}");
            assert!(!said.contains("Z "), "{said}");
        } else {
            assert!(warnings == 0 && last.starts_with("posternd: the state folder"), "{said}");
            assert!(lines[0].starts_with("20"), "{said}");
        }
    }
    Ok(())
}

/// An editor that saves Latin-1 or UTF-16 is told where the first such character is.
#[test]
fn text_that_is_no_utf8_is_shown() -> std::io::Result<()> {
    let folder = Folder::new("encoding");
    let path = folder.0.join("config.toml");
    let latin = GOOD.replace("[tunnels.b]", "# Schlo\u{df}\n[tunnels.b]");
    let latin: Vec<u8> = latin.chars().map(|c| c as u8).collect();
    let behind = [GOOD.as_bytes(), b"# \xff\n"].concat();
    let inside = GOOD.as_bytes().to_vec();
    let planted = inside.windows(7).position(|w| w == b"planted").unwrap_or_default();
    let inside = [&inside[..planted + 3], b"\xfc", &inside[planted + 3..]].concat();
    let utf16: Vec<u8> =
        "\u{feff}".chars().chain(GOOD.chars()).flat_map(|c| (c as u16).to_le_bytes()).collect();
    for (content, place) in [(latin, "1:8"), (behind, "7:3"), (inside, "3:20"), (utf16, "1:1")] {
        std::fs::write(&path, &content)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let said = posternd(&["--check", "--config", shown(&path)])?;
        let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(stderr.starts_with("error: this is no UTF-8 text\n"), "{stderr}");
        assert!(stderr.contains(&format!("config.toml:{place}\n")), "{stderr}");
        for secret in ["planted", "pla\u{fffd}", "51c2"] {
            assert!(!stderr.replace(' ', "").contains(secret), "{stderr}");
        }
    }
    Ok(())
}

/// Whoever owns a file reads and changes it whatever its mode is.
#[test]
fn files_with_keys_belong_to_root_or_to_us() -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a file away.
        return Ok(());
    }
    let folder = Folder::new("owner");
    let inline = folder.write("inline.toml", 0o600, GOOD)?;
    let text = GOOD.replace("psk = \"planted-key-51c2\"", "psk_file = \"key\"");
    let named = folder.write("named.toml", 0o600, &text)?;
    let key = folder.write("key", 0o600, "planted-key-51c2")?;
    let check = |config: &Path| posternd(&["--check", "--config", shown(config)]);
    for (config, given) in [(&inline, &inline), (&named, &key)] {
        assert_eq!(check(config)?.status.code(), Some(0));
        std::os::unix::fs::chown(given, Some(65_534), None)?;
        let said = check(config)?;
        let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(stderr.contains("belongs to user 65534"), "{stderr}");
        assert!(stderr.contains(&format!("run: chown root {}", shown(given))), "{stderr}");
        assert!(!stderr.contains("planted-key"), "{stderr}");
        std::os::unix::fs::chown(given, Some(0), None)?;
        assert_eq!(check(config)?.status.code(), Some(0));
    }
    Ok(())
}

#[test]
fn files_that_are_none_are_refused_at_once() -> std::io::Result<()> {
    let folder = Folder::new("files");
    let pipe = folder.0.join("pipe");
    Command::new("mkfifo").arg(&pipe).status()?;
    for (path, says) in [
        (Path::new("/nonexistent/config.toml"), "does not exist; name another one"),
        (&folder.0, "it is no regular file"),
        (&pipe, "it is no regular file"),
        (Path::new("/dev/zero"), "it is no regular file"),
    ] {
        let said = posternd(&["--check", "--config", shown(path)])?;
        let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        assert!(stderr.contains(says), "{stderr}");
    }
    // The same for a key, also behind a link; and a key is short.
    std::os::unix::fs::symlink("/dev/zero", folder.0.join("link"))?;
    folder.write("long", 0o600, &"x".repeat(4097))?;
    folder.write("good", 0o600, "planted-key-51c2")?;
    std::os::unix::fs::symlink("good", folder.0.join("good-link"))?;
    for (name, says) in [
        ("pipe", "no regular file"),
        ("link", "no regular file"),
        ("long", "it is longer than 4096 octets"),
        ("good-link", ""),
    ] {
        let key = format!("psk_file = \"{name}\"");
        let text = GOOD.replace("psk = \"planted-key-51c2\"", &key);
        let config = folder.write("config.toml", 0o600, &text)?;
        let said = posternd(&["--check", "--config", shown(&config)])?;
        assert_eq!(said.status.success(), says.is_empty(), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stderr).contains(says), "{said:?}");
    }
    Ok(())
}

#[test]
fn wrong_use_is_2_and_versions_are_told() -> std::io::Result<()> {
    for words in [&["--chekc"][..], &["--config"], &["x"], &["--check", "--release"]] {
        assert_eq!(posternd(words)?.status.code(), Some(2), "{words:?}");
    }
    let said = posternd(&["--version"])?;
    let version = format!("posternd {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&said.stdout), version);
    Ok(())
}
