//! Keys: which are refused, which draw a warning, and that none is ever shown.

use std::path::Path;

use daemon::config::{self, Context, Exposure};

use super::{OneKey, PLANTED, around, parse};

#[test]
fn remotes_and_keys_that_cannot_be() {
    let with = |remote: &str, auth: &str, mode: &str| {
        format!(
            "[tunnels.a]\n{remote}\n{auth}\n{mode}\n[tunnels.a.children.net]\n\
             local = [\"10.1.0.0/16\"]\nremote = [\"10.2.0.0/16\"]\n"
        )
    };
    let good = "auth = { psk = \"a key of 16 octets\" }";
    for (remote, auth, mode, message) in [
        (
            "remote = { address = \"any\" }",
            good,
            "",
            "an always-on tunnel calls its peer, but no address to call is given",
        ),
        (
            "remote = { address = \"192.0.2.0/24\" }",
            good,
            "mode = \"always-on\"",
            "an always-on tunnel calls its peer, but no address to call is given",
        ),
        ("remote = { address = [] }", good, "", "the list of remote addresses is empty"),
        ("remote = { address = \"0.0.0.0\" }", good, "", "`0.0.0.0` is no address of one machine"),
        (
            "remote = { address = \"192.0.2.256\" }",
            good,
            "",
            "`192.0.2.256` is no address, host name or prefix",
        ),
        ("remote = { id = \"b\" }", good, "", "`remote` has no address"),
        ("remote = \"192.0.2.2\"", good, "", "`tunnels.a.remote` takes a table, not a string"),
        ("remote = { address = \"192.0.2.2\" }", "auth = {}", "", "`auth` has no key"),
        (
            "remote = { address = \"192.0.2.2\" }",
            "auth = { psk = \"x\", psk_file = \"a.psk\" }",
            "",
            "`psk` and `psk_file` cannot stand together",
        ),
        (
            "remote = { address = \"192.0.2.2\" }",
            "auth = { psk = \"0xabc\" }",
            "",
            "behind `0x` the key is not hexadecimal with an even number of digits",
        ),
        ("remote = { address = \"192.0.2.2\" }", "auth = { psk = \"\" }", "", "the key is empty"),
        (
            "remote = { address = \"192.0.2.2\" }",
            "auth = { psk = \"x\" }",
            "",
            "the key has one octet only",
        ),
        (
            "remote = { address = \"192.0.2.2\" }",
            "auth = { psk = \"0s/w==\" }",
            "",
            "the key has one octet only",
        ),
        (
            "remote = { address = \"192.0.2.2\" }",
            "auth = { psk_file = \"one.psk\" }",
            "",
            "the key file /etc/x/one.psk is refused: the key has one octet only",
        ),
        (
            "remote = { address = \"192.0.2.2\" }",
            "auth = { psk_file = \"b.psk\" }",
            "",
            "the key file /etc/x/b.psk is refused: No such file or directory (os error 2)",
        ),
        (
            "remote = { address = \"192.0.2.2\" }",
            "auth = { cert = \"a.pem\" }",
            "",
            "`cert` in `tunnels.a.auth` is not available yet",
        ),
    ] {
        let text = with(remote, auth, mode);
        let report = parse(&text).expect_err(&text);
        assert_eq!(report.diagnostics()[0].message, message, "{text}");
        assert_eq!(report.diagnostics().len(), 1, "one mistake, one error: {report}");
    }
}

/// What counts is the key that is meant, not the text that it is written as.
#[test]
fn short_keys_are_accepted_with_a_warning() {
    for (auth, warned) in [
        ("psk = \"ab\"", true),
        ("psk = \"fifteen octets.\"", true),
        ("psk = \"sixteen octets..\"", false),
        ("psk = \"0x0102030405060708090a0b0c0d0e0f\"", true),
        ("psk = \"0x0102030405060708090a0b0c0d0e0f10\"", false),
        ("psk = \"0sAQIDBAUGBwgJCgsMDQ4P\"", true),
        ("psk = \"0sAQIDBAUGBwgJCgsMDQ4PEA==\"", false),
        ("psk_file = \"short.psk\"", true),
        ("psk_file = \"a.psk\"", false),
    ] {
        let text = around("", "").replace("psk_file = \"a.psk\"", auth);
        let said = parse(&text).unwrap_or_else(|report| panic!("{auth}: {report}")).warnings;
        let [warning] = said.diagnostics() else {
            assert!(!warned && said.is_empty(), "{auth}: {said}");
            continue;
        };
        assert!(warned, "{auth}: {said}");
        assert_eq!(
            warning.message,
            "the key is shorter than 16 octets: whoever answers in the peer's place can guess it"
        );
        assert_eq!(warning.help, "take 32 random ones: head -c 32 /dev/urandom | base64");
        let shown = said.to_string();
        assert!(!shown.contains("octets.") && !shown.contains("AQID"), "{shown}");
    }
}

#[test]
fn keys_are_never_shown() {
    let context = Context {
        file: "postern.toml",
        folder: Path::new("/etc/x"),
        exposed: Some(Exposure::Mode(0o644)),
        secrets: &OneKey,
    };
    for auth in [
        format!("auth = {{ psk = \"{PLANTED}\", what = 1 }}"),
        format!("auth = {{ pks = \"{PLANTED}\" }}"),
        format!("auth = \"{PLANTED}\""),
        format!("auth.psk = \"{PLANTED}\""),
        format!("psk = \"{PLANTED}\""),
        format!("auth = {{ key = \"{PLANTED}\" }}"),
        format!("auth = {{ psk_file = \"a\", what = \"{PLANTED}\" }}"),
        format!("auth = {{ psk = 1, \"what\" = [\"{PLANTED}\"] }}"),
        format!("auth = {{ psk = {PLANTED} }}"),
        format!("auth = [\"{PLANTED}\"]"),
        format!("auth.key = \"{PLANTED}\""),
        format!("authn = {{ key = \"{PLANTED}\" }}"),
        format!("auhts.key = \"{PLANTED}\""),
        format!("auth = {{ psk_file = \"a.psk\" }}\npre_shared_key = \"{PLANTED}\""),
        format!("pre-shared-key = \"{PLANTED}\""),
        format!("passwd = \"{PLANTED}\""),
        format!("pass = \"{PLANTED}\""),
        format!("key = \"{PLANTED}\""),
        format!("private_key = '{PLANTED}'"),
        format!("[tunnels.a.auth]\nkey = \"{PLANTED}\"\n[tunnels.b]"),
        format!("psk = \"{PLANTED}\nx"),
        format!("auth = {{ psk = \"0x{PLANTED}\" }}"),
        format!("auth = {{ psk = \"0s{PLANTED}!\" }}"),
        "auth = { psk_file = \"bad.psk\" }".into(),
        format!("auth = {{ psk_file = \"0s{PLANTED}\" }}"),
        format!("auth.psk_file = \"{PLANTED}{PLANTED}\""),
        format!("[tunnels.a.auth]\npsk = 'it's a {PLANTED}'\n[tunnels.b]"),
        format!("[tunnels.a.auth]\npsk = \"ab\"{PLANTED}\"\n[tunnels.b]"),
        format!("auth.psk = 'it's a {PLANTED}'"),
        format!("psk: \"{PLANTED}\""),
        format!("psk \"{PLANTED}\""),
        format!("auth: {{ psk: \"{PLANTED}\" }}"),
        format!("auth.psk \"{PLANTED}\""),
        format!("auth.psk = \"AAAA\n{PLANTED}\""),
        format!("[tunnels.a.auth]\npsk = \"AAAA\n{PLANTED}==\"\n[tunnels.b]"),
        format!("auth = {{ psk = 'it's }} {PLANTED}' }}"),
    ] {
        let text = format!("[tunnels.a]\n{auth}\nremote = {{ address = \"192.0.2.2\" }}\n");
        for context in [context, Context { exposed: None, ..context }] {
            let report = config::parse(&text, &context).expect_err(&text);
            assert!(!format!("{report}{report:?}").contains(PLANTED), "{auth}: {report}");
        }
    }
    let text = around("", "").replace("psk_file = \"a.psk\"", &format!("psk = \"{PLANTED}\""));
    let config = parse(&text).unwrap();
    assert!(!format!("{config:?}").contains(PLANTED));
    let refused = config::parse(&text, &context).unwrap_err();
    assert_eq!(
        refused.diagnostics()[0].message,
        "postern.toml holds a key, but can be used by others (mode 644)"
    );
    let foreign = Context { exposed: Some(Exposure::Owner(1000)), ..context };
    let refused = config::parse(&text, &foreign).unwrap_err();
    let first = &refused.diagnostics()[0];
    assert_eq!(first.message, "postern.toml holds a key, but belongs to user 1000");
    assert_eq!(first.help, "run: chown root postern.toml");
}

/// Whatever slip of the finger there is in the lines with a key, nothing of the key is shown.
#[test]
fn keys_are_not_shown_whatever_is_mistyped() {
    // No part of it is a word that is looked for.
    let key = "Zq7Wd1Xv9Uj3Bn5M";
    let shapes = [
        format!("auth = {{ psk = \"{key}\" }}"),
        format!("auth.psk = '{key}'"),
        format!("[tunnels.a.auth]\npsk = \"{key}\""),
    ];
    let mut refused = 0;
    for shape in shapes {
        let mut slips: Vec<String> = Vec::new();
        for at in 0..=shape.len() {
            let (before, behind) = shape.split_at(at);
            slips.extend("\"'={}[]#:,. \n\\x".chars().map(|c| format!("{before}{c}{behind}")));
            let mut rest = behind.chars();
            if let Some(gone) = rest.next() {
                slips.push(format!("{before}{}", rest.as_str()));
                slips.extend(
                    rest.next().map(|next| format!("{before}{next}{gone}{}", rest.as_str())),
                );
            }
        }
        for slip in slips {
            let text = format!(
                "[tunnels.a]\nremote = {{ address = \"192.0.2.2\" }}\n{slip}\n[tunnels.b]\nx = 1\n"
            );
            let Err(report) = parse(&text) else { continue };
            refused += 1;
            let shown = report.to_string();
            let part = key
                .as_bytes()
                .windows(5)
                .find(|part| shown.contains(std::str::from_utf8(part).unwrap_or_default()));
            assert_eq!(part, None, "{slip}\n{shown}");
        }
    }
    assert!(refused > 1000, "{refused}");
}
