//! Somebody on the way to the peer who sees A's first request and answers before the peer does.
//! Nothing of that is protected: whatever it says, A comes up with B (RFC 7296 §2.4, §2.21.1).

use crypto::{aead::Engines, ke, random::RandomSource};
use ike::{
    config::{EndpointConfig, Endpoints},
    event::FailureCode,
    input::Input,
    keys::{Sealer, Skeyseed},
    negotiate::select_ike,
    view::IkeState,
    wire::{
        ExchangeType, Header, KeyExchange, Message, Nonce, Notify, NotifyType, Payload,
        encode_message,
    },
};
use sa_store::{IkeSpi, KeGroup};

use crate::common::{A, B, Fate, Sent, World, address, ike_proposal, node::Dice};

const IKE: &str = "aes256gcm16-prfsha256-x25519-ecp384";

fn world(seed: u64) -> World {
    World::with(seed, EndpointConfig::default(), |_, it| it.proposals = vec![ike_proposal(IKE)])
}

/// B asks everybody for a cookie.
fn wary(seed: u64) -> World {
    let config = EndpointConfig { cookie_threshold: 0, ..EndpointConfig::default() };
    World::with(seed, config, |_, it| it.proposals = vec![ike_proposal(IKE)])
}

/// B wants another method than A sends first.
fn choosy(seed: u64) -> World {
    World::with(seed, EndpointConfig::default(), |node, it| {
        let own = if node == A { IKE } else { "aes256gcm16-prfsha256-ecp384" };
        it.proposals = vec![ike_proposal(own)];
    })
}

/// To A, in the name of B.
fn to_a(world: &mut World, payload: &[u8]) {
    let path = Endpoints { local: address(A), remote: address(B) };
    world.input(A, Input::Datagram { path, payload });
}

fn newest(world: &World, from: usize) -> &Sent {
    world.sent.iter().rfind(|it| it.from == from).unwrap()
}

/// A's newest IKE_SA_INIT request.
fn asked(world: &World) -> &Sent {
    world.sent.iter().rfind(|it| it.label() == "A IKE_SA_INIT 0 ->").unwrap()
}

/// A clear answer to A's newest request.
fn clear(world: &World, spi_r: u64, payloads: &[Payload<'_>]) -> Vec<u8> {
    let (header, _) = Header::parse(&newest(world, A).payload).unwrap();
    let spi_r = if spi_r == 0 { header.spi_r } else { IkeSpi(spi_r) };
    let header = Header { spi_r, initiator: false, response: true, ..header };
    encode_message(&header, payloads).unwrap()
}

fn notify(kind: NotifyType, data: &[u8]) -> Payload<'static> {
    Payload::Notify(Notify::with_data(kind, data.to_vec()))
}

/// An answer as the peer might give it, and the keys that the forger has with A then.
struct Answer {
    message: Vec<u8>,
    header: Header,
    keys: ike::keys::IkeKeys,
    suite: ike::config::IkeSuite,
}

fn answer(world: &World, spi_r: u64) -> Answer {
    let request = Message::parse(&asked(world).payload).unwrap();
    let choice = select_ike(&[ike_proposal(IKE)], request.clear.sa().unwrap(), false).unwrap();
    let (group, mut dice) = (choice.suite.group, Dice(spi_r));
    let asked = request.clear.ke().unwrap();
    let sent = asked.known_group().unwrap();
    let group = if sent == group { group } else { sent };
    let suite = ike::config::IkeSuite { group, ..choice.suite };
    let own = ike_proposal(&format!("aes256gcm16-prfsha256-{group}"));
    let choice = select_ike(&[own], request.clear.sa().unwrap(), false).unwrap();
    let pair = ke::generate(group, &mut dice).unwrap();
    let secret = pair.private.agree(&asked.data).unwrap();
    let mut nonce = vec![0; 32];
    dice.fill(&mut nonce);
    let ni = request.clear.nonce().unwrap().0.to_vec();
    let (spi_i, spi_r) = (request.header.spi_i, IkeSpi(spi_r));
    let keys = Skeyseed::initial(suite.prf, &ni, &nonce, &secret)
        .derive(suite, &ni, &nonce, spi_i, spi_r)
        .unwrap();
    let payloads = [
        Payload::Sa(choice.answer(None)),
        Payload::Ke(KeyExchange::new(group, pair.public)),
        Payload::Nonce(Nonce(nonce.into())),
    ];
    let header = Header { spi_r, initiator: false, response: true, ..request.header };
    let message = encode_message(&header, &payloads).unwrap();
    Answer { message, header, keys, suite }
}

impl Answer {
    /// What only who has the keys can say.
    fn protected(&self, payloads: &[Payload<'_>]) -> Vec<u8> {
        let engines = Engines::portable();
        let mut sealer =
            Sealer::new(&engines, self.suite.suite, &self.keys.responder, 0, &mut Dice(3)).unwrap();
        let header = Header { exchange: ExchangeType::IKE_AUTH, message_id: 1, ..self.header };
        sealer.seal(&header, payloads).unwrap()
    }
}

type Forgery = fn(&mut World);

fn refuse(world: &mut World, kind: NotifyType) {
    let message = clear(world, 0, &[notify(kind, &[])]);
    to_a(world, &message);
}

fn say(world: &mut World, payload: Payload<'static>) {
    let (header, _) = Header::parse(&asked(world).payload).unwrap();
    let header = Header { initiator: false, response: true, ..header };
    let message = encode_message(&header, &[payload]).unwrap();
    to_a(world, &message);
}

/// Everything that can be said in clear before the peer speaks.
const FORGERIES: [(&str, Forgery); 18] = [
    ("a cookie", |it| say(it, notify(NotifyType::COOKIE, &[7; 20]))),
    ("three cookies", |it| {
        for octet in 1..=3 {
            say(it, notify(NotifyType::COOKIE, &[octet; 20]));
        }
    }),
    ("an empty cookie", |it| say(it, notify(NotifyType::COOKIE, &[]))),
    ("a long cookie", |it| say(it, notify(NotifyType::COOKIE, &[7; 65]))),
    ("another method", |it| say(it, Payload::Notify(Notify::invalid_ke(KeGroup::Ecp384)))),
    ("the same method", |it| say(it, Payload::Notify(Notify::invalid_ke(KeGroup::Curve25519)))),
    ("a method not offered", |it| say(it, Payload::Notify(Notify::invalid_ke(KeGroup::Modp2048)))),
    ("a cookie and another method", |it| {
        say(it, notify(NotifyType::COOKIE, &[7; 20]));
        say(it, Payload::Notify(Notify::invalid_ke(KeGroup::Ecp384)));
    }),
    ("no proposal", |it| refuse(it, NotifyType::NO_PROPOSAL_CHOSEN)),
    ("all errors", |it| {
        for kind in 0..64 {
            refuse(it, NotifyType(kind));
        }
    }),
    ("an error of nobody's", |it| refuse(it, NotifyType(9000))),
    ("a vendor id", |it| say(it, Payload::VendorId(b"somebody else".as_slice().into()))),
    ("an answer", |it| {
        let forged = answer(it, 0x4711).message;
        to_a(it, &forged);
    }),
    ("five answers", |it| {
        for spi in 1..=5 {
            let forged = answer(it, 0x4711 * spi).message;
            to_a(it, &forged);
        }
    }),
    ("the same answer often", |it| {
        let forged = answer(it, 0x4711).message;
        for _ in 0..50 {
            to_a(it, &forged);
        }
    }),
    ("an answer without an SPI", |it| {
        let forged = answer(it, 0).message;
        to_a(it, &forged);
    }),
    ("an answer with a broken public value", |it| {
        let mut forged = answer(it, 0x4711).message;
        let at = forged.windows(2).rposition(|it| it == [0, 31]).unwrap();
        forged[at + 4..at + 36].fill(0);
        to_a(it, &forged);
    }),
    ("an answer, and its refusal", |it| {
        let forged = answer(it, 0x4711);
        to_a(it, &forged.message);
        let refusal = forged.protected(&[notify(NotifyType::AUTHENTICATION_FAILED, &[])]);
        to_a(it, &refusal);
    }),
];

fn comes_up(mut world: World, name: &str, within: u64) {
    world.run_s(within);
    for node in [A, B] {
        let up = world.nodes[node].endpoint.ike_sas();
        let up = up.iter().filter(|it| it.state == IkeState::Established).count();
        assert_eq!(up, 1, "{name}: {}", world.failure_text(A));
    }
    assert!(world.failures(A).is_empty(), "{name}: {}", world.failure_text(A));
    // What was half open at B is gone.
    world.run_s(40);
    world.assert_up(1);
    world.assert_clean();
    assert!(world.ike_down(A).is_empty() && world.ike_down(B).is_empty(), "{name}");
}

#[test]
fn nothing_said_in_clear_ends_an_attempt() {
    for (seed, (name, forge)) in FORGERIES.into_iter().enumerate() {
        for make in [world, wary, choosy] {
            let mut world = make(seed as u64);
            world.initiate(A);
            forge(&mut world);
            comes_up(world, name, 5);
        }
    }
}

/// The forger answers each request of A, the later ones too.
#[test]
fn nothing_said_in_clear_to_each_request_ends_an_attempt() {
    for (seed, (name, forge)) in FORGERIES.into_iter().enumerate() {
        let mut world = world(seed as u64);
        world.initiate(A);
        for _ in 0..4 {
            let before = world.sent.len();
            forge(&mut world);
            if world.sent.len() == before {
                break;
            }
        }
        comes_up(world, name, 8);
    }
}

/// The same while A waits for the answer to IKE_AUTH; and what is not protected there.
#[test]
fn nothing_said_in_clear_ends_an_authentication() {
    for (name, forge) in FORGERIES {
        let mut world = world(5);
        world.initiate(A);
        while !world.ladder.iter().any(|it| it == "A IKE_AUTH 1 ->") {
            world.run_ms(1);
        }
        for kind in [
            NotifyType::AUTHENTICATION_FAILED,
            NotifyType::INVALID_SYNTAX,
            NotifyType::INVALID_IKE_SPI,
            NotifyType::NO_PROPOSAL_CHOSEN,
            NotifyType::INVALID_KE_PAYLOAD,
            NotifyType::COOKIE,
        ] {
            refuse(&mut world, kind);
        }
        let noise = clear(&world, 0, &[]);
        to_a(&mut world, &noise);
        forge(&mut world);
        comes_up(world, name, 5);
    }
}

/// A peer that takes requests with the same SPI for one answers the first alone, and a response
/// does not say which request it answers. When our AUTH was about the wrong one, the attempt begins
/// anew, and cookies wait.
#[test]
fn a_forged_cookie_is_survived_with_a_peer_that_answers_once() {
    let mut world = world(6);
    let mut seen = Vec::new();
    world.filter = Box::new(move |it| {
        let (header, _) = Header::parse(&it.payload).unwrap();
        let first = header.exchange == ExchangeType::IKE_SA_INIT && it.from == A;
        if !first {
            return Fate::Deliver;
        }
        let known = seen.contains(&header.spi_i);
        seen.push(header.spi_i);
        if known { Fate::Drop } else { Fate::Deliver }
    });
    world.initiate(A);
    let mut asked = 0;
    for _ in 0..3000 {
        let requests = world.ladder.iter().filter(|it| *it == "A IKE_SA_INIT 0 ->").count();
        if requests > asked {
            asked = requests;
            say(&mut world, notify(NotifyType::COOKIE, &[asked as u8; 20]));
        }
        world.run_ms(1);
    }
    comes_up(world, "one answer", 1);
}

/// Somebody alters the peer's own answer on its way, and it arrives before the true one.
#[test]
fn an_altered_copy_of_the_answer_does_not_count() {
    type Change = fn(&mut Vec<Payload<'_>>);
    let changes: [(&str, Change); 5] = [
        ("nat", |it| {
            for payload in it {
                if let Payload::Notify(notify) = payload
                    && notify.kind == NotifyType::NAT_DETECTION_SOURCE_IP
                {
                    notify.data = vec![9; 20].into();
                }
            }
        }),
        ("no nat detection", |it| {
            it.retain(|it| {
                !matches!(it, Payload::Notify(notify)
                if notify.kind == NotifyType::NAT_DETECTION_SOURCE_IP
                    || notify.kind == NotifyType::NAT_DETECTION_DESTINATION_IP)
            });
        }),
        ("no fragments", |it| {
            it.retain(|it| {
                !matches!(it, Payload::Notify(notify)
                if notify.kind == NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)
            });
        }),
        ("a vendor id", |it| it.push(Payload::VendorId(b"somebody".as_slice().into()))),
        ("another nonce", |it| {
            for payload in it {
                if let Payload::Nonce(nonce) = payload {
                    nonce.0 = vec![1; 32].into();
                }
            }
        }),
    ];
    for (name, change) in changes {
        let mut world = world(7);
        world.initiate(A);
        while !world.ladder.iter().any(|it| it == "B IKE_SA_INIT 0 <-") {
            world.run_ms(1);
        }
        let real = newest(&world, B).payload.clone();
        let message = Message::parse(&real).unwrap();
        let mut payloads = message.clear.as_slice().to_vec();
        change(&mut payloads);
        let altered = encode_message(&message.header, &payloads).unwrap();
        to_a(&mut world, &altered);
        world.run_s(4);
        for node in [A, B] {
            let view = &world.nodes[node].endpoint.ike_sas()[0];
            assert_eq!((view.nat_local, view.nat_remote), (false, false), "{name}");
        }
        comes_up(world, name, 1);
    }
}

/// More than a few answers are not followed: each costs a key exchange.
#[test]
fn answers_cost_so_much_and_no_more() {
    let mut world = world(8);
    world.filter = Box::new(|_| Fate::Drop);
    world.initiate(A);
    for spi in 1..=100 {
        let forged = answer(&world, 0x1000 + spi).message;
        to_a(&mut world, &forged);
    }
    for octet in 0..100 {
        say(&mut world, notify(NotifyType::COOKIE, &[octet; 16]));
    }
    let requests = world.ladder.iter().filter(|it| *it == "A IKE_SA_INIT 0 ->").count();
    assert_eq!(requests, 5);
    world.run_s(300);
    let agreed = world.nodes[A].requests.iter().filter(|it| it.starts_with("agree")).count();
    assert_eq!(agreed, 8);
    assert_eq!(world.failures(A), [FailureCode::PeerUnreachable]);
    assert!(world.nodes[A].endpoint.ike_sas().is_empty());
    world.assert_clean();
    world.filter = Box::new(|_| Fate::Deliver);
    world.establish();
}

/// A refusal by whoever has the keys counts after a moment, when nothing better has come.
#[test]
fn a_refusal_counts_when_nothing_better_comes() {
    let mut world = World::with(9, EndpointConfig::default(), |node, it| {
        if node == B {
            let other = sa_store::SecretBytes::from_slice(b"another secret");
            it.auth = ike::config::AuthMethod::Psk(other);
        }
    });
    world.initiate(A);
    world.run_s(1);
    assert_eq!(world.failures(A), [FailureCode::AuthenticationFailed]);
    let requests = world.ladder.iter().filter(|it| it.starts_with("A ")).count();
    assert_eq!(requests, 2, "{:?}", world.ladder);
}
