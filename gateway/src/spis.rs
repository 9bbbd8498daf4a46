//! The node's SPI allocator as IKE sees it.

use crypto::random::RandomSource;
use ike::input::SpiSource;
use sa_store::{EspSpi, spi_allocator::SpiAllocator};

/// Room for this many inbound SAs: 2^20.
const INDEX_BITS: u32 = 20;

/// Allocates with injected randomness.
pub(crate) struct NodeSpis {
    allocator: SpiAllocator,
    random: Box<dyn RandomSource + Send>,
}

impl NodeSpis {
    pub(crate) fn new(random: Box<dyn RandomSource + Send>) -> Self {
        Self { allocator: SpiAllocator::new(INDEX_BITS), random }
    }
}

impl SpiSource for NodeSpis {
    fn allocate(&mut self) -> Option<EspSpi> {
        self.allocator.allocate(&mut || self.random.next_u32())
    }

    fn release(&mut self, spi: EspSpi) {
        self.allocator.release(spi);
    }
}
