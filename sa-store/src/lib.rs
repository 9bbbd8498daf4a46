//! The IPsec databases of RFC 4301 and the words every room of Postern shares.
//!
//! Nothing here reads a clock, opens a socket or draws randomness: time and random numbers are
//! parameters, so that the same code runs in the daemon and in the simulator.

pub mod change;
pub mod live;
pub mod pad;
pub mod replay;
pub mod sad;
pub mod spd;
pub mod spi_allocator;
mod types;

pub use types::{
    coverage::uncovered,
    identity::{Identity, IdentityError, IdentityPattern},
    key::{KeyMaterial, SecretBytes},
    lifetime::{Lifetime, Limits},
    record::{
        DfPolicy, Direction, DscpPolicy, EcnPolicy, Encapsulation, EspTransform, Mode,
        OffloadIntent, Path, SaRecord,
    },
    selector::{PortRange, Prefix, SelectorError, TrafficSelector},
    spi::{ChildId, DomainId, EspSpi, IkeSpi, PairId, SaId, TunnelId},
    time::Instant,
    transform::{Esn, EspCipher, EspSuite, IntegrityAlgorithm, KeGroup, PrfAlgorithm},
};
