//! IKE fragmentation (RFC 7383).

use std::sync::Arc;

use crypto::aead::Engines;
use ike::{
    config::{EndpointConfig, Endpoints},
    input::{Command, Input},
    keys::Sealer,
    wire::{
        ExchangeType, FragmentNumber, Header, Message, NotifyType, Payload, PayloadType,
        encode_message,
    },
};

use crate::{
    common::{A, B, CHILD, Fate, TUNNEL, World, address, child, connection, node::Dice},
    interloper,
};

/// So many selectors that IKE_AUTH takes several fragments.
fn world(seed: u64) -> World {
    World::with(
        seed,
        EndpointConfig { fragment_size: 576, ..EndpointConfig::default() },
        |node, it| {
            let nets = |second: u8| {
                (0..100).map(|it| format!("10.{second}.{it}.0/25")).collect::<Vec<_>>().join(",")
            };
            let (local, remote) = if node == A { (1, 2) } else { (2, 1) };
            it.children = vec![child(1, &nets(local), &nets(remote))];
        },
    )
}

#[test]
fn large_messages_come_in_pieces() {
    let mut world = world(1);
    world.establish();
    let pieces = world.ladder.iter().filter(|it| it.contains("IKE_AUTH")).count();
    assert!(pieces >= 10, "{pieces}");
    for sent in &world.sent {
        assert!(sent.payload.len() + 28 <= 576 || sent.label().contains("IKE_SA_INIT"));
    }
    world.start_traffic();
    world.command(B, Command::RekeyChild { child: CHILD });
    world.run_s(1);
    assert_eq!(world.rekeyed(A), 1);
    world.assert_nothing_lost();
}

#[test]
fn lost_and_mixed_up_fragments_only_delay() {
    for lost in 2..14 {
        let mut world = world(lost);
        let mut count = 0;
        world.filter = Box::new(move |_| {
            count += 1;
            match count {
                it if it == lost + 1 => Fate::Drop,
                it if it % 3 == 0 => Fate::Late(std::time::Duration::from_millis(5)),
                it if it % 5 == 0 => Fate::Twice,
                _ => Fate::Deliver,
            }
        });
        world.initiate(A);
        world.run_s(10);
        world.assert_up(1);
        world.assert_clean();
    }
}

/// Speaks as A on an IKE SA that is half open at B.
fn stranger(world: &World) -> (Header, Sealer) {
    let (keys, suite, response) = interloper::keys(world);
    let header = Header {
        exchange: ExchangeType::IKE_AUTH,
        initiator: true,
        response: false,
        message_id: 1,
        ..response
    };
    let engines = Engines::portable();
    (header, Sealer::new(&engines, suite.suite, &keys.initiator, 0, &mut Dice(7)).unwrap())
}

/// Sends an IKE_AUTH of zeros in fragments to B; gives how many datagrams B answers.
fn send_zeros(world: &mut World, total: u16, each: usize) -> usize {
    let (header, mut sealer) = stranger(world);
    let before = world.sent.len();
    for number in 1..=total {
        let fragment = Some(FragmentNumber { number, total });
        let part = vec![0; each];
        let first = if number == 1 { PayloadType::NOTIFY } else { PayloadType::NONE };
        let datagram = sealer.seal_inner(&header, first, fragment, &part).unwrap();
        let path = Endpoints { local: address(B), remote: address(A) };
        world.input(B, Input::Datagram { path, payload: &datagram });
    }
    world.sent.len() - before
}

fn dropped(world: &World, name: &str) -> u64 {
    let counters = world.nodes[B].endpoint.dropped();
    counters.iter().find(|(it, _)| *it == name).unwrap().1
}

fn half_open(seed: u64) -> World {
    let mut world = World::new(seed);
    world.filter =
        Box::new(|it| if it.label().contains("AUTH") { Fate::Drop } else { Fate::Deliver });
    world.initiate(A);
    world.run_ms(100);
    world
}

#[test]
fn who_is_not_authenticated_has_few_octets_of_fragments_kept() {
    // So many are put together and refused, for they are no IKE_AUTH.
    let mut world = half_open(21);
    assert_eq!(send_zeros(&mut world, 60, 400), 1);
    // More are not, and do not keep the peer itself from coming in.
    let mut world = half_open(22);
    assert_eq!(send_zeros(&mut world, 60, 1000), 0);
    assert!(dropped(&world, "malformed") > 30);
    world.filter = Box::new(|_| Fate::Deliver);
    world.run_s(10);
    world.assert_up(1);
}

#[test]
fn who_has_been_refused_has_no_fragments_kept() {
    let mut world = half_open(23);
    assert_eq!(send_zeros(&mut world, 2, 400), 1);
    let (header, mut sealer) = stranger(&world);
    let header = Header { message_id: 2, ..header };
    let fragment = Some(FragmentNumber { number: 2, total: 2 });
    let datagram = sealer.seal_inner(&header, PayloadType::NONE, fragment, &[0; 400]).unwrap();
    let path = Endpoints { local: address(B), remote: address(A) };
    let before = dropped(&world, "malformed");
    world.input(B, Input::Datagram { path, payload: &datagram });
    assert_eq!(dropped(&world, "malformed"), before + 1);
}

/// All strangers share one budget: what one of them has left unfinished is given back, however
/// its negotiation ends.
#[test]
fn refused_strangers_leave_room_for_the_fragments_of_others() {
    let mut world = world(25);
    for round in 0..370 {
        world.filter =
            Box::new(|it| if it.label().contains("AUTH") { Fate::Drop } else { Fate::Deliver });
        world.initiate(A);
        world.run_ms(100);
        let (header, mut sealer) = stranger(&world);
        let first = Some(FragmentNumber { number: 1, total: 2 });
        // As much as one may hold, until that is more than all have left.
        let part = vec![0; if round < 350 { 24_000 } else { 4000 }];
        let fragment = sealer.seal_inner(&header, PayloadType::NOTIFY, first, &part).unwrap();
        let whole = sealer.seal_inner(&header, PayloadType::NOTIFY, None, &[0; 8]).unwrap();
        let path = Endpoints { local: address(B), remote: address(A) };
        let before = world.sent.len();
        world.input(B, Input::Datagram { path, payload: &fragment });
        assert_eq!(world.sent.len(), before);
        world.input(B, Input::Datagram { path, payload: &whole });
        assert_eq!(world.sent.len(), before + 1, "it is refused");
        world.command(A, Command::Terminate { tunnel: TUNNEL });
        world.run_ms(100);
        world.sent.clear();
    }
    // More than each may hold in any case.
    let long = |second: u8| {
        let nets: Vec<_> = (0..220).map(|it| format!("10.{second}.{it}.0/25")).collect();
        nets.join(",")
    };
    for (node, (ours, theirs)) in [(A, (1, 2)), (B, (2, 1))] {
        let mut changed = connection(node);
        changed.children = vec![child(1, &long(ours), &long(theirs))];
        world.command(node, Command::Configure(Arc::new(changed)));
    }
    world.filter = Box::new(|_| Fate::Deliver);
    world.initiate(A);
    world.run_s(5);
    assert_eq!(world.nodes[A].pairs.len(), 1, "{:?}", world.failures(A));
}

/// RFC 7383 §2.3: both ends have to say that they do it.
#[test]
fn fragments_that_were_not_negotiated_are_dropped() {
    let mut world = World::new(24);
    world.filter = Box::new(|it| if it.from == A { Fate::Drop } else { Fate::Deliver });
    world.initiate(A);
    let request = world.sent[0].payload.clone();
    let message = Message::parse(&request).unwrap();
    let without: Vec<_> = message
        .clear
        .as_slice()
        .iter()
        .filter(|it| {
            !matches!(it, Payload::Notify(notify)
                if notify.kind == NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)
        })
        .cloned()
        .collect();
    assert_eq!(without.len() + 1, message.clear.as_slice().len());
    let altered = encode_message(&message.header, &without).unwrap();
    let path = Endpoints { local: address(B), remote: address(A) };
    world.input(B, Input::Datagram { path, payload: &altered });
    world.run_ms(100);
    assert_eq!(send_zeros(&mut world, 2, 400), 0);
    assert_eq!(dropped(&world, "unexpected"), 2);
}
