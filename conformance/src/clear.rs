//! Clear packets in captures: whose they are, and whether a gateway of ours took any in.
//!
//! A peer may send in clear while it has no policy; that is its affair. Ours is that none leaves
//! by us, and that what arrives so ends at us.

use std::collections::HashSet;

use crate::capture::Captured;
use crate::failure::{Failure, Outcome};
use crate::packet::Packet;

/// Octets behind the IP header that tell packets apart: the ports, numbers and checksums.
const TELLING: usize = 96;

/// Fails when the gateway behind this capture sent one of these payloads in clear.
pub fn sent_none(outside: &Captured, canary: &[u8]) -> Outcome {
    let seen = outside.with(canary).into_iter().filter(|packet| outside.sent(packet));
    verdict(&seen.collect::<Vec<_>>(), "carried the canary in clear over", &outside.title)
}

/// Fails when nobody at all may have sent one of these payloads in clear and somebody did.
pub fn seen_none(outside: &Captured, canary: &[u8]) -> Outcome {
    verdict(&outside.with(canary), "carried the canary in clear over", &outside.title)
}

/// What arrived in clear from the link.
pub fn arrived<'a>(outside: &'a Captured, canary: &[u8]) -> Vec<&'a Packet> {
    outside.with(canary).into_iter().filter(|packet| !outside.sent(packet)).collect()
}

/// Fails when the gateway let one of the packets that arrived in clear pass to the network behind
/// it, as `inside` saw it.
pub fn took_none_in(arrived: &[&Packet], inside: &Captured) -> Outcome {
    let arrived: HashSet<_> = arrived.iter().map(|packet| telling(packet)).collect();
    let passed = inside.packets.iter().filter(|packet| inside.sent(packet));
    let taken = passed.filter(|packet| arrived.contains(&telling(packet)));
    verdict(&taken.collect::<Vec<_>>(), "arrived in clear and were let in through", &inside.title)
}

fn verdict(packets: &[&Packet], what: &str, title: &str) -> Outcome {
    match packets.first() {
        None => Ok(()),
        Some(first) => {
            let count = packets.len();
            Err(Failure::new(format!("{count} packets {what} {title}; the first: {first}")))
        }
    }
}

/// The part of a packet that a router leaves alone.
fn telling(packet: &Packet) -> &[u8] {
    let header = match packet.bytes.first() {
        Some(first) if first >> 4 == 4 => usize::from(first & 0x0f) * 4,
        _ => 40,
    };
    let rest = packet.bytes.get(header..).unwrap_or_default();
    rest.get(..TELLING).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Kind;

    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn packet(sender: [u8; 6], hops: u8, payload: &[u8]) -> Packet {
        let mut bytes = vec![0x45; 20];
        bytes[8] = hops;
        bytes.extend_from_slice(payload);
        let length = bytes.len();
        Packet { at_us: 0, sender, kind: Kind::Clear, ends: None, protocol: 17, length, bytes }
    }

    fn captured(packets: &[Packet]) -> Captured {
        Captured { title: "test".to_owned(), own: vec![OURS], packets: packets.to_vec() }
    }

    #[test]
    fn what_the_peer_sends_is_not_ours() {
        let theirs = captured(&[packet(THEIRS, 64, b"canary 1")]);
        assert!(sent_none(&theirs, b"canary").is_ok());
        assert!(seen_none(&theirs, b"canary").is_err());
        assert_eq!(arrived(&theirs, b"canary").len(), 1);
        let ours = captured(&[packet(THEIRS, 64, b"canary 1"), packet(OURS, 64, b"canary 2")]);
        assert!(sent_none(&ours, b"canary").is_err());
        assert_eq!(arrived(&ours, b"canary").len(), 1);
    }

    #[test]
    fn what_was_let_in_is_recognised_one_hop_later() {
        let outside = captured(&[packet(THEIRS, 64, b"canary 1")]);
        let arrived = arrived(&outside, b"canary");
        let other = captured(&[packet(OURS, 63, b"canary 2"), packet(THEIRS, 63, b"canary 1")]);
        assert!(took_none_in(&arrived, &other).is_ok());
        let same = captured(&[packet(OURS, 63, b"canary 1")]);
        assert!(took_none_in(&arrived, &same).is_err());
    }
}
