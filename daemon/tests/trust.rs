//! Who can change the configuration and the key files, or put others in their places: such files are
//! refused, by the program as by a reload.

use std::{
    fs::Permissions,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use daemon::config;

/// Somebody who is neither root nor us.
const STRANGER: u32 = 65_534;

const KEYS_IN_FILES: &str = "\
[tunnels.b]
remote = { address = \"192.0.2.2\" }
auth = { psk_file = \"keys/b.psk\" }
[tunnels.b.children.net]
local = [\"10.1.0.0/16\"]
remote = [\"10.2.0.0/16\"]
";

/// `top/etc/config.toml`, its key `top/etc/keys/b.psk`, and `top/elsewhere`.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> std::io::Result<Self> {
        let top = std::env::temp_dir().join(format!("pt-{}-trust-{name}", std::process::id()));
        let tree = Self(top);
        for folder in ["etc/keys", "elsewhere"] {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(tree.at(folder))?;
        }
        for (file, mode, text) in [
            ("etc/config.toml", 0o644, KEYS_IN_FILES),
            ("etc/keys/b.psk", 0o600, "planted-key-51c2"),
        ] {
            std::fs::write(tree.at(file), text)?;
            tree.mode(file, mode)?;
        }
        Ok(tree)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn mode(&self, name: &str, mode: u32) -> std::io::Result<()> {
        std::fs::set_permissions(self.at(name), Permissions::from_mode(mode))
    }

    fn check(&self, name: &str) -> std::io::Result<Output> {
        let path = self.at(name);
        Command::new(env!("CARGO_BIN_EXE_posternd"))
            .arg("--check")
            .arg("--config")
            .arg(path)
            .output()
    }

    /// What is said about the configuration called `name`; `None` when it is accepted.
    fn refusal(&self, name: &str) -> std::io::Result<Option<String>> {
        let said = self.check(name)?;
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!text.contains("planted-key"), "{text}");
        assert!(matches!(said.status.code(), Some(0 | 1)), "{said:?}");
        Ok((!said.status.success()).then_some(text))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The command that a refusal tells helps.
fn follow(text: &str) -> bool {
    let command = text.split_once("run: ").map_or("", |(_, command)| command);
    let command = command.split([';', '\n']).next().unwrap_or_default().trim();
    let words: Vec<&str> = command.split_whitespace().collect();
    let [program @ ("chmod" | "chown"), words @ ..] = &words[..] else { return false };
    Command::new(program).args(words).status().is_ok_and(|status| status.success())
}

#[test]
fn what_others_can_write_is_refused() -> std::io::Result<()> {
    let tree = Tree::new("modes")?;
    assert_eq!(tree.refusal("etc/config.toml")?, None);
    for (place, mode, says) in [
        ("etc/config.toml", 0o666, "it can be changed by others (mode 666); run: chmod go-w"),
        ("etc/config.toml", 0o664, "it can be changed by others (mode 664); run: chmod go-w"),
        ("etc/config.toml", 0o646, "it can be changed by others (mode 646); run: chmod go-w"),
        ("etc/keys/b.psk", 0o660, "it can be used by others (mode 660); run: chmod 600"),
        ("etc/keys/b.psk", 0o602, "it can be used by others (mode 602); run: chmod 600"),
        ("etc/keys/b.psk", 0o640, "it can be used by others (mode 640); run: chmod 600"),
        ("etc", 0o777, "can be changed by others (mode 777); run: chmod go-w"),
        ("etc", 0o775, "can be changed by others (mode 775); run: chmod go-w"),
        ("etc/keys", 0o757, "can be changed by others (mode 757); run: chmod go-w"),
        ("", 0o777, "can be changed by others (mode 777); run: chmod go-w"),
    ] {
        let before = std::fs::metadata(tree.at(place))?.permissions();
        tree.mode(place, mode)?;
        let said = tree.refusal("etc/config.toml")?.unwrap_or_else(|| panic!("{place} {mode:o}"));
        assert!(said.contains(says), "{place}: {said}");
        let named = shown(&tree.at(place));
        assert!(said.contains(named.trim_end_matches('/')), "{place}: {said}");
        assert!(follow(&said), "{said}");
        assert_eq!(tree.refusal("etc/config.toml")?, None, "{place}: after what was told");
        std::fs::set_permissions(tree.at(place), before)?;
    }
    // Names in such a folder are changed by their owners only, as in /tmp.
    tree.mode("etc", 0o1777)?;
    tree.mode("etc/keys", 0o1777)?;
    assert_eq!(tree.refusal("etc/config.toml")?, None);
    Ok(())
}

#[test]
fn what_belongs_to_somebody_else_is_refused() -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a file away.
        return Ok(());
    }
    let tree = Tree::new("owners")?;
    for place in ["etc/config.toml", "etc/keys/b.psk", "etc", "etc/keys", ""] {
        chown(tree.at(place), Some(STRANGER), None)?;
        let said = tree.refusal("etc/config.toml")?.unwrap_or_else(|| panic!("{place}"));
        assert!(said.contains("belongs to user 65534"), "{said}");
        assert!(follow(&said), "{said}");
        assert_eq!(tree.refusal("etc/config.toml")?, None, "{place}: after what was told");
    }
    // A sticky folder is its owner's, and so is what is in it.
    tree.mode("etc", 0o1755)?;
    chown(tree.at("etc"), Some(STRANGER), None)?;
    assert!(tree.refusal("etc/config.toml")?.is_some());
    Ok(())
}

/// A link is as good as the folders on both ways: to the link, and to what it names.
#[test]
fn links_are_followed_with_open_eyes() -> std::io::Result<()> {
    let tree = Tree::new("links")?;
    symlink("../etc/config.toml", tree.at("elsewhere/relative.toml"))?;
    symlink(tree.at("etc"), tree.at("elsewhere/folder"))?;
    symlink(tree.at("etc/keys"), tree.at("elsewhere/keys"))?;
    symlink("loop", tree.at("elsewhere/loop"))?;
    let ways = ["elsewhere/relative.toml", "elsewhere/folder/config.toml"];
    for way in ways {
        assert_eq!(tree.refusal(way)?, None, "{way}");
        for folder in ["etc", "elsewhere"] {
            tree.mode(folder, 0o777)?;
            let said = tree.refusal(way)?.unwrap_or_else(|| panic!("{way}"));
            assert!(said.contains(&shown(&tree.at(folder))), "{said}");
            tree.mode(folder, 0o755)?;
        }
        if rustix::process::geteuid().is_root() {
            let link = tree.at(way.trim_end_matches("/config.toml"));
            std::os::unix::fs::lchown(&link, Some(STRANGER), None)?;
            let said = tree.refusal(way)?.unwrap_or_else(|| panic!("{way}"));
            assert!(said.contains("the link") && said.contains("chown -h root"), "{said}");
            assert!(follow(&said), "{said}");
            assert_eq!(tree.refusal(way)?, None, "{way}");
        }
    }
    assert!(tree.refusal("elsewhere/loop")?.is_some_and(|said| said.contains("symbolic links")));
    assert!(tree.refusal("etc/config.toml/x")?.is_some());
    assert_eq!(tree.refusal("elsewhere/../etc/./config.toml")?, None);
    Ok(())
}

/// What a reload and `--release` ask of the file is the same; `--release` still goes by its names.
#[test]
fn a_reload_is_refused_as_a_start_is() -> std::io::Result<()> {
    let tree = Tree::new("reload")?;
    let path = tree.at("etc/config.toml");
    assert!(config::load(&path).is_ok());
    tree.mode("etc/config.toml", 0o666)?;
    let said = config::load(&path).expect_err("others can write it").to_string();
    assert_eq!(
        said,
        format!(
            "error: {0} is refused: it can be changed by others (mode 666); run: chmod go-w {0}",
            shown(&path)
        )
    );
    std::fs::write(&path, "[inline]\ninterface = \"pt7\"\n")?;
    assert_eq!(config::traces(&path).interface, "pt7");
    Ok(())
}
