//! A table of bad configurations and exactly what is said about them.

use std::{path::Path, time::Duration};

use daemon::config::{self, Context, Exposure, SecretFiles};
use gateway::spec::{RemoteAddress, TunnelMode};
use ike::config::{AuthMethod, EncapPolicy};
use sa_store::{Esn, SecretBytes};

const PLANTED: &str = "planted-key-7f3a9c";

/// One key file, `a.psk`.
struct OneKey;

impl SecretFiles for OneKey {
    fn read(&self, path: &Path) -> Result<SecretBytes, String> {
        match path.to_str() {
            Some("/etc/x/a.psk") => Ok(SecretBytes::from_slice(b"0x0102\n")),
            Some("/etc/x/bad.psk") => {
                Ok(SecretBytes::from_slice(format!("0x{PLANTED}").as_bytes()))
            }
            _ => Err("No such file or directory (os error 2)".into()),
        }
    }
}

fn parse(text: &str) -> Result<config::Config, config::Report> {
    let context = Context {
        file: "postern.toml",
        folder: Path::new("/etc/x"),
        exposed: None,
        secrets: &OneKey,
    };
    config::parse(text, &context)
}

/// A tunnel that is right, with `tunnel` lines in it and `child` lines in its child.
fn around(tunnel: &str, child: &str) -> String {
    format!(
        "[tunnels.a]\nremote = {{ address = \"192.0.2.2\" }}\nauth = {{ psk_file = \"a.psk\" }}\n\
         {tunnel}\n[tunnels.a.children.net]\nlocal = [\"10.1.0.0/16\"]\n\
         remote = [\"10.2.0.0/16\"]\n{child}\n"
    )
}

/// Line 4 is the tunnel's, line 8 the child's.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn bad_files_and_what_is_said() {
    let tunnel = |text: &str| around(text, "");
    let child = |text: &str| around("", text);
    let cases: Vec<(String, &str, &str, &str)> = vec![
        // (text, first message, place, help)
        ("x".into(), "no valid TOML: key with no value, expected `=`", "1:2", ""),
        ("a = 1\na = 2".into(), "no valid TOML: duplicate key", "2:1", ""),
        (
            "[gatway]\n".into(),
            "unknown key `gatway` at the top of the file",
            "1:2",
            "did you mean `gateway`?",
        ),
        (
            "[gateway]\ncolour = 1\n".into(),
            "unknown key `colour` in `gateway`",
            "2:1",
            "known keys: name, dataplane, control, state_dir, on_stop",
        ),
        (
            "gateway = 3\n".into(),
            "`gateway` takes a table, not a number",
            "1:11",
            "write { name = ... }",
        ),
        (
            "[gateway]\nname = 1\n".into(),
            "`name` takes a string, not a number",
            "2:8",
            "write \"site-a\"",
        ),
        (
            "[gateway]\nname = \"a b\"\n".into(),
            "`a b` cannot be name",
            "2:8",
            "use at most 64 letters, digits, dots, hyphens, underscores and colons",
        ),
        (
            "[gateway]\non_stop = \"close\"\n".into(),
            "`on_stop` cannot be \"close\"",
            "2:11",
            "did you mean \"closed\"?",
        ),
        (
            "[gateway]\ndataplane = \"kernel\"\n".into(),
            "`dataplane = \"kernel\"` is not available yet",
            "2:13",
            "use \"auto\" or \"inline\"",
        ),
        (
            "[gateway]\ndataplane = \"eth0\"\n".into(),
            "`dataplane = \"eth0\"` is not available yet",
            "2:13",
            "use \"auto\" or \"inline\"",
        ),
        (
            "[gateway]\ndataplane = \"inlin\"\n".into(),
            "`dataplane = \"inlin\"` does not exist",
            "2:13",
            "did you mean \"inline\"?",
        ),
        (
            "[gateway]\ndataplane = \"user space\"\n".into(),
            "`dataplane = \"user space\"` does not exist",
            "2:13",
            "use \"auto\" or \"inline\"",
        ),
        ("[gateway]\ncontrol = \"\"\n".into(), "this is no path", "2:11", ""),
        (
            format!("[gateway]\ncontrol = \"/{}\"\n", "x".repeat(120)),
            "the path is longer than 107 octets",
            "2:11",
            "choose a shorter one",
        ),
        (
            "[inline]\ninterface = \"a/b\"\n".into(),
            "`a/b` is no name for an interface",
            "2:13",
            "use at most 15 letters, digits, dots and hyphens",
        ),
        (
            "[inline]\nworkers = 0\n".into(),
            "`workers` is a number from 1 to 64, or \"auto\"",
            "2:11",
            "\"auto\" is the default",
        ),
        (
            "[inline]\nworkers = -1\n".into(),
            "`workers` takes a number that is neither negative nor huge",
            "2:11",
            "write \"auto\" or a number",
        ),
        (
            "[api]\ngrpc = \"127.0.0.1:1\"\n".into(),
            "`api` at the top of the file is not available yet",
            "1:2",
            "remove it",
        ),
        (
            "tunnels = []\n".into(),
            "`tunnels` takes tables, not a list",
            "1:11",
            "write [tunnels.NAME]",
        ),
        (
            "[tunnels.\"a/b\"]\n".into(),
            "`a/b` cannot be a tunnel's name",
            "1:10",
            "use at most 64 letters, digits, dots, hyphens, underscores and colons",
        ),
        (
            "[tunnels.a]\n".into(),
            "tunnel `a` has no `remote`",
            "1:10",
            "add remote = { address = \"192.0.2.2\" }",
        ),
        (
            tunnel("mode = \"on-demand\""),
            "`mode = \"on-demand\"` is not available yet",
            "4:8",
            "use \"always-on\" or \"passive\"",
        ),
        (
            tunnel("mode = \"always_on\""),
            "`mode` cannot be \"always_on\"",
            "4:8",
            "did you mean \"always-on\"?",
        ),
        (
            tunnel("encap = true"),
            "`encap` takes a string, not true or false",
            "4:9",
            "write \"auto\"",
        ),
        (
            tunnel("local = { address = \"b.example\" }"),
            "`b.example` is no address of this machine",
            "4:21",
            "write an IPv4 or IPv6 address, or leave it out",
        ),
        (
            tunnel("local = { address = \"192.0.2.2\" }"),
            "`192.0.2.2` is the local and the remote address",
            "2:22",
            "the peer has another one",
        ),
        (
            tunnel("local = { address = \"2001:db8::1\" }"),
            "the local and the remote address are not of one family",
            "2:22",
            "use IPv4 on both sides or IPv6 on both sides",
        ),
        (
            tunnel("local = { address = [\"192.0.2.1\", \"any\"] }"),
            "`any` beside others says nothing",
            "4:35",
            "leave it out, or leave out the others",
        ),
        (
            tunnel("local = { id = \"\" }"),
            "`` is no identity: the identity is empty or does not fit its type",
            "4:16",
            "write for example \"a.example\", \"user@example.org\" or an address",
        ),
        (
            tunnel("ike = { rekey = \"4 hours\" }"),
            "`4 hours` is no duration",
            "4:17",
            "write a number and s, m, h or d: \"30s\", \"4h\"",
        ),
        (
            tunnel("ike = { rekey = \"1s\" }"),
            "`1s` is over before an exchange with the peer is",
            "4:17",
            "the default is \"4h\"",
        ),
        (
            tunnel("ike = { dpd = \"1s\" }"),
            "`1s` is over before an exchange with the peer is",
            "4:15",
            "the default is \"30s\"",
        ),
        (
            child("esp = { rekey = \"1s\" }"),
            "`1s` is over before an exchange with the peer is",
            "8:17",
            "the default is \"1h\"",
        ),
        (
            tunnel("ike = { rekye = \"4h\" }"),
            "unknown key `rekye` in `tunnels.a.ike`",
            "4:9",
            "did you mean `rekey`?",
        ),
        (
            tunnel("ike = { proposals = [] }"),
            "the list of proposals is empty",
            "4:21",
            "name one, or leave the key out for the defaults",
        ),
        (
            child("esp = { rekey_bytes = \"64G\" }"),
            "`64G` is no size",
            "8:23",
            "write a number and B, KiB, MiB, GiB or TiB: \"64GiB\"",
        ),
        (
            child("esp = { replay_window = 16 }"),
            "a replay window of 16 packets does not exist",
            "8:25",
            "use 32 to 4096, or 0 for none",
        ),
        (
            child("esp = { replay_window = 0, proposals = [\"aes256gcm16-esn\"] }"),
            "extended sequence numbers need a replay window (RFC 4303 section 3.4.3)",
            "8:40",
            "use -noesn, or a replay_window from 32 to 4096",
        ),
        (
            child("interface = \"ipsec7\""),
            "`interface` in `tunnels.a.children.net` is not available yet",
            "8:1",
            "remove it",
        ),
        (
            child("mode = \"transport\""),
            "`mode = \"transport\"` is not available yet",
            "8:8",
            "remove it: \"tunnel\" is the default",
        ),
        (
            child("bypass = [\"10.3.0.0/16\"]"),
            "`10.3.0.0/16` lies in none of the child's networks",
            "8:11",
            "it would do nothing; remove it",
        ),
        (
            child("bypass = [\"10.1.0.0/16\"]"),
            "`bypass` leaves nothing of `10.1.0.0/16` to protect",
            "8:11",
            "all of it would go in clear; name a part of it, or remove it from both",
        ),
        (
            child("bypass = [\"10.2.0.0/17\", \"10.2.128.0/17\"]"),
            "`bypass` leaves nothing of `10.2.0.0/16` to protect",
            "8:26",
            "all of it would go in clear; name a part of it, or remove it from both",
        ),
        (
            child(
                "[tunnels.a.children.again]\nlocal = [\"10.1.0.0/16\"]\nremote = [\"10.2.0.0/16\"]",
            ),
            "`a/net` already protects everything that `a/again` would",
            "8:21",
            "give them different networks, or remove one",
        ),
        (
            child(
                "[tunnels.a.children.six]\nlocal = [\"10.9.0.0/24\"]\nremote = [\"2001:db8::/32\"]",
            ),
            "`10.9.0.0/24` has no partner of its family and protocol on the other side",
            "9:10",
            "no packet can match it",
        ),
        (
            child(
                "[tunnels.a.children.x]\nlocal = [\"10.9.0.1/24\"]\nremote = [\"10.8.0.0/16[tpc/80]\"]",
            ),
            "bits are set behind the prefix length; did you mean `10.9.0.0/24`?",
            "9:10",
            "",
        ),
        (
            child("[tunnels.a.children.x]\nlocal = []\nremote = [1]"),
            "the list of local networks is empty",
            "9:9",
            "name at least one",
        ),
    ];
    for (text, message, place, help) in cases {
        let report = parse(&text).expect_err(&text);
        let first = report.diagnostics().first().unwrap_or_else(|| panic!("{text}"));
        assert_eq!(first.message, message, "{text}");
        assert_eq!(first.help, help, "{text}");
        let shown = report.to_string();
        assert!(shown.contains(&format!("--> postern.toml:{place}\n")), "{text}\n{shown}");
    }
}

#[test]
fn the_whole_of_an_error_is_what_people_see() {
    let text = around("ike = { rekye = \"4h\" }", "esp = { rekey = 30 }");
    assert_eq!(
        parse(&text).unwrap_err().to_string(),
        "\
error: unknown key `rekye` in `tunnels.a.ike`
 --> postern.toml:4:9
  |
4 | ike = { rekye = \"4h\" }
  |         ^^^^^ did you mean `rekey`?
error: `rekey` takes a string, not a number
 --> postern.toml:8:17
  |
8 | esp = { rekey = 30 }
  |                 ^^ write \"1h\""
    );
}

#[test]
fn remotes_and_keys_that_cannot_be() {
    let with = |remote: &str, auth: &str, mode: &str| {
        format!(
            "[tunnels.a]\n{remote}\n{auth}\n{mode}\n[tunnels.a.children.net]\n\
             local = [\"10.1.0.0/16\"]\nremote = [\"10.2.0.0/16\"]\n"
        )
    };
    let good = "auth = { psk = \"x\" }";
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
    // A file without keys may be anybody's.
    assert!(config::parse(&around("", ""), &foreign).is_ok());
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

#[test]
fn short_lifetimes_are_accepted_with_a_warning() {
    for (ike, esp, warnings) in [
        ("rekey = \"59s\"", "", 1),
        ("dpd = \"4s\"", "", 1),
        ("", "rekey = \"59s\"", 1),
        ("rekey = \"2s\", dpd = \"2s\"", "rekey = \"2s\"", 3),
        ("", "rekey_bytes = \"1023KiB\", rekey_packets = 999", 2),
        ("rekey = \"60s\", dpd = \"5s\"", "rekey = \"60s\", rekey_bytes = \"1MiB\"", 0),
        ("rekey = \"0s\", dpd = \"0s\"", "rekey = \"0s\", rekey_packets = 1000", 0),
    ] {
        let text = around(&format!("ike = {{ {ike} }}"), &format!("esp = {{ {esp} }}"));
        let said = parse(&text).unwrap_or_else(|report| panic!("{report}")).warnings;
        assert_eq!(said.diagnostics().len(), warnings, "{ike} {esp}: {said}");
    }
}

#[test]
fn a_tunnel_with_defaults_is_safe_and_current() {
    let config = parse(&around("", "")).unwrap();
    assert!(config.warnings.is_empty());
    let tunnel = &config.connections[0];
    assert_eq!(tunnel.mode, TunnelMode::AlwaysOn);
    assert_eq!(tunnel.encap, EncapPolicy::Auto);
    assert_eq!(tunnel.remote, [RemoteAddress::Address("192.0.2.2".parse().unwrap())]);
    assert_eq!(tunnel.remote_id, "192.0.2.2".parse().unwrap());
    assert_eq!(tunnel.rekey, Some(Duration::from_secs(4 * 3600)));
    assert_eq!(tunnel.dpd, Some(Duration::from_secs(30)));
    let AuthMethod::Psk(psk) = &tunnel.auth;
    assert_eq!(psk.expose(), [1, 2]);
    assert_eq!(tunnel.proposals, ike::negotiate::default_ike_proposals());
    let child = &tunnel.children[0];
    assert_eq!(child.rekey.time, Some(Duration::from_secs(3600)));
    assert_eq!(child.life.time, Some(Duration::from_secs(3960)));
    assert_eq!(child.replay_window, 4096);
    assert_eq!(child.proposals[0].esn, [Esn::Yes, Esn::No]);
}

#[test]
fn tunnels_keep_the_order_of_the_file_and_overlaps_are_told() {
    let text = "\
[tunnels.z]
remote = { address = [\"192.0.2.2\", \"b.example\"] }
auth = { psk = \"x\" }
[tunnels.z.children.net]
local = [\"10.1.0.0/24\"]
remote = [\"10.2.0.0/24\"]
[tunnels.a]
mode = \"passive\"
remote = { address = \"any\", id = \"*.example\" }
auth = { psk = \"y\" }
ike = { rekey = \"0s\", dpd = \"0s\" }
[tunnels.a.children.net]
local = [\"10.1.0.0/16\"]
remote = [\"0.0.0.0/0\"]
esp = { replay_window = 0 }
";
    let config = parse(text).unwrap();
    let names: Vec<_> = config.connections.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["z", "a"]);
    assert_eq!(
        config.warnings.to_string(),
        "\
warning: `z/net` and `a/net` overlap
  --> postern.toml:12:21
   |
12 | [tunnels.a.children.net]
   |                     ^^^ packets that match both take `z/net`"
    );
    let passive = &config.connections[1];
    assert_eq!((passive.rekey, passive.dpd), (None, None));
    assert!(passive.children[0].proposals.iter().all(|p| p.esn == [Esn::No]));
}

/// A default tunnel and a branch: the narrower network gets its packets in whatever order they
/// stand, and `check` says so.
#[test]
fn a_branch_stands_beside_a_tunnel_for_everything() {
    let tunnel = |name: &str, address: u8, remote: &str| {
        format!(
            "[tunnels.{name}]\nremote = {{ address = \"192.0.2.{address}\" }}\n\
             auth = {{ psk = \"x\" }}\n[tunnels.{name}.children.net]\n\
             local = [\"10.1.0.0/16\"]\nremote = [\"{remote}\"]\n"
        )
    };
    let (hub, branch) = (tunnel("hub", 2, "0.0.0.0/0"), tunnel("branch", 3, "10.2.0.0/16"));
    for text in [format!("{hub}{branch}"), format!("{branch}{hub}")] {
        let config = parse(&text).unwrap_or_else(|report| panic!("{report}"));
        let [said] = config.warnings.diagnostics() else { panic!("{}", config.warnings) };
        assert_eq!(said.help, "packets that match both take `branch/net`");
    }
}

/// Nothing but who it says it is tells one peer from another that may call from anywhere.
#[test]
fn tunnels_that_a_caller_cannot_be_told_apart_by() {
    let tunnel = |name: &str, number: u8, ends: &str, psk: &str| {
        format!(
            "[tunnels.{name}]\n{ends}\nauth = {{ psk = \"{psk}\" }}\n\
             [tunnels.{name}.children.net]\nlocal = [\"10.1.0.0/16\"]\n\
             remote = [\"10.{number}.0.0/16\"]\n"
        )
    };
    // The ends of both, whether their keys differ, and what is said: nothing, a warning, an error.
    let passive = |address: &str, more: &str| {
        format!("mode = \"passive\"\nremote = {{ address = {address}{more} }}")
    };
    let any = passive("\"any\"", "");
    let host = |name: &str| format!("remote = {{ address = \"{name}.example\" }}");
    let with_id = |id: &str| passive("\"any\"", &format!(", id = \"{id}\""));
    let from = |local: &str| format!("{any}\nlocal = {{ {local} }}");
    let (chacha, one) = ("chacha20poly1305-prfsha256-x25519", "address = \"192.0.2.1\"");
    for (first, second, other_key, said) in [
        (any.clone(), any.clone(), true, 2),
        (any.clone(), any.clone(), false, 0),
        (with_id("a.example"), with_id("A.Example"), true, 2),
        (with_id("a.example"), with_id("b.example"), true, 0),
        (any.clone(), with_id("b.example"), true, 0),
        (with_id("*.example"), with_id("*.example"), true, 2),
        (host("a"), host("b"), true, 1),
        (host("a"), any.clone(), true, 2),
        (any.clone(), host("b"), true, 1),
        (passive("\"192.0.2.0/24\"", ""), passive("\"192.0.2.0/24\"", ""), true, 2),
        (passive("\"192.0.2.0/24\"", ""), passive("\"192.0.2.0/25\"", ""), true, 0),
        (any.clone(), passive("[\"any\", \"192.0.2.9\"]", ""), true, 0),
        (from(one), from(one), true, 2),
        (from(one), from("address = \"192.0.2.7\""), true, 0),
        (any.clone(), from(one), true, 0),
        (any.clone(), from("id = \"here.example\""), true, 0),
        (any.clone(), format!("{any}\nike = {{ proposals = [\"{chacha}\"] }}"), true, 0),
    ] {
        let text = tunnel("a", 2, &first, "x")
            + &tunnel("b", 3, &second, if other_key { "y" } else { "x" });
        let found = match parse(&text) {
            Ok(config) => config.warnings.diagnostics().len(),
            Err(report) => {
                let message = &report.diagnostics()[0].message;
                let want =
                    "a peer that calls cannot be told to be `b`, not `a`, which has another key";
                assert_eq!((report.diagnostics().len(), &**message), (1, want), "{text}");
                2
            }
        };
        assert_eq!(found, said, "{text}");
    }
}

#[test]
fn the_sample_is_valid_as_it_is_and_with_its_example() {
    let sample = include_str!("../../config.toml");
    assert_eq!(parse(sample).unwrap().connections.len(), 0);
    // What is commented out is real: every `# key = ...` and `# [section]` line comes alive.
    let alive: String = sample
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with('[') || rest.contains(" = ") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parse(&alive.replace("site-b.psk", "a.psk")).unwrap();
    assert_eq!(config.gateway.name.as_deref(), Some("site-a"));
    assert_eq!(config.connections[0].children[0].rekey.bytes, Some(1 << 40));
}

#[test]
fn ten_thousand_networks_are_read_quickly_and_their_limit_is_told() {
    let networks: Vec<String> =
        (0..10_000).map(|i| format!("\"10.2.{}.{}/30\"", i / 64, i % 64 * 4)).collect();
    let text = around("", "").replace("\"10.2.0.0/16\"", &networks.join(", "));
    let started = std::time::Instant::now();
    let config = parse(&text).unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(config.connections[0].children[0].remote.len(), 10_000);
    assert_eq!(
        config.warnings.diagnostics()[0].message,
        "10000 networks are more than one child can negotiate"
    );
    assert!(config.warnings.to_string().len() < 1000, "a long line is cut");
}

/// Over IPv4 such a child carries datagrams whole.
#[test]
fn ports_over_ipv6_are_accepted_with_a_warning() {
    for (net, warnings) in [
        ("fd02::/64[udp/53]", 1),
        ("fd02::/64[/53]", 1),
        ("fd02::/64[udp]", 0),
        ("fd02::/64[tcp/53]", 0),
        ("10.2.0.0/16[udp/53]", 0),
    ] {
        let local = if net.starts_with("fd") { "fd01::/64" } else { "10.1.0.0/16" };
        let text = around("", "").replace("10.1.0.0/16", local).replace("10.2.0.0/16", net);
        let said = parse(&text).unwrap_or_else(|report| panic!("{report}")).warnings;
        assert_eq!(said.diagnostics().len(), warnings, "{net}: {said}");
        assert!(warnings == 0 || said.to_string().contains("lets no IPv6 fragments pass"));
    }
}

#[test]
fn hostile_texts_end_in_errors() {
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(parse(&format!("a = {}1", "{a=".repeat(50_000))).is_err());
    assert!(parse(&"a.".repeat(100_000)).is_err());
    assert!(parse(&"x = 1\n".repeat(100_000)).is_err());
    let shown = parse(&"#".repeat(config::MAX_SIZE + 1)).unwrap_err().to_string();
    assert_eq!(shown, "error: postern.toml is larger than 16 MiB");
}

/// Own networks may be named to stay reachable beside a tunnel for everything.
#[test]
fn own_networks_may_stay_clear_beside_everything() {
    let text = around("", "bypass = [\"10.1.0.0/16\", \"10.9.0.0/24\"]");
    let text = text.replace("[\"10.2.0.0/16\"]", "[\"0.0.0.0/0\"]");
    let child = &parse(&text).unwrap().connections[0].children[0];
    assert_eq!(child.bypass.len(), 2);
}

/// What a child leaves clear and another one protects goes through the other one: that is said.
#[test]
fn a_bypass_that_another_child_covers_is_told() {
    let two = |bypass: &str| {
        let other = format!(
            "bypass = [\"10.2.9.0/24\"]\n[tunnels.a.children.all]\nlocal = [\"10.1.0.0/16\"]\n\
             remote = [\"0.0.0.0/0\"]\n{bypass}"
        );
        let config = parse(&around("", &other)).unwrap();
        let told = config.warnings.diagnostics().iter().map(|warning| warning.message.clone());
        told.filter(|message| message.contains("clear")).collect::<Vec<_>>()
    };
    assert_eq!(two(""), ["`a/all` protects some of what `a/net` leaves clear"]);
    assert_eq!(two("bypass = [\"10.2.9.0/25\"]").len(), 1);
    assert_eq!(
        two("bypass = [\"10.2.8.0/23\"]"),
        ["`a/net` protects some of what `a/all` leaves clear"]
    );
    assert_eq!(two("bypass = [\"10.2.9.0/24\"]"), [""; 0]);
}
