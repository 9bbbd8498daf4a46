//! `postern sa TUNNEL` shows everything that its JSON has.

use api::postern::v1::{
    Child, ClearNetwork, Count, DrainingPair, Dropped, Endpoint, GetStatusResponse, IkeSa,
    LastError, Tunnel,
};
use cli::{detail::details, json};
use serde_json::Value;

/// Every field is filled, and no two values are alike.
fn full() -> GetStatusResponse {
    let end = |address: &str, port, id: &str| {
        Some(Endpoint { address: address.into(), port, id: id.into() })
    };
    let child = Child {
        name: "net".into(),
        id: 1001,
        state: "rekeying".into(),
        mode: "tunnel".into(),
        path: "inline".into(),
        encap: "udp".into(),
        spi_in: "c1a2b3c4".into(),
        spi_out: "d4c3b2a1".into(),
        proposal: "aes256gcm16-esn".into(),
        esn: true,
        local: vec!["10.1.0.0/16".into(), "10.11.0.0/16".into(), "10.12.0.0/16".into()],
        remote: (0..300).map(|net| format!("10.2.{net}.0/24[tcp]")).collect(),
        bytes_in: 1002,
        packets_in: 1003,
        bytes_out: 1004,
        packets_out: 1005,
        dropped: Some(Dropped {
            replay: 1006,
            auth: 1007,
            policy: 1008,
            malformed: 1009,
            expired: 1010,
        }),
        installed_s: Some(1011),
        rekey_in_s: Some(1012),
        expires_in_s: Some(1013),
        draining: vec![
            DrainingPair { id: 1014, spi_in: "aaaa0001".into(), spi_out: "aaaa0002".into() },
            DrainingPair { id: 1015, spi_in: "aaaa0003".into(), spi_out: "aaaa0004".into() },
        ],
        passed_over: vec!["kernel: no such device".into()],
        narrowed: "not all of it".into(),
        uncovered_local: vec!["10.13.0.0/16".into()],
        uncovered_remote: vec!["10.14.0.0/16".into()],
    };
    let tunnel = Tunnel {
        name: "site-b".into(),
        mode: "always-on".into(),
        state: "established".into(),
        local: end("192.0.2.1", 1016, "a.example"),
        remote: end("192.0.2.2", 1017, "b.example"),
        ike_sas: vec![IkeSa {
            id: 1018,
            state: "deleting".into(),
            initiator: true,
            spi_i: "0123456789abcdef".into(),
            spi_r: "fedcba9876543210".into(),
            proposal: "aes256gcm16-prfsha384-ecp384".into(),
            established_s: Some(1019),
            rekey_in_s: Some(1020),
            nat_local: true,
            nat_remote: true,
        }],
        children: vec![child],
        last_error: Some(LastError {
            code: "no-proposal-chosen".into(),
            message: "the peer takes none of ours".into(),
            ago_s: 1021,
        }),
        held: true,
        next_attempt_in_s: Some(1022),
    };
    let count = |reason: &str, count| Count { reason: reason.into(), count };
    GetStatusResponse {
        gateway: "site-a".into(),
        tunnels: vec![tunnel],
        no_sa: 1023,
        ike_dropped: vec![count("unknown-spi", 1024), count("overload", 1025)],
        internal_errors: 1026,
        dropped: vec![count("too-big", 1027)],
        warnings: vec!["forwarding is off".into()],
        clear: vec![ClearNetwork { network: "10.9.0.0/24".into(), interface: "lan".into() }],
    }
}

/// What stands at the ends of a document, with the keys that lead there.
fn leaves(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| leaves(&format!("{path}.{key}"), value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| leaves(path, item, found)),
        Value::String(text) => found.push((path.to_owned(), text.clone())),
        other => found.push((path.to_owned(), other.to_string())),
    }
}

#[test]
fn every_leaf_of_the_json_is_shown() {
    let full = full();
    let document = serde_json::to_value(json::Status::from(&full)).unwrap();
    let mut found = Vec::new();
    leaves("", &document, &mut found);
    let text = details(&full);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || "(),:".contains(c)).collect();
    for (path, leaf) in &found {
        // The shape of the document is no state of the gateway.
        if path == ".schema" {
            continue;
        }
        assert_ne!(leaf, "null", "{path}: fill it in the sample");
        let wanted = match &**leaf {
            "true" => "yes",
            leaf => leaf,
        };
        let shown = wanted
            .split(|c: char| c.is_whitespace() || "(),:".contains(c))
            .all(|word| words.contains(&word) || words.contains(&&*format!("0x{word}")));
        assert!(shown, "{path}: `{leaf}` is not in\n{text}");
    }
    assert!(found.len() > 350, "{}", found.len());
    // Reasons are keys.
    for reason in ["unknown-spi", "overload", "too-big"] {
        assert!(words.contains(&reason), "{reason}");
    }
}

/// A field, and how it is emptied.
type Change = (&'static str, fn(&mut Tunnel));

#[test]
fn every_truth_and_every_absence_is_shown() {
    let shown = details(&full());
    let changes: [Change; 12] = [
        ("held", |tunnel| tunnel.held = false),
        ("initiator", |tunnel| tunnel.ike_sas[0].initiator = false),
        ("nat.local", |tunnel| tunnel.ike_sas[0].nat_local = false),
        ("nat.remote", |tunnel| tunnel.ike_sas[0].nat_remote = false),
        ("esn", |tunnel| tunnel.children[0].esn = false),
        ("last_error", |tunnel| tunnel.last_error = None),
        ("next_attempt_in_s", |tunnel| tunnel.next_attempt_in_s = None),
        ("spi_in", |tunnel| tunnel.children[0].spi_in.clear()),
        ("spi_out", |tunnel| tunnel.children[0].spi_out.clear()),
        ("draining", |tunnel| tunnel.children[0].draining.clear()),
        ("rekey_in_s", |tunnel| tunnel.children[0].rekey_in_s = None),
        ("uncovered", |tunnel| tunnel.children[0].uncovered_local.clear()),
    ];
    for (what, change) in changes {
        let mut other = full();
        change(&mut other.tunnels[0]);
        let changed = details(&other);
        let differs: Vec<(&str, &str)> =
            shown.lines().zip(changed.lines()).filter(|(a, b)| a != b).collect();
        let (_, line) = differs.first().unwrap_or_else(|| panic!("{what} is not shown"));
        assert!(line.ends_with("  no") || line.ends_with("  -"), "{what}: {line}");
    }
}

/// Values stand below each other, and nothing of a peer's makes a terminal act.
#[test]
fn the_details_are_aligned_and_clean() {
    let mut status = full();
    status.tunnels[0].remote.as_mut().unwrap().id = "b\u{1b}[31m\nexample".into();
    let text = details(&status);
    assert!(!text.contains('\u{1b}') && text.contains("b\u{fffd}[31m\u{fffd}example"), "{text}");
    let begins = |line: &str| {
        let label = line.trim_start().split("  ").next().unwrap_or_default();
        let behind = line.get(2 + label.len()..).unwrap_or_default();
        line.len() - behind.trim_start().len()
    };
    let rows: Vec<&str> =
        text.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).collect();
    assert!(rows.len() > 40);
    assert!(rows.iter().all(|row| begins(row) == begins(rows[0])), "{text}");
    assert!(text.contains("SPI in               0xc1a2b3c4\n"), "{text}");
}
