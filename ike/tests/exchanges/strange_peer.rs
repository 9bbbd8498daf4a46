//! A peer that is authenticated and says unusual things: each gets the answer of RFC 7296, and
//! nothing but its own tunnel suffers.

use std::collections::BTreeSet;

use crypto::{aead::Engines, random::RandomSource};
use ike::{
    config::{Connection, EndpointConfig, Endpoints},
    event::{Event, FailureCode},
    input::{Command, Completion, CompletionResult, Input, KeFailure},
    keys::{IkeKeys, Opener, Sealer, SkD, Skeyseed},
    negotiate::{Pfs, esp_offer, ike_offer},
    output::RequestKind,
    view::{IkeSaView, IkeState},
    wire::{
        Delete, ExchangeType, Header, KeyExchange, Message, Nonce, Notify, NotifyType, Payload,
        PayloadType, ProtocolId, Spi, TrafficSelectors,
    },
};
use sa_store::{EspSpi, KeGroup};

use crate::{
    bystander::Bystander,
    common::{
        A, B, CHILD, Fate, Sent, TUNNEL, World, address, esp_proposal, ike_proposal, node::Dice,
    },
};

/// Plays A, the original initiator, with its keys.
pub(crate) struct Impostor {
    /// Has a tunnel of its own to B, which every request of the impostor must leave alone.
    bystander: Bystander,
    header: Header,
    sealer: Sealer,
    opener: Opener,
    sk_d: SkD,
}

const SUITE: &str = "aes256gcm16-prfsha256-x25519";

fn impostor(world: &World, bystander: Bystander) -> Impostor {
    let message = |at: usize| Message::parse(&world.sent[at].payload).unwrap();
    let (request, response) = (message(0), message(1));
    let nonce = |it: &Message<'_>| it.clear.nonce().unwrap().0.to_vec();
    let (ni, nr) = (nonce(&request), nonce(&response));
    let suite = world.nodes[A].endpoint.ike_sas()[0].suite.unwrap();
    assert_eq!(suite.to_string(), SUITE);
    let Header { spi_i, spi_r, .. } = response.header;
    let keys: IkeKeys = Skeyseed::initial(suite.prf, &ni, &nr, &world.nodes[A].secrets[0])
        .derive(suite, &ni, &nr, spi_i, spi_r)
        .unwrap();
    let engines = Engines::portable();
    let mut dice = Dice(1);
    let header = Header {
        spi_i,
        spi_r,
        exchange: ExchangeType::INFORMATIONAL,
        initiator: true,
        response: false,
        message_id: 1,
    };
    Impostor {
        bystander,
        header,
        sealer: Sealer::new(&engines, suite.suite, &keys.initiator, 0, &mut dice).unwrap(),
        opener: Opener::new(&engines, suite.suite, &keys.responder).unwrap(),
        sk_d: keys.d,
    }
}

impl Impostor {
    /// Sends a request to B, lets A hear nothing of it, and shows what B answers.
    pub(crate) fn ask<T>(
        &mut self,
        world: &mut World,
        exchange: ExchangeType,
        payloads: &[Payload<'_>],
        read: impl FnOnce(&ike::wire::Payloads<'_>) -> T,
    ) -> T {
        self.header.message_id = self.header.message_id.wrapping_add(1);
        self.header.exchange = exchange;
        let request = self.sealer.seal(&self.header, payloads).unwrap();
        self.send(world, &request, read)
    }

    fn send<T>(
        &mut self,
        world: &mut World,
        request: &[u8],
        read: impl FnOnce(&ike::wire::Payloads<'_>) -> T,
    ) -> T {
        let before = world.sent.len();
        let path = Endpoints { local: address(B), remote: address(A) };
        world.input(B, Input::Datagram { path, payload: request });
        let answer = world.sent[before].payload.clone();
        self.bystander.assert_unharmed(world);
        let message = Message::parse(&answer).unwrap();
        assert!(message.header.response);
        assert_eq!(message.header.message_id, self.header.message_id);
        let opened = self.opener.open(&message.protected.unwrap()).unwrap();
        read(&opened.payloads().unwrap())
    }

    /// Answers the newest request of B.
    pub(crate) fn answer(&mut self, world: &mut World, payloads: &[Payload<'_>]) {
        let newest = world.sent.iter().rev().filter(|it| it.path.remote == address(A));
        let request = { newest }.find_map(|it| {
            Header::parse(&it.payload).ok().map(|it| it.0).filter(|header| !header.response)
        });
        let Header { exchange, message_id, .. } = request.unwrap();
        let header = Header { exchange, message_id, response: true, ..self.header };
        let response = self.sealer.seal(&header, payloads).unwrap();
        let path = Endpoints { local: address(B), remote: address(A) };
        world.input(B, Input::Datagram { path, payload: &response });
    }

    /// What B asks for with its newest request.
    pub(crate) fn asked<T>(
        &self,
        world: &World,
        read: impl FnOnce(&ike::wire::Payloads<'_>) -> T,
    ) -> T {
        let newest = world.sent.iter().rev().filter(|it| it.path.remote == address(A));
        let messages = newest.map(|it| Message::parse(&it.payload).unwrap());
        let request = { messages }.find(|it| !it.header.response).unwrap();
        read(&self.opener.open(&request.protected.unwrap()).unwrap().payloads().unwrap())
    }

    pub(crate) fn error(
        &mut self,
        world: &mut World,
        exchange: ExchangeType,
        payloads: &[Payload<'_>],
    ) -> Option<NotifyType> {
        self.ask(world, exchange, payloads, |it| it.error_notify().map(|notify| notify.kind))
    }
}

fn world() -> (World, Impostor) {
    world_with(|_| {})
}

/// Both ends configured alike, but for who they are.
pub(crate) fn world_with(change: impl Fn(&mut Connection)) -> (World, Impostor) {
    let mut world = World::with(1, EndpointConfig::default(), |_, it| change(it));
    world.initiate(A);
    world.run_s(1);
    // A sleeps from now on: it must not wonder about answers to what it never asked.
    world.filter = Box::new(|_| Fate::Drop);
    let bystander = Bystander::join(&mut world);
    let views = world.nodes[B].endpoint.ike_sas();
    assert_eq!(views[0].spi_i, views[1].spi_i, "the bystander has the SPI of A, too");
    let impostor = impostor(&world, bystander);
    (world, impostor)
}

/// The IKE SAs of the impostor's tunnel at B.
pub(crate) fn ike_sas(world: &World) -> Vec<IkeSaView> {
    let mut views = world.nodes[B].endpoint.ike_sas();
    views.retain(|it| it.tunnel == Some(TUNNEL));
    views
}

/// How many pairs it has there.
pub(crate) fn pairs(world: &World) -> usize {
    world.nodes[B].pairs.values().filter(|(inbound, _)| inbound.child == CHILD).count()
}

pub(crate) fn child_request(spi: u32, esp: &str) -> Vec<Payload<'static>> {
    let mut nonce = vec![0; 32];
    Dice(u64::from(spi)).fill(&mut nonce);
    let ts = |text: &str| TrafficSelectors::new(vec![text.parse().unwrap()]);
    vec![
        Payload::Sa(esp_offer(&[esp_proposal(esp)], EspSpi::new(spi).unwrap(), Pfs::Configured)),
        Payload::Nonce(Nonce(nonce.into())),
        Payload::TsI(ts("10.1.0.0/16")),
        Payload::TsR(ts("10.2.0.0/16")),
    ]
}

/// Asks for a successor of the pair that the peer receives with `old`.
pub(crate) fn rekey_request(old: u32, spi: u32, esp: &str) -> Vec<Payload<'static>> {
    let mut request = child_request(spi, esp);
    let (protocol, spi) = (ProtocolId::ESP, Spi::Esp(old));
    let notify = Notify { protocol, spi, ..Notify::new(NotifyType::REKEY_SA) };
    request.insert(0, Payload::Notify(notify));
    request
}

const ESP: &str = "aes256gcm16-esn";
pub(crate) const CREATE: ExchangeType = ExchangeType::CREATE_CHILD_SA;
const INFORM: ExchangeType = ExchangeType::INFORMATIONAL;

#[test]
fn transport_mode_is_declined_by_tunnel_mode() {
    let (mut world, mut peer) = world();
    let mut request = child_request(0x1234, "aes256gcm16-esn");
    for kind in [
        NotifyType::USE_TRANSPORT_MODE,
        NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED,
        NotifyType::NON_FIRST_FRAGMENTS_ALSO,
        NotifyType::HTTP_CERT_LOOKUP_SUPPORTED,
        NotifyType::IPCOMP_SUPPORTED,
        NotifyType(40_960),
    ] {
        request.insert(0, Payload::Notify(Notify::new(kind)));
    }
    request.push(Payload::VendorId(b"somebody".as_slice().into()));
    peer.ask(&mut world, CREATE, &request, |answer| {
        assert!(answer.error_notify().is_none());
        assert!(!answer.has_notify(NotifyType::USE_TRANSPORT_MODE));
        assert!(answer.sa().is_some());
    });
    assert_eq!(pairs(&world), 2);
}

#[test]
fn refusals_of_children() {
    let (mut world, mut peer) = world();
    let cases = [
        (child_request(0x2001, "aes128gcm16-esn"), NotifyType::NO_PROPOSAL_CHOSEN),
        (child_request(0x2002, "aes256gcm16-noesn"), NotifyType::NO_PROPOSAL_CHOSEN),
    ];
    for (request, expected) in cases {
        assert_eq!(peer.error(&mut world, CREATE, &request), Some(expected));
    }
    let mut elsewhere = child_request(0x2003, "aes256gcm16-esn");
    elsewhere[3] = Payload::TsR(TrafficSelectors::new(vec!["10.77.0.0/16".parse().unwrap()]));
    let refused = peer.error(&mut world, CREATE, &elsewhere);
    assert_eq!(refused, Some(NotifyType::TS_UNACCEPTABLE));
    for (protocol, spi) in [
        (ProtocolId::ESP, Spi::Esp(0x7777_7777)),
        (ProtocolId::ESP, Spi::Esp(3)),
        (ProtocolId::ESP, Spi::None),
        (ProtocolId::AH, Spi::Esp(0xa000_0001)),
        (ProtocolId(0), Spi::Other(vec![1, 2, 3])),
        (ProtocolId::IKE, Spi::None),
    ] {
        let mut rekey = child_request(0x2004, "aes256gcm16-esn");
        let notify = Notify { protocol, spi, ..Notify::new(NotifyType::REKEY_SA) };
        rekey.insert(0, Payload::Notify(notify));
        let refused = peer.error(&mut world, CREATE, &rekey);
        assert_eq!(refused, Some(NotifyType::CHILD_SA_NOT_FOUND));
    }
    assert_eq!(pairs(&world), 1);
}

#[test]
fn a_peer_gets_so_many_children_and_no_more() {
    let (mut world, mut peer) = world();
    let mut made = 0;
    let refused = loop {
        let request = child_request(0x3000 + made, "aes256gcm16-esn");
        match peer.error(&mut world, CREATE, &request) {
            None => made += 1,
            Some(error) => break error,
        }
        assert!(made < 100, "there is no limit");
    };
    assert_eq!(refused, NotifyType::NO_ADDITIONAL_SAS);
    // What there is can still be replaced.
    assert_eq!(peer.error(&mut world, CREATE, &rekey_request(0x3000, 0x3100, ESP)), None);
}

#[test]
fn refusals_are_told_a_few_times_a_second_and_then_counted() {
    let (mut world, mut peer) = world();
    for number in 0..200 {
        let request = child_request(0x2100 + number, "aes128gcm16-esn");
        let refused = peer.error(&mut world, CREATE, &request);
        assert_eq!(refused, Some(NotifyType::NO_PROPOSAL_CHOSEN));
    }
    assert_eq!(world.failures(B), [FailureCode::NoProposalChosen; 10]);
    world.run_s(1);
    peer.error(&mut world, CREATE, &child_request(0x2300, "aes128gcm16-esn"));
    assert_eq!(world.failures(B).len(), 11);
    let text = world.failure_text(B);
    assert!(text.ends_with(" (190 more before it)"), "{text}");
    // What we want ourselves fails aloud all the same.
    world.nodes[B].refuse_installs = 1;
    for number in 0..20 {
        peer.error(&mut world, CREATE, &child_request(0x2400 + number, "aes128gcm16-esn"));
    }
    world.command(B, Command::RekeyChild { child: CHILD });
    peer.answer(&mut world, &[Payload::Notify(Notify::new(NotifyType::NO_ADDITIONAL_SAS))]);
    assert_eq!(world.failures(B).last(), Some(&FailureCode::NoAdditionalSas));
}

#[test]
fn an_ike_rekey_that_nobody_can_accept_is_refused() {
    let (mut world, mut peer) = world();
    let spi = Some(sa_store::IkeSpi(0x1122_3344_5566_7788));
    let offer = |text: &str| Payload::Sa(ike_offer(&[ike_proposal(text)], spi));
    let nonce = Payload::Nonce(Nonce(vec![5; 32].into()));
    let refused =
        peer.error(&mut world, CREATE, &[offer("aes128gcm16-prfsha512-ecp384"), nonce.clone()]);
    assert_eq!(refused, Some(NotifyType::NO_PROPOSAL_CHOSEN));
    let refused = peer.error(&mut world, CREATE, &[offer(SUITE), nonce]);
    assert_eq!(refused, Some(NotifyType::INVALID_KE_PAYLOAD));
    assert_eq!(ike_sas(&world).len(), 1);
}

#[test]
fn deletes_of_what_is_not_there_get_an_empty_answer() {
    let (mut world, mut peer) = world();
    let unknown = Delete::esp((0..50).filter_map(|it| EspSpi::new(0x9000 + it)));
    let ah = Delete { protocol: ProtocolId::AH, spis: vec![Spi::Esp(0xa000_0001)] };
    let deletes = [Payload::Delete(unknown), Payload::Delete(ah)];
    peer.ask(&mut world, INFORM, &deletes, |answer| assert!(answer.is_empty()));
    assert_eq!(pairs(&world), 1);
    // What is there is confirmed with the SPI of the other direction.
    let view = &ike_sas(&world)[0].children[0];
    let (spi_in, spi_out) = (view.spi_in, view.spi_out.unwrap());
    let delete = [Payload::Delete(Delete::esp([spi_out]))];
    peer.ask(&mut world, INFORM, &delete, |answer| {
        let spis: Vec<_> = answer.deletes().flat_map(Delete::esp_spis).collect();
        assert_eq!(spis, [spi_in]);
    });
    // Once more it names nothing of this peer's, though the bystander gave out the same SPI.
    peer.ask(&mut world, INFORM, &delete, |answer| assert!(answer.is_empty()));
    assert_eq!(pairs(&world), 0);
}

/// Whose a pair is goes by who the peer is: all SPIs that it chose may be those of another.
#[test]
fn the_pairs_of_another_peer_are_out_of_reach() {
    let (mut world, mut peer) = world();
    let spi_out = ike_sas(&world)[0].children[0].spi_out.unwrap();
    let others = world.nodes[B].endpoint.ike_sas();
    let theirs = others.iter().find(|it| it.tunnel != Some(TUNNEL)).unwrap();
    assert_eq!(theirs.children[0].spi_out, Some(spi_out));
    let delete = [Payload::Delete(Delete::esp([spi_out]))];
    peer.ask(&mut world, INFORM, &delete, |answer| assert_eq!(answer.deletes().count(), 1));
    assert_eq!(pairs(&world), 0);
    // The impostor has no pair with that SPI any more, the bystander has.
    let mut rekey = child_request(0x2004, "aes256gcm16-esn");
    let protocol = ProtocolId::ESP;
    let notify =
        Notify { protocol, spi: Spi::Esp(spi_out.get()), ..Notify::new(NotifyType::REKEY_SA) };
    rekey.insert(0, Payload::Notify(notify));
    let refused = peer.error(&mut world, CREATE, &rekey);
    assert_eq!(refused, Some(NotifyType::CHILD_SA_NOT_FOUND));
    for _ in 0..2 {
        peer.ask(&mut world, INFORM, &delete, |answer| assert!(answer.is_empty()));
    }
}

#[test]
fn a_delete_is_read_as_far_as_it_can_name_what_there_is() {
    let (mut world, mut peer) = world();
    let spi_out = ike_sas(&world)[0].children[0].spi_out;
    let junk = |count: u32| (0..count).filter_map(|it| EspSpi::new(0x9000 + it));
    let mut delete = vec![Payload::Delete(Delete::esp(junk(4000))); 3];
    delete.push(Payload::Delete(Delete::esp(spi_out)));
    peer.ask(&mut world, INFORM, &delete, |answer| assert!(answer.is_empty()));
    assert_eq!(pairs(&world), 1);
    let delete = [Payload::Delete(Delete::esp(junk(20).chain(spi_out)))];
    peer.ask(&mut world, INFORM, &delete, |answer| assert_eq!(answer.deletes().count(), 1));
    assert_eq!(pairs(&world), 0);
}

#[test]
fn an_unknown_critical_payload_is_named_and_survived() {
    let (mut world, mut peer) = world();
    // Type 200 cannot be written by our codec: a V payload is, and its announcement altered.
    peer.header.message_id += 1;
    let vendor = [Payload::VendorId(b"x".as_slice().into())];
    let (kind, mut inner) = ike::wire::encode_payloads(&vendor).unwrap();
    assert_eq!(kind, PayloadType::VENDOR_ID);
    inner[1] = 0x80;
    let suite = world.nodes[A].endpoint.ike_sas()[0].suite.unwrap().suite;
    let request = seal_raw(&mut peer, &world, suite, PayloadType(200), &inner);
    peer.send(&mut world, &request, |answer| {
        let notify = answer.error_notify().unwrap();
        assert_eq!(notify.kind, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD);
        assert_eq!(notify.data.as_ref(), [200]);
    });
    assert_eq!(ike_sas(&world).len(), 1);
    peer.ask(&mut world, INFORM, &[], |answer| assert!(answer.is_empty()));
}

/// Seals octets that no codec would write.
fn seal_raw(
    peer: &mut Impostor,
    world: &World,
    suite: sa_store::EspSuite,
    first: PayloadType,
    inner: &[u8],
) -> Vec<u8> {
    let key = world_keys(world);
    let engines = Engines::portable();
    let key = engines.key(suite, &key).unwrap();
    let mut record = vec![0; 8];
    record[0] = 0x77;
    record[1..5].copy_from_slice(&peer.header.message_id.to_be_bytes());
    record.extend_from_slice(inner);
    record.push(0);
    record.resize(record.len() + 16, 0);
    let header = Header { exchange: INFORM, ..peer.header };
    let mut message = ike::wire::encode_associated(&header, first, None, record.len()).unwrap();
    key.seal(&message, &mut record).unwrap();
    message.extend_from_slice(&record);
    message
}

fn world_keys(world: &World) -> sa_store::KeyMaterial {
    let message = |at: usize| Message::parse(&world.sent[at].payload).unwrap();
    let (request, response) = (message(0), message(1));
    let nonce = |it: &Message<'_>| it.clear.nonce().unwrap().0.to_vec();
    let (ni, nr) = (nonce(&request), nonce(&response));
    let suite = world.nodes[A].endpoint.ike_sas()[0].suite.unwrap();
    let Header { spi_i, spi_r, .. } = response.header;
    Skeyseed::initial(suite.prf, &ni, &nr, &world.nodes[A].secrets[0])
        .derive(suite, &ni, &nr, spi_i, spi_r)
        .unwrap()
        .initiator
}

#[test]
fn a_malformed_request_ends_its_own_ike_sa_alone() {
    for (first, inner) in [
        (PayloadType::SA, &b"\x00\x00\x00\x05\x00"[..]),
        (PayloadType::DELETE, &b"\x00\x00\x00\x06\x03\x04"[..]),
        (PayloadType::NOTIFY, &b"\x00\x00\x00\x04"[..]),
        (PayloadType::NOTIFY, &b"\x00\x00\xff\xff"[..]),
    ] {
        let (mut world, mut peer) = world();
        peer.header.message_id += 1;
        let suite = world.nodes[A].endpoint.ike_sas()[0].suite.unwrap().suite;
        let request = seal_raw(&mut peer, &world, suite, first, inner);
        let answered = peer.send(&mut world, &request, |it| it.error_notify().map(|it| it.kind));
        assert_eq!(answered, Some(NotifyType::INVALID_SYNTAX));
        assert_eq!(world.ike_down(B), [FailureCode::InvalidSyntax]);
        assert!(ike_sas(&world).is_empty());
        assert_eq!(pairs(&world), 0);
        // The same once more gets the same answer, and nothing else happens.
        let again = peer.send(&mut world, &request, |it| it.error_notify().map(|it| it.kind));
        assert_eq!(again, answered);
        world.filter = Box::new(|_| Fate::Deliver);
        world.initiate(B);
        world.run_s(5);
        assert_eq!(ike_sas(&world).len(), 1);
        peer.bystander.assert_unharmed(&mut world);
    }
}

#[test]
fn exchanges_that_have_no_place_here() {
    for exchange in [ExchangeType::IKE_AUTH, ExchangeType::IKE_INTERMEDIATE, ExchangeType(240)] {
        let (mut world, mut peer) = world();
        let answered = peer.error(&mut world, exchange, &[]);
        assert_eq!(answered, Some(NotifyType::INVALID_SYNTAX));
        assert!(ike_sas(&world).is_empty());
    }
}

#[test]
fn message_ids_outside_the_window_are_not_answered() {
    let (mut world, mut peer) = world();
    let before = world.sent.len();
    for id in [0, 3, 4, 100, u32::MAX] {
        peer.header.message_id = id;
        peer.header.exchange = INFORM;
        let request = peer.sealer.seal(&peer.header, &[]).unwrap();
        let path = Endpoints { local: address(B), remote: address(A) };
        world.input(B, Input::Datagram { path, payload: &request });
    }
    assert_eq!(world.sent.len(), before);
    peer.bystander.assert_unharmed(&mut world);
    peer.header.message_id = 1;
    peer.ask(&mut world, INFORM, &[], |answer| assert!(answer.is_empty()));
}

/// RFC 7296 §2.21.3: INVALID_SYNTAX ends the IKE SA at both ends, also when a public value is why.
#[test]
fn an_ike_rekey_with_a_broken_public_value_ends_the_ike_sa() {
    for public in [vec![9; 31], vec![0; 32]] {
        let (mut world, mut peer) = world();
        let spi = Some(sa_store::IkeSpi(0x1122_3344_5566_7788));
        let request = [
            Payload::Sa(ike_offer(&[ike_proposal(SUITE)], spi)),
            Payload::Nonce(Nonce(vec![5; 32].into())),
            Payload::Ke(KeyExchange::new(KeGroup::Curve25519, public)),
        ];
        let refused = peer.error(&mut world, CREATE, &request);
        assert_eq!(refused, Some(NotifyType::INVALID_SYNTAX));
        assert!(ike_sas(&world).is_empty());
        assert_eq!(world.ike_down(B), [FailureCode::InvalidSyntax]);
        assert_eq!(pairs(&world), 0);
        // The answer is repeated for who has not got it.
        peer.header.message_id -= 1;
        let again = peer.error(&mut world, CREATE, &request);
        assert_eq!(again, refused);
    }
}

/// What we had asked for goes with the IKE SA, and its SPI is free again.
#[test]
fn a_response_that_breaks_the_rules_leaves_no_spi_behind() {
    let (mut world, mut peer) = world();
    let spis = |world: &World| world.nodes[B].spis.lock().unwrap().used.len();
    let before = spis(&world);
    let path = Endpoints { local: address(B), remote: address(A) };
    let mut respond = |world: &mut World, exchange, message_id| {
        let header = Header { exchange, response: true, message_id, ..peer.header };
        let response = peer.sealer.seal(&header, &[]).unwrap();
        world.input(B, Input::Datagram { path, payload: &response });
    };
    world.command(B, Command::RekeyChild { child: CHILD });
    assert_eq!(spis(&world), before + 1);
    respond(&mut world, INFORM, 0);
    respond(&mut world, INFORM, 1);
    assert_eq!(world.ike_down(B), [FailureCode::InvalidSyntax]);
    assert_eq!((spis(&world), pairs(&world)), (before - 1, 0));
    peer.bystander.assert_unharmed(&mut world);
}

#[test]
fn children_that_come_and_go_are_bounded() {
    let (mut world, mut peer) = world();
    // The backend does not let go of anything.
    world.nodes[B].hold = Some(|kind| matches!(kind, RequestKind::Remove { .. }));
    let mut made = 0;
    let refused = loop {
        let request = child_request(0x3000 + made, "aes256gcm16-esn");
        if let Some(error) = peer.error(&mut world, CREATE, &request) {
            break error;
        }
        let delete = [Payload::Delete(Delete::esp(EspSpi::new(0x3000 + made)))];
        peer.ask(&mut world, INFORM, &delete, |answer| assert!(!answer.is_empty()));
        made += 1;
        assert!(made < 100, "there is no limit");
    };
    assert_eq!((refused, made), (NotifyType::TEMPORARY_FAILURE, 64));
    // Those that are replaced linger for a while.
    world.run_s(11);
    world.release(B);
    assert_eq!(peer.error(&mut world, CREATE, &child_request(0x4000, "aes256gcm16-esn")), None);
}

/// What an impostor seals with.
struct Keys {
    header: Header,
    sealer: Sealer,
}

/// The IKE SA that a rekey of the peer made takes the place of what the peer seals with, which it
/// gives.
fn rekey_ike(world: &mut World, peer: &mut Impostor, round: u64) -> Result<Keys, NotifyType> {
    let mut dice = Dice(900 + round);
    let key = crypto::ke::generate(KeGroup::Curve25519, &mut dice).unwrap();
    let (spi_i, ni) = (sa_store::IkeSpi(0x4444_0000 + round), vec![7; 32]);
    let request = [
        Payload::Sa(ike_offer(&[ike_proposal(SUITE)], Some(spi_i))),
        Payload::Nonce(Nonce(ni.clone().into())),
        Payload::Ke(KeyExchange::new(KeGroup::Curve25519, key.public)),
    ];
    let (spi_r, nr, public) = peer.ask(world, CREATE, &request, |answer| {
        if let Some(error) = answer.error_notify() {
            return Err(error.kind);
        }
        let Some(Spi::Ike(spi_r)) = answer.sa().map(|sa| sa.proposals[0].spi.clone()) else {
            panic!("no SPI")
        };
        let (nonce, ke) = (answer.nonce().unwrap().0.to_vec(), answer.ke().unwrap());
        Ok((spi_r, nonce, ke.data.to_vec()))
    })?;
    let shared = key.private.agree(&public).unwrap();
    let suite = ike_sas(world)[0].suite.unwrap();
    let keys = Skeyseed::rekey(&peer.sk_d, &shared, &ni, &nr)
        .derive(suite, &ni, &nr, spi_i, spi_r)
        .unwrap();
    let engines = Engines::portable();
    let header = Header { spi_i, spi_r, message_id: u32::MAX, ..peer.header };
    let sealer = Sealer::new(&engines, suite.suite, &keys.initiator, 0, &mut dice).unwrap();
    peer.opener = Opener::new(&engines, suite.suite, &keys.responder).unwrap();
    peer.sk_d = keys.d;
    Ok(Keys {
        header: std::mem::replace(&mut peer.header, header),
        sealer: std::mem::replace(&mut peer.sealer, sealer),
    })
}

#[test]
fn ike_rekeys_whose_old_ones_are_never_deleted_are_bounded() {
    let (mut world, mut peer) = world();
    let mut made = 0;
    let refused = loop {
        match rekey_ike(&mut world, &mut peer, made) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 100, "there is no limit");
    };
    assert_eq!((refused, made), (NotifyType::TEMPORARY_FAILURE, 4));
    assert_eq!(ike_sas(&world).len(), 5);
    // The newest goes on.
    peer.ask(&mut world, INFORM, &[], |answer| assert!(answer.is_empty()));
    assert_eq!(pairs(&world), 1);
}

/// Two rekeys of the IKE SA cross, and the peer deletes one successor before it lets the nonces
/// decide for just that one: the children go to the other.
#[test]
fn children_do_not_go_to_a_successor_that_is_gone() {
    let (mut world, mut peer) = world();
    world.command(B, Command::RekeyIke { tunnel: TUNNEL });
    let old = rekey_ike(&mut world, &mut peer, 1).unwrap();
    assert_eq!(ike_sas(&world).len(), 2);
    peer.ask(&mut world, INFORM, &[Payload::Delete(Delete::ike())], |it| assert!(it.is_empty()));
    assert_eq!(ike_sas(&world).len(), 1, "the peer's successor is gone");
    // The lowest nonce is in the exchange of B, whose successor would be the redundant one.
    let key = crypto::ke::generate(KeGroup::Curve25519, &mut Dice(77)).unwrap();
    let spi = Some(sa_store::IkeSpi(0x5555_0000));
    let answer = [
        Payload::Sa(ike_offer(&[ike_proposal(SUITE)], spi)),
        Payload::Nonce(Nonce(vec![0; 32].into())),
        Payload::Ke(KeyExchange::new(KeGroup::Curve25519, key.public)),
    ];
    let Keys { header, mut sealer } = old;
    let header = Header { exchange: CREATE, response: true, message_id: 0, ..header };
    let response = sealer.seal(&header, &answer).unwrap();
    let path = Endpoints { local: address(B), remote: address(A) };
    world.input(B, Input::Datagram { path, payload: &response });
    let views = ike_sas(&world);
    let up: Vec<_> = views.iter().filter(|it| it.state == IkeState::Established).collect();
    assert_eq!(up.len(), 1, "{views:#?}");
    assert_eq!(up[0].children.len(), 1, "{views:#?}");
    let rekeyed =
        |event: &Event| matches!(event, Event::IkeRekeyed { new, .. } if *new == up[0].id);
    assert_eq!(world.count(B, rekeyed), 1);
    peer.bystander.assert_unharmed(&mut world);
}

/// Our own rekey gave way to one of the peer: when that is refused, ours comes again.
#[test]
fn a_rekey_of_the_peer_that_is_refused_does_not_cancel_ours() {
    const PFS: &str = "aes256gcm16-esn-x25519";
    let requests = |world: &World| {
        let label = |it: &&Sent| it.label().starts_with("B CREATE_CHILD_SA");
        world.sent.iter().filter(label).filter(|it| it.label().ends_with("->")).count()
    };
    for ike in [false, true] {
        for answering in [false, true] {
            let (mut world, mut peer) =
                world_with(|it| it.children[0].proposals = vec![esp_proposal(PFS)]);
            let spi = ike_sas(&world)[0].children[0].spi_out.unwrap().get();
            let rekey = || {
                if ike {
                    Command::RekeyIke { tunnel: TUNNEL }
                } else {
                    Command::RekeyChild { child: CHILD }
                }
            };
            let key = crypto::ke::generate(KeGroup::Curve25519, &mut Dice(77)).unwrap();
            let offer = |text: &str| {
                let spi = Some(sa_store::IkeSpi(0x5555_0000));
                let nonce = Payload::Nonce(Nonce(vec![5; 32].into()));
                vec![Payload::Sa(ike_offer(&[ike_proposal(text)], spi)), nonce]
            };
            world.nodes[B].hold = Some(|kind| {
                matches!(
                    kind,
                    RequestKind::GenerateKey { .. } | RequestKind::GenerateAndAgree { .. }
                )
            });
            if answering {
                // The peer's request is there first, and fails in the end.
                let mut request = if ike { offer(SUITE) } else { rekey_request(spi, 0x2500, PFS) };
                request.push(Payload::Ke(KeyExchange::new(KeGroup::Curve25519, key.public)));
                if !ike {
                    world.command(B, rekey());
                }
                peer.header.message_id += 1;
                peer.header.exchange = CREATE;
                let request = peer.sealer.seal(&peer.header, &request).unwrap();
                let path = Endpoints { local: address(B), remote: address(A) };
                world.input(B, Input::Datagram { path, payload: &request });
                world.command(B, rekey());
                world.run_s(4);
                assert_eq!(requests(&world), 0);
                world.nodes[B].hold = None;
                for (ticket, kind) in std::mem::take(&mut world.nodes[B].held) {
                    if matches!(kind, RequestKind::GenerateAndAgree { .. }) {
                        let result = CompletionResult::Agreed(Err(KeFailure::Internal));
                        world.input(B, Input::Completion(Completion { ticket, result }));
                    }
                }
            } else {
                world.command(B, rekey());
                let request = if ike {
                    offer("aes128gcm16-prfsha512-ecp384")
                } else {
                    rekey_request(spi, 0x2500, "aes128gcm16-esn")
                };
                let refused = peer.error(&mut world, CREATE, &request);
                assert_eq!(refused, Some(NotifyType::NO_PROPOSAL_CHOSEN));
                world.release(B);
            }
            world.run_s(4);
            assert!(requests(&world) > 0, "IKE SA: {ike}, while answering: {answering}");
            peer.bystander.assert_unharmed(&mut world);
        }
    }
}

/// CHILD_SA_NOT_FOUND (RFC 7296 §2.25.1): the child is down, and asked for anew.
#[test]
fn a_child_that_the_peer_has_lost_is_asked_for_again() {
    let (mut world, mut peer) = world();
    world.command(B, Command::RekeyChild { child: CHILD });
    peer.asked(&world, |it| assert!(it.has_notify(NotifyType::REKEY_SA)));
    peer.answer(&mut world, &[Payload::Notify(Notify::new(NotifyType::CHILD_SA_NOT_FOUND))]);
    assert_eq!(world.child_down(B), [FailureCode::ChildSaNotFound]);
    assert_eq!((pairs(&world), world.failures(B).len()), (0, 0));
    peer.asked(&world, |it| {
        assert!(it.sa().is_some() && !it.has_notify(NotifyType::REKEY_SA));
    });
}

/// TEMPORARY_FAILURE for a new child is borne so many times; NO_ADDITIONAL_SAS is an answer.
#[test]
fn a_new_child_is_not_asked_for_without_end() {
    for (kind, code, most) in [
        (NotifyType::TEMPORARY_FAILURE, FailureCode::TemporaryFailure, 9),
        (NotifyType::NO_ADDITIONAL_SAS, FailureCode::NoAdditionalSas, 1),
    ] {
        let (mut world, mut peer) = world();
        let spi = ike_sas(&world)[0].children[0].spi_out;
        peer.ask(&mut world, INFORM, &[Payload::Delete(Delete::esp(spi))], |_| ());
        assert_eq!(pairs(&world), 0);
        let labels = |world: &World| world.sent.iter().map(Sent::label).collect::<BTreeSet<_>>();
        let before = labels(&world).len();
        world.initiate(B);
        let mut asked = 0;
        while world.failures(B).is_empty() {
            asked += 1;
            assert!(asked < 100, "there is no limit");
            peer.answer(&mut world, &[Payload::Notify(Notify::new(kind))]);
            world.run_s(3);
        }
        assert_eq!((asked, world.failures(B)), (most, vec![code]));
        world.run_s(60);
        assert_eq!(labels(&world).len() - before, most, "each of them was another request");
        assert_eq!(ike_sas(&world).len(), 1);
    }
}

/// INVALID_KE_PAYLOAD for our rekey of the IKE SA: the other group is tried, once.
#[test]
fn another_group_is_asked_for_in_a_rekey_of_the_ike_sa() {
    let (mut world, mut peer) = world_with(|it| {
        it.proposals = vec![ike_proposal("aes256gcm16-prfsha256-x25519-ecp256")];
    });
    let group = |world: &World, peer: &Impostor| {
        peer.asked(world, |it| it.ke().and_then(KeyExchange::known_group))
    };
    world.command(B, Command::RekeyIke { tunnel: TUNNEL });
    assert_eq!(group(&world, &peer), Some(KeGroup::Curve25519));
    peer.answer(&mut world, &[Payload::Notify(Notify::invalid_ke(KeGroup::Ecp256))]);
    assert_eq!(group(&world, &peer), Some(KeGroup::Ecp256));
    assert_eq!(world.failures(B), []);
    // Not in circles.
    let before = world.sent.len();
    peer.answer(&mut world, &[Payload::Notify(Notify::invalid_ke(KeGroup::Curve25519))]);
    assert_eq!(world.sent.len(), before);
    assert_eq!(world.failures(B), [FailureCode::InvalidKe]);
}
