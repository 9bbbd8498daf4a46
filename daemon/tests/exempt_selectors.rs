//! Selectors that name what steering leaves alone, and what is said about them.

use std::path::Path;

use daemon::config::{self, Context, SecretFiles};
use sa_store::SecretBytes;

struct OneKey;

impl SecretFiles for OneKey {
    fn read(&self, _: &Path) -> Result<SecretBytes, String> {
        Ok(SecretBytes::from_slice(b"0x000102030405060708090a0b0c0d0e0f\n"))
    }
}

/// What is said first of a child with these lists: whether it is refused, the message, the help.
fn said(local: &str, remote: &str, bypass: &str) -> Option<(bool, String, String)> {
    let text = format!(
        "[tunnels.a]\nlocal = {{ address = [\"192.0.2.1\", \"2001:db8::1\"] }}\n\
         remote = {{ address = [\"192.0.2.2\", \"2001:db8::2\"] }}\n\
         auth = {{ psk_file = \"a.psk\" }}\n\
         [tunnels.a.children.net]\nlocal = [{local:?}]\nremote = [{remote:?}]\nbypass = [{bypass}]\n"
    );
    let context = Context {
        file: "postern.toml",
        folder: Path::new("/etc/x"),
        exposed: None,
        secrets: &OneKey,
    };
    let (refused, report) = match config::parse(&text, &context) {
        Ok(config) => (false, config.warnings),
        Err(report) => (true, report),
    };
    // Of ports over IPv6 another warning is given.
    let others = |message: &str| !message.contains("IPv6 fragments");
    let first = report.diagnostics().iter().find(|told| others(&told.message))?;
    let place = text[first.span.clone()].trim_matches('"');
    assert!([local, remote, bypass].iter().any(|list| list.contains(place)), "{place}: {report}");
    Some((refused, first.message.clone(), first.help.clone()))
}

#[test]
fn what_no_policy_can_protect_is_refused_with_a_way_out() {
    let (lan, lan6) = ("10.1.0.0/16", "fd01::/64");
    for (local, remote, message) in [
        (lan, "239.0.0.0/8", "`239.0.0.0/8` is multicast or broadcast, which no tunnel carries"),
        (
            lan,
            "255.255.255.255",
            "`255.255.255.255/32` is multicast or broadcast, which no tunnel carries",
        ),
        (lan6, "ff02::fb", "`ff02::fb/128` is multicast or broadcast, which no tunnel carries"),
        (
            "224.0.0.5",
            "10.2.0.0/16",
            "`224.0.0.5/32` is multicast or broadcast, which no tunnel carries",
        ),
        (lan, "127.0.0.0/8", "`127.0.0.0/8` is this machine itself: its packets never leave"),
        ("::1", "fd02::/64", "`::1/128` is this machine itself: its packets never leave"),
        (
            lan6,
            "fd02::/64[ipv6-icmp/135]",
            "`fd02::/64[ipv6-icmp/135]` names neighbour discovery (types 133 to 137)",
        ),
        (
            lan6,
            "fd02::/64[ipv6-icmp/1-255]",
            "`fd02::/64[ipv6-icmp/1(0)-255(255)]` names neighbour discovery (types 133 to 137)",
        ),
        (
            lan,
            "10.2.0.0/16[gre/5]",
            "`10.2.0.0/16[47/5]` matches no packet: protocol 47 has no ports",
        ),
        (
            "192.0.2.1[udp/500]",
            "192.0.2.2",
            "`192.0.2.1/32[udp/500]` and `192.0.2.2/32` name UDP to port 500 or 4500 from 192.0.2.2, which carries this tunnel",
        ),
        (
            "192.0.2.0/24[udp/1024-65535]",
            "192.0.2.0/24",
            "`192.0.2.0/24[udp/1024-65535]` and `192.0.2.0/24` name UDP to port 500 or 4500 from 192.0.2.2, which carries this tunnel",
        ),
        (
            "2001:db8::1",
            "2001:db8::2[50]",
            "`2001:db8::1/128` and `2001:db8::2/128[50]` name ESP from 2001:db8::2, which carries this tunnel",
        ),
    ] {
        let (refused, said, help) = said(local, remote, "").unwrap();
        assert_eq!((refused, &*said), (true, message), "{remote}");
        assert!(!help.is_empty(), "{remote}");
    }
}

#[test]
fn what_only_covers_the_same_is_accepted() {
    let (lan, lan6) = ("10.1.0.0/16", "fd01::/64");
    for (local, remote, bypass) in [
        (lan, "0.0.0.0/0", ""),
        (lan6, "::/0", ""),
        (lan6, "fd02::/64[ipv6-icmp]", ""),
        (lan6, "fd02::/64[ipv6-icmp/128]", ""),
        (lan, "10.2.0.0/16[gre]", ""),
        (lan, "128.0.0.0/1", "\"224.0.0.0/4\", \"255.255.255.255\""),
        ("192.0.2.1", "192.0.2.2", ""),
        ("192.0.2.1[udp]", "192.0.2.2", ""),
        ("10.1.0.0/16[udp/500]", "10.2.0.0/16", ""),
        (lan, "192.0.2.2[udp/500]", ""),
    ] {
        assert_eq!(said(local, remote, bypass), None, "{local} {remote}");
    }
}

#[test]
fn what_is_blocked_or_stays_blocked_is_told() {
    let lan = "10.1.0.0/16";
    let told = |remote, bypass| {
        let (refused, message, _) = said(lan, remote, bypass).unwrap();
        assert!(!refused, "{message}");
        message
    };
    assert_eq!(
        told("128.0.0.0/1", ""),
        "`128.0.0.0/1` covers multicast or broadcast (224.0.0.0/4), which will be blocked"
    );
    assert_eq!(
        told("128.0.0.0/1", "\"224.0.0.0/4\""),
        "`128.0.0.0/1` covers multicast or broadcast (255.255.255.255/32), which will be blocked"
    );
    assert_eq!(
        told("10.2.0.0/16", "\"10.2.0.0/16[tcp/opaque]\""),
        "`10.2.0.0/16[tcp/opaque]` leaves clear what shows no ports, and no fragments"
    );
}
