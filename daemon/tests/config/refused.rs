//! A table of bad configurations and exactly what is said about them.

use daemon::config;

use super::{around, parse};

const NAMES: &str = "use at most 64 letters, digits, dots, hyphens, underscores and colons, a letter, \
                     digit or underscore first";
const INTERFACES: &str = "use at most 15 letters, digits, dots, hyphens and underscores";

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
            "known keys: name, dataplane, control, state_dir, on_stop, clear",
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
        ("[gateway]\nname = \"a b\"\n".into(), "`a b` cannot be name", "2:8", NAMES),
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
        ("[gateway]\nstate_dir = \"/a\\nb\"\n".into(), "this is no path", "2:13", ""),
        (
            format!("[gateway]\ncontrol = \"/{}\"\n", "x".repeat(120)),
            "the path is longer than 107 octets",
            "2:11",
            "choose a shorter one",
        ),
        (
            "[gateway]\nclear = [\"10.9.0.0/24[tcp/80]\"]\n".into(),
            "`10.9.0.0/24[tcp/80]` is more than a network",
            "2:10",
            "leave out protocol and ports; a child's `bypass` takes them",
        ),
        (
            format!("[gateway]\nclear = [\"10.9.0.0/24\", \"10.2.0.0/15\"]\n{}", around("", "")),
            "`clear` leaves nothing of `10.2.0.0/16`, which `a/net` protects",
            "2:25",
            "take it out of `clear`, or out of the child",
        ),
        (
            format!("[gateway]\nclear = \"10.9.0.0/24\"\n{}", around("", "")),
            "`clear` takes a list of strings, not a string",
            "2:9",
            "write [\"192.168.1.0/24\"]",
        ),
        (
            "[inline]\ninterface = \"a/b\"\n".into(),
            "`a/b` is no name for an interface",
            "2:13",
            INTERFACES,
        ),
        (
            "[inline]\ninterface = \"w*\"\n".into(),
            "`w*` is no name for an interface",
            "2:13",
            INTERFACES,
        ),
        (
            "[inline]\ninterface = \"a\\n}\"\n".into(),
            "`a\u{fffd}}` is no name for an interface",
            "2:13",
            INTERFACES,
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
        ("[tunnels.\"a/b\"]\n".into(), "`a/b` cannot be a tunnel's name", "1:10", NAMES),
        ("[tunnels.--json]\n".into(), "`--json` cannot be a tunnel's name", "1:10", NAMES),
        (child("[tunnels.a.children.\"..\"]"), "`..` cannot be a child's name", "8:21", NAMES),
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
fn hostile_texts_end_in_errors() {
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&format!("a = {}", "[".repeat(100_000))).is_err());
    assert!(parse(&format!("a = {}1", "{a=".repeat(50_000))).is_err());
    assert!(parse(&"a.".repeat(100_000)).is_err());
    assert!(parse(&"x = 1\n".repeat(100_000)).is_err());
    let shown = parse(&"#".repeat(config::MAX_SIZE + 1)).unwrap_err().to_string();
    assert_eq!(shown, "error: postern.toml is larger than 16 MiB");
}
