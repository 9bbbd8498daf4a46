//! The cases of the way in: what the peer seals is opened, and what others make of it is not.

use std::{net::SocketAddr, time::Duration};

use crypto::aead::Engines;
use sa_store::SaRecord;

use super::harness::{Harness, expect, from_peer, udp};
use crate::{Notice, Operation};

/// What the peer does not protect with the child.
const FOREIGN: [u8; 4] = [10, 103, 0, 1];

/// An ESP packet as the peer makes it for an inbound SA without extended sequence numbers, sealed
/// by hand (RFC 4303 §2).
fn seal(record: &SaRecord, sequence: u32, inner: &[u8]) -> Result<Vec<u8>, String> {
    let suite = record.transform.suite;
    let key = Engines::portable().key(suite, &record.keys).map_err(|error| error.to_string())?;
    let header = [record.spi.to_be_bytes(), sequence.to_be_bytes()].concat();
    // Numbered once each, which is what an AEAD asks of its IV.
    let mut sealed = vec![0; key.iv_len() - 4];
    sealed.extend_from_slice(&sequence.to_be_bytes());
    sealed.extend_from_slice(inner);
    let align = suite.cipher().block_len().max(4);
    let padding = (align - (inner.len() + 2) % align) % align;
    sealed.extend((1..).take(padding));
    // Pad length, and IPv4 as the next header.
    sealed.extend([u8::try_from(padding).unwrap_or(u8::MAX), 4]);
    sealed.resize(sealed.len() + key.icv_len(), 0);
    key.seal(&header, &mut sealed).map_err(|error| error.to_string())?;
    Ok([header, sealed].concat())
}

/// Offers packet `sequence` of the peer, which must come out if it is to.
fn expect_opened(
    t: &mut Harness<'_>,
    record: &SaRecord,
    from: SocketAddr,
    sequence: u32,
    opened: bool,
) -> Result<(), String> {
    let payload = sequence.to_be_bytes();
    let esp = seal(record, sequence, &from_peer(&payload))?;
    expect_out(t, from, &esp, opened.then_some(&payload[..]), sequence)
}

fn expect_out(
    t: &mut Harness<'_>,
    from: SocketAddr,
    esp: &[u8],
    expected: Option<&[u8]>,
    sequence: u32,
) -> Result<(), String> {
    let out = t.driver.receive(from, esp);
    expect(out.as_deref() == expected, || {
        format!("packet {sequence} gave {out:02x?} instead of {expected:02x?}")
    })
}

pub(super) fn opened(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let ((inbound, outbound), peer) = (t.pair(1), t.driver.addresses().1);
    expect_opened(t, &inbound, peer, 1, false)?;
    // The way in is open before the way out is used.
    t.done(vec![super::harness::install(&inbound), super::harness::install(&outbound)])?;
    for sequence in 1..=3 {
        expect_opened(t, &inbound, peer, sequence, true)?;
    }
    let counters = t.counters(inbound.id)?;
    expect(counters.packets == 3 && counters.bytes > 0 && counters.sequence == 3, || {
        format!("after 3 packets: {counters:?}")
    })?;
    t.done(vec![Operation::Remove(outbound.id), Operation::Remove(inbound.id)])?;
    expect_opened(t, &inbound, peer, 4, false)
}

pub(super) fn replays(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let (pair, peer) = (t.pair(1), t.driver.addresses().1);
    t.install(&pair)?;
    let window = pair.0.replay_window;
    let newest = window + 40;
    for (sequence, opened) in [
        (5, true),
        (5, false),
        (3, true),
        (3, false),
        (newest, true),
        (newest - window + 1, true),
        (newest - window, false),
    ] {
        expect_opened(t, &pair.0, peer, sequence, opened)?;
    }
    let counters = t.counters(pair.0.id)?;
    expect(counters.packets == 4 && counters.dropped.replay == 3, || {
        format!("after 4 packets and 3 replays: {counters:?}")
    })
}

pub(super) fn broken(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let (pair, peer) = (t.pair(1), t.driver.addresses().1);
    t.install(&pair)?;
    let esp = seal(&pair.0, 7, &from_peer(&[1; 8]))?;
    // A number far ahead that nobody has vouched for must not move the window either.
    for (at, value) in [(esp.len() - 1, 0x01), (esp.len() / 2, 0x80), (5, 0x40)] {
        let mut changed = esp.clone();
        if let Some(octet) = changed.get_mut(at) {
            *octet ^= value;
        }
        expect_out(t, peer, &changed, None, 7)?;
    }
    expect_out(t, peer, &esp, Some(&[1; 8]), 7)?;
    let counters = t.counters(pair.0.id)?;
    expect(counters.packets == 1 && counters.dropped.auth == 3, || {
        format!("after 3 broken packets and a whole one: {counters:?}")
    })
}

pub(super) fn selectors(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let (pair, peer) = (t.pair(1), t.driver.addresses().1);
    t.install(&pair)?;
    let esp = seal(&pair.0, 1, &udp(FOREIGN, [10, 101, 0, 1], &[2; 8]))?;
    expect_out(t, peer, &esp, None, 1)?;
    let counters = t.counters(pair.0.id)?;
    expect(counters.packets == 0 && counters.dropped.policy == 1, || {
        format!("after a packet from outside the selectors: {counters:?}")
    })?;
    expect_opened(t, &pair.0, peer, 2, true)
}

pub(super) fn heard(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let (pair, peer) = (t.pair(1), t.driver.addresses().1);
    t.install(&pair)?;
    let id = pair.0.id;
    let start = t.driver.now();
    let mut sequence = 0;
    while t.driver.now().since(start) < Duration::from_millis(3500) {
        sequence += 1;
        expect_opened(t, &pair.0, peer, sequence, true)?;
        t.driver.wait();
        t.drain();
    }
    t.settle();
    let (now, end) = (t.driver.now(), t.driver.now().since(start).as_secs());
    let first = t.count(|notice| matches!(notice, Notice::FirstInbound(sa) if *sa == id));
    expect(first == 1, || format!("the first packet was told {first} times"))?;
    let last: Vec<_> = t
        .seen
        .iter()
        .filter_map(|notice| match notice {
            Notice::LastInbound { sa, at } if *sa == id => Some(*at),
            _ => None,
        })
        .collect();
    let told = last.len() as u64;
    expect((1..=end + 1).contains(&told), || {
        format!("in {end} s it was told {told} times when the peer was last heard")
    })?;
    expect(last.iter().all(|at| *at >= start && *at <= now), || {
        format!("the peer was last heard at {last:?}, between {start:?} and {now:?}")
    })
}

pub(super) fn moved(t: &mut Harness<'_>) -> Result<(), String> {
    t.protect()?;
    let pair = t.pair(1);
    t.install(&pair)?;
    let id = pair.0.id;
    let (local, before) = t.driver.addresses();
    let mut after = before;
    after.set_port(45_000);
    let told = |t: &Harness<'_>| {
        let to_there = |n: &&Notice| matches!(n, Notice::MappingChanged { sa, remote } if *sa == id && *remote == after);
        t.seen.iter().filter(to_there).count()
    };
    expect_opened(t, &pair.0, before, 10, true)?;
    expect_opened(t, &pair.0, after, 5, true)?;
    t.settle();
    expect(told(t) == 0, || "an old packet from elsewhere was told as a move".into())?;
    expect_opened(t, &pair.0, after, 11, true)?;
    t.settle();
    expect(told(t) >= 1, || "the newest packet came from elsewhere, and nothing was told".into())?;
    let update = |sa| Operation::UpdateAddresses { sa, local, remote: after };
    t.done(vec![update(pair.0.id), update(pair.1.id)])?;
    t.seen.clear();
    expect_opened(t, &pair.0, after, 12, true)?;
    t.settle();
    expect(told(t) == 0, || "a move that was followed is still told".into())
}
