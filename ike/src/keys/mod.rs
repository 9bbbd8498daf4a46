//! Keys: from the shared secret of a key exchange to sealed messages (RFC 7296 §2.13 to §2.18).
//!
//! Each step consumes what the next one replaces: a [`Skeyseed`] becomes [`IkeKeys`] once, and
//! the parts of those go to a [`Sealer`], an [`Opener`], the AUTH computation and the key
//! material of children. Everything is wiped on drop and silent in `Debug`.

mod auth;
mod schedule;
mod sealed;

pub use auth::{NotAuthenticated, PeerAuthenticated, SignedOctets, psk_auth, verify_psk};
pub use schedule::{ChildKeys, DerivationFailed, IkeKeys, SkD, SkP, Skeyseed};
pub use sealed::{OpenError, Opened, Opener, SealError, Sealer};

#[cfg(test)]
mod tests;
