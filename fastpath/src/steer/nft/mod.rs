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
mod model;
mod sets;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod verdicts;

use super::{
    SteeringConfig,
    counter::{self, Count},
};
use crate::{error::Error, policy::Rule};

pub(super) use self::sets::{BY_FIRST_WORD, BY_SECOND_WORD, View, names_exempt, needs_whole};
use self::{
    chains::Jumps,
    load::load,
    model::{Action, Chain, Line, Match, Table},
    sets::Family,
};

/// Which of two tables; see [`replace`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// The one that stays.
    First,
    /// The one that covers it while it is replaced.
    Second,
}

/// A chain that no packet comes to. That a rule with `tproxy` exists makes the kernel put fragments
/// together in front of all chains, as connection tracking does, without its table of connections.
/// Behind them it cuts what it put together again.
const DEFRAGMENT: &str = "defragment";

/// The whole table; it goes on counting from `dropped`.
fn table(
    config: &SteeringConfig,
    place: Place,
    rules: &[Rule],
    dropped: Count,
    defragment: bool,
) -> Table {
    let mut table = Table { dropped, sets: Vec::new(), peers: Vec::new(), chains: Vec::new() };
    if defragment {
        let udp = Line(vec![Match::Protocols(vec![17])], vec![Action::Tproxy]);
        table.chains.push(Chain { name: DEFRAGMENT.to_owned(), hook: None, lines: vec![udp] });
    }
    let (mut out, mut into) = (Vec::new(), Vec::new());
    let (mut everything, mut cut) = (false, Vec::new());
    for (v4, digit) in [(true, '4'), (false, '6')] {
        let rules: Vec<Rule> = rules.iter().filter(|rule| rule.v4 == v4).copied().collect();
        if rules.is_empty() {
            continue;
        }
        let family = Family::new(v4, &rules, config);
        everything |= family.everything;
        if defragment && needs_whole(&rules, v4) {
            let jump = vec![Action::Jump(family.unknown())];
            cut.push(Line(vec![Match::Family { v4 }], jump));
        }
        table.sets.extend(family.sets);
        table.peers.extend(family.peers);
        table.chains.extend(family.chains);
        let jump = |way| vec![Action::Jump(format!("{way}{digit}"))];
        out.push(Line(vec![Match::Family { v4 }], jump("out")));
        into.push(Line(vec![Match::Family { v4 }], jump("in")));
    }
    table.chains.extend(chains::chains(
        config,
        place,
        everything,
        Jumps { out: &out, into: &into, cut: &cut },
    ));
    table
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
    let text = |defragment| {
        let table = table(config, place, rules, dropped, defragment);
        format!("{}table inet {} {{\n{table}}}\n", removal(config), config.nft_table)
    };
    let whole = needs_whole(rules, true) || needs_whole(rules, false);
    if whole && load(&text(true)).is_ok() {
        return Ok(());
    }
    load(&text(false))?;
    if whole {
        tracing::warn!(
            "the kernel has no nft_tproxy: fragments do not pass between networks of which a child \
             protects some ports (IPv6: some protocols) only, whatever their ports"
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
