//! Identifiers: SPIs as the peers see them, and the handles used inside a gateway.

use core::fmt;

/// The SPI of an ESP SA (RFC 4303 §2.1): 32 bits, 0 to 255 are reserved and cannot be built.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EspSpi(u32);

impl EspSpi {
    /// The lowest SPI that an SA may have; 0 is local use, 1 to 255 are reserved by IANA.
    pub const MIN: u32 = 256;

    /// `None` for the reserved values 0 to 255.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        if value < Self::MIN { None } else { Some(Self(value)) }
    }

    /// The SPI as a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The SPI as it stands on the wire.
    #[must_use]
    pub const fn to_be_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for EspSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for EspSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EspSpi({self})")
    }
}

/// The SPI of an IKE SA (RFC 7296 §2.6): 64 bits, zero means "not chosen yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IkeSpi(pub u64);

impl IkeSpi {
    /// The responder's SPI in the first message of an exchange.
    pub const ZERO: Self = Self(0);

    /// Whether the SPI has not been chosen yet.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IkeSpi({self})")
    }
}

macro_rules! handle {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

handle! {
    /// One SA (one direction) on this node; never used again while the node runs.
    SaId(u64)
}
handle! {
    /// The pair an inbound and an outbound SA form; one Child SA in the words of RFC 7296.
    PairId(u64)
}
handle! {
    /// A tenant: every SPD lookup and every SA has one (RFC 4301 §4.4.1 "SPD-ID").
    DomainId(u32)
}
handle! {
    /// A tunnel as configured: one peer, one IKE configuration. Stable across reloads.
    TunnelId(u32)
}
handle! {
    /// A configured child of a tunnel, unique on the node. Stable across reloads and rekeys.
    ChildId(u32)
}
