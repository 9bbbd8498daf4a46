//! Somebody between A and B who has the keys of both: whoever did the key exchange has them.

use crypto::aead::Engines;
use ike::{
    config::IkeSuite,
    keys::{IkeKeys, Opener, Sealer, Skeyseed},
    wire::{Header, Message, Payload},
};

use crate::common::{A, World, node::Dice};

/// The keys of the IKE SA that A asked for last, and the header of the response to that.
pub(crate) fn keys(world: &World) -> (IkeKeys, IkeSuite, Header) {
    let last = |label: &str| world.sent.iter().rfind(|it| it.label() == label).unwrap();
    let request = Message::parse(&last("A IKE_SA_INIT 0 ->").payload).unwrap();
    let response = Message::parse(&last("B IKE_SA_INIT 0 <-").payload).unwrap();
    let nonce = |it: &Message<'_>| it.clear.nonce().unwrap().0.to_vec();
    let (ni, nr) = (nonce(&request), nonce(&response));
    let views = world.nodes[A].endpoint.ike_sas();
    let suite = views.last().unwrap().suite.unwrap();
    let Header { spi_i, spi_r, .. } = response.header;
    let secret = world.nodes[A].secrets.last().unwrap();
    let keys = Skeyseed::initial(suite.prf, &ni, &nr, secret)
        .derive(suite, &ni, &nr, spi_i, spi_r)
        .unwrap();
    (keys, suite, response.header)
}

/// What one end says, changed and sealed again.
pub(crate) fn altered(
    world: &World,
    datagram: &[u8],
    change: impl FnOnce(&mut [Payload<'_>]),
) -> Vec<u8> {
    let (keys, suite, _) = keys(world);
    let message = Message::parse(datagram).unwrap();
    let keys = if message.header.initiator { keys.initiator } else { keys.responder };
    let engines = Engines::portable();
    let opener = Opener::new(&engines, suite.suite, &keys).unwrap();
    // An epoch of its own: the ends count in epoch 0.
    let mut sealer = Sealer::new(&engines, suite.suite, &keys, 1, &mut Dice(7)).unwrap();
    let opened = opener.open(&message.protected.unwrap()).unwrap();
    let mut payloads = opened.payloads().unwrap().as_slice().to_vec();
    change(&mut payloads);
    sealer.seal(&message.header, &payloads).unwrap()
}
