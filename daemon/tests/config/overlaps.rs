//! What tunnels and children of one file are to each other.

use sa_store::Esn;

use super::{around, parse};

#[test]
fn tunnels_keep_the_order_of_the_file_and_overlaps_are_told() {
    let text = "\
[tunnels.z]
remote = { address = [\"192.0.2.2\", \"b.example\"] }
auth = { psk = \"a key of 16 octets\" }
[tunnels.z.children.net]
local = [\"10.1.0.0/24\"]
remote = [\"10.2.0.0/24\"]
[tunnels.a]
mode = \"passive\"
remote = { address = \"any\", id = \"*.example\" }
auth = { psk = \"another of 16 octets\" }
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
             auth = {{ psk = \"a key of 16 octets\" }}\n[tunnels.{name}.children.net]\n\
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
        let text = tunnel("a", 2, &first, "the key of the first")
            + &tunnel(
                "b",
                3,
                &second,
                if other_key { "the key of the second" } else { "the key of the first" },
            );
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

/// Networks that the gateway leaves clear are no child's, and what names another part stays.
#[test]
fn what_the_gateway_leaves_clear_is_taken_out_of_every_child() {
    let clear = "[gateway]\nclear = [\"10.2.9.0/24\", \"192.168.9.0/24\", \"fd09::/64\"]\n";
    let other = "[tunnels.a.children.all]\nlocal = [\"10.1.0.0/16\", \"fd01::/64\"]\n\
                 remote = [\"0.0.0.0/0\", \"::/0\"]\nbypass = [\"192.168.9.0/24\"]\n\
                 [tunnels.a.children.far]\nlocal = [\"10.1.0.0/16\"]\nremote = [\"10.3.0.0/16\"]";
    let config = parse(&format!("{clear}{}", around("", other))).unwrap();
    let bypass = |child: usize| {
        let child = &config.connections[0].children[child];
        child.bypass.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(bypass(0), ["10.2.9.0/24"]);
    assert_eq!(bypass(1), ["192.168.9.0/24", "10.2.9.0/24", "fd09::/64"]);
    assert_eq!(bypass(2), [""; 0]);
    assert_eq!(config.gateway.clear.len(), 3);
}
