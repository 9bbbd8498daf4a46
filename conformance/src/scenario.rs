//! The scenario most others vary: one tunnel between two gateways, each of either make.

use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;

use crate::failure::{Failure, Outcome, ensure};
use crate::lab::{Lab, Turn};
use crate::packet::Kind;
use crate::postern::{self, Postern};
use crate::spec::{Child, End, Start, Tunnel};
use crate::strongswan::{self, Strongswan};
use crate::topology::{Family, Side, Wire};
use crate::wait;

/// How long a tunnel may take to come up.
pub const UP: Duration = Duration::from_secs(20);

/// IP, UDP, the canary and ESP's own octets come to this at least.
const SMALLEST_ESP: usize = 100;

/// Postern on the left, strongSwan on the right: who sends IKE_SA_INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starter {
    /// Postern does.
    Us,
    /// strongSwan does.
    Peer,
}

/// A tunnel between the two gateways of a lab, as the left one sees it.
pub fn tunnel(lab: &Lab, starter: Starter, outer: Family, inner: Family) -> Tunnel {
    let net = &lab.net;
    let start = match starter {
        Starter::Us => Start::AlwaysOn,
        Starter::Peer => Start::Passive,
    };
    Tunnel {
        name: "site".to_owned(),
        start,
        local: End { address: net.outer(Side::Left, outer), id: "left.example".to_owned() },
        remote: End { address: net.seen(Side::Right, outer), id: "right.example".to_owned() },
        psk: "correct horse battery staple".to_owned(),
        ike: vec![crate::spec::IKE.to_owned()],
        ike_rekey_s: 0,
        dpd_s: 0,
        force_udp: false,
        children: vec![Child::new(
            "net",
            &net.inner(Side::Left, inner),
            &net.inner(Side::Right, inner),
        )],
    }
}

/// The same tunnel as the right gateway sees it, through the NAT if there is one.
pub fn peer_tunnel(lab: &Lab, left: &Tunnel) -> Tunnel {
    let mut right = left.mirrored();
    let outer = if left.local.address.contains(':') { Family::V6 } else { Family::V4 };
    right.local.address = lab.net.outer(Side::Right, outer);
    right.remote.address = lab.net.seen(Side::Left, outer);
    right
}

/// Postern on the left, strongSwan on the right.
pub struct Pair {
    /// Postern.
    pub us: Rc<Postern>,
    /// strongSwan.
    pub peer: Rc<Strongswan>,
}

impl Pair {
    /// Starts both; the one that waits for the other first.
    pub fn start(lab: &Lab, ours: &[Tunnel], theirs: &[Tunnel]) -> Outcome<Self> {
        Self::start_with(
            lab,
            ours,
            theirs,
            &postern::Options::default(),
            &strongswan::Options::default(),
        )
    }

    /// Starts both with options.
    pub fn start_with(
        lab: &Lab,
        ours: &[Tunnel],
        theirs: &[Tunnel],
        our_options: &postern::Options,
        their_options: &strongswan::Options,
    ) -> Outcome<Self> {
        let peer = lab.strongswan(Side::Right, theirs, their_options)?;
        let us = lab.postern(Side::Left, ours, our_options)?;
        Ok(Self { us, peer })
    }

    /// Waits until each side has one IKE SA and one pair for its child, and nothing that drains.
    pub fn has_one_of_each(&self) -> Outcome {
        self.settles(|draining| draining == 0)
    }

    /// The same, but pairs that were replaced may still drain.
    pub fn uses_one_of_each(&self) -> Outcome {
        self.settles(|_| true)
    }

    fn settles(&self, drained: impl Fn(usize) -> bool) -> Outcome {
        wait::until("one IKE SA and one child at both ends", Duration::from_secs(30), || {
            let (ike_sas, children) = (self.peer.ike_sas()?, self.peer.children()?);
            let tunnel = self.us.tunnel("site")?;
            let ours = tunnel["ike_sas"].as_array().map_or(0, Vec::len);
            let draining = tunnel["children"][0]["draining"].as_array().map_or(0, Vec::len);
            let one = ike_sas.len() == 1 && children.len() == 1 && ours == 1;
            if one && postern::is_up(&tunnel) && drained(draining) {
                return Ok(());
            }
            Err(Failure::new(format!(
                "strongSwan has {} IKE SAs and {} children; we: {tunnel}",
                ike_sas.len(),
                children.len()
            )))
        })
    }

    /// Brings up every child of a tunnel and waits until both sides have it.
    pub fn bring_up(&self, starter: Starter, tunnel: &Tunnel) -> Outcome<Value> {
        if starter == Starter::Peer {
            for child in &tunnel.children {
                let done = self.peer.initiate(&tunnel.name, &child.name)?;
                ensure(done.code == 0, || {
                    format!("strongSwan could not bring up {}: {}", child.name, done.text())
                })?;
            }
        }
        let up = self.us.wait_up(&tunnel.name, UP)?;
        wait::until("strongSwan to have every child", UP, || {
            let children = self.peer.children()?;
            let missing = tunnel
                .children
                .iter()
                .find(|child| !children.iter().any(|(name, _)| *name == child.name));
            match missing {
                None => Ok(()),
                Some(child) => Err(Failure::new(format!("{} is not installed", child.name))),
            }
        })?;
        Ok(up)
    }
}

/// The usual course: start both, bring the tunnel up, exchange packets of many sizes, and hold
/// what both sides and the wire show against each other. `adjust` changes the tunnel first;
/// `check` looks at what `postern sa` shows of it.
pub fn usual(
    starter: Starter,
    (outer, inner): (Family, Family),
    wire: Wire,
    adjust: impl Fn(&mut Tunnel),
    check: impl Fn(&Value) -> Outcome,
) -> Outcome {
    Lab::run(Turn::Shared, wire, |lab| {
        let mut ours = tunnel(lab, starter, outer, inner);
        adjust(&mut ours);
        let theirs = peer_tunnel(lab, &ours);
        let pair = Pair::start(lab, std::slice::from_ref(&ours), &[theirs])?;
        let up = pair.bring_up(starter, &ours)?;
        check(&up)?;
        lab.exchange(inner, 200, 1200)?.must_be_whole()?;
        let child = pair.us.child(&ours.name, "net")?;
        for counter in ["packets_in", "packets_out"] {
            let counted = child.get(counter).and_then(Value::as_u64).unwrap_or(0);
            ensure(counted >= 200, || format!("{counter} is {counted}, 200 at least: {child}"))?;
        }
        ensure_protected(lab, 400)
    })
}

/// Fails unless the wire has seen what this many ESP packets amount to and nothing in clear. A
/// capture shows packets that were sent in one segmentation offload as one, so octets count.
pub fn ensure_protected(lab: &Lab, at_least: usize) -> Outcome {
    for captured in lab.no_canary_so_far()? {
        let octets = captured.octets(Kind::Esp) + captured.octets(Kind::EspInUdp);
        ensure(octets >= at_least * SMALLEST_ESP, || {
            format!("{} saw {:?}, at least {at_least} ESP wanted", captured.title, captured.kinds())
        })?;
    }
    Ok(())
}
