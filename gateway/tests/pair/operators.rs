//! Commands and their outcomes.

use std::net::SocketAddr;

use gateway::{
    command::{Command, Outcome},
    read_model::TunnelState,
    spec::{ConnectionSpec, RemoteAddress, TunnelMode},
};
use ike::{
    config::Endpoints,
    negotiate::{ike_offer, parse_ike},
    wire::{ExchangeType, Header, KeyExchange, Nonce, Payload, encode_message},
};
use sa_store::{IkeSpi, KeGroup};

use crate::world::{A, B, World, ip, psk, spec, target};

fn code(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Done(_) => "done",
        Outcome::Failed { code, .. } => code,
    }
}

#[test]
fn down_holds_against_both_ends_and_up_lifts_it() {
    let mut world = World::with(spec(A, 2), spec(B, 2));
    world.expect_up();
    let outcome = world.command(A, Command::Down(target("peer")));
    assert_eq!(outcome, Outcome::Done("peer is down".into()));
    world.run(300);
    let tunnel = world.tunnel(A);
    assert!(tunnel.held);
    assert_eq!(tunnel.state, TunnelState::Down);
    assert!(world.sides[A].backend.state().sas.is_empty());
    assert!(world.sides[B].backend.state().sas.is_empty());
    assert!(!world.sides[A].backend.state().policies.policies.is_empty());
    assert_eq!(world.tunnel(B).state, TunnelState::Connecting);
    assert!(world.events(A).contains(&("failed", Some("held".into()))));
    let outcome = world.command(A, Command::Up(target("peer")));
    assert_eq!(outcome, Outcome::Done("peer is up".into()));
    world.run(120);
    world.expect_up();
}

#[test]
fn one_child_goes_down_and_up_alone() {
    let mut world = World::up(2);
    let stays = world.child(A, "net0").id;
    assert_eq!(code(&world.command(A, Command::Down(target("peer/net1")))), "done");
    world.run(60);
    assert_eq!(world.child(A, "net1").state, None);
    assert_eq!(world.child(A, "net0").id, stays);
    assert_eq!(world.tunnel(A).state, TunnelState::Established);
    assert_eq!(code(&world.command(A, Command::Up(target("peer/net1")))), "done");
    world.run(10);
    world.expect_up();
    assert_eq!(world.child(A, "net0").id, stays);
}

#[test]
fn up_of_a_passive_tunnel_calls_once_and_says_why_it_failed() {
    let passive = |side| ConnectionSpec { mode: TunnelMode::Passive, ..spec(side, 1) };
    let mut world =
        World::with(ConnectionSpec { auth: psk("the wrong one"), ..passive(A) }, passive(B));
    assert_eq!(world.tunnel(A).state, TunnelState::Down);
    let outcome = world.command(A, Command::Up(target("peer")));
    assert_eq!(code(&outcome), "authentication-failed");
    world.run(300);
    assert_eq!(world.tunnel(A).state, TunnelState::Down);
    let calls = world.events(A).iter().filter(|(kind, _)| *kind == "failed").count();
    assert_eq!(calls, 1);
    world.apply(A, vec![passive(A)]);
    assert_eq!(code(&world.command(A, Command::Up(target("peer")))), "done");
    world.expect_up();
}

#[test]
fn an_unreachable_peer_gives_an_answer() {
    let mut world = World::empty();
    world.cut = true;
    world.apply(A, vec![spec(A, 1)]);
    let outcome = world.command(A, Command::Up(target("peer")));
    assert_eq!(code(&outcome), "peer-unreachable");
    assert!(
        world.tunnel(A).next_attempt.is_some() || world.tunnel(A).state == TunnelState::Connecting
    );
}

#[test]
fn a_silent_peer_is_named_before_it_is_given_up() {
    let mut world = World::empty();
    world.cut = true;
    world.apply(A, vec![spec(A, 1)]);
    world.run(5);
    assert!(world.tunnel(A).last_error.is_none());
    world.run(10);
    let failed = world.events(A).iter().any(|(kind, _)| *kind == "failed");
    let error = world.tunnel(A).last_error.unwrap();
    assert_eq!((error.code.as_str(), failed), ("peer-unreachable", false));
    let peer = spec(B, 1).local[0].to_string();
    assert!(error.message.contains(&peer), "{}", error.message);
    // It is the first thing that is forgotten when the peer answers.
    world.cut = false;
    world.apply(B, vec![spec(B, 1)]);
    world.run(60);
    world.expect_up();
}

#[test]
fn nobody_can_call_any() {
    let any = ConnectionSpec { remote: vec![RemoteAddress::Any], ..spec(A, 1) };
    let mut world = World::empty();
    world.apply(A, vec![ConnectionSpec { mode: TunnelMode::Passive, ..any }]);
    let outcome = world.command(A, Command::Up(target("peer")));
    assert_eq!(code(&outcome), "peer-unreachable");
}

#[test]
fn wrong_names_and_things_that_are_not_up_are_said_plainly() {
    let mut world = World::up(1);
    let outcome = world.command(A, Command::Up(target("pear")));
    let Outcome::Failed { code: unknown, message } = outcome else { panic!("{outcome:?}") };
    assert_eq!(unknown, "unknown-tunnel");
    assert_eq!(message, "there is no tunnel `pear`; there are: peer");
    assert_eq!(code(&world.command(A, Command::Down(target("peer/x")))), "unknown-child");
    world.command(A, Command::Down(target("peer")));
    assert_eq!(code(&world.command(A, Command::Rekey(target("peer")))), "not-up");
}

#[test]
fn whoever_waits_for_a_tunnel_that_is_taken_down_is_told() {
    let mut world = World::empty();
    world.cut = true;
    world.apply(A, vec![spec(A, 1)]);
    let up = world.start(A, Command::Up(target("peer")));
    world.command(A, Command::Down(target("peer")));
    assert_eq!(world.outcome(A, up).map(code), Some("held"));
}

#[test]
fn what_an_operator_takes_down_has_not_failed() {
    let mut calling = World::empty();
    calling.cut = true;
    calling.apply(A, vec![spec(A, 1)]);
    let mut waiting = World::empty();
    waiting.sides[A].addresses.clear();
    waiting.apply(A, vec![ConnectionSpec { local: Vec::new(), ..spec(A, 1) }]);
    let mut up = World::up(1);
    for world in [&mut calling, &mut waiting, &mut up] {
        let before = world.sides[A].gateway.events(0).len();
        world.command(A, Command::Down(target("peer")));
        let events = world.events(A).split_off(before);
        assert_eq!(events.iter().filter(|event| **event == ("down", None)).count(), 1);
        assert!(events.iter().all(|(kind, _)| *kind != "failed"), "{events:?}");
        assert!(world.tunnel(A).last_error.is_none());
    }
    assert!(up.events(A).contains(&("ike-down", Some("deleted-by-operator".into()))));
    let mut world = World::up(2);
    world.command(A, Command::Down(target("peer/net1")));
    let down = world.sides[A].gateway.events(0).into_iter().find(|event| event.kind == "down");
    assert_eq!(down.and_then(|event| event.child).as_deref(), Some("net1"));
}

#[test]
fn a_shutdown_tells_the_peer_and_leaves_the_policies() {
    let mut world = World::up(2);
    let outcome = world.command(B, Command::Shutdown);
    assert_eq!(outcome, Outcome::Done("stopped; the peers were told".into()));
    let state = world.sides[B].backend.state();
    assert!(state.sas.is_empty() && state.flushed && !state.policies.policies.is_empty());
    drop(state);
    world.run(1);
    assert!(world.sides[A].backend.state().sas.is_empty());
}

#[test]
fn a_shutdown_does_not_wait_for_a_dead_peer() {
    let mut world = World::up(1);
    world.cut = true;
    let before = world.now;
    assert_eq!(code(&world.command(B, Command::Shutdown)), "done");
    assert!(world.now.since(before).as_secs() <= 5);
    assert!(world.sides[B].backend.state().sas.is_empty());
}

/// Everybody can call in the peer's name: that is an event, but it neither marks a tunnel that is
/// up nor fails what an operator asked of it.
#[test]
fn a_stranger_does_not_spoil_what_operators_see() {
    let mut world = World::up(1);
    let id = world.start(A, Command::Rekey(target("peer")));
    let address = |text| SocketAddr::new(ip(text), 500);
    let path = Endpoints { local: address("192.0.2.1"), remote: address("192.0.2.2") };
    let header = Header {
        spi_i: IkeSpi(0x1234),
        spi_r: IkeSpi::ZERO,
        exchange: ExchangeType::IKE_SA_INIT,
        initiator: true,
        response: false,
        message_id: 0,
    };
    let call = [
        Payload::Sa(ike_offer(&[parse_ike("aes128gcm16-prfsha512-ecp384").unwrap()], None)),
        Payload::Ke(KeyExchange::new(KeGroup::Ecp384, vec![1; 96])),
        Payload::Nonce(Nonce(vec![2; 32].into())),
    ];
    world.forge(A, path, &encode_message(&header, &call).unwrap());
    assert!(world.events(A).contains(&("failed", Some("no-proposal-chosen".into()))));
    world.run(5);
    assert!(matches!(world.outcome(A, id), Some(Outcome::Done(_))), "{:?}", world.outcome(A, id));
    world.forge(A, path, &encode_message(&header, &call).unwrap());
    world.expect_up();
}

/// What a peer answered to a call that was under way before `up` is no outcome of `up`.
#[test]
fn up_waits_for_a_call_of_its_own_unless_nobody_answers() {
    let failures =
        |world: &World| world.events(A).into_iter().filter(|(kind, _)| *kind == "failed").count();
    let mut world = World::empty();
    world.cut = true;
    world.apply(A, vec![spec(A, 1)]);
    world.run(1);
    let asked = world.start(A, Command::Up(target("peer")));
    world.cut = false;
    // The peer knows no tunnel yet and refuses the call that began before.
    while failures(&world) == 0 {
        world.run(1);
    }
    assert_eq!(world.outcome(A, asked), None);
    world.run(30);
    let outcome = world.outcome(A, asked).expect("the second refusal is the outcome").clone();
    let refusals = failures(&world);
    assert_eq!(code(&outcome), "no-proposal-chosen");
    assert!(refusals >= 2, "{refusals}");

    // While it only waits for its next try, `up` calls at once, and once.
    let before = failures(&world);
    let outcome = world.command(A, Command::Up(target("peer")));
    assert_eq!((code(&outcome), failures(&world)), ("no-proposal-chosen", before + 1));

    // Nobody answers: the call that is under way tells.
    world.cut = true;
    world.run(300);
    while world.tunnel(A).next_attempt.is_some() {
        world.run(1);
    }
    let before = failures(&world);
    let outcome = world.command(A, Command::Up(target("peer")));
    assert_eq!((code(&outcome), failures(&world)), ("peer-unreachable", before + 1));
}
