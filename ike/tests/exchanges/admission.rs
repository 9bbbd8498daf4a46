//! Cookies and half-open limits (RFC 7296 §2.6).

use ike::{
    config::{EncapPolicy, EndpointConfig, Endpoints},
    input::Input,
    negotiate::ike_offer,
    wire::{
        ExchangeType, Header, KeyExchange, Message, Nonce, NotifyType, Payload, encode_message,
    },
};
use sa_store::{IkeSpi, KeGroup};

use crate::common::{A, B, Fate, World, address, ike_proposal};

#[test]
fn a_cookie_is_asked_for_and_given() {
    let config = EndpointConfig { cookie_threshold: 0, ..EndpointConfig::default() };
    let mut world = World::with(1, config, |_, _| {});
    world.establish();
    assert_eq!(
        world.ladder,
        [
            "A IKE_SA_INIT 0 ->",
            "B IKE_SA_INIT 0 <-",
            "A IKE_SA_INIT 0 ->",
            "B IKE_SA_INIT 0 <-",
            "A IKE_AUTH 1 ->",
            "B IKE_AUTH 1 <-"
        ]
    );
    assert!(world.sent[1].payload.len() <= world.sent[0].payload.len(), "no amplification");
    assert_eq!(world.nodes[A].requests.iter().filter(|it| it.starts_with("generate")).count(), 1);
}

/// RFC 7296 §2.6: all other payloads are unchanged, also those that are drawn at random.
#[test]
fn the_request_with_the_cookie_is_otherwise_unchanged() {
    for encap in [EncapPolicy::Auto, EncapPolicy::Always, EncapPolicy::Never] {
        let config = EndpointConfig { cookie_threshold: 0, ..EndpointConfig::default() };
        let mut world = World::with(4, config, |_, it| it.encap = encap);
        world.establish();
        let requests = world.sent.iter().filter(|it| it.label() == "A IKE_SA_INIT 0 ->");
        let requests: Vec<_> = requests.map(|it| Message::parse(&it.payload).unwrap()).collect();
        let [first, second] = requests.as_slice() else { panic!("{} requests", requests.len()) };
        let (cookie, rest) = second.clear.as_slice().split_first().unwrap();
        assert!(matches!(cookie, Payload::Notify(it) if it.kind == NotifyType::COOKIE));
        assert_eq!(first.clear.as_slice(), rest);
        assert_eq!(first.header, second.header);
    }
}

#[test]
fn cookie_and_another_group_together() {
    let config = EndpointConfig { cookie_threshold: 0, ..EndpointConfig::default() };
    let mut world = World::with(2, config, |node, it| {
        let text = if node == A {
            "aes256gcm16-prfsha256-x25519-ecp256"
        } else {
            "aes256gcm16-prfsha256-ecp256"
        };
        it.proposals = vec![ike_proposal(text)];
    });
    world.establish();
    let inits = world.ladder.iter().filter(|it| *it == "A IKE_SA_INIT 0 ->").count();
    assert!((3..=4).contains(&inits), "{:?}", world.ladder);
}

#[test]
fn an_endless_supply_of_cookies_is_not_followed() {
    let mut world = World::new(3);
    world.filter = Box::new(|sent| if sent.from == B { Fate::Drop } else { Fate::Deliver });
    world.initiate(A);
    for round in 0..50_u8 {
        let request = world.sent.iter().rfind(|it| it.from == A).unwrap().clone();
        let (header, _) = Header::parse(&request.payload).unwrap();
        let header = Header { initiator: false, response: true, ..header };
        let cookie = ike::wire::Notify::with_data(ike::wire::NotifyType::COOKIE, vec![round; 8]);
        let reply = encode_message(&header, &[Payload::Notify(cookie)]).unwrap();
        let path = Endpoints { local: address(A), remote: address(B) };
        world.input(A, Input::Datagram { path, payload: &reply });
    }
    let asked = world.sent.iter().filter(|it| it.from == A).count();
    assert!(asked <= 6, "{asked} requests");
}

/// A public value that is not valid costs a key exchange like any other: it counts as half open,
/// so that a flood of them meets cookies too, and is forgotten in the same time.
#[test]
fn broken_public_values_count_as_half_open() {
    let config = EndpointConfig { cookie_threshold: 4, ..EndpointConfig::default() };
    let mut world = World::with(6, config, |_, _| {});
    let call = |world: &mut World, number: u64| {
        let header = Header {
            spi_i: IkeSpi(number),
            spi_r: IkeSpi::ZERO,
            exchange: ExchangeType::IKE_SA_INIT,
            initiator: true,
            response: false,
            message_id: 0,
        };
        let offer = [
            Payload::Sa(ike_offer(&[ike_proposal("aes256gcm16-prfsha256-x25519")], None)),
            Payload::Ke(KeyExchange::new(KeGroup::Curve25519, vec![0; 32])),
            Payload::Nonce(Nonce(vec![7; 32].into())),
        ];
        let request = encode_message(&header, &offer).unwrap();
        let before = world.sent.len();
        let path = Endpoints { local: address(B), remote: address(A) };
        world.input(B, Input::Datagram { path, payload: &request });
        let answer = world.sent.get(before).map(|it| it.payload.clone());
        answer.map(|it| Message::parse(&it).unwrap().clear.has_notify(NotifyType::COOKIE))
    };
    for number in 1..=4 {
        assert_eq!(call(&mut world, number), None);
    }
    assert_eq!(call(&mut world, 5), Some(true));
    world.run_s(31);
    assert!(world.nodes[B].endpoint.ike_sas().is_empty());
    world.establish();
}
