//! Seals and opens single packets for a judge that speaks lines: `conformance/scapy/judge.py`.
//!
//! ```text
//! sa NAME in|out WORDS...   -> ok                     (the words: record_line.rs)
//! seal NAME HEX             -> packet HEX | error WHY  an inner packet, the whole outer one back
//! dummy NAME OCTETS         -> packet HEX | error WHY  a dummy packet (RFC 4303 §2.6)
//! open NAME HEX             -> packet HEX | error WHY  a whole outer packet, the inner one back
//! ```
//!
//! `esp_lines ENGINE` with `calibrated` takes the engines that a measurement chooses.

#![expect(clippy::print_stdout, reason = "answers go to standard output")]

#[path = "../../conformance/scapy/record_line.rs"]
mod record_line;

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::sync::Arc;
use std::time::Instant;

use crypto::aead::Engines;
use esp::{
    InboundSa, OpenOutcome, OpenPacket, OutboundOptions, OutboundSa, OutputForm, SealPacket,
    SealSource, open_burst, seal_burst,
};
use sa_store::{Direction, live::LiveSa};

enum Sa {
    Out(OutboundSa),
    In(InboundSa),
}

fn main() -> std::io::Result<()> {
    let start = Instant::now();
    let engines = match std::env::args().nth(1).as_deref() {
        Some("calibrated") => {
            Engines::calibrated(&mut || start.elapsed().as_nanos().try_into().unwrap_or(u64::MAX))
        }
        _ => Engines::portable(),
    };
    let mut sas = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        match answer(&line?, &mut sas, &engines) {
            Ok(None) => println!("ok"),
            Ok(Some(packet)) => println!("packet {}", hex(&packet)),
            Err(why) => println!("error {why}"),
        }
    }
    Ok(())
}

fn answer(
    line: &str,
    sas: &mut BTreeMap<String, Sa>,
    engines: &Engines,
) -> Result<Option<Vec<u8>>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["sa", name, record @ ..] => {
            let sa = build(record, sas.len(), engines)?;
            sas.insert((*name).to_owned(), sa);
            Ok(None)
        }
        ["dummy", name, octets] => match (sas.get(*name), octets.parse()) {
            (Some(Sa::Out(sa)), Ok(len)) => seal(sa, SealSource::Dummy { len }, len).map(Some),
            _ => Err(format!("no outbound SA {name}, or no number")),
        },
        [verb @ ("seal" | "open"), name, packet] => {
            let packet = record_line::hex(packet).ok_or("not hex")?;
            match (*verb, sas.get(*name)) {
                ("seal", Some(Sa::Out(sa))) => {
                    let source = SealSource::Parts { head: &packet, body: &[] };
                    seal(sa, source, packet.len()).map(Some)
                }
                ("open", Some(Sa::In(sa))) => open(sa, &packet).map(Some),
                _ => Err(format!("no such SA: {name}")),
            }
        }
        _ => Err("unknown line".to_owned()),
    }
}

fn build(words: &[&str], number: usize, engines: &Engines) -> Result<Sa, String> {
    let record = record_line::parse(words, number.try_into().map_err(|_| "too many SAs")?)?;
    let live = Arc::new(LiveSa::new(&record));
    let built = match record.direction {
        Direction::Inbound => InboundSa::new(&record, live, engines).map(Sa::In),
        Direction::Outbound => {
            // Unpredictable enough for a judge: every SA has a seed of its own.
            let mut seed = [0x5a; 16];
            for (octet, digit) in seed.iter_mut().zip(number.to_be_bytes()) {
                *octet ^= digit;
            }
            let options =
                OutboundOptions { output: OutputForm::Packet, ..OutboundOptions::new(seed) };
            OutboundSa::new(&record, live, engines, &options).map(Sa::Out)
        }
    };
    built.map_err(|error| error.to_string())
}

fn seal(sa: &OutboundSa, source: SealSource<'_>, len: usize) -> Result<Vec<u8>, String> {
    let mut slot = vec![0; sa.sealed_len(len)];
    let mut burst = [SealPacket::new(sa, source, &mut slot)];
    seal_burst(&mut burst);
    let [packet] = &burst;
    packet.outcome().map_err(|reason| reason.to_string())?;
    Ok(packet.sealed().unwrap_or_default().to_vec())
}

fn open(sa: &InboundSa, outer: &[u8]) -> Result<Vec<u8>, String> {
    let (traffic_class, payload) = headers(outer).ok_or("no ESP in an IP packet")?;
    let mut packet = outer.get(payload..).unwrap_or_default().to_vec();
    let mut burst = [OpenPacket::new(sa, &mut packet, Some(traffic_class))];
    open_burst(&mut burst);
    let [packet] = &mut burst;
    match packet.outcome() {
        OpenOutcome::Inner(_) => Ok(packet.inner().unwrap_or_default().to_vec()),
        OpenOutcome::Dummy => Err("dummy".to_owned()),
        OpenOutcome::Dropped(reason) => Err(reason.to_string()),
    }
}

/// Traffic class, and where the ESP header starts: what a socket would have told.
fn headers(outer: &[u8]) -> Option<(u8, usize)> {
    let (first, second) = (*outer.first()?, *outer.get(1)?);
    let (traffic_class, protocol, at) = match first >> 4 {
        4 => (second, *outer.get(9)?, usize::from(first & 15) * 4),
        6 => (first << 4 | second >> 4, *outer.get(6)?, 40),
        _ => return None,
    };
    match protocol {
        50 => Some((traffic_class, at)),
        17 => Some((traffic_class, at + 8)),
        _ => None,
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
