//! Kernel settings: those of our own interface are set, others are only checked.

use std::{fs, path::PathBuf};

fn path(family: &str, interface: &str, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/{family}/conf/{interface}/{name}"))
}

fn read(family: &str, interface: &str, name: &str) -> Option<u8> {
    fs::read_to_string(path(family, interface, name)).ok()?.trim().parse().ok()
}

/// Settings of the TUN interface. A setting that does not exist (no IPv6) is skipped; what
/// fails is told.
pub(super) fn configure(interface: &str) -> Vec<String> {
    // What comes out of a tunnel has its source checked against the SA's selectors; a check
    // against routes would see the source behind another interface.
    let loose = match read("ipv4", "all", "rp_filter") {
        Some(0) | None => "0",
        Some(_) => "2",
    };
    let forward4 =
        read("ipv4", "all", "forwarding").map_or("0", |on| if on > 0 { "1" } else { "0" });
    let forward6 =
        read("ipv6", "all", "forwarding").map_or("0", |on| if on > 0 { "1" } else { "0" });
    let settings = [
        ("ipv4", "rp_filter", loose),
        ("ipv4", "send_redirects", "0"),
        ("ipv4", "forwarding", forward4),
        ("ipv6", "addr_gen_mode", "1"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "forwarding", forward6),
    ];
    settings
        .into_iter()
        .filter_map(|(family, name, value)| {
            let path = path(family, interface, name);
            if !path.exists() {
                return None;
            }
            let error = fs::write(&path, value).err()?;
            Some(format!("cannot write {value} to {} ({error})", path.display()))
        })
        .collect()
}

/// What an operator should change for traffic to pass.
pub(super) fn warnings(forwards: bool, covers_wire: bool) -> Vec<String> {
    let mut all = Vec::new();
    if forwards && read("ipv4", "all", "forwarding") == Some(0) {
        all.push(
            "IPv4 forwarding is off, so only this machine's own traffic can use the tunnels: \
             sysctl -w net.ipv4.ip_forward=1"
                .to_owned(),
        );
    }
    if read("ipv4", "all", "rp_filter") == Some(1) {
        all.push(
            "net.ipv4.conf.all.rp_filter is 1 (strict): packets of tunnels may be dropped as \
             spoofed; sysctl -w net.ipv4.conf.all.rp_filter=2"
                .to_owned(),
        );
    } else if covers_wire && strict_somewhere() {
        all.push(
            "a policy covers the peer's own address and an interface has rp_filter 1 (strict): \
             packets of the peer may be dropped as spoofed; set it to 2"
                .to_owned(),
        );
    }
    all
}

fn strict_somewhere() -> bool {
    let Ok(entries) = fs::read_dir("/proc/sys/net/ipv4/conf") else { return false };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "default")
        .any(|name| read("ipv4", &name, "rp_filter") == Some(1))
}
