//! What strangers and strange peers can do: nothing, or harm to themselves alone.

use ike::{
    config::Endpoints,
    event::FailureCode,
    input::{Command, Completion, CompletionResult, Input},
    output::Ticket,
    view::IkeState,
    wire::{ExchangeType, Header, Message, NotifyType},
};
use sa_store::IkeSpi;

use crate::common::{A, B, CHILD, Fate, TUNNEL, World, address};

fn dropped(world: &World, node: usize, name: &str) -> u64 {
    let counters = world.nodes[node].endpoint.dropped();
    counters.iter().find(|(it, _)| *it == name).unwrap().1
}

fn to_b() -> Endpoints {
    Endpoints { local: address(B), remote: address(A) }
}

#[test]
fn ikev1_and_noise_are_dropped_without_an_answer() {
    let mut world = World::new(1);
    world.establish();
    let sent = world.sent.len();
    let mut ikev1 = vec![0; 28];
    ikev1[..8].copy_from_slice(&[1; 8]);
    ikev1[17] = 0x10;
    ikev1[27] = 28;
    world.input(B, Input::Datagram { path: to_b(), payload: &ikev1 });
    assert_eq!(dropped(&world, B, "ikev1"), 1);
    for length in 0..64 {
        let noise: Vec<u8> =
            (0..length).map(|it: u8| it.wrapping_mul(37).wrapping_add(11)).collect();
        world.input(B, Input::Datagram { path: to_b(), payload: &noise });
    }
    assert_eq!(world.sent.len(), sent);
    world.assert_up(1);
}

type Change = fn(&mut Vec<u8>);

/// RFC 7296 §2.5: who begins with a later version is told which one is spoken here, in no more
/// octets than it sent; nothing else of another version is answered.
#[test]
fn a_later_version_is_told_ours() {
    let mut world = World::new(12);
    let mut first = vec![0; 60];
    first[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    (first[18], first[19], first[27]) = (34, 0x08, 60);
    let ask = |world: &mut World, version: u8, change: Change| {
        let mut request = first.clone();
        request[17] = version << 4;
        change(&mut request);
        let before = world.sent.len();
        world.input(B, Input::Datagram { path: to_b(), payload: &request });
        world.sent[before..].iter().map(|it| it.payload.clone()).collect::<Vec<_>>()
    };
    let silent: [(&str, Change); 5] = [
        ("a response", |it| it[19] = 0x28),
        ("not of an initiator", |it| it[19] = 0),
        ("not the first", |it| it[23] = 1),
        ("on an IKE SA", |it| it[15] = 1),
        ("shorter than the answer", |it| it.truncate(35)),
    ];
    for version in 3..=15 {
        let answers = ask(&mut world, version, |_| {});
        let [answer] = answers.as_slice() else { panic!("version {version}: {answers:?}") };
        let message = Message::parse(answer).unwrap();
        let header = Header {
            spi_i: IkeSpi(0x0102_0304_0506_0708),
            spi_r: IkeSpi::ZERO,
            exchange: ExchangeType::IKE_SA_INIT,
            initiator: false,
            response: true,
            message_id: 0,
        };
        assert_eq!(message.header, header);
        let notify = message.clear.error_notify().unwrap();
        assert_eq!((notify.kind, notify.data.len()), (NotifyType::INVALID_MAJOR_VERSION, 0));
        for (what, change) in silent {
            assert!(ask(&mut world, version, change).is_empty(), "{what}");
        }
    }
    assert!(ask(&mut world, 0, |_| {}).is_empty(), "an earlier version");
    assert_eq!(dropped(&world, B, "version"), 13 * 6 + 1);
}

#[test]
fn an_unknown_spi_is_not_answered() {
    let mut world = World::new(2);
    let mut header = Header {
        spi_i: IkeSpi(1),
        spi_r: IkeSpi(2),
        exchange: ExchangeType::INFORMATIONAL,
        initiator: true,
        response: false,
        message_id: 7,
    };
    for (initiator, response) in [(false, false), (false, true), (true, false), (true, true)] {
        header.initiator = initiator;
        header.response = response;
        let message = ike::wire::encode_message(&header, &[]).unwrap();
        world.input(B, Input::Datagram { path: to_b(), payload: &message });
    }
    assert_eq!(dropped(&world, B, "unknown-spi"), 4);
    assert!(world.sent.is_empty());
}

#[test]
fn every_flipped_bit_of_a_protected_message_changes_nothing() {
    let mut world = World::new(3);
    world.establish();
    world.filter = Box::new(|_| Fate::Drop);
    world.command(A, Command::RekeyChild { child: CHILD });
    let request = world.sent.last().unwrap().payload.clone();
    let before = world.sent.len();
    for at in 0..request.len() * 8 {
        let mut altered = request.clone();
        altered[at / 8] ^= 1 << (at % 8);
        world.input(B, Input::Datagram { path: to_b(), payload: &altered });
    }
    assert_eq!(world.sent.len(), before, "nothing was answered");
    assert_eq!(world.nodes[B].pairs.len(), 1);
    world.filter = Box::new(|_| Fate::Deliver);
    world.run_s(5);
    assert_eq!(world.rekeyed(B), 1);
    world.run_s(20);
    world.assert_clean();
}

#[test]
fn altered_set_ups_do_not_kill_the_real_one() {
    for which in ["A IKE_SA_INIT 0 ->", "A IKE_AUTH 1 ->"] {
        let mut world = World::new(4);
        world.initiate(A);
        while world.ladder.last().map(String::as_str) != Some(which) {
            world.run_ms(1);
        }
        let request = world.sent.last().unwrap().payload.clone();
        let later = if which.contains("AUTH") { 28 } else { 8 };
        // What B answers to a stranger is the stranger's.
        world.filter = Box::new(|_| Fate::Drop);
        for at in later..request.len() {
            let mut altered = request.clone();
            altered[at] ^= 0x11;
            world.input(B, Input::Datagram { path: to_b(), payload: &altered });
        }
        world.filter = Box::new(|_| Fate::Deliver);
        world.run_ms(100);
        let up = world.nodes[B].endpoint.ike_sas();
        let up = up.iter().filter(|it| it.state == IkeState::Established).count();
        assert_eq!(up, 1, "{which}");
        // The copies that were half open are gone.
        world.run_s(31);
        world.assert_up(1);
    }
}

/// RFC 7296 §2.1: two requests with one SPI from one place are two requests. The end of one does
/// not keep the response of the other from being repeated.
#[test]
fn requests_with_the_same_spi_are_told_apart() {
    let mut world = World::new(13);
    world.filter = Box::new(|_| Fate::Drop);
    world.initiate(A);
    let request = world.sent[0].payload.clone();
    // The type of the last notification.
    let mut other = request.clone();
    *other.last_mut().unwrap() ^= 1;
    let answer = |world: &mut World, request: &[u8]| {
        let before = world.sent.len();
        world.input(B, Input::Datagram { path: to_b(), payload: request });
        let [answer] = &world.sent[before..] else { panic!("one answer") };
        answer.payload.clone()
    };
    let first = answer(&mut world, &other);
    world.run_s(20);
    let second = answer(&mut world, &request);
    assert_ne!(first, second);
    assert_eq!(answer(&mut world, &other), first);
    assert_eq!(answer(&mut world, &request), second);
    assert_eq!(world.nodes[B].endpoint.ike_sas().len(), 2);
    // The first one's time is over.
    world.run_s(15);
    assert_eq!(world.nodes[B].endpoint.ike_sas().len(), 1);
    assert_eq!(answer(&mut world, &request), second);
}

#[test]
fn old_messages_change_nothing_when_they_come_again() {
    let mut world = World::new(5);
    world.establish();
    world.command(A, Command::RekeyChild { child: CHILD });
    world.run_s(1);
    world.command(B, Command::RekeyIke { tunnel: TUNNEL });
    world.run_s(1);
    let all = world.sent.clone();
    let (requests, events) = (world.nodes[B].requests.clone(), world.events(B).len());
    for sent in all.iter().chain(&all) {
        let to = 1 - sent.from;
        let path = Endpoints { local: sent.path.remote, remote: sent.path.local };
        world.input(to, Input::Datagram { path, payload: &sent.payload });
    }
    // A replayed IKE_SA_INIT opens a half-open IKE SA at most, which nobody can complete.
    let new: Vec<_> = world.nodes[B].requests[requests.len()..].iter().collect();
    assert!(new.iter().all(|it| it.starts_with("generate and agree")), "{new:?}");
    assert_eq!(world.events(B).len(), events);
    world.run_s(60);
    world.assert_up(1);
    world.assert_clean();
}

#[test]
fn our_own_messages_that_come_back_are_dropped() {
    let mut world = World::new(6);
    world.initiate(A);
    let request = world.sent[0].payload.clone();
    let path = Endpoints { local: address(A), remote: address(B) };
    world.input(A, Input::Datagram { path, payload: &request });
    assert_eq!(dropped(&world, A, "unexpected"), 1);
    world.run_s(1);
    for sent in world.sent.clone() {
        let path = Endpoints { local: sent.path.local, remote: sent.path.remote };
        world.input(sent.from, Input::Datagram { path, payload: &sent.payload });
    }
    world.run_s(1);
    world.assert_up(1);
}

#[test]
fn answers_that_nobody_waits_for_are_ignored() {
    let mut world = World::new(7);
    world.establish();
    for ticket in 0..100 {
        for result in [
            CompletionResult::Removed,
            CompletionResult::Installed(Err("late".to_owned())),
            CompletionResult::Installed(Ok(())),
            CompletionResult::Activated(Err("late".to_owned())),
            CompletionResult::KeyGenerated(Err(ike::input::KeFailure::Internal)),
            CompletionResult::Agreed(Err(ike::input::KeFailure::InvalidPublicValue)),
        ] {
            let completion = Completion { ticket: Ticket(ticket), result };
            world.input(A, Input::Completion(completion));
        }
    }
    world.run_s(1);
    world.assert_up(1);
    world.assert_clean();
}

#[test]
fn a_key_exchange_that_never_ends_ends_the_attempt() {
    for stuck in [A, B] {
        let mut world = World::new(9);
        world.nodes[stuck].hold = Some(|_| true);
        world.initiate(A);
        world.run_s(300);
        assert_eq!(world.failures(A).len(), 1);
        assert!(world.nodes.iter().all(|it| it.endpoint.ike_sas().is_empty()));
        // The answer comes much too late.
        world.release(stuck);
        world.run_s(1);
        world.assert_clean();
        world.establish();
    }
}

#[test]
fn a_failing_key_exchange_ends_the_attempt_alone() {
    for failing in [A, B] {
        let mut world = World::new(8);
        world.nodes[failing].hold = Some(|_| true);
        world.initiate(A);
        world.run_s(1);
        for (ticket, _) in std::mem::take(&mut world.nodes[failing].held) {
            let result = CompletionResult::Agreed(Err(ike::input::KeFailure::Internal));
            world.input(failing, Input::Completion(Completion { ticket, result }));
        }
        world.nodes[failing].hold = None;
        world.run_s(200);
        world.assert_clean();
        if failing == A {
            assert_eq!(world.failures(A), [FailureCode::Internal]);
        }
        let views = world.nodes[failing].endpoint.ike_sas();
        if views.is_empty() {
            world.initiate(A);
            world.run_s(60);
        }
        world.assert_up(1);
    }
}

/// RFC 7296 §2.5: an unknown critical payload is named even to a stranger, in no more octets
/// than it sent, and nothing is kept.
#[test]
fn an_unknown_critical_payload_in_a_first_request_is_named() {
    let mut world = World::new(11);
    world.initiate(A);
    let mut request = world.sent[0].payload.clone();
    // The first payload becomes one of a type that nobody knows.
    (request[16], request[29]) = (200, 0x80);
    let before = world.sent.len();
    world.input(B, Input::Datagram { path: to_b(), payload: &request });
    let answer = &world.sent[before].payload;
    assert!(answer.len() <= request.len());
    let message = Message::parse(answer).unwrap();
    assert_eq!((message.header.spi_r, message.header.message_id), (IkeSpi::ZERO, 0));
    assert!(message.header.response && !message.header.initiator);
    let notify = message.clear.error_notify().unwrap();
    assert_eq!(notify.kind, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD);
    assert_eq!(notify.data.as_ref(), [200]);
    assert!(world.nodes[B].endpoint.ike_sas().is_empty());
    world.run_s(1);
    world.assert_up(1);
}
