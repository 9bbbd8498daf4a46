//! The one command list: every management front end translates into it.

use std::net::IpAddr;

use crate::spec::{ConnectionSpec, Origin};

/// Names a command until its outcome; chosen by the caller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommandId(pub u64);

/// What somebody wants.
#[derive(Debug)]
pub enum Command {
    /// Makes the connections of `origin` exactly these: what is gone is deleted, what changed
    /// is changed, the rest is left alone.
    Apply {
        /// Whose connections.
        origin: Origin,
        /// All of them.
        connections: Vec<ConnectionSpec>,
    },
    /// Brings a tunnel, or one child of it, up, and lifts a hold.
    Up(Target),
    /// Takes it down and holds it down; its destinations stay blocked.
    Down(Target),
    /// Rekeys: a tunnel's IKE SA and all its children, or one child.
    Rekey(Target),
    /// Tells the peers goodbye and stops; done when all have answered or a few seconds passed.
    Shutdown,
    /// The addresses of this machine are now these. IPv6 addresses of one link (`fe80::/10`) may
    /// be left out: they count as there.
    LocalAddresses(Vec<IpAddr>),
}

/// A tunnel, or one child of it: `TUNNEL[/CHILD]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The tunnel's name.
    pub tunnel: String,
    /// The child's name; `None` is the whole tunnel.
    pub child: Option<String>,
}

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done; a sentence for people.
    Done(String),
    /// Not done, and why.
    Failed {
        /// A stable code ([`ike::event::FailureCode`] where one fits, else `unknown-tunnel`,
        /// `unknown-child`, `not-up`, `held`).
        code: String,
        /// For people.
        message: String,
    },
}
