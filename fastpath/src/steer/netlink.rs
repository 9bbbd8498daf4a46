//! The little of rtnetlink that steering needs: links, routes and rules.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const REPLACE: u16 = 0x100;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PROTOCOL: u16 = 21;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_GOTO: u8 = 2;
const FR_ACT_NOP: u8 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_OPTIMISTIC: u32 = 0x04;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;

/// Packets the TUN interface keeps while a worker is kept from running: two seconds of 1,000 a
/// second. The kernel's 500 were lost on machines with more work than cores.
const TX_QUEUE: u32 = 2000;

/// Requests in one message to the kernel.
const AT_ONCE: usize = 64;

/// Marks routes as ours (`proto 112` in `ip route`).
const ROUTE_PROTOCOL: u8 = 112;
const SCOPE_LINK: u8 = 253;

/// What a route does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum RouteKind {
    /// Out of an interface.
    Device(u32),
    /// Refused with an ICMP error.
    Unreachable,
    /// The next rule decides.
    Throw,
}

/// An address as the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InterfaceAddress {
    /// Index of the interface.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// An address on the link, and the length of the prefix around it.
    pub network: (IpAddr, u8),
    /// Whether it can be the source of packets.
    pub ready: bool,
}

/// One route of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Route {
    /// Where to.
    pub destination: (IpAddr, u8),
    /// Table number.
    pub table: u32,
    /// Lower wins.
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Source address of own packets.
    pub source: Option<IpAddr>,
}

impl Route {
    /// What no two routes of a table have in common.
    pub(crate) const fn place(&self) -> ((IpAddr, u8), u32) {
        (self.destination, self.metric)
    }
}

/// One policy routing rule of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Rule {
    /// Family.
    pub v4: bool,
    /// Lower comes first.
    pub priority: u32,
    /// Only packets with this value of the mark under this mask.
    pub mark: Option<(u32, u32)>,
    /// Only packets from this address.
    pub source: Option<IpAddr>,
    /// Only packets of this machine's own.
    pub own_only: bool,
    /// What it does.
    pub action: RuleAction,
}

/// What a routing rule does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum RuleAction {
    /// Looks in this table.
    Table(u32),
    /// Goes on at the rule with this priority.
    Goto(u32),
    /// Nothing: others go on here.
    Nothing,
}

/// One netlink message under construction.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self { bytes }
    }

    pub(super) fn attribute(mut self, kind: u16, data: &[u8]) -> Self {
        let len = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn address(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    /// Adds a route; one that differs only in what it does is replaced.
    pub(crate) fn add_route(route: &Route) -> Self {
        Self::route(RTM_NEWROUTE, CREATE | REPLACE | ACK, route)
    }

    /// Adds a route where there is none; `EEXIST` where there is one, and nobody is told of it.
    pub(crate) fn restore_route(route: &Route) -> Self {
        Self::route(RTM_NEWROUTE, CREATE | EXCL | ACK, route)
    }

    /// Deletes a route.
    pub(crate) fn delete_route(route: &Route) -> Self {
        Self::route(RTM_DELROUTE, ACK, route)
    }

    fn route(kind: u16, flags: u16, route: &Route) -> Self {
        let (address, length) = route.destination;
        let (scope, route_type) = match route.kind {
            RouteKind::Device(_) if address.is_ipv4() => (SCOPE_LINK, 1),
            RouteKind::Device(_) => (0, 1),
            RouteKind::Unreachable => (0, 7),
            RouteKind::Throw => (0, 9),
        };
        let body = [
            family(address.is_ipv4()),
            length,
            0,
            0,
            0,
            ROUTE_PROTOCOL,
            scope,
            route_type,
            0,
            0,
            0,
            0,
        ];
        let mut message = Self::new(kind, flags, &body)
            .number(RTA_TABLE, route.table)
            .number(RTA_PRIORITY, route.metric);
        if length > 0 {
            message = message.address(RTA_DST, address);
        }
        if let RouteKind::Device(index) = route.kind {
            message = message.number(RTA_OIF, index);
        }
        if let Some(source) = route.source {
            message = message.address(RTA_PREFSRC, source);
        }
        message
    }

    /// Adds a rule; `EEXIST` when it stands already.
    pub(crate) fn add_rule(rule: &Rule) -> Self {
        Self::rule(RTM_NEWRULE, CREATE | EXCL | ACK, rule)
    }

    /// Deletes a rule; `ENOENT` when there is none.
    pub(crate) fn delete_rule(rule: &Rule) -> Self {
        Self::rule(RTM_DELRULE, ACK, rule)
    }

    fn rule(kind: u16, flags: u16, rule: &Rule) -> Self {
        let length = rule.source.map_or(0, |source| if source.is_ipv4() { 32 } else { 128 });
        let action = match rule.action {
            RuleAction::Table(_) => FR_ACT_TO_TBL,
            RuleAction::Goto(_) => FR_ACT_GOTO,
            RuleAction::Nothing => FR_ACT_NOP,
        };
        let body = [family(rule.v4), 0, length, 0, 0, 0, 0, action, 0, 0, 0, 0];
        let mut message = Self::new(kind, flags, &body).number(FRA_PRIORITY, rule.priority);
        if let Some((value, mask)) = rule.mark {
            message = message.number(FRA_FWMARK, value).number(FRA_FWMASK, mask);
        }
        if let Some(source) = rule.source {
            message = message.address(FRA_SRC, source);
        }
        match rule.action {
            RuleAction::Table(table) => message = message.number(FRA_TABLE, table),
            RuleAction::Goto(priority) => message = message.number(FRA_GOTO, priority),
            RuleAction::Nothing => {}
        }
        if kind == RTM_NEWRULE {
            message = message.attribute(FRA_PROTOCOL, &[ROUTE_PROTOCOL]);
        }
        if rule.own_only { message.attribute(FRA_IIFNAME, b"lo\0") } else { message }
    }

    /// Sets an interface up with this MTU.
    pub(crate) fn link_up(index: u32, mtu: u32) -> Self {
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8..12].copy_from_slice(&1_u32.to_ne_bytes());
        body[12..16].copy_from_slice(&1_u32.to_ne_bytes());
        Self::new(RTM_NEWLINK, ACK, &body).number(IFLA_MTU, mtu).number(IFLA_TXQLEN, TX_QUEUE)
    }

    /// Gives an interface an address that is never the source of anything beyond its link.
    pub(crate) fn add_address(index: u32, address: Ipv4Addr) -> Self {
        let mut body = [libc::AF_INET as u8, 32, 0, SCOPE_LINK, 0, 0, 0, 0];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        Self::new(RTM_NEWADDR, CREATE | REPLACE | ACK, &body)
            .address(IFA_LOCAL, address.into())
            .address(IFA_ADDRESS, address.into())
    }
}

const fn family(v4: bool) -> u8 {
    if v4 { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// Errors that say: no way leads there.
const NO_WAY: [i32; 7] = [
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EACCES,
    libc::EINVAL,
    libc::EAGAIN,
    libc::EOPNOTSUPP,
    libc::EAFNOSUPPORT,
];

pub(super) const NFPROTO_INET: u8 = 1;

/// A netlink socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

pub(super) fn open_socket() -> io::Result<OwnedFd> {
    // No protocol is NETLINK_ROUTE.
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?)
}

pub(super) fn open_filter_socket() -> io::Result<OwnedFd> {
    let (flags, protocol) = (SocketFlags::CLOEXEC, Some(rustix::net::netlink::NETFILTER));
    Ok(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?)
}

impl Netlink {
    /// Opens a socket.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { socket: open_socket()?, sequence: 0, buffer: vec![0; 1 << 16] })
    }

    /// Opens a socket to nftables.
    pub(super) fn open_filter() -> io::Result<Self> {
        Ok(Self { socket: open_filter_socket()?, sequence: 0, buffer: vec![0; 1 << 12] })
    }

    /// One question that has one answer (the kernel answers at once).
    pub(super) fn ask(&mut self, message: Message) -> io::Result<Reply> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        rustix::net::send(&self.socket, &message.finish(sequence), SendFlags::empty())?;
        loop {
            let mut answers = self.receive()?.into_iter();
            if let Some(reply) = answers.find(|reply| reply.sequence == sequence) {
                if reply.kind == NLMSG_ERROR {
                    acknowledgement(&reply.body)?;
                }
                return Ok(reply);
            }
        }
    }

    /// One request; waits for its acknowledgement (the kernel answers at once).
    pub(crate) fn request(&mut self, message: Message) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        rustix::net::send(&self.socket, &message.finish(sequence), SendFlags::empty())?;
        loop {
            for reply in self.receive()? {
                if reply.kind == NLMSG_ERROR && reply.sequence == sequence {
                    return acknowledgement(&reply.body);
                }
            }
        }
    }

    /// Many requests, some at a time; an error that is not in `but` is one.
    pub(crate) fn request_all(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
        but: &[i32],
    ) -> io::Result<()> {
        let harmless =
            |error: &io::Error| error.raw_os_error().is_some_and(|code| but.contains(&code));
        match self.request_each(messages)?.into_iter().find(|(_, error)| !harmless(error)) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Many requests, some at a time; which of them failed, counted from 0, and why.
    pub(crate) fn request_each(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
    ) -> io::Result<Vec<(usize, io::Error)>> {
        let mut messages = messages.into_iter();
        let mut failed = Vec::new();
        let mut done = 0;
        loop {
            let mut bytes = Vec::new();
            let first = self.sequence.wrapping_add(1);
            let mut sent = 0;
            for message in messages.by_ref().take(AT_ONCE) {
                self.sequence = self.sequence.wrapping_add(1);
                bytes.extend(message.finish(self.sequence));
                sent += 1;
            }
            if sent == 0 {
                return Ok(failed);
            }
            rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
            let mut waiting = sent;
            while waiting > 0 {
                for reply in self.receive()? {
                    let number = reply.sequence.wrapping_sub(first) as usize;
                    if reply.kind != NLMSG_ERROR || number >= sent {
                        continue;
                    }
                    waiting -= 1;
                    if let Err(error) = acknowledgement(&reply.body) {
                        failed.push((done + number, error));
                    }
                }
            }
            done += sent;
        }
    }

    pub(super) fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Reply>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = Message::new(kind, DUMP, body).finish(self.sequence);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut all = Vec::new();
        loop {
            for reply in self.receive()? {
                match reply.kind {
                    NLMSG_DONE => return Ok(all),
                    NLMSG_ERROR => {
                        acknowledgement(&reply.body)?;
                        return Ok(all);
                    }
                    _ => all.push(reply),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<Reply>> {
        let (len, _) = rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
        Ok(replies(self.buffer.get(..len).unwrap_or(&[])))
    }

    /// Every address of both families.
    pub(crate) fn addresses(&mut self) -> io::Result<Vec<InterfaceAddress>> {
        // No family is all of them.
        Ok(self.dump(RTM_GETADDR, &[0; 8])?.iter().filter_map(Reply::address).collect())
    }

    /// The interface that packets with `mark` to an address leave by; `None` where there is no way.
    pub(crate) fn way_to(&mut self, address: IpAddr, mark: u32) -> io::Result<Option<u32>> {
        let v4 = address.is_ipv4();
        let body = [family(v4), if v4 { 32 } else { 128 }, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let question = Message::new(RTM_GETROUTE, 0, &body);
        match self.ask(question.address(RTA_DST, address).number(RTA_MARK, mark)) {
            Ok(reply) => Ok(reply
                .attributes(12)
                .find(|(kind, _)| *kind == RTA_OIF)
                .map(|(_, data)| u32::from_ne_bytes(array(data, 0)))),
            // Unreachable, or of a family that is not there.
            Err(error) if error.raw_os_error().is_some_and(|code| NO_WAY.contains(&code)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Every routing rule of ours, of both families.
    pub(crate) fn rules(&mut self) -> io::Result<Vec<Rule>> {
        let mut all = Vec::new();
        for v4 in [true, false] {
            let mut body = [0; 12];
            body[0] = family(v4);
            match self.dump(RTM_GETRULE, &body) {
                Ok(replies) => all.extend(replies.iter().filter_map(Reply::rule)),
                // No IPv6, or no such rules, in this kernel.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// Every route of ours in `table`, of both families.
    pub(crate) fn routes(&mut self, table: u32) -> io::Result<Vec<Route>> {
        let mut all = Vec::new();
        for v4 in [true, false] {
            let mut body = [0; 12];
            body[0] = family(v4);
            let replies = match self.dump(RTM_GETROUTE, &body) {
                Ok(replies) => replies,
                // No IPv6 in this kernel.
                Err(error) if !v4 && error.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
                Err(error) => return Err(error),
            };
            all.extend(
                replies.iter().filter_map(Reply::route).filter(|route| route.table == table),
            );
        }
        Ok(all)
    }
}

/// One message from the kernel.
pub(super) struct Reply {
    pub kind: u16,
    sequence: u32,
    pub body: Vec<u8>,
}

/// Takes a datagram of netlink apart.
pub(super) fn replies(mut rest: &[u8]) -> Vec<Reply> {
    let mut all = Vec::new();
    while rest.len() >= 16 {
        let len = u32::from_ne_bytes(array(rest, 0)) as usize;
        let Some(body) = rest.get(16..len) else { break };
        all.push(Reply {
            kind: u16::from_ne_bytes(array(rest, 4)),
            sequence: u32::from_ne_bytes(array(rest, 8)),
            body: body.to_vec(),
        });
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    all
}

fn acknowledgement(body: &[u8]) -> io::Result<()> {
    match i32::from_ne_bytes(array(body, 0)) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn ip(v4: bool, bytes: &[u8]) -> IpAddr {
    if v4 { array::<4>(bytes, 0).into() } else { array::<16>(bytes, 0).into() }
}

/// Kinds and values of attributes, one behind the other.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(array(rest, 0)));
        let data = rest.get(4..len)?;
        let kind = u16::from_ne_bytes(array(rest, 2)) & 0x3fff;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, data))
    })
}

impl Reply {
    /// The attributes behind a header of this size.
    pub(super) fn attributes(&self, header: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(header..).unwrap_or(&[]))
    }

    fn address(&self) -> Option<InterfaceAddress> {
        let v4 = match i32::from(*self.body.first()?) {
            libc::AF_INET => true,
            libc::AF_INET6 => false,
            _ => return None,
        };
        let (mut own, mut on_link, mut flags) = (None, None, u32::from(*self.body.get(2)?));
        for (kind, data) in self.attributes(8) {
            match kind {
                IFA_LOCAL => own = Some(ip(v4, data)),
                IFA_ADDRESS => on_link = Some(ip(v4, data)),
                // What did not fit the eight bits of the header; holds those as well.
                IFA_FLAGS => flags = u32::from_ne_bytes(array(data, 0)),
                _ => {}
            }
        }
        // On a point-to-point link the one without "local" in its name is the other end.
        let address = own.or(on_link)?;
        let not_yet = flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0;
        Some(InterfaceAddress {
            interface: u32::from_ne_bytes(array(&self.body, 4)),
            address,
            network: (on_link.unwrap_or(address), *self.body.get(1)?),
            ready: !not_yet || flags & IFA_F_OPTIMISTIC != 0,
        })
    }

    fn rule(&self) -> Option<Rule> {
        let v4 = i32::from(*self.body.first()?) == libc::AF_INET;
        let mut table = u32::from(*self.body.get(4)?);
        let (mut ours, mut target, mut mark, mut mask) = (false, 0, None, u32::MAX);
        let mut rule = Rule {
            v4,
            priority: 0,
            mark: None,
            source: None,
            own_only: false,
            action: RuleAction::Nothing,
        };
        for (kind, data) in self.attributes(12) {
            let number = u32::from_ne_bytes(array(data, 0));
            match kind {
                FRA_PRIORITY => rule.priority = number,
                FRA_FWMARK => mark = Some(number),
                FRA_FWMASK => mask = number,
                FRA_SRC => rule.source = Some(ip(v4, data)),
                FRA_IIFNAME => rule.own_only = data == b"lo\0",
                FRA_TABLE => table = number,
                FRA_GOTO => target = number,
                FRA_PROTOCOL => ours = data.first() == Some(&ROUTE_PROTOCOL),
                _ => {}
            }
        }
        // A mask alone is shown for "no bit is set".
        rule.mark = mark.or((mask != u32::MAX).then_some(0)).map(|value| (value, mask));
        rule.action = match *self.body.get(7)? {
            FR_ACT_TO_TBL => RuleAction::Table(table),
            FR_ACT_GOTO => RuleAction::Goto(target),
            FR_ACT_NOP => RuleAction::Nothing,
            _ => return None,
        };
        ours.then_some(rule)
    }

    pub(super) fn route(&self) -> Option<Route> {
        let v4 = i32::from(*self.body.first()?) == libc::AF_INET;
        let any = if v4 { ip(true, &[]) } else { ip(false, &[]) };
        if *self.body.get(5)? != ROUTE_PROTOCOL {
            return None;
        }
        let mut route = Route {
            destination: (any, *self.body.get(1)?),
            table: u32::from(*self.body.get(4)?),
            metric: 0,
            kind: match self.body.get(7)? {
                1 => RouteKind::Device(0),
                7 => RouteKind::Unreachable,
                9 => RouteKind::Throw,
                _ => return None,
            },
            source: None,
        };
        for (kind, data) in self.attributes(12) {
            let number = u32::from_ne_bytes(array(data, 0));
            match kind {
                RTA_DST => route.destination.0 = ip(v4, data),
                RTA_PRIORITY => route.metric = number,
                RTA_PREFSRC => route.source = Some(ip(v4, data)),
                RTA_TABLE => route.table = number,
                RTA_OIF => {
                    if let RouteKind::Device(index) = &mut route.kind {
                        *index = number;
                    }
                }
                _ => {}
            }
        }
        Some(route)
    }
}
