//! What people and scripts read, character for character.

use std::time::Duration;

use api::postern::v1::{
    Child, ClearNetwork, Dropped, Endpoint, Event, GetStatusResponse, IkeSa, LastError, Tunnel,
};
use cli::{
    json,
    render::{self, Style},
};

fn end(address: &str, port: u32, id: &str) -> Option<Endpoint> {
    Some(Endpoint { address: address.into(), port, id: id.into() })
}

fn up() -> Tunnel {
    Tunnel {
        name: "site-b".into(),
        mode: "always-on".into(),
        state: "established".into(),
        local: end("192.0.2.1", 500, "a.example"),
        remote: end("192.0.2.2", 500, "b.example"),
        ike_sas: vec![IkeSa {
            id: 1,
            state: "established".into(),
            initiator: true,
            spi_i: "0123456789abcdef".into(),
            spi_r: "fedcba9876543210".into(),
            proposal: "aes256gcm16-prfsha384-ecp384".into(),
            established_s: Some(12),
            rekey_in_s: Some(13_988),
            nat_local: false,
            nat_remote: false,
        }],
        children: vec![child()],
        last_error: None,
        held: false,
        next_attempt_in_s: None,
    }
}

fn child() -> Child {
    Child {
        name: "net".into(),
        id: 1,
        state: "installed".into(),
        mode: "tunnel".into(),
        path: "inline".into(),
        encap: "none".into(),
        spi_in: "c1a2b3c4".into(),
        spi_out: "d4c3b2a1".into(),
        proposal: "aes256gcm16-esn".into(),
        esn: true,
        local: vec!["10.1.0.0/16".into()],
        remote: vec!["10.2.0.0/16".into()],
        bytes_in: 0,
        packets_in: 0,
        bytes_out: 0,
        packets_out: 0,
        dropped: Some(Dropped::default()),
        installed_s: Some(12),
        rekey_in_s: Some(3265),
        expires_in_s: Some(3960),
        draining: Vec::new(),
        passed_over: Vec::new(),
        narrowed: String::new(),
        uncovered_local: Vec::new(),
        uncovered_remote: Vec::new(),
    }
}

fn down() -> Tunnel {
    Tunnel {
        name: "site-c".into(),
        mode: "always-on".into(),
        state: "connecting".into(),
        local: end("", 500, "a.example"),
        remote: end("c.example", 500, "\u{1b}[31mc"),
        children: vec![Child {
            name: "everything".into(),
            state: "trap".into(),
            mode: "tunnel".into(),
            local: vec!["10.1.0.0/16".into()],
            remote: vec!["10.3.0.0/16".into(), "10.4.0.0/16".into(), "10.5.0.0/16".into()],
            ..Child::default()
        }],
        last_error: Some(LastError {
            code: "no-proposal-chosen".into(),
            message: "the peer takes none of ours".into(),
            ago_s: 3,
        }),
        next_attempt_in_s: Some(61),
        ..Tunnel::default()
    }
}

fn status(tunnels: Vec<Tunnel>) -> GetStatusResponse {
    GetStatusResponse { gateway: "site-a".into(), tunnels, ..GetStatusResponse::default() }
}

/// The document of the interface, key for key; behind its keys are those that came later.
#[test]
fn json_is_the_documented_document() {
    let document = serde_json::to_string(&json::Status::from(&status(vec![up()]))).unwrap();
    let documented = r#"{"schema":1,"gateway":"site-a","tunnels":[{"name":"site-b",
        "mode":"always-on","state":"established",
        "local":{"address":"192.0.2.1","port":500,"id":"a.example"},
        "remote":{"address":"192.0.2.2","port":500,"id":"b.example"},
        "ike_sas":[{"id":1,"state":"established","initiator":true,
        "spi_i":"0123456789abcdef","spi_r":"fedcba9876543210",
        "proposal":"aes256gcm16-prfsha384-ecp384","established_s":12,"rekey_in_s":13988,
        "nat":{"local":false,"remote":false}}],
        "children":[{"name":"net","id":1,"state":"installed","mode":"tunnel","path":"inline",
        "encap":"none","spi_in":"c1a2b3c4","spi_out":"d4c3b2a1","proposal":"aes256gcm16-esn",
        "esn":true,"local":["10.1.0.0/16"],"remote":["10.2.0.0/16"],"bytes_in":0,
        "packets_in":0,"bytes_out":0,"packets_out":0,
        "dropped":{"replay":0,"auth":0,"policy":0,"malformed":0,"expired":0},
        "installed_s":12,"rekey_in_s":3265,"expires_in_s":3960,
        "draining":[],"passed_over":[],"uncovered":{"local":[],"remote":[]}}],"last_error":null,
        "held":false,"next_attempt_in_s":null}],
        "no_sa":0,"ike_dropped":{},"internal_errors":0,"dropped":{},"warnings":[],"clear":[]}"#;
    let documented: String = documented.lines().map(str::trim).collect();
    assert_eq!(document, documented);
}

#[test]
fn what_the_operator_should_change_stands_above_the_tunnels() {
    let mut status = status(vec![up()]);
    status.warnings = vec!["forwarding is off: sysctl -w x=1\u{1b}".into()];
    let clear = |network: &str, interface: &str| ClearNetwork {
        network: network.into(),
        interface: interface.into(),
    };
    status.clear = vec![clear("10.1.0.0/24", "lan\u{1b}"), clear("192.168.9.0/24", "")];
    let text = render::status(&status, None, Style::Plain, None);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("site-a: 1 of 1 tunnel up"));
    assert_eq!(lines.next(), Some("warning: forwarding is off: sysctl -w x=1\u{fffd}"));
    assert_eq!(lines.next(), Some("stays clear: 10.1.0.0/24 by lan\u{fffd}, 192.168.9.0/24"));
    assert_eq!(lines.next(), Some(""));
    let json = serde_json::to_value(json::Status::from(&status)).unwrap();
    assert_eq!(json["warnings"][0], "forwarding is off: sysctl -w x=1\u{1b}");
    assert_eq!(json["clear"][0]["interface"], "lan\u{1b}");
    assert!(json["clear"][1]["interface"].is_null());
}

#[test]
fn json_of_what_is_down_has_null_where_nothing_is() {
    let document = serde_json::to_value(json::Status::from(&status(vec![down()]))).unwrap();
    let tunnel = &document["tunnels"][0];
    assert!(tunnel["local"]["address"].is_null());
    assert_eq!(tunnel["remote"]["address"], "c.example");
    assert_eq!(
        tunnel["last_error"],
        serde_json::json!({
            "code": "no-proposal-chosen", "message": "the peer takes none of ours", "ago_s": 3
        })
    );
    let child = &tunnel["children"][0];
    assert_eq!(child["state"], "trap");
    for key in ["path", "encap", "spi_in", "spi_out", "proposal", "installed_s", "rekey_in_s"] {
        assert!(child[key].is_null(), "{key}");
    }
}

#[test]
fn people_see_problems_first_and_no_escape_of_a_peer() {
    let mut busy = up();
    busy.children.push(Child {
        name: "voice-and-more".into(),
        state: "rekeying".into(),
        encap: "udp".into(),
        bytes_in: 5 << 30,
        bytes_out: 1536,
        dropped: Some(Dropped { replay: 7, auth: 1, ..Dropped::default() }),
        ..child()
    });
    let mut before = status(vec![busy.clone(), down()]);
    before.tunnels[0].children[1].bytes_in -= 3 << 20;
    let now = status(vec![busy, down()]);
    let rates = Some((&before, Duration::from_millis(1500)));
    let shown = render::status(&now, rates, Style::Plain, None);
    assert_eq!(
        shown,
        "\
site-a: 1 of 2 tunnels up

site-c  connecting  ? (a.example) <-> c.example (\u{fffd}[31mc)  always-on
  no-proposal-chosen: the peer takes none of ours, 3s ago
  next attempt in 1m01s
  everything  trap  10.1.0.0/16 <-> 10.3.0.0/16 and 2 more  its traffic is held

site-b  established  192.0.2.1 (a.example) <-> 192.0.2.2 (b.example)  always-on
  IKE SA 1  aes256gcm16-prfsha384-ecp384  up 12s, rekey in 3h53m
  net             installed  10.1.0.0/16 <-> 10.2.0.0/16  inline         aes256gcm16-esn  in 0 B 0 B/s          out 0 B 0 B/s      rekey in 54m25s
  voice-and-more  rekeying   10.1.0.0/16 <-> 10.2.0.0/16  inline in UDP  aes256gcm16-esn  in 5.0 GiB 2.0 MiB/s  out 1.5 KiB 0 B/s  rekey in 54m25s, 7 replayed, 1 forged
"
    );
    let coloured = render::status(&now, None, Style::Colour, None);
    assert!(coloured.contains("\u{1b}[32mestablished\u{1b}[0m"));
    assert!(!coloured.contains("\u{1b}[31mc"), "a peer's identity must not colour");
}

#[test]
fn a_child_that_carries_less_than_it_protects_says_so_and_stands_before_what_is_whole() {
    let mut narrowed = up();
    narrowed.name = "site-d".into();
    narrowed.children[0].narrowed = "what stays blocked: remote 10.3.0.0/16".into();
    narrowed.children[0].uncovered_remote = vec!["10.3.0.0/16".into()];
    let both = status(vec![up(), narrowed]);
    let shown = render::status(&both, None, Style::Plain, None);
    let (first, second) = (shown.find("site-d").unwrap(), shown.find("site-b").unwrap());
    assert!(first < second, "{shown}");
    assert!(
        shown.contains("\n    narrowed: what stays blocked: remote 10.3.0.0/16\n\nsite-b"),
        "{shown}"
    );
    let document = serde_json::to_value(json::Status::from(&both)).unwrap();
    let uncovered = &document["tunnels"][1]["children"][0]["uncovered"];
    assert_eq!(*uncovered, serde_json::json!({ "local": [], "remote": ["10.3.0.0/16"] }));
}

#[test]
fn a_held_tunnel_says_how_to_lift_it_and_an_empty_gateway_is_no_error() {
    let held = Tunnel { held: true, state: "down".into(), ..down() };
    let shown = render::status(&status(vec![held]), None, Style::Plain, None);
    assert!(shown.contains("site-a: 0 of 1 tunnel up\n"), "{shown}");
    assert!(shown.contains("  held down until `postern up site-c`\n"), "{shown}");
    assert_eq!(
        render::status(&status(Vec::new()), None, Style::Plain, None),
        "site-a: no tunnels\n"
    );
}

#[test]
fn a_line_that_is_too_long_for_the_terminal_is_broken_behind_the_networks() {
    let mut long = child();
    (long.name, long.local) = ("database".into(), vec!["fd00:1234:5678::/48".into()]);
    let tunnel = Tunnel { children: vec![child(), long], ..up() };
    let shown =
        |columns| render::status(&status(vec![tunnel.clone()]), None, Style::Plain, columns);
    let lines = |text: &str| text.lines().rev().take(4).map(str::to_owned).collect::<Vec<_>>();
    let broken = shown(Some(80));
    let [fourth, third, second, first] = &lines(&broken)[..] else { panic!("{broken}") };
    assert_eq!(first, "  net       installed  10.1.0.0/16 <-> 10.2.0.0/16");
    assert_eq!(third, "  database  installed  fd00:1234:5678::/48 <-> 10.2.0.0/16");
    assert_eq!(second, "     inline  aes256gcm16-esn  in 0 B  out 0 B  rekey in 54m25s");
    assert_eq!(fourth, second);
    for wide in [None, Some(140)] {
        assert!(shown(wide).contains("fd00:1234:5678::/48 <-> 10.2.0.0/16  inline"), "{wide:?}");
    }
}

#[test]
fn events_are_a_line_each() {
    let failed = Event {
        sequence: 4,
        unix_ms: 1_795_357_425_123,
        tunnel: "site-b".into(),
        child: "net".into(),
        kind: "failed".into(),
        code: "ts-unacceptable".into(),
        message: "no common\nnetworks".into(),
    };
    assert_eq!(
        render::event(&failed, Style::Plain),
        "2026-11-22T14:23:45.123Z  site-b/net  failed (ts-unacceptable)  no common\u{fffd}networks\n"
    );
    assert!(render::event(&failed, Style::Colour).contains('\u{1b}'));
    // What an operator asked for is no failure.
    let code = "deleted-by-operator".into();
    let asked = Event { kind: "ike-down".into(), code, message: "gone".into(), ..failed.clone() };
    assert_eq!(
        render::event(&asked, Style::Colour),
        "2026-11-22T14:23:45.123Z  site-b/net  ike-down (deleted-by-operator)  gone\n"
    );
    let document = serde_json::to_string(&json::Events::from(&[failed][..])).unwrap();
    assert_eq!(
        document,
        "{\"schema\":1,\"events\":[{\"sequence\":4,\"time\":\"2026-11-22T14:23:45.123Z\",\
         \"tunnel\":\"site-b\",\"child\":\"net\",\"kind\":\"failed\",\"code\":\"ts-unacceptable\",\
         \"message\":\"no common\\nnetworks\"}]}"
    );
}
