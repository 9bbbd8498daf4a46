//! Holds the arrows between the rooms of the workspace, the allow-list of outside dependencies of
//! the pure rooms, and their purity, as ARCHITECTURE.md states them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a manifest or source file of another form than expected is a failure of these tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Every room and which rooms it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("sa-store", &[]),
    ("crypto", &["sa-store"]),
    ("ike", &["sa-store", "crypto"]),
    ("esp", &["sa-store", "crypto"]),
    ("hw-offload", &["sa-store", "crypto"]),
    ("fastpath", &["sa-store", "crypto", "esp", "hw-offload"]),
    ("gateway", &["sa-store", "crypto", "ike", "hw-offload"]),
    ("tls", &["sa-store", "crypto"]),
    ("api", &[]),
    ("daemon", &["sa-store", "crypto", "ike", "hw-offload", "fastpath", "gateway", "tls", "api"]),
    ("cli", &["api"]),
    ("sim", &["sa-store", "crypto", "ike", "esp", "hw-offload", "fastpath", "gateway"]),
    ("conformance", &["api"]),
];

/// Arrows that not even tests may draw.
const NEVER: &[(&str, &str)] =
    &[("esp", "ike"), ("ike", "esp"), ("ike", "hw-offload"), ("cli", "daemon")];

/// What the pure rooms may use of the outside world.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("sa-store", &["zeroize", "dashmap"]),
    ("ike", &["zeroize"]),
    ("esp", &["zeroize"]),
    ("gateway", &["zeroize"]),
];

/// What a pure room's source may not name: clocks, sockets, threads, files, and randomness of
/// its own.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "UnixDatagram",
    "UnixListener",
    "thread::spawn",
    "thread::sleep",
    "File::open",
    "Command::new",
    "getrandom",
    "unsafe ",
];

/// Modules of the standard library that a pure room may neither import from nor name.
const IMPURE_MODULES: &[&str] =
    &["std::env", "std::fs", "std::io", "std::os", "std::process", "std::thread"];

/// The same for single items, whose modules hold harmless ones too.
const IMPURE_ITEMS: &[&str] = &[
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::time::Instant",
    "std::time::SystemTime",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn manifest(folder: &str) -> Table {
    let file = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", file.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn members() -> Vec<String> {
    let top = manifest(".");
    let members = top["workspace"]["members"].as_array().unwrap();
    members.iter().map(|member| member.as_str().unwrap().to_owned()).collect()
}

/// The names in one kind of dependency table of a room, target-specific ones included.
fn dependencies(folder: &str, kinds: &[&str]) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let mut tables = vec![&manifest];
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    let of_kind = |table: &&Table, kind: &&str| -> Vec<String> {
        let named = table.get(*kind).and_then(Value::as_table);
        named.into_iter().flat_map(Table::keys).cloned().collect()
    };
    tables
        .iter()
        .flat_map(|table| kinds.iter().flat_map(move |kind| of_kind(table, kind)))
        .collect()
}

const SHIPPED: &[&str] = &["dependencies", "build-dependencies"];
const ALL: &[&str] = &["dependencies", "build-dependencies", "dev-dependencies"];

#[test]
fn every_room_is_on_the_map_and_every_room_on_the_map_exists() {
    let known: BTreeSet<_> = ARROWS.iter().map(|(room, _)| (*room).to_owned()).collect();
    let mut expected = known;
    if !root().join("tls").exists() {
        // The room for TLS is drawn in the architecture and comes later; no empty rooms.
        expected.remove("tls");
    }
    let members: BTreeSet<_> = members().into_iter().collect();
    assert_eq!(members, expected, "workspace members (left) and the architecture (right) differ");
}

#[test]
fn arrows_between_rooms_hold() {
    let rooms: BTreeSet<_> = members().into_iter().collect();
    for room in &rooms {
        let (_, allowed) = ARROWS.iter().find(|(name, _)| name == room).unwrap();
        for used in dependencies(room, SHIPPED).intersection(&rooms) {
            assert!(
                allowed.contains(&used.as_str()),
                "{room} depends on {used}; it may depend on {allowed:?} only"
            );
        }
        for used in dependencies(room, ALL).intersection(&rooms) {
            assert!(
                !NEVER.contains(&(room.as_str(), used.as_str())),
                "{room} depends on {used}, which not even its tests may"
            );
        }
    }
    assert!(
        dependencies("sa-store", ALL).is_disjoint(&rooms),
        "sa-store depends on nothing of ours"
    );
}

#[test]
fn pure_rooms_use_only_the_allow_list_of_outside_packages() {
    let rooms: BTreeSet<_> = members().into_iter().collect();
    for (room, allowed) in OUTSIDE {
        for used in dependencies(room, SHIPPED).difference(&rooms) {
            assert!(
                allowed.contains(&used.as_str()),
                "{room} uses the package {used}; the allow-list is {allowed:?}"
            );
        }
    }
}

#[test]
fn only_crypto_names_cryptographic_packages() {
    let cryptographic =
        ["ring", "aws-lc-rs", "aws-lc-sys", "aes-gcm", "x25519-dalek", "crypto-bigint", "rustls"];
    for room in members() {
        if room == "crypto" || room == "tls" {
            continue;
        }
        let used = dependencies(&room, SHIPPED);
        let named: Vec<_> = cryptographic.iter().filter(|name| used.contains(**name)).collect();
        assert!(named.is_empty(), "{room} names {named:?}; only crypto may");
    }
}

#[test]
fn versions_are_stated_once_at_the_top() {
    for room in members() {
        let manifest = manifest(&room);
        for kind in ALL {
            let Some(named) = manifest.get(*kind).and_then(Value::as_table) else { continue };
            for (name, value) in named {
                let shared = value.get("workspace").and_then(Value::as_bool) == Some(true);
                assert!(shared, "{room}: {name} states its own version or path");
            }
        }
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(lints.and_then(Value::as_bool), Some(true), "{room} does not take our lints");
    }
}

#[test]
fn fuzz_stands_outside_the_workspace() {
    assert!(!members().iter().any(|member| member.starts_with("fuzz")), "fuzz is a member");
    let top = manifest(".");
    let excluded = top["workspace"]["exclude"].as_array().unwrap();
    assert!(excluded.iter().any(|folder| folder.as_str() == Some("fuzz")), "fuzz is not excluded");
    if root().join("fuzz").exists() {
        assert!(manifest("fuzz").contains_key("workspace"), "fuzz has no workspace of its own");
    }
    for room in members() {
        assert!(!dependencies(&room, ALL).contains("fuzz"), "{room} depends on fuzz");
    }
}

#[test]
fn ike_and_esp_are_no_std() {
    for room in ["ike", "esp"] {
        let text = fs::read_to_string(root().join(room).join("src/lib.rs")).unwrap();
        let line = |wanted: &str| text.lines().any(|line| line.trim() == wanted);
        assert!(
            line("#![no_std]") || line("#![cfg_attr(not(test), no_std)]"),
            "{room}/src/lib.rs does not declare no_std"
        );
        // `std` may come back for tests only.
        for (number, found) in text.lines().enumerate() {
            if found.trim() == "extern crate std;" {
                let before = text.lines().nth(number.wrapping_sub(1)).unwrap_or_default();
                assert_eq!(before.trim(), "#[cfg(test)]", "{room} links std outside of tests");
            }
        }
    }
}

#[test]
fn pure_rooms_name_no_clock_socket_thread_or_file() {
    let mut looked_at = 0;
    for (room, _) in OUTSIDE {
        for file in sources(&root().join(room).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            looked_at += 1;
            if let Some((line, found)) = impurities(&text).first() {
                panic!("{}:{line} names `{found}`", file.display());
            }
        }
    }
    assert!(looked_at >= OUTSIDE.len(), "only {looked_at} source files were found");
}

#[test]
fn the_search_for_impurities_can_find_one() {
    let text = "//! std::fs in prose\nuse std::fs::File; // here\n#[cfg(test)]\nuse std::thread;\n";
    assert_eq!(found(text), [(2, "std::fs::File")]);
    assert_eq!(found("let now = Instant::now();"), [(1, "Instant::now")]);
    assert_eq!(found("let text = std::fs::read(path)?;"), [(1, "std::fs")]);
    let text =
        "use std::{\n    fs::{self, File}, net::{IpAddr, UdpSocket},\n    thread as t,\n};\n";
    let all =
        [(1, "std::fs"), (1, "std::fs::File"), (1, "std::net::UdpSocket"), (1, "std::thread")];
    assert_eq!(found(text)[..4], all);
    assert_eq!(
        found("pub(crate) use std::{time::{Duration, Instant}};"),
        [(1, "std::time::Instant")]
    );
    // A whole module under its own name brings its items along.
    for whole in ["use std::time;", "use std::*;", "use std::{time::*, net};", "use std as s;"] {
        assert!(!found(whole).is_empty(), "{whole}");
    }
    assert!(found("use std::{net::IpAddr, sync::Arc, time::Duration};").is_empty());
}

fn found(text: &str) -> Vec<(usize, &str)> {
    impurities(text).into_iter().map(|(line, name)| (line, name.leak() as &str)).collect()
}

/// Lines of shipped code that name something impure. Comments do not count, nor does what follows
/// the first `#[cfg(test)]`, which is where a file's tests are.
fn impurities(text: &str) -> Vec<(usize, String)> {
    let shipped = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    let code: Vec<&str> =
        shipped.map(|line| line.split("//").next().unwrap_or_default().trim()).collect();
    let mut found = Vec::new();
    let mut rest = code.iter().zip(1..);
    while let Some((line, number)) = rest.next() {
        if let Some(tree) = import(line) {
            // Until its semicolon, over as many lines as it takes.
            let mut tree = tree.to_owned();
            while !tree.contains(';') {
                let Some((more, _)) = rest.next() else { break };
                tree.push_str(more);
            }
            let tree = tree.split(';').next().unwrap_or_default();
            let paths = flattened("", tree);
            found.extend(
                paths.into_iter().filter(|path| is_impure(path)).map(|path| (number, path)),
            );
        } else {
            let names = IMPURE.iter().chain(IMPURE_MODULES).filter(|name| line.contains(**name));
            found.extend(names.map(|name| (number, (*name).to_owned())));
        }
    }
    found
}

/// What a line imports, if it begins an import.
fn import(line: &str) -> Option<&str> {
    let behind_visibility =
        line.strip_prefix("pub").map_or(line, |rest| match rest.strip_prefix('(') {
            Some(rest) => rest.split_once(')').map_or(rest, |(_, rest)| rest),
            None => rest,
        });
    behind_visibility.trim_start().strip_prefix("use ")
}

/// Every path that a `use` tree names: `a::{b, c::{self, d as e}}` is `a::b`, `a::c`, `a::c::d`.
fn flattened(before: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((path, branches)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        let whole = format!("{before}{name}");
        return vec![whole.strip_suffix("::self").map(str::to_owned).unwrap_or(whole)];
    };
    let before = format!("{before}{}", path.trim());
    let branches = branches.strip_suffix('}').unwrap_or(branches);
    let mut depth = 0_usize;
    branches
        .split(|c: char| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .filter(|branch| !branch.trim().is_empty())
        .flat_map(|branch| flattened(&before, branch))
        .collect()
}

fn is_impure(path: &str) -> bool {
    let below = |module: &str| path == module || path.starts_with(&format!("{module}::"));
    // Modules as a whole, from which impure items can be named without their path.
    let wholes = ["std", "std::*", "std::net", "std::net::*", "std::time", "std::time::*"];
    IMPURE_MODULES.iter().chain(IMPURE_ITEMS).any(|module| below(module))
        || wholes.contains(&path)
        || below("getrandom")
}

/// All source files of a room, apart from files of tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == "tests" || name.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
