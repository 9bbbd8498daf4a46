//! Steering: which clear packets enter the data plane, exactly by selectors.
//!
//! ```text
//!   forwarded ─▶ prerouting ┐ nftables: selectors set the mark
//!   own       ─▶ output     ┘
//!        mark ─▶ rule ─▶ table of ours: default dev TUN, else unreachable
//! ```
//!
//! Everything is found again by fixed names and numbers: the nftables table, the routing tables,
//! the priorities of the rules. A restarted process takes over what the last one left, and
//! [`release`] needs no memory of who made it. When the process is gone, the TUN interface and
//! the routes through it vanish; the rules, the mark and the `unreachable` routes stay. Where
//! others flush nftables or routing rules, [`classifier`] holds.

mod addresses;
mod checks;
mod classifier;
pub(crate) mod counter;
mod names;
pub(crate) mod netlink;
mod nft;
#[cfg(test)]
#[path = "../../tests/common/oracle.rs"]
mod oracle;
mod sources;
mod watch;
mod ways;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

pub use self::names::is_interface_name;
pub(crate) use self::{
    addresses::{LocalAddress, connected},
    checks::Obstacles,
    watch::{Changes, Watch},
};
use self::{checks::Needs, classifier::Classifier, sources::Sources};

use self::netlink::{Message, Netlink, Route, RouteKind, Rule as RoutingRule, RuleAction};
use crate::{
    error::Error,
    policy::{Rule, Span},
};

/// Metric of the routes that answer when the TUN interface is gone.
const LAST_RESORT: u32 = 0x7fff_fff0;

/// The names and numbers by which steering is found in the system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SteeringConfig {
    /// The TUN interface.
    pub interface: String,
    /// The nftables table (family inet).
    pub nft_table: String,
    /// The bits of the packet mark that are ours; at least three in a row.
    pub mark_mask: u32,
    /// Routing table of marked packets; the next number is the table of source addresses.
    pub table: u32,
    /// Priority of the rule that sends marked packets to their table: before those of others.
    pub rule_priority: u32,
    /// Priority of the first of three rules that give own packets a source address: behind the
    /// look-up of local destinations, also where somebody has moved that (to 100, as some do).
    pub source_priority: u32,
    /// UDP port of IKE, let in from outside.
    pub ike_port: u16,
    /// UDP port of IKE and ESP behind NAT, let in from outside.
    pub nat_port: u16,
}

impl Default for SteeringConfig {
    fn default() -> Self {
        Self {
            interface: "postern0".to_owned(),
            nft_table: "postern".to_owned(),
            mark_mask: 0x0f00_0000,
            table: 28_783,
            rule_priority: 1,
            source_priority: 150,
            ike_port: 500,
            nat_port: 4500,
        }
    }
}

/// The values our bits of the packet mark take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// Our bits.
    pub mask: u32,
    /// Goes to the TUN interface, or nowhere.
    pub protect: u32,
    /// Sent by our own sockets on the wire.
    pub bypass: u32,
    /// Own packets that were routed for protection but that no selector covers.
    pub pass: u32,
    /// Came out of a tunnel, where a policy covers everything.
    pub emerged: u32,
    /// Covered by no selector, though its fragments may look as if.
    pub whole: u32,
}

impl SteeringConfig {
    /// The marks.
    #[must_use]
    pub const fn marks(&self) -> Marks {
        let one = self.mark_mask & self.mark_mask.wrapping_neg();
        Marks {
            mask: self.mark_mask,
            protect: one,
            bypass: one << 1,
            pass: one | (one << 1),
            emerged: one << 2,
            whole: one | (one << 2),
        }
    }

    const fn source_table(&self) -> u32 {
        self.table + 1
    }

    /// The rules that always stand.
    fn rules(&self) -> Vec<RoutingRule> {
        let marks = self.marks();
        let rule = |v4, priority, action| RoutingRule {
            v4,
            priority,
            mark: None,
            source: None,
            own_only: false,
            action,
        };
        let of_family = |v4| {
            let (marked, sources) = (self.table, self.source_table());
            [
                RoutingRule {
                    mark: Some((marks.protect, marks.mask)),
                    ..rule(v4, self.rule_priority, RuleAction::Table(marked))
                },
                RoutingRule {
                    mark: Some((0, marks.mask)),
                    own_only: true,
                    ..rule(v4, self.source_priority + 1, RuleAction::Table(sources))
                },
            ]
        };
        let behind = rule(false, self.source_priority + 2, RuleAction::Nothing);
        [true, false].into_iter().flat_map(of_family).chain([behind]).collect()
    }

    /// Keeps own packets from an address away from the table of source addresses.
    const fn exemption(&self, source: IpAddr) -> RoutingRule {
        RoutingRule {
            v4: source.is_ipv4(),
            priority: self.source_priority,
            mark: None,
            source: Some(source),
            own_only: true,
            action: RuleAction::Goto(self.source_priority + 2),
        }
    }
}

const fn any(v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}

fn families() -> impl Iterator<Item = bool> {
    [true, false].into_iter().filter(|v4| *v4 || Path::new("/proc/sys/net/ipv6").exists())
}

/// Whether errors of IPv6 requests mean that there is no IPv6.
fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES | libc::EPERM)
    )
}

/// Puts the rules and the `unreachable` routes in place where they are not.
fn assert_block(config: &SteeringConfig, netlink: &mut Netlink) -> Result<(), Error> {
    let failed = |what: &str, source| Error::Netlink { what: what.to_owned(), source };
    for v4 in families() {
        let result = netlink.request(Message::add_route(&unreachable(config.table, v4)));
        match result {
            Err(error) if !v4 && no_ipv6(&error) => {}
            other => other.map_err(|source| failed("add an unreachable route", source))?,
        }
    }
    for rule in config.rules() {
        assert_rule(&rule, netlink)?;
    }
    Ok(())
}

fn assert_rule(rule: &RoutingRule, netlink: &mut Netlink) -> Result<(), Error> {
    match netlink.request(Message::add_rule(rule)) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) if !rule.v4 && no_ipv6(&error) => Ok(()),
        other => {
            other.map_err(|source| Error::Netlink { what: "add a routing rule".to_owned(), source })
        }
    }
}

fn delete_rule(rule: &RoutingRule, netlink: &mut Netlink) -> Result<(), Error> {
    match netlink.request(Message::delete_rule(rule)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(()),
        Err(error) if !rule.v4 && no_ipv6(&error) => Ok(()),
        other => other
            .map_err(|source| Error::Netlink { what: "delete a routing rule".to_owned(), source }),
    }
}

/// Own addresses whose packets are kept away from the table of source addresses.
fn exemptions(config: &SteeringConfig, netlink: &mut Netlink) -> Result<BTreeSet<IpAddr>, Error> {
    let rules = netlink
        .rules()
        .map_err(|source| Error::Netlink { what: "list routing rules".to_owned(), source })?;
    Ok(rules
        .into_iter()
        .filter_map(|rule| rule.source.filter(|source| rule == config.exemption(*source)))
        .collect())
}

/// The address of the TUN interface, which nothing is sent from or to (RFC 7600 §4.8). Where the
/// kernel checks sources loosely (rp_filter 2, the default of many systems) it still drops
/// everything that comes from an interface without any address.
const DUMMY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Steering of one process.
#[derive(Debug)]
pub(crate) struct Steering {
    config: SteeringConfig,
    netlink: Netlink,
    /// Index of the TUN interface.
    interface: u32,
    mtu: u32,
    sources: Sources,
    /// Own addresses whose packets do not meet those routes.
    exempt: BTreeSet<IpAddr>,
    obstacles: Obstacles,
    /// Whether rules stand that protect something and must not be missing for a moment.
    cover: bool,
    classifier: Classifier,
    /// What was applied last and stands, as far as is known.
    standing: Option<Standing>,
}

/// What steering was made from.
#[derive(Debug)]
struct Standing {
    rules: Vec<Rule>,
    addresses: Vec<LocalAddress>,
}

impl Steering {
    /// Puts the block in place: rules, and `unreachable` behind them. Idempotent; what a last
    /// process left is taken over.
    pub(crate) fn prepare(config: SteeringConfig) -> Result<Self, Error> {
        names::check(&config)?;
        let failed = |what: &str, source| Error::Netlink { what: what.to_owned(), source };
        let mut netlink =
            Netlink::open().map_err(|source| failed("open a netlink socket", source))?;
        assert_block(&config, &mut netlink)?;
        let sources = Sources::take_over(config.source_table(), &mut netlink)
            .map_err(|source| failed("list routes", source))?;
        let cover = nft::stands(&config);
        let exempt = exemptions(&config, &mut netlink)?;
        Ok(Self {
            config,
            netlink,
            interface: 0,
            mtu: 0,
            sources,
            exempt,
            obstacles: Obstacles::default(),
            cover,
            classifier: Classifier::default(),
            standing: None,
        })
    }

    /// Opens the way through the TUN interface.
    pub(crate) fn attach(&mut self, interface: u32, mtu: u32) -> Result<(), Error> {
        (self.interface, self.mtu) = (interface, mtu);
        self.obstacles.faults = checks::configure(&self.config.interface);
        self.netlink.request(Message::add_address(interface, DUMMY)).map_err(|source| {
            Error::Netlink { what: format!("give {} an address", self.config.interface), source }
        })?;
        self.raise()?;
        self.assert_way()
    }

    /// Routes marked packets through the interface.
    fn assert_way(&mut self) -> Result<(), Error> {
        for v4 in families() {
            let route = Route {
                destination: (any(v4), 0),
                table: self.config.table,
                metric: 1,
                kind: RouteKind::Device(self.interface),
                source: None,
            };
            match self.netlink.request(Message::add_route(&route)) {
                Err(error) if !v4 && no_ipv6(&error) => {}
                other => other.map_err(|source| Error::Netlink {
                    what: format!("route through {}", self.config.interface),
                    source,
                })?,
            }
        }
        Ok(())
    }

    /// Sets the TUN interface up.
    pub(crate) fn raise(&mut self) -> Result<(), Error> {
        self.netlink.request(Message::link_up(self.interface, self.mtu)).map_err(|source| {
            Error::Netlink { what: format!("set {} up", self.config.interface), source }
        })
    }

    /// What others do to the system; to be asked before anything in it is looked at.
    pub(crate) fn watch(&self) -> io::Result<Watch> {
        Watch::open(self.interface, &self.config.nft_table)
    }

    /// Every address of this machine but 127.0.0.1 and the like, and those of the TUN interface.
    pub(crate) fn addresses(&mut self) -> Result<Vec<LocalAddress>, Error> {
        addresses::list(&mut self.netlink, self.interface)
            .map_err(|source| Error::Netlink { what: "list addresses".to_owned(), source })
    }

    /// The interfaces that lead to `peers`, and to peers that may be anywhere.
    pub(crate) fn outer(&mut self, peers: &[IpAddr]) -> Result<BTreeSet<u32>, Error> {
        let mark = self.config.marks().bypass;
        ways::outer(&mut self.netlink, mark, peers)
            .map_err(|source| Error::Netlink { what: "tell the way to peers".to_owned(), source })
    }

    /// Puts back what somebody else took out of the routing tables.
    pub(crate) fn mend(&mut self) -> Result<(), Error> {
        assert_block(&self.config, &mut self.netlink)?;
        self.assert_way()?;
        for source in &self.exempt {
            assert_rule(&self.config.exemption(*source), &mut self.netlink)?;
        }
        self.sources
            .restore(&mut self.netlink)
            .map_err(|source| Error::Netlink { what: "mend its routes".to_owned(), source })
    }

    /// Somebody may have changed the nftables table: the next [`Self::apply`] replaces it.
    pub(crate) fn doubt(&mut self) {
        self.standing = None;
    }

    /// Whether the nftables table is what was applied last, as far as is known.
    pub(crate) const fn stands(&self) -> bool {
        self.standing.is_some()
    }

    /// Replaces what is steered; whether the rules are other ones than before. What stands
    /// already is left alone: loading thousands of rules takes a while.
    pub(crate) fn apply(
        &mut self,
        rules: &[Rule],
        addresses: &[LocalAddress],
    ) -> Result<bool, Error> {
        let before = self.standing.take();
        let same = before.as_ref().is_some_and(|before| before.rules == rules);
        if same
            && self.missing().is_none()
            && before.as_ref().is_some_and(|before| before.addresses == addresses)
        {
            self.standing = before;
            return Ok(false);
        }
        let failed = |what: &str| {
            let what = format!("{what} routes with source addresses");
            move |source| Error::Netlink { what, source }
        };
        // What can be refused without harm comes first, and what opens something comes last.
        let exempt = sources::exempt(rules, addresses);
        for source in &exempt {
            assert_rule(&self.config.exemption(*source), &mut self.netlink)?;
        }
        let sources = self.sources.wanted(rules, addresses, self.interface);
        self.sources.add(&sources, &mut self.netlink).map_err(failed("add"))?;
        if !same {
            nft::replace(&self.config, rules, self.cover)?;
            self.cover = rules.iter().any(|rule| rule.verdict.is_caught());
            let Self { config, classifier, netlink, interface, .. } = self;
            classifier.replace(config, rules, *interface, netlink);
            self.note_second_line();
        }
        self.sources.delete(&sources, &mut self.netlink).map_err(failed("delete"))?;
        for source in self.exempt.difference(&exempt) {
            delete_rule(&self.config.exemption(*source), &mut self.netlink)?;
        }
        self.exempt = exempt;
        self.standing = Some(Standing { rules: rules.to_vec(), addresses: addresses.to_vec() });
        Ok(!same)
    }

    /// Puts the second line on interfaces that are new, or on `all`.
    pub(crate) fn guard_links(&mut self, all: bool) {
        self.classifier.follow(all, &mut self.netlink);
        self.note_second_line();
    }

    fn note_second_line(&mut self) {
        self.obstacles.second_line = self.classifier.missing().map(str::to_owned);
    }

    /// Looks what the policies want of the system around them.
    pub(crate) fn look(&mut self, rules: &[Rule], addresses: &[LocalAddress], peers: &[IpAddr]) {
        let forwards = |v4| {
            rules.iter().any(|rule| {
                rule.verdict.is_caught()
                    && rule.v4 == v4
                    && !addresses.iter().any(|own| {
                        let bits = Span::bits(own.address);
                        rule.local == Span { start: bits, end: bits }
                    })
            })
        };
        let covers_wire = [true, false].into_iter().any(|v4| {
            let caught = rules.iter().filter(|rule| rule.v4 == v4 && rule.verdict.is_caught());
            let remote = Span::union(caught.map(|rule| rule.remote).collect());
            peers.iter().filter(|peer| peer.is_ipv4() == v4).any(|peer| {
                let bits = Span::bits(*peer);
                let at = remote.partition_point(|span| span.end < bits);
                remote.get(at).is_some_and(|span| span.contains(bits))
            })
        });
        self.obstacles.needs =
            Needs { forwards_v4: forwards(true), forwards_v6: forwards(false), covers_wire };
    }

    /// What could not be put into the system, in words; worth another try.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.sources.missing()
    }

    /// Tells the operator what could not be put into the system, or that nothing is missing.
    pub(crate) fn set_unsettled(&mut self, reason: Option<String>) {
        self.obstacles.unsettled = reason;
    }

    /// What may stand in the way of traffic.
    pub(crate) const fn obstacles(&self) -> &Obstacles {
        &self.obstacles
    }
}

const fn unreachable(table: u32, v4: bool) -> Route {
    Route {
        destination: (any(v4), 0),
        table,
        metric: LAST_RESORT,
        kind: RouteKind::Unreachable,
        source: None,
    }
}

/// Removes everything that steering put into the system: the nftables table, the filters of
/// interfaces, the rules, the routes. Nothing to remove is no error.
///
/// # Errors
/// [`Error::Nft`] or [`Error::Netlink`] when the system refuses, [`Error::Name`] when nothing can be
/// called as `config` says.
pub fn release(config: &SteeringConfig) -> Result<(), Error> {
    names::check(config)?;
    nft::remove(config)?;
    let failed = |what: &str, source| Error::Netlink { what: what.to_owned(), source };
    let mut netlink = Netlink::open().map_err(|source| failed("open a netlink socket", source))?;
    classifier::remove(&mut netlink).map_err(|source| failed("remove filters", source))?;
    let exemptions = exemptions(config, &mut netlink)?;
    let exemptions = exemptions.into_iter().map(|source| config.exemption(source));
    for rule in exemptions.chain(config.rules()) {
        delete_rule(&rule, &mut netlink)?;
    }
    for table in [config.table, config.source_table()] {
        let routes = netlink.routes(table).map_err(|source| failed("list routes", source))?;
        let delete: Vec<Message> = routes.iter().map(Message::delete_route).collect();
        netlink
            .request_all(delete, &[libc::ESRCH, libc::ENOENT, libc::ENODEV])
            .map_err(|source| failed("delete routes", source))?;
    }
    Ok(())
}
