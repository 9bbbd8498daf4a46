//! The chains that packets meet, whatever the rules are.
//!
//! What is exempt from the rules stands here and in `policy::compile`, and is listed in
//! `docs/fail-closed.md`. A rule that names something exempt wins: see [`PROTECT_NAMED`].

use super::{
    super::{
        Marks, SteeringConfig,
        counter::{CLEAR_DROPPED, STRAYED},
    },
    Place,
    model::{Action, Chain, Hook, Line, Match},
};

/// Where the chains hook in. What others do before routing (marks of theirs, restored or wiped;
/// new destinations) has happened when we decide, as late as possible.
const LAST: i32 = 1000;
/// The same for own packets, but before others filter by the interface that a packet leaves by:
/// our mark may change it. Behind destination NAT (-100, firewalld -90), before filters (0).
const BEFORE_FILTER: i32 = -50;
/// Packets as they are on the wire on arrival, and as they were meant when they leave: NAT cannot
/// come before connection tracking (-200).
const BEFORE_NAT: i32 = -250;

/// What a rule covers gets the mark, but for what is exempt.
pub(super) const PROTECT: &str = "protect";
/// What a rule covers that names something exempt.
pub(super) const PROTECT_NAMED: &str = "protect_named";
/// What a rule covers may not arrive in clear, but for what is exempt.
pub(super) const ARRIVED: &str = "arrived";
/// What a rule covers that names something exempt.
pub(super) const ARRIVED_NAMED: &str = "arrived_named";

/// UDP.
const UDP: u8 = 17;
/// ESP.
const ESP: u8 = 50;

fn line(matches: impl Into<Vec<Match>>, actions: impl Into<Vec<Action>>) -> Line {
    Line(matches.into(), actions.into())
}

fn chain(name: &str, hook: Option<Hook>, lines: Vec<Line>) -> Chain {
    Chain { name: name.to_owned(), hook, lines }
}

/// Lines that jump to chains of selectors.
#[derive(Clone, Copy)]
pub(super) struct Jumps<'a> {
    /// To what they cover.
    pub out: &'a [Line],
    /// To what may not arrive in clear.
    pub into: &'a [Line],
    /// To what fragments may belong to; nothing where they are not put together first.
    pub cut: &'a [Line],
}

/// The chains; `everything` is whether a rule covers everything.
pub(super) fn chains(
    config: &SteeringConfig,
    place: Place,
    everything: bool,
    jumps: Jumps<'_>,
) -> Vec<Chain> {
    let mut all = verdicts(config);
    let through = Through { config, first: place == Place::First, jumps };
    let (prerouting, output) = match place {
        Place::First => (LAST, BEFORE_FILTER),
        Place::Second => (LAST + 1, BEFORE_FILTER + 1),
    };
    all.push(chain("clear", None, jumps.into.to_vec()));
    all.push(through.arrivals());
    all.push(through.prerouting(prerouting, everything));
    all.push(through.output(output));
    all.extend(through.guards());
    all
}

/// Where rules lead to.
fn verdicts(config: &SteeringConfig) -> Vec<Chain> {
    use Action::{Accept, Count, Drop};
    let marks = config.marks();
    // What is delivered here or goes around in here does not leave. Asked before routing only:
    // behind it, what leaves leaves, whoever has its address. Not broadcast and multicast
    // addresses, which leave: `policy::compile` says which of those no policy means.
    let stays = [
        line([Match::Unrouted, Match::ToUs], [Accept]),
        line([Match::To("lo".to_owned())], [Accept]),
    ];
    // How the outer packets find their way (RFC 4861).
    let discovery = line([Match::Discovery], [Accept]);
    let mark = set(marks, marks.protect);
    let here = |matches: &[Match]| line([matches, &[Match::ToUs]].concat(), [Accept]);
    let stop = line([], [Count(CLEAR_DROPPED), Drop]);
    let udp = Match::Protocols(vec![UDP]);
    let [us, lo] = stays.clone();
    vec![
        chain(PROTECT_NAMED, None, vec![us, lo, line([], [mark.clone()])]),
        chain(PROTECT, None, [&stays[..], &[discovery.clone(), line([], [mark])]].concat()),
        chain(ARRIVED_NAMED, None, vec![stop.clone()]),
        chain(
            ARRIVED,
            None,
            vec![
                here(&[Match::Protocols(vec![ESP])]),
                here(&[Match::UdpTo(vec![config.ike_port, config.nat_port])]),
                here(&[udp.clone(), Match::Later { v4: true }]),
                here(&[udp, Match::Later { v4: false }]),
                discovery,
                stop,
            ],
        ),
    ]
}

fn is(marks: Marks, value: u32) -> Match {
    Match::Mark { mask: marks.mask, value, is: true }
}

fn set(marks: Marks, value: u32) -> Action {
    Action::SetMark { keep: !marks.mask, value }
}

/// The chains with hooks.
struct Through<'a> {
    config: &'a SteeringConfig,
    /// Only one of two tables takes marks away, and the other one decides behind it, so that the
    /// one that is whole at a moment has the last word.
    first: bool,
    jumps: Jumps<'a>,
}

impl Through<'_> {
    fn tun(&self) -> String {
        self.config.interface.clone()
    }

    /// Takes our mark from packets that have one.
    fn unmark(&self) -> Option<Line> {
        let marks = self.config.marks();
        let marked = Match::Mark { mask: marks.mask, value: 0, is: false };
        self.first.then(|| line([marked], [set(marks, 0)]))
    }

    fn from(&self, interface: &str) -> Match {
        Match::From { interface: interface.to_owned(), is: true }
    }

    fn arrivals(&self) -> Chain {
        let mut lines = vec![
            line([self.from(&self.config.interface)], [Action::Accept]),
            line([self.from("lo")], [Action::Accept]),
        ];
        lines.extend_from_slice(self.jumps.into);
        chain("arrivals", Some(Hook::Prerouting(BEFORE_NAT)), lines)
    }

    fn prerouting(&self, priority: i32, everything: bool) -> Chain {
        let marks = self.config.marks();
        let mut lines = vec![line([self.from("lo")], [Action::Accept])];
        lines.extend(self.unmark());
        // Marks of packets that we do not steer are left alone wherever that is possible.
        if self.first && everything {
            lines.push(line([self.from(&self.config.interface)], [set(marks, marks.emerged)]));
        }
        let outside = Match::From { interface: self.tun(), is: false };
        lines.push(line([outside], [Action::Jump("clear".to_owned())]));
        lines.extend_from_slice(self.jumps.out);
        chain("prerouting", Some(Hook::Prerouting(priority)), lines)
    }

    /// What few packets need to be asked is asked behind what selectors cover, not before.
    fn output(&self, priority: i32) -> Chain {
        let marks = self.config.marks();
        let mut lines = vec![line([is(marks, marks.bypass)], [Action::Accept])];
        lines.extend(self.unmark());
        lines.extend_from_slice(self.jumps.out);
        if self.first {
            for interface in [self.tun(), "lo".to_owned()] {
                lines.push(line([Match::To(interface)], [Action::Goto("pass".to_owned())]));
            }
        }
        chain("output", Some(Hook::Output(priority)), lines)
    }

    fn guards(&self) -> [Chain; 5] {
        let marks = self.config.marks();
        let accept = |matched: Match| line([matched], [Action::Accept]);
        // What no selector covers but was routed through the TUN interface takes the way that it
        // would have without us.
        let pass = vec![
            accept(Match::Mark { mask: marks.mask, value: 0, is: false }),
            accept(Match::ToUs),
            accept(Match::ToMany),
            accept(Match::Discovery),
            line([], [set(marks, marks.pass)]),
        ];
        let mut guard = vec![
            accept(Match::To(self.tun())),
            accept(Match::To("lo".to_owned())),
            accept(is(marks, marks.bypass)),
        ];
        guard.extend_from_slice(self.jumps.out);
        guard.push(line([is(marks, marks.protect)], [Action::Count(STRAYED), Action::Drop]));
        let jump = |chain: &str| line([], [Action::Jump(chain.to_owned())]);
        let mut behind_nat = vec![jump("guard")];
        // What is put together here is cut again behind us: the filters of interfaces
        // (`super::super::classifier`) must not take the pieces for those of other flows.
        let mut whole = self.jumps.cut.to_vec();
        if !whole.is_empty() {
            for interface in [self.tun(), "lo".to_owned()] {
                behind_nat.push(accept(Match::To(interface)));
            }
            behind_nat.push(accept(is(marks, marks.bypass)));
            behind_nat.push(jump("whole"));
            whole.push(line([is(marks, marks.protect)], [set(marks, marks.whole)]));
        }
        [
            chain("pass", None, pass),
            chain("guard", None, guard),
            chain("whole", None, whole),
            chain("guard_before_nat", Some(Hook::Postrouting(BEFORE_NAT)), vec![jump("guard")]),
            chain("guard_behind_nat", Some(Hook::Postrouting(LAST)), behind_nat),
        ]
    }
}
