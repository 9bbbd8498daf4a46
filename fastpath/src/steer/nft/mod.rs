//! The nftables table that decides which clear packets are ours.
//!
//! ```text
//!   arrivals ─▶ DNAT, marks of others ─▶ prerouting ─▶ routing ┬▶ guard ─▶ SNAT ─▶ guard ─▶ out
//!                                own ─▶ ... ─▶ output ─────────┘
//! ```
//!
//! Marking is what brings packets to us; the guards stand where it did not help: behind routing, what
//! selectors cover and what has our mark leaves through the TUN interface or not at all, whatever
//! others did to marks, addresses or routing rules, and also when this process is dead. They
//! look before and behind source NAT: at what was meant, and at what the wire would show.
//!
//! One table, replaced under the cover of a second one, so that there is never a moment without
//! rules. Selectors become sets of concatenated intervals, so that thousands cost one look-up.

mod chains;
mod load;
mod sets;

use std::fmt::Write as _;

use super::{
    SteeringConfig,
    counter::{self, CLEAR_DROPPED, Count, STRAYED},
};
use crate::{error::Error, policy::Rule};

use self::{
    chains::chains,
    load::load,
    sets::{Family, Kind, for_fragments, for_packets, remote},
};

/// Which of two tables; see [`replace`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The one that stays.
    First,
    /// The one that covers it while it is replaced.
    Second,
}

/// A chain that no packet comes to. That a rule with `tproxy` exists makes the kernel put fragments
/// together in front of all chains, as connection tracking does, without its table of connections.
/// Behind them it cuts what it put together again.
const DEFRAGMENT: &str = "chain defragment {\nmeta l4proto udp tproxy to :1\n}\n";

/// The whole table for `nft -f -`; it goes on counting from `dropped`.
fn ruleset(
    config: &SteeringConfig,
    place: Place,
    rules: &[Rule],
    dropped: Count,
    defragment: bool,
) -> String {
    let table = &config.nft_table;
    let tun = &config.interface;
    let marks = config.marks();
    let mut text = removal(config);
    let Count { packets, bytes } = dropped;
    let _ = writeln!(
        text,
        "table inet {table} {{\ncounter {STRAYED} {{\n}}\n\
         counter {CLEAR_DROPPED} {{\npackets {packets} bytes {bytes}\n}}"
    );
    if defragment {
        text.push_str(DEFRAGMENT);
    }
    let mut jumps = (String::new(), String::new());
    for v4 in [true, false] {
        let of_family: Vec<Rule> =
            rules.iter().filter(|rule| rule.v4 == v4).map(for_packets).collect();
        let (digit, nfproto) = if v4 { (4, "ipv4") } else { (6, "ipv6") };
        let new = || Family {
            v4,
            interface: tun,
            marks,
            sets: String::new(),
            outward: String::new(),
            inward: String::new(),
        };
        if of_family.is_empty() {
            continue;
        }
        let mut whole = new();
        whole.add(&format!("w{digit}"), &of_family);
        let mut chains = String::new();
        if of_family.iter().any(Rule::has_ports) {
            let later = if v4 { "ip frag-off & 0x1fff != 0" } else { "frag frag-off != 0" };
            let mut cut = new();
            cut.add(&format!("f{digit}"), &for_fragments(&of_family));
            text.push_str(&cut.sets);
            let _ = writeln!(chains, "chain out{digit}_cut {{\n{}}}", cut.outward);
            let _ = writeln!(chains, "chain in{digit}_cut {{\n{}}}", cut.inward);
            whole.outward.insert_str(0, &format!("{later} goto out{digit}_cut\n"));
            whole.inward.insert_str(0, &format!("{later} goto in{digit}_cut\n"));
        }
        if let Some(elements) = remote(&of_family, v4) {
            let ip = whole.ip();
            let _ = writeln!(
                text,
                "set r{digit} {{\ntype ipv{digit}_addr\nflags interval\nelements = {{\n{elements}}}\n}}"
            );
            whole.outward.insert_str(0, &format!("{ip} daddr != @r{digit} return\n"));
            whole.inward.insert_str(0, &format!("{ip} saddr != @r{digit} return\n"));
        }
        text.push_str(&whole.sets);
        text.push_str(&chains);
        let _ = writeln!(text, "chain out{digit} {{\n{}}}", whole.outward);
        let _ = writeln!(text, "chain in{digit} {{\n{}}}", whole.inward);
        let _ = writeln!(jumps.0, "meta nfproto {nfproto} jump out{digit}");
        let _ = writeln!(jumps.1, "meta nfproto {nfproto} jump in{digit}");
    }
    let everything = rules.iter().any(|rule| Kind::of(rule) == Kind::All);
    text.push_str(&chains(config, place, everything, &jumps.0, &jumps.1));
    text.push_str("}\n");
    text
}

/// Makes `rules` what is steered. A transaction that replaces a table is not one moment for a
/// packet: hooks and sets change one after the other, and a packet in between meets neither the
/// old rules nor the new ones. So with `cover` the new rules stand in a second table meanwhile;
/// both tables mark and drop alike, and at any moment one of them is whole.
pub(super) fn replace(config: &SteeringConfig, rules: &[Rule], cover: bool) -> Result<(), Error> {
    // A counter that cannot be read is no reason to leave anything unprotected.
    let dropped = || counter::clear_dropped(&config.nft_table).unwrap_or_default();
    if !cover {
        return load_rules(config, Place::First, rules, dropped());
    }
    let meanwhile = meanwhile(config);
    load_rules(&meanwhile, Place::Second, rules, Count::default())?;
    let replaced = load_rules(config, Place::First, rules, dropped());
    // Refused rules do not stay in force in the second table either.
    let removed = load(&removal(&meanwhile));
    replaced.and(removed)
}

/// Loads `rules`, with whole packets to match where it matters and the kernel can.
fn load_rules(
    config: &SteeringConfig,
    place: Place,
    rules: &[Rule],
    dropped: Count,
) -> Result<(), Error> {
    let ports = rules.iter().any(|rule| for_packets(rule).has_ports());
    if ports && load(&ruleset(config, place, rules, dropped, true)).is_ok() {
        return Ok(());
    }
    load(&ruleset(config, place, rules, dropped, false))?;
    if ports {
        tracing::warn!(
            "the kernel has no nft_tproxy: fragments of protocols that a child protects some ports \
             of do not pass between its networks, whatever their ports"
        );
    }
    Ok(())
}

/// Whether a table of ours stands already, left by a process before.
pub(super) fn stands(config: &SteeringConfig) -> bool {
    load(&format!("list chain inet {} protect\n", config.nft_table)).is_ok()
}

/// Removes every table of ours, whether or not it is there.
pub(super) fn remove(config: &SteeringConfig) -> Result<(), Error> {
    load(&format!("{}{}", removal(config), removal(&meanwhile(config))))
}

/// The same steering in the second table.
fn meanwhile(config: &SteeringConfig) -> SteeringConfig {
    SteeringConfig { nft_table: format!("{}_meanwhile", config.nft_table), ..config.clone() }
}

/// Removes the table, whether or not it is there.
fn removal(config: &SteeringConfig) -> String {
    let table = &config.nft_table;
    format!("add table inet {table}\ndelete table inet {table}\n")
}
