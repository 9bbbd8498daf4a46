//! Words without protection that say that a peer has lost its SAs. Whoever they come from, they
//! make us ask, and nothing else (RFC 7296 §2.4, §2.21.4).

use core::net::IpAddr;

use alloc::vec::Vec;
use sa_store::EspSpi;

use super::Endpoint;
use crate::{
    config::Endpoints,
    sa::IkeSa,
    view::IkeSaId,
    wire::{Message, NotifyType},
};

/// Behind an address with more IKE SAs are many peers: what one of them says is about one.
const PEERS: usize = 8;
/// IKE SAs of an address that are looked at.
const LOOKED_AT: usize = 256;

impl Endpoint {
    /// Something came without protection.
    pub(super) fn on_unprotected(&mut self, path: Endpoints, datagram: &[u8]) {
        let Ok(message) = Message::parse(datagram) else { return };
        if message.protected.is_some() {
            return;
        }
        let header = message.header;
        if message.clear.has_notify(NotifyType::INVALID_IKE_SPI) {
            // RFC 7296 §1.5: both SPIs are those of our request; the flag I may be either.
            for own in [header.spi_i, header.spi_r] {
                let ike = self.shared.directory.find(own);
                let named = |ike: &IkeSaId| match self.sas.get(ike) {
                    Some(IkeSa::Established(sa)) => {
                        let spis = sa.channel.spis;
                        (spis.spi_i, spis.spi_r) == (header.spi_i, header.spi_r)
                            && sa.channel.path.remote.ip() == path.remote.ip()
                    }
                    _ => false,
                };
                if let Some(ike) = ike.filter(named) {
                    self.with_established(ike, |sa, shared| sa.doubt(shared));
                }
            }
        }
        if let Some(notify) = message.clear.notify(NotifyType::INVALID_SPI) {
            let spi = <[u8; 4]>::try_from(notify.data.as_ref()).map(u32::from_be_bytes);
            self.doubt_peer(path.remote.ip(), spi.ok().and_then(EspSpi::new));
        }
    }

    /// The peer at an address may have lost its SAs, among them the one it receives with `spi`.
    pub(super) fn doubt_peer(&mut self, address: IpAddr, spi: Option<EspSpi>) {
        let (first, last) = (IkeSaId(0), IkeSaId(u64::MAX));
        let all = self.places.range((address, first)..=(address, last)).map(|(_, ike)| *ike);
        let mut ikes: Vec<IkeSaId> = all.take(LOOKED_AT).collect();
        if ikes.len() > PEERS {
            let children = &self.shared.children;
            ikes.retain(|ike| spi.is_some() && children.of(*ike).any(|it| Some(it.spi_out) == spi));
        }
        for ike in ikes {
            self.with_established(ike, |sa, shared| sa.doubt(shared));
        }
    }
}
