//! IKE messages as anybody may send them: parsed, shown, written again, negotiated about.

use ike::{
    negotiate::{
        Pfs, check_esp, check_ike, default_esp_proposals, default_ike_proposals, select_esp,
        select_ike, traffic_selector,
    },
    wire::{Header, Message, Payload, PayloadType, Payloads, SecurityAssociation, encode_message},
};
use sa_store::{KeGroup, TrafficSelector};

use crate::{Target, engine::Answer, seed};

/// The target.
pub const TARGET: Target =
    Target { name: "ike_message", run, repair: Some(repair), seeds: seed::ike_messages };

fn run(input: &[u8]) -> u64 {
    let mut answer = Answer::default();
    match Message::parse(input) {
        Ok(message) => {
            let (header, first) = Header::parse(input).unwrap_or((message.header, PayloadType(0)));
            assert_eq!(header, message.header);
            answer.add(u64::from(first.0));
            answer.add(message.protected.is_some().into());
            look(&message.clear, &mut answer);
            written_again(&message, &mut answer);
        }
        Err(error) => answer.add_text(&error.to_string()),
    }
    // What a peer that has the keys could put into an SK payload.
    if let Some((first, octets)) = input.split_first() {
        match Payloads::parse(PayloadType(*first), octets) {
            Ok(payloads) => look(&payloads, &mut answer),
            Err(error) => answer.add_text(&error.to_string()),
        }
    }
    answer.get()
}

/// Reading what was written gives what was read.
fn written_again(message: &Message<'_>, answer: &mut Answer) {
    match encode_message(&message.header, message.clear.as_slice()) {
        Ok(written) => {
            let again = Message::parse(&written);
            let same = again.as_ref().is_ok_and(|again| {
                again.header == message.header && skipping_unknown(&again.clear, &message.clear)
            });
            assert!(same, "{message:?} became {again:?}");
        }
        Err(error) => answer.add_text(&error.to_string()),
    }
}

/// Selectors of unknown types and unknown payloads are not written again.
fn skipping_unknown(again: &Payloads<'_>, before: &Payloads<'_>) -> bool {
    let (again, before) = (again.as_slice(), before.as_slice());
    again.len() == before.len()
        && again.iter().zip(before).all(|pair| match pair {
            (Payload::TsI(a), Payload::TsI(b)) | (Payload::TsR(a), Payload::TsR(b)) => {
                a.selectors == b.selectors
            }
            (a, b) => a == b,
        })
}

fn look(payloads: &Payloads<'_>, answer: &mut Answer) {
    let shown = format!("{payloads:?}");
    answer.add_size(shown.len());
    answer.add_size(payloads.unknown());
    for payload in payloads.as_slice() {
        answer.add(payload.kind().0.into());
        match payload {
            Payload::Sa(sa) => negotiate(sa, answer),
            Payload::Ke(ke) => answer.add(ke.known_group().is_some().into()),
            Payload::IdI(id) | Payload::IdR(id) => match id.identity() {
                Ok(identity) => {
                    answer.add_size(identity.to_string().len());
                    assert_eq!(identity.data(), id.data.as_ref());
                }
                Err(error) => answer.add_text(&error.to_string()),
            },
            Payload::Notify(notify) => {
                answer.add(notify.kind.is_error().into());
                answer.add(notify.kind.name().is_some().into());
            }
            Payload::Delete(delete) => answer.add_size(delete.esp_spis().count()),
            Payload::TsI(selectors) | Payload::TsR(selectors) => {
                narrow(&selectors.selectors, answer);
            }
            _ => {}
        }
    }
}

fn negotiate(sa: &SecurityAssociation, answer: &mut Answer) {
    let (ike, esp) = (default_ike_proposals(), default_esp_proposals());
    for rekey in [false, true] {
        match select_ike(&ike, sa, rekey) {
            Ok(choice) => {
                answer.add_text(&choice.suite.to_string());
                let spi = rekey.then_some(sa_store::IkeSpi(1));
                let checked = check_ike(&ike, &choice.answer(spi), rekey);
                // The answer has the peer's numbering, which need not be ours.
                answer.add(checked.is_ok().into());
            }
            Err(mismatch) => answer.add_size(mismatch.to_string().len()),
        }
        answer.add(check_ike(&ike, sa, rekey).is_ok().into());
    }
    for pfs in [Pfs::No, Pfs::Configured, Pfs::Sent(None), Pfs::Sent(Some(KeGroup::Ecp384))] {
        match select_esp(&esp, sa, pfs) {
            Ok(choice) => {
                answer.add_text(&choice.transform.to_string());
                assert!(choice.peer_spi.get() >= 256);
            }
            Err(mismatch) => answer.add_size(mismatch.to_string().len()),
        }
        answer.add(check_esp(&esp, sa, pfs).is_ok().into());
    }
}

fn narrow(offered: &[TrafficSelector], answer: &mut Answer) {
    let configured: Vec<TrafficSelector> =
        ["10.1.0.0/16", "10.2.0.0..10.2.0.99[tcp/22-80]", "fd00::/8", "0.0.0.0/0[icmp/8]"]
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect();
    let result = traffic_selector::narrow(&configured, offered);
    answer.add_size(result.len());
    assert!(result.is_empty() || traffic_selector::is_subset(&result, offered));
    assert!(result.is_empty() || traffic_selector::is_subset(&result, &configured));
    for selector in &result {
        answer.add_size(selector.to_string().len());
    }
}

/// Version and length of the header.
fn repair(input: &mut [u8]) {
    if input.len() < ike::wire::HEADER_LEN {
        return;
    }
    let length = u32::try_from(input.len()).unwrap_or(u32::MAX);
    input[24..28].copy_from_slice(&length.to_be_bytes());
    input[17] = 0x20;
    // The last payload usually ends the message: its length is made to.
    let mut at = ike::wire::HEADER_LEN;
    let mut next = input[16];
    while next != 0 {
        let Some([following, _, high, low]) =
            input.get(at..at + 4).and_then(|it| <[u8; 4]>::try_from(it).ok())
        else {
            return;
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let rest = input.len() - at;
        if length < 4 || length > rest || following == 0 {
            if let Ok(rest) = u16::try_from(rest) {
                input[at + 2..at + 4].copy_from_slice(&rest.to_be_bytes());
                input[at] = 0;
            }
            return;
        }
        at += length;
        next = following;
    }
}
