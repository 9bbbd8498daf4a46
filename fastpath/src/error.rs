//! What can go wrong outside the path of a packet, with what to do about it.

use std::{fmt, io, net::SocketAddr};

/// An error of setting up, steering or taking down.
#[derive(Debug)]
pub enum Error {
    /// `/dev/net/tun` did not give an interface.
    Tun {
        /// The wanted interface.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// An interface of that name exists already.
    InterfaceExists(String),
    /// A name that would mean something else in a rule or a path.
    Name {
        /// What would be called so.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A socket could not be opened or bound.
    Socket {
        /// `UDP` or `ESP`, and where.
        what: &'static str,
        /// The address it was for.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The kernel refused a route, rule, address or link request.
    Netlink {
        /// What was wanted.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// `nft` could not be started.
    NftMissing(io::Error),
    /// `nft` refused the rules.
    Nft(String),
    /// A worker thread or its wake-up descriptor could not be made.
    Worker(io::Error),
}

fn permission_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ": run as root or with CAP_NET_ADMIN and CAP_NET_RAW",
        _ => "",
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tun { name, source } => {
                let hint = match source.kind() {
                    io::ErrorKind::NotFound => ": load the module with `modprobe tun`",
                    io::ErrorKind::InvalidInput => ": an interface name has 1 to 15 characters",
                    _ => permission_hint(source),
                };
                write!(f, "cannot create the TUN interface {name} ({source}){hint}")
            }
            Self::InterfaceExists(name) => write!(
                f,
                "the interface {name} exists already: stop the other posternd that owns it, or \
                 set `inline.interface` to another name"
            ),
            Self::Name { what, name } => write!(
                f,
                "`{}` cannot be the name of {what}: use letters, digits, dots, hyphens and \
                 underscores",
                name.escape_debug()
            ),
            Self::Socket { what, address, source } => {
                let hint = match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        ": another IKE daemon or VPN owns the port; stop it"
                    }
                    _ => permission_hint(source),
                };
                write!(f, "cannot open the {what} socket on {address} ({source}){hint}")
            }
            Self::Netlink { what, source } => {
                write!(f, "the kernel refused to {what} ({source}){}", permission_hint(source))
            }
            Self::NftMissing(source) => {
                write!(f, "cannot run nft ({source}): install the package nftables")
            }
            Self::Nft(message) => write!(f, "nft refused the steering rules: {message}"),
            Self::Worker(source) => write!(f, "cannot start a data plane worker ({source})"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tun { source, .. }
            | Self::Socket { source, .. }
            | Self::Netlink { source, .. }
            | Self::NftMissing(source)
            | Self::Worker(source) => Some(source),
            Self::InterfaceExists(_) | Self::Name { .. } | Self::Nft(_) => None,
        }
    }
}
