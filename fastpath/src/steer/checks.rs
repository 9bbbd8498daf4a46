//! Kernel settings: those of our own interface are set, others are only checked.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the kernel shows its settings.
const ROOT: &str = "/proc/sys/net";

fn path(root: &Path, family: &str, interface: &str, name: &str) -> PathBuf {
    root.join(format!("{family}/conf/{interface}/{name}"))
}

fn read_at(root: &Path, family: &str, interface: &str, name: &str) -> Option<u8> {
    fs::read_to_string(path(root, family, interface, name)).ok()?.trim().parse().ok()
}

fn read(family: &str, interface: &str, name: &str) -> Option<u8> {
    read_at(Path::new(ROOT), family, interface, name)
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
            let path = path(Path::new(ROOT), family, interface, name);
            if !path.exists() {
                return None;
            }
            let error = fs::write(&path, value).err()?;
            Some(format!("cannot write {value} to {} ({error})", path.display()))
        })
        .collect()
}

/// What the policies want of the system.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// IPv4 packets of others are forwarded.
    pub forwards_v4: bool,
    /// IPv6 packets of others are forwarded.
    pub forwards_v6: bool,
    /// A policy covers the address of a peer.
    pub covers_wire: bool,
}

/// What may stand in the way of traffic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Obstacles {
    /// What could not be set at our own interface.
    pub faults: Vec<String>,
    /// What the policies want of the rest.
    pub needs: Needs,
    /// What steering could not put into the system, and is tried again.
    pub unsettled: Option<String>,
    /// Why nothing is held back where others flush nftables.
    pub second_line: Option<String>,
}

impl Obstacles {
    /// What an operator should change for traffic to pass, as the system is now.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let unsettled = self.unsettled.iter().map(|reason| {
            format!("steering is not as the policies want it, and is tried again: {reason}")
        });
        let second_line = self.second_line.iter().map(|reason| {
            format!(
                "what is protected is held back by nftables alone, so that whoever flushes its \
                 rule set lets it leave in clear until they are put back: the filters of \
                 interfaces (tc, clsact) are missing: {reason}"
            )
        });
        let known = unsettled.chain(second_line).chain(self.faults.iter().cloned());
        let mut all: Vec<String> = known.collect();
        all.extend(warnings_at(Path::new(ROOT), self.needs));
        all
    }
}

fn warnings_at(root: &Path, needs: Needs) -> Vec<String> {
    let mut all = Vec::new();
    if needs.forwards_v4 && read_at(root, "ipv4", "all", "forwarding") == Some(0) {
        all.push(
            "IPv4 forwarding is off, so only this machine's own traffic can use the tunnels: \
             sysctl -w net.ipv4.ip_forward=1"
                .to_owned(),
        );
    }
    if needs.forwards_v6 && read_at(root, "ipv6", "all", "forwarding") == Some(0) {
        // Forwarding makes the kernel ignore router advertisements where accept_ra is 1.
        all.push(
            "IPv6 forwarding is off, so only this machine's own traffic can use the IPv6 tunnels: \
             sysctl -w net.ipv6.conf.all.forwarding=1 (an interface that gets its own address \
             from router advertisements then needs accept_ra=2)"
                .to_owned(),
        );
    }
    if read_at(root, "ipv4", "all", "rp_filter") == Some(1) {
        all.push(
            "net.ipv4.conf.all.rp_filter is 1 (strict): packets of tunnels may be dropped as \
             spoofed; sysctl -w net.ipv4.conf.all.rp_filter=2"
                .to_owned(),
        );
    } else if needs.covers_wire
        && let Some(name) = strict_somewhere(root)
    {
        // A dot in the name of an interface is a slash in the name of a setting.
        let setting = name.replace('.', "/");
        all.push(format!(
            "a policy covers the peer's own address and rp_filter of {name} is 1 (strict): \
             packets of the peer may be dropped as spoofed; \
             sysctl -w net.ipv4.conf.{setting}.rp_filter=2"
        ));
    }
    all
}

/// The first interface that checks sources strictly.
fn strict_somewhere(root: &Path) -> Option<String> {
    fs::read_dir(root.join("ipv4/conf"))
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "default")
        .filter(|name| read_at(root, "ipv4", name, "rp_filter") == Some(1))
        .min()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;

    /// A directory of settings of the test's own.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str, settings: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("pt-{}-{name}", std::process::id()));
            for (setting, value) in settings {
                let file = root.join(setting);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, format!("{value}\n")).unwrap();
            }
            Self(root)
        }

        fn warnings(&self, needs: Needs) -> Vec<String> {
            warnings_at(&self.0, needs)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const V4: &str = "ipv4/conf/all/forwarding";
    const V6: &str = "ipv6/conf/all/forwarding";

    fn forwards(forwards_v4: bool, forwards_v6: bool) -> Needs {
        Needs { forwards_v4, forwards_v6, covers_wire: false }
    }

    #[test]
    fn forwarding_is_asked_for_in_the_families_that_need_it() {
        let off = Fake::new("off", &[(V4, "0"), (V6, "0")]);
        assert_eq!(off.warnings(forwards(false, false)), [""; 0]);
        let both = off.warnings(forwards(true, true));
        assert_eq!(both.len(), 2);
        assert!(both[0].contains("net.ipv4.ip_forward=1"), "{both:?}");
        assert!(both[1].contains("net.ipv6.conf.all.forwarding=1"), "{both:?}");
        assert_eq!(off.warnings(forwards(true, false)), both[..1]);
        assert_eq!(off.warnings(forwards(false, true)), both[1..]);
        let on = Fake::new("on", &[(V4, "1"), (V6, "1")]);
        assert_eq!(on.warnings(forwards(true, true)), [""; 0]);
        let without_ipv6 = Fake::new("without", &[(V4, "1")]);
        assert_eq!(without_ipv6.warnings(forwards(true, true)), [""; 0]);
    }

    #[test]
    fn strict_source_checks_are_told_where_they_harm() {
        let lan =
            Fake::new("lan", &[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/lan/rp_filter", "1")]);
        assert_eq!(lan.warnings(Needs::default()), [""; 0]);
        let covers = Needs { covers_wire: true, ..Needs::default() };
        assert!(lan.warnings(covers)[0].contains("covers the peer's own address"));
        assert!(lan.warnings(covers)[0].ends_with("sysctl -w net.ipv4.conf.lan.rp_filter=2"));
        let all = Fake::new("all", &[("ipv4/conf/all/rp_filter", "1")]);
        assert!(all.warnings(Needs::default())[0].contains("all.rp_filter=2"));
    }
}
