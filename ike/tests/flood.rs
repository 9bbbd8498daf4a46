//! A flood of forged IKE_SA_INIT requests: a process of its own, because it counts memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a harness fails loudly")]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{A, B, World, address, ike_proposal};
use ike::{
    config::Endpoints,
    input::{Command, Input},
    output::Output,
    wire::{
        ExchangeType, Header, KeyExchange, Message, Nonce, Notify, NotifyType, Payload, Proposal,
        ProtocolId, SecurityAssociation, Spi, Transform, TransformType, encode_message,
    },
};
use sa_store::{Instant, KeGroup};

/// Counts the octets that are allocated: the flood must not grow them.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Everything a test has ever allocated: what a request costs, without a clock.
    static SPENT: Cell<usize> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator that counts what it hands on to the system's")]
// SAFETY: every call is handed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        let _ = SPENT.try_with(|spent| spent.set(spent.get() + layout.size()));
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn forged(number: u32, offer: &[Payload<'_>]) -> (Endpoints, Vec<u8>) {
    let source = std::net::Ipv4Addr::from(0x0b00_0000 + number);
    let header = Header {
        spi_i: sa_store::IkeSpi(u64::from(number) + 1),
        spi_r: sa_store::IkeSpi::ZERO,
        exchange: ExchangeType::IKE_SA_INIT,
        initiator: true,
        response: false,
        message_id: 0,
    };
    let remote = std::net::SocketAddr::from((source, 500));
    (Endpoints { local: address(B), remote }, encode_message(&header, offer).unwrap())
}

#[test]
fn a_million_forged_requests_cost_little_and_stop_nobody() {
    let mut world = World::new(4);
    let proposals =
        ike::negotiate::ike_offer(&[ike_proposal("aes256gcm16-prfsha256-x25519")], None);
    let offer = [
        Payload::Sa(proposals),
        Payload::Ke(KeyExchange::new(KeGroup::Curve25519, vec![9; 32])),
        Payload::Nonce(Nonce(vec![7; 32].into())),
    ];
    let before = HELD.load(Ordering::Relaxed);
    let start = world.now;
    let mut established: Option<Instant> = None;
    let mut replies = 0_usize;
    for number in 0..1_000_000_u32 {
        if number % 10_000 == 0 {
            // 200,000 of them a second, and in the middle of it somebody who means it.
            world.run(Duration::from_millis(50));
            world.sent.clear();
            if number == 500_000 {
                world.initiate(A);
            }
            if established.is_none() && !world.nodes[A].pairs.is_empty() {
                established = Some(world.now);
            }
        }
        let (path, payload) = forged(number, &offer);
        let node = &mut world.nodes[B];
        node.endpoint.handle(world.now, Input::Datagram { path, payload: &payload });
        for sent in node.drain(world.now) {
            replies += 1;
            assert!(sent.payload.len() <= payload.len(), "no amplification");
            if sent.path.remote == address(A) {
                let path = Endpoints { local: address(A), remote: address(B) };
                world.input(A, Input::Datagram { path, payload: &sent.payload });
                break;
            }
        }
    }
    let held = HELD.load(Ordering::Relaxed).saturating_sub(before);
    assert!(held <= 16 << 20, "{held} octets are held");
    assert!(replies > 900_000);
    let begun = start + Duration::from_millis(2500);
    let took = established.expect("nobody got through").since(begun);
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert!(world.nodes[B].endpoint.ike_sas().len() <= 65);
    world.run_s(60);
    world.assert_up(1);
    // What was drained above went the same way as always.
    assert!(world.nodes[B].endpoint.poll_output().is_none_or(|it| matches!(it, Output::Event(_))));
}

/// The longest first request that is looked at has 4 KiB: more costs nothing at all.
#[test]
fn oversized_requests_are_not_read() {
    let mut world = World::new(6);
    let transforms: Vec<_> = (0..240).map(|id| Transform::new(TransformType::ENCR, id)).collect();
    let proposal = |number| Proposal {
        number,
        protocol: ProtocolId::IKE,
        spi: Spi::None,
        transforms: transforms.clone(),
    };
    let offer = [
        Payload::Sa(SecurityAssociation { proposals: vec![proposal(1), proposal(2)] }),
        Payload::Ke(KeyExchange::new(KeGroup::Curve25519, vec![9; 32])),
        Payload::Nonce(Nonce(vec![7; 32].into())),
    ];
    let (path, mut payload) = forged(1, &offer);
    // A payload of a type that nobody knows goes before them, and makes it too long.
    assert!((3800..4096).contains(&payload.len()), "{}", payload.len());
    let first = std::mem::replace(&mut payload[16], 200);
    let mut tail = payload.split_off(28);
    payload.extend_from_slice(&[first, 0, 0x20, 0]);
    payload.resize(28 + 0x2000, 0);
    payload.append(&mut tail);
    let length = u32::try_from(payload.len()).unwrap();
    payload[24..28].copy_from_slice(&length.to_be_bytes());
    let node = &mut world.nodes[B];
    let before = SPENT.get();
    node.endpoint.handle(world.now, Input::Datagram { path, payload: &payload });
    assert_eq!(SPENT.get() - before, 0);
    assert!(node.drain(world.now).is_empty());
}

/// With thousands of tunnels whose peers may come from everywhere, as many lists of proposals
/// are tried as there are, not as there are tunnels.
#[test]
fn requests_that_fit_none_of_many_tunnels_are_cheap() {
    let mut world = World::new(7);
    let ciphers = ["aes256", "aes192", "aes128"];
    let groups = ["x25519", "ecp256", "ecp384", "modp2048", "modp3072"];
    for number in 0..5000_u32 {
        let mut other = common::connection(B);
        other.tunnel = sa_store::TunnelId(number + 1);
        let at = |list: &[&'static str], by: u32| list[(number / by) as usize % list.len()];
        let text = format!("{}-sha256-{}", at(&ciphers, 1), at(&groups, 3));
        let mac = if number % 50 < 25 { "sha384" } else { "sha512" };
        other.proposals = vec![ike_proposal(&text), ike_proposal(&text.replace("sha256", mac))];
        world.command(B, Command::Configure(Arc::new(other)));
    }
    let proposals =
        ike::negotiate::ike_offer(&[ike_proposal("aes256gcm16-prfsha256-x25519")], None);
    let offer = [
        Payload::Sa(proposals),
        Payload::Ke(KeyExchange::new(KeGroup::Curve25519, vec![9; 32])),
        Payload::Nonce(Nonce(vec![7; 32].into())),
    ];
    let mut call = |number| {
        let (path, payload) = forged(number, &offer);
        let node = &mut world.nodes[B];
        let before = SPENT.get();
        node.endpoint.handle(world.now, Input::Datagram { path, payload: &payload });
        let spent = SPENT.get() - before;
        assert_eq!(node.drain(world.now).len(), 1, "it is refused");
        spent
    };
    // What is told in words costs more.
    (0..10).map(&mut call).for_each(drop);
    let spent: usize = (10..20).map(&mut call).sum::<usize>() / 10;
    assert!(spent < 128 << 10, "{spent} octets a request");
}

/// A request that fits no tunnel leaves nothing half open, so no cookie is ever asked for it: the
/// longest one must not cost more than a short one, however many tunnels it may mean.
#[test]
fn requests_that_fit_nothing_are_cheap() {
    let mut world = World::new(5);
    for number in 1..=100 {
        let mut other = common::connection(B);
        other.tunnel = sa_store::TunnelId(number);
        other.proposals = ike::negotiate::default_ike_proposals();
        world.command(B, Command::Configure(Arc::new(other)));
    }
    let transforms: Vec<_> = [
        (TransformType::ENCR, 3),
        (TransformType::PRF, 2),
        (TransformType::INTEG, 2),
        (TransformType::KE, 2),
    ]
    .into_iter()
    .flat_map(|(kind, id)| [Transform::new(kind, id), Transform::new(kind, 99)])
    .collect();
    let proposal = |number| Proposal {
        number,
        protocol: ProtocolId::IKE,
        spi: Spi::None,
        transforms: transforms.clone(),
    };
    let proposals = (1..=50).map(proposal).collect();
    let offer = [
        Payload::Sa(SecurityAssociation { proposals }),
        Payload::Ke(KeyExchange::new(KeGroup::Curve25519, vec![9; 32])),
        Payload::Nonce(Nonce(vec![7; 32].into())),
    ];
    let mut call = |number| {
        let (path, payload) = forged(number, &offer);
        assert!((3500..4096).contains(&payload.len()), "{}", payload.len());
        let node = &mut world.nodes[B];
        let before = SPENT.get();
        node.endpoint.handle(world.now, Input::Datagram { path, payload: &payload });
        let spent = SPENT.get() - before;
        assert_eq!(node.drain(world.now).len(), 1, "it is refused");
        spent
    };
    // Operators get to know of a few in words.
    let told: usize = (0..10).map(&mut call).sum();
    assert!(told < 10 << 20, "{told} octets for ten");
    let spent: usize = (10..110).map(&mut call).sum();
    assert!(spent < 100 << 16, "{spent} octets for a hundred");
    assert_eq!(world.failures(B).len(), 10);
}

/// Calls B from an address with a nonce and an SPI of its own; gives what B answers there. What B
/// says to A goes to A.
fn call(world: &mut World, path: Endpoints, number: u32, cookie: Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let header = Header {
        spi_i: sa_store::IkeSpi(u64::from(number) + 1),
        spi_r: sa_store::IkeSpi::ZERO,
        exchange: ExchangeType::IKE_SA_INIT,
        initiator: true,
        response: false,
        message_id: 0,
    };
    let proposals =
        ike::negotiate::ike_offer(&[ike_proposal("aes256gcm16-prfsha256-x25519")], None);
    let cookie = cookie.map(|it| Payload::Notify(Notify::with_data(NotifyType::COOKIE, it)));
    let offer = [
        Payload::Sa(proposals),
        Payload::Ke(KeyExchange::new(KeGroup::Curve25519, vec![9; 32])),
        Payload::Nonce(Nonce(vec![7; 32].into())),
    ];
    let offer: Vec<_> = cookie.into_iter().chain(offer).collect();
    let payload = encode_message(&header, &offer).unwrap();
    let node = &mut world.nodes[B];
    node.endpoint.handle(world.now, Input::Datagram { path, payload: &payload });
    let mut answers = Vec::new();
    for sent in node.drain(world.now) {
        if sent.path.remote == address(A) {
            let path = Endpoints { local: address(A), remote: address(B) };
            world.input(A, Input::Datagram { path, payload: &sent.payload });
        } else {
            answers.push(sent.payload);
        }
    }
    answers
}

/// Half-open IKE SA that has proved its address; whether B has answered with its own SPI.
fn half_open(world: &mut World, path: Endpoints, number: u32) -> bool {
    let mut answers = call(world, path, number, None);
    let asked = answers.first().and_then(|it| {
        let message = Message::parse(it).unwrap();
        message.clear.notify(NotifyType::COOKIE).map(|it| it.data.to_vec())
    });
    if let Some(cookie) = asked {
        answers = call(world, path, number, Some(cookie));
    }
    answers.iter().any(|it| !Header::parse(it).unwrap().0.spi_r.is_zero())
}

/// One tunnel accepts everybody. Strangers that prove their addresses, 10,000 of them a second from
/// an IPv4 /24 and an IPv6 /48, keep nobody out whose address is configured, nor one who comes from
/// elsewhere.
#[test]
fn strangers_that_prove_their_addresses_keep_nobody_out() {
    let mut world = World::with(8, ike::config::EndpointConfig::default(), |node, it| {
        if node == B {
            let exact = sa_store::Prefix::new(address(A).ip(), 32).unwrap();
            it.remote = vec![ike::config::RemoteMatch::Prefix(exact)];
        }
    });
    let mut other = common::connection(B);
    other.tunnel = sa_store::TunnelId(2);
    other.remote_id = sa_store::IdentityPattern::Exact("somebody.example".parse().unwrap());
    world.command(B, Command::Configure(Arc::new(other)));
    let (mut up, begun) = (None, world.now + Duration::from_secs(1));
    let elsewhere: std::net::SocketAddr = "203.0.113.77:500".parse().unwrap();
    for number in 0..30_000_u32 {
        if number.is_multiple_of(100) {
            world.run(Duration::from_millis(10));
            world.sent.clear();
        }
        if number == 10_000 {
            world.initiate(A);
            let path = Endpoints { local: address(B), remote: elsewhere };
            assert!(half_open(&mut world, path, 1_000_000), "from elsewhere");
        }
        let v6 = number.is_multiple_of(2);
        let remote = if v6 {
            let host = (0x2001_0db8_0007_u128 << 80) | (u128::from(number % 65_536) << 64) | 1;
            std::net::SocketAddr::from((std::net::Ipv6Addr::from(host), 500))
        } else {
            std::net::SocketAddr::from((
                std::net::Ipv4Addr::from(0xc633_6400 | (number % 256)),
                500,
            ))
        };
        let local = if v6 { "[2001:db8::2]:500".parse().unwrap() } else { address(B) };
        half_open(&mut world, Endpoints { local, remote }, number);
        if up.is_none() && !world.nodes[A].pairs.is_empty() {
            up = Some(world.now);
        }
    }
    let took = up.expect("nobody got through").since(begun);
    assert!(took <= Duration::from_secs(1), "{took:?}");
    let views = world.nodes[B].endpoint.ike_sas();
    assert!(views.len() <= 4097, "{} IKE SAs", views.len());
    assert!(
        views.iter().any(|it| it.path.remote == elsewhere),
        "who came from elsewhere had to go"
    );
    let evicted = world.nodes[B].endpoint.dropped();
    assert!(evicted.iter().any(|it| it.0 == "half-open" && it.1 > 20_000), "{evicted:?}");
    // Strangers have a quarter of the time when so many are there; the first had all of it.
    world.run_s(8);
    assert!(world.nodes[B].endpoint.ike_sas().len() < 300);
    world.run_s(31);
    world.assert_up(1);
}
