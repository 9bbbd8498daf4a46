//! The second line of steering: what selectors cover does not leave in clear without nftables and
//! routing rules either, whoever flushed them, and whether this process lives or not.
//!
//! ```text
//!   client ─▶ in: mark ─▶ nftables ─▶ routing rule ─▶ TUN
//!                         (flushed)   (flushed) └─▶ NAT ─▶ out: drop ─▶ wire
//! ```
//!
//! Two small BPF programs, made from the rules, are attached to every interface that routed
//! packets leave through (`tc`, `clsact`). One sees what leaves, behind NAT, and drops what
//! a rule catches or has the mark of what is protected. The other sees what arrives, before NAT,
//! and gives that mark to what a rule catches: so that it finds the TUN interface also without
//! nftables, and so that a changed source address does not hide it. Nothing else is done to
//! packets, and nothing is kept: no maps, no state.
//!
//! - They say what the first rule says that matches, by the same views of packets as the table of
//!   nftables (`super::nft::View`); tests hold both against the same oracle.
//! - Let go are: packets of our own sockets (their mark, and ESP or UDP from our ports), neighbour
//!   discovery unless a rule names it, and fragments that our guard in nftables saw in one piece.
//! - A forwarded packet is also asked about in the other direction, so that clear arrivals for
//!   protected networks are not forwarded either. What is delivered here only nftables sees.
//! - An own packet whose source was translated is known by its socket, where that is bound to an
//!   address or connected; a forwarded one is not where both of its addresses were translated.
//! - As the guard in nftables does, they look at routed packets: those that a bridge passes on
//!   between its ports are not.
//! - A program takes the place of the last one at once: the old policy or the new, never none.
//!
//! What a packet costs, on one core of an AMD EPYC (`BPF_PROG_TEST_RUN`, a million runs, without
//! the 27 ns of the run itself), under one policy and under 8,000:
//!
//! | packet | IPv4 | IPv6 | of 8,000 |
//! |---|---|---|---|
//! | our own ESP, on its way out | 18 ns | 18 ns | 19 ns |
//! | a clear one that arrives | 41 ns | 57 ns | 59 to 90 ns |
//! | an own clear one that leaves | 42 ns | 58 ns | 59 to 90 ns |
//! | a forwarded clear one that leaves | 81 ns | 97 ns | 116 to 164 ns |

mod asm;
mod attach;
mod program;
mod sys;
mod tree;
#[cfg(test)]
mod verdicts;

use std::{collections::BTreeSet, io, os::fd::OwnedFd};

pub(super) use self::attach::{RTM_DELQDISC, RTM_DELTFILTER, is_about_ours};
use self::program::{Way, program};
use super::{SteeringConfig, netlink::Netlink};
use crate::policy::Rule;

/// The programs in force.
#[derive(Debug)]
struct Programs {
    out: OwnedFd,
    into: OwnedFd,
}

/// The second line of one process.
#[derive(Debug, Default)]
pub(super) struct Classifier {
    programs: Option<Programs>,
    /// What they were made from: the rules, and the TUN interface.
    made_from: (Vec<Rule>, u32),
    /// Interfaces that have them.
    attached: BTreeSet<u32>,
    missing: Option<String>,
}

impl Classifier {
    /// Makes `rules` what is held back. What cannot be held is said by [`Self::missing`].
    pub(super) fn replace(
        &mut self,
        config: &SteeringConfig,
        rules: &[Rule],
        tun: u32,
        netlink: &mut Netlink,
    ) {
        if self.programs.is_none() || self.made_from.0 != rules || self.made_from.1 != tun {
            self.made_from = (rules.to_vec(), tun);
            self.attached.clear();
            self.missing = None;
            self.programs = None;
            if rules.iter().any(|rule| rule.verdict.is_caught()) {
                match load(config, rules, tun) {
                    Ok(programs) => self.programs = Some(programs),
                    Err(reason) => self.missing = Some(reason),
                }
            }
            if self.programs.is_none() {
                // Rules of before are none of now.
                if let Err(error) = attach::detach_all(netlink) {
                    self.missing = Some(format!("old filters cannot be removed ({error})"));
                }
            }
        }
        self.follow(false, netlink);
    }

    /// Attaches the programs to interfaces that are new, or to `all`.
    pub(super) fn follow(&mut self, all: bool, netlink: &mut Netlink) {
        let Some(programs) = &self.programs else { return };
        if all {
            self.attached.clear();
        }
        self.missing =
            match attach_where_missing(programs, self.made_from.1, &mut self.attached, netlink) {
                Ok(missing) => missing,
                Err(error) => Some(format!("interfaces cannot be listed ({error})")),
            };
    }

    /// What cannot be held back when nftables is flushed, in words.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }
}

/// Takes away whatever stands, of any process.
pub(super) fn remove(netlink: &mut Netlink) -> io::Result<()> {
    attach::detach_all(netlink)
}

fn load(config: &SteeringConfig, rules: &[Rule], tun: u32) -> Result<Programs, String> {
    let load = |way, name: &[u8]| {
        let code = program(config, rules, tun, way)
            .map_err(|_| "the policies are too many for a program".to_owned())?;
        let mut padded = [0; 16];
        padded.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        sys::load(&code, padded).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "it needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN before Linux 5.8 (see \
                 posternd.service)"
                    .to_owned()
            }
            _ => format!("the kernel does not take its program ({error})"),
        })
    };
    Ok(Programs { out: load(Way::Out, b"postern_out")?, into: load(Way::In, b"postern_in")? })
}

/// Attaches programs to every interface that does not have them; what did not work, in words.
fn attach_where_missing(
    programs: &Programs,
    tun: u32,
    attached: &mut BTreeSet<u32>,
    netlink: &mut Netlink,
) -> io::Result<Option<String>> {
    let links = attach::ways_out(netlink, tun)?;
    attached.retain(|index| links.iter().any(|link| link.index == *index));
    let hooks = attach::hooks(netlink)?;
    let mut missing = None;
    for link in &links {
        if attached.contains(&link.index) {
            continue;
        }
        let hook = match hooks.get(&link.index).map(String::as_str) {
            None => attach::hook(netlink, link.index),
            Some("clsact") => Ok(()),
            Some(_) => Err(io::Error::other(
                "an ingress qdisc is in the way: make it clsact, which has the same hook",
            )),
        };
        let done = hook
            .and_then(|()| attach::attach(netlink, link.index, Way::Out, &programs.out))
            .and_then(|()| attach::attach(netlink, link.index, Way::In, &programs.into));
        match done {
            Ok(()) => {
                attached.insert(link.index);
            }
            // It went meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => {
                missing.get_or_insert_with(|| format!("{}: {error}", link.name));
            }
        }
    }
    Ok(missing)
}
