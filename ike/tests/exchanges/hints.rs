//! Words without protection that say that the peer has lost its SAs: they make us ask, and no more
//! (RFC 7296 §2.4, §2.21.4).

use std::{sync::Arc, time::Duration};

use ike::{
    config::{EndpointConfig, Endpoints},
    event::FailureCode,
    input::{Command, Input},
    wire::{ExchangeType, Header, Notify, NotifyType, Payload, encode_message},
};
use sa_store::IkeSpi;

use crate::common::{A, B, Fate, Node, TUNNEL, World, address, connection};

fn world() -> World {
    let mut world = World::new(1);
    world.establish();
    world.ladder.clear();
    world
}

/// What tells A that B has lost its SAs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hint {
    InvalidIkeSpi,
    InvalidSpi,
    Call,
}

const ALL: [Hint; 3] = [Hint::InvalidIkeSpi, Hint::InvalidSpi, Hint::Call];

impl Hint {
    fn give(self, world: &mut World, from: std::net::SocketAddr) {
        let view = world.nodes[A].endpoint.ike_sas().remove(0);
        let spi = world.nodes[A].outbound_spis()[0];
        let (exchange, response) = (ExchangeType::INFORMATIONAL, self == Self::InvalidIkeSpi);
        let mut header = Header {
            spi_i: view.spi_i,
            spi_r: view.spi_r,
            exchange,
            initiator: false,
            response,
            message_id: 0,
        };
        let notify = match self {
            Self::InvalidIkeSpi => Notify::new(NotifyType::INVALID_IKE_SPI),
            _ => {
                header = Header { spi_i: IkeSpi(0), spi_r: IkeSpi(0), initiator: true, ..header };
                let octets = spi.to_be_bytes().to_vec();
                Notify::with_data(NotifyType::INVALID_SPI, octets)
            }
        };
        if self == Self::Call {
            let (exchange, spi_i) = (ExchangeType::IKE_SA_INIT, IkeSpi(77));
            header = Header { exchange, spi_i, spi_r: IkeSpi(0), initiator: true, ..header };
        }
        let payload = encode_message(&header, &[Payload::Notify(notify)]).unwrap();
        let path = Endpoints { local: address(A), remote: from };
        world.input(A, Input::Datagram { path, payload: &payload });
    }
}

#[test]
fn a_peer_that_lost_its_sas_is_found_out_within_seconds() {
    for hint in ALL {
        let mut world = world();
        // B answers nothing: it was killed, and is back.
        world.filter = Box::new(|_| Fate::Drop);
        hint.give(&mut world, address(B));
        assert_eq!(world.ladder, ["A INFORMATIONAL 2 ->"], "{hint:?}: it asks at once");
        world.run_s(4);
        assert!(world.ladder.len() > 4, "{hint:?}: it asks in quick succession");
        assert!(world.ike_down(A).is_empty());
        world.run_s(5);
        assert_eq!(world.ike_down(A), [FailureCode::PeerDead], "{hint:?}");
    }
}

#[test]
fn a_forged_hint_costs_one_exchange_and_nothing_else() {
    for hint in ALL {
        let mut world = world();
        for _ in 0..100 {
            hint.give(&mut world, address(B));
            world.run_ms(50);
        }
        assert_eq!(world.ladder.len(), 2, "{hint:?}: {:?}", world.ladder);
        // Again after a while, and not more often.
        for _ in 0..600 {
            hint.give(&mut world, address(B));
            world.run_ms(100);
        }
        assert!(world.ladder.len() <= 14, "{hint:?}: {}", world.ladder.len());
        world.assert_up(1);
    }
}

/// Hints do not make a bad wire worse: the question is sent often enough.
#[test]
fn hints_do_not_kill_on_a_lossy_wire() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.establish();
        let mut count = seed;
        world.filter = Box::new(move |_| {
            count += 1;
            if count % 5 < 2 { Fate::Drop } else { Fate::Deliver }
        });
        for _ in 0..600 {
            ALL[0].give(&mut world, address(B));
            world.run_ms(500);
        }
        assert!(world.ike_down(A).is_empty(), "{seed}");
    }
}

#[test]
fn a_hint_from_elsewhere_is_none() {
    for hint in ALL {
        let mut world = world();
        hint.give(&mut world, "203.0.113.9:500".parse().unwrap());
        assert!(!world.ladder.iter().any(|it| it.contains("INFORMATIONAL")), "{hint:?}");
    }
}

/// A request that is on its way is the question: it is sent again at once.
#[test]
fn a_hint_hastens_the_request_under_way() {
    let mut world = world();
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::RekeyIke { tunnel: TUNNEL });
    world.run_s(1);
    Hint::InvalidIkeSpi.give(&mut world, address(B));
    world.run_s(10);
    assert!(world.ladder.iter().all(|it| it == "A CREATE_CHILD_SA 2 ->"), "{:?}", world.ladder);
    assert!(world.ladder.len() > 6);
    assert_eq!(world.ike_down(A), [FailureCode::PeerDead]);
}

/// We have been restarted: who asks us about an IKE SA of before learns that it is gone.
#[test]
fn a_request_for_an_ike_sa_that_is_gone_is_answered() {
    let mut world = World::with(1, EndpointConfig::default(), |node, it| {
        it.dpd = (node == A).then_some(Duration::from_secs(2));
    });
    world.establish();
    world.nodes[B] = Node::new(B, 77, EndpointConfig::default());
    world.command(B, Command::Configure(Arc::new(connection(B))));
    world.run_s(15);
    assert_eq!(world.ike_down(A), [FailureCode::PeerDead]);
    let told = |it: &&String| it.starts_with("B INFORMATIONAL") && it.ends_with("<-");
    assert!(world.ladder.iter().filter(told).count() > 3, "{:?}", world.ladder);
}
