//! What is accepted, what it means, and what is said about it.

use std::time::Duration;

use gateway::spec::{RemoteAddress, TunnelMode};
use ike::config::{AuthMethod, EncapPolicy};
use sa_store::Esn;

use super::{around, parse};

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
    assert_eq!(psk.expose(), std::array::from_fn::<u8, 16, _>(|at| at as u8));
    assert_eq!(tunnel.proposals, ike::negotiate::default_ike_proposals());
    let child = &tunnel.children[0];
    assert_eq!(child.rekey.time, Some(Duration::from_secs(3600)));
    assert_eq!(child.life.time, Some(Duration::from_secs(3960)));
    assert_eq!(child.replay_window, 4096);
    assert_eq!(child.proposals[0].esn, [Esn::Yes, Esn::No]);
}

#[test]
fn the_sample_is_valid_as_it_is_and_with_its_example() {
    let sample = include_str!("../../../config.toml");
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
