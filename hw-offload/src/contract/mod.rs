//! What every backend must do, as a suite that every backend's tests call.
//!
//! ```text
//! let findings = hw_offload::contract::run(&mut |capacity| Box::new(MyDriver::new(capacity)));
//! assert!(findings.is_empty(), "{findings:#?}");
//! ```

mod cases;
mod harness;
mod inbound;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sa_store::Instant;

use crate::Backend;

pub use harness::example_record;

/// What a backend's tests lend to the suite: a fresh backend with time, and packets to put
/// through it.
pub trait Driver {
    /// The backend under test.
    fn backend(&mut self) -> &mut dyn Backend;

    /// The time to poll with.
    fn now(&mut self) -> Instant;

    /// Lets the backend work: returns when its waker was called, when its poll timeout has come,
    /// or after at most a tenth of a second.
    fn wait(&mut self);

    /// Offers clear UDP packets from `source` to `destination` to the backend and says how many
    /// ESP packets left for the peer at `to`. A driver of a threaded backend waits until all are
    /// dealt with.
    fn send(&mut self, source: IpAddr, destination: IpAddr, packets: u32, to: SocketAddr) -> u64;

    /// Offers an ESP packet (from its SPI on, to be carried in UDP) that the peer sends from
    /// `from` to our address, and gives the UDP payload of the clear packet that came out of it.
    /// A driver of a threaded backend waits until it is dealt with.
    fn receive(&mut self, from: SocketAddr, esp: &[u8]) -> Option<Vec<u8>>;

    /// Our and the peer's outer address and UDP port.
    fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let at = |last| SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 4500));
        (at(1), at(2))
    }
}

/// Makes a fresh backend that holds at most that many SAs, if a number is given.
pub type Make<'a> = dyn FnMut(Option<u64>) -> Box<dyn Driver> + 'a;

/// A case that did not go as the contract says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The case.
    pub case: &'static str,
    /// What happened instead.
    pub what: String,
}

/// Runs every case on a backend of its own; what went wrong.
pub fn run(make: &mut Make<'_>) -> Vec<Finding> {
    cases::ALL
        .iter()
        .filter_map(|(case, capacity, check)| {
            let mut driver = make(*capacity);
            check(&mut harness::Harness::new(&mut *driver)).err().map(|what| Finding { case, what })
        })
        .collect()
}
