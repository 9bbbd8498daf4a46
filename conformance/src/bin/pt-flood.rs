//! Sends forged datagrams at a gateway: `pt-flood KIND TARGET COUNT RATE [LENGTH]`.
//!
//! `init` sends well-formed IKE_SA_INIT requests (RFC 7296 §1.2), each with another SPI, nonce
//! and key share, from many addresses in 198.18.0.0/15, which have to be local where it runs. A
//! vendor ID (§3.12) makes them as long as wanted.
//! `noise` sends octets without meaning to both IKE ports of the target: random ones, cut and
//! changed IKE messages, and ESP for SAs that do not exist.

#![expect(clippy::print_stdout, reason = "the harness reads this program's standard output")]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use conformance::{Failure, Outcome};

/// How many sockets, each with an address of its own, forge IKE_SA_INIT.
const SOURCES: u16 = 512;

/// A small generator; the forgeries need variety, not secrecy.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn octets(&mut self, length: usize) -> Vec<u8> {
        let mut octets = Vec::with_capacity(length + 8);
        while octets.len() < length {
            octets.extend_from_slice(&self.next().to_be_bytes());
        }
        octets.truncate(length);
        octets
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(sent) => {
            println!("{sent}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<u64> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (kind, target, count, rate, length) = match arguments.as_slice() {
        [kind, target, count, rate] => (kind, target, count, rate, None),
        [kind, target, count, rate, length] => (kind, target, count, rate, Some(length)),
        _ => return Err(Failure::new("four or five arguments are needed")),
    };
    let bad = |text: &String| Failure::new(format!("`{text}` is not what was expected"));
    let target: IpAddr = target.parse().map_err(|_| bad(target))?;
    let count: u64 = count.parse().map_err(|_| bad(count))?;
    let rate: u64 = rate.parse().map_err(|_| bad(rate))?;
    let length: usize = match length {
        Some(length) => length.parse().map_err(|_| bad(length))?,
        None => 0,
    };
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let sockets = match kind.as_str() {
        "init" => (0..SOURCES)
            .map(|number| {
                let [high, low] = number.to_be_bytes();
                UdpSocket::bind((Ipv4Addr::new(198, 18, high, low), 500))
            })
            .collect::<Result<Vec<_>, _>>()?,
        "noise" => vec![UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?],
        _ => return Err(bad(kind)),
    };
    let begun = Instant::now();
    let mut sent = 0;
    for number in 0..count {
        let Some(socket) = sockets.get((number % sockets.len() as u64) as usize) else { break };
        let (port, datagram) = if kind == "init" {
            (500, ike_sa_init(&mut noise, length))
        } else {
            nonsense(&mut noise)
        };
        if number == 1000 {
            println!("begun");
            std::io::stdout().flush()?;
        }
        // A full queue somewhere is part of a flood.
        if socket.send_to(&datagram, (target, port)).is_ok() {
            sent += 1;
        }
        if rate > 0 && number % 16 == 0 {
            let due = Duration::from_micros(number * 1_000_000 / rate);
            if let Some(wait) = due.checked_sub(begun.elapsed()) {
                thread::sleep(wait);
            }
        }
    }
    Ok(sent)
}

/// A request for AES-GCM-256, HMAC-SHA-256 and x25519, as a real initiator would write it, of
/// `length` octets if that is more.
fn ike_sa_init(noise: &mut Noise, length: usize) -> Vec<u8> {
    let transforms: [&[u8]; 3] = [
        &[3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0],
        &[3, 0, 0, 8, 2, 0, 0, 5],
        &[0, 0, 0, 8, 4, 0, 0, 31],
    ];
    let transforms = transforms.concat();
    let mut proposal = vec![0, 0, 0, (8 + transforms.len()) as u8, 1, 1, 0, 3];
    proposal.extend_from_slice(&transforms);
    let mut key_share = vec![0, 31, 0, 0];
    key_share.extend(noise.octets(32));
    let nonce = noise.octets(32);
    let short = 28 + 12 + proposal.len() + key_share.len() + nonce.len();
    let vendor = length.checked_sub(short + 4).map(|length| noise.octets(length));
    let behind_nonce = if vendor.is_some() { 43 } else { 0 };
    let mut body = Vec::new();
    let payloads = [(34, &proposal), (40, &key_share), (behind_nonce, &nonce)];
    for (next, content) in payloads.into_iter().chain(vendor.as_ref().map(|vendor| (0, vendor))) {
        body.extend_from_slice(&[next, 0]);
        body.extend_from_slice(&((4 + content.len()) as u16).to_be_bytes());
        body.extend_from_slice(content);
    }
    let mut message = noise.octets(8);
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&[33, 0x20, 34, 0x08, 0, 0, 0, 0]);
    message.extend_from_slice(&((28 + body.len()) as u32).to_be_bytes());
    message.extend_from_slice(&body);
    message
}

/// A port and something that does not belong there.
fn nonsense(noise: &mut Noise) -> (u16, Vec<u8>) {
    let pick = noise.next();
    let length = (noise.next() % 1400) as usize;
    match pick % 4 {
        0 => (if pick & 16 == 0 { 500 } else { 4500 }, noise.octets(length)),
        1 => {
            let mut cut = ike_sa_init(noise, 0);
            cut.truncate(length % (cut.len() + 1));
            (500, cut)
        }
        2 => {
            let mut changed = ike_sa_init(noise, 0);
            let at = (noise.next() as usize) % changed.len();
            if let Some(octet) = changed.get_mut(at) {
                *octet ^= (pick >> 8) as u8;
            }
            (500, changed)
        }
        _ => {
            let mut esp = noise.octets(length.max(40));
            if let Some(first) = esp.first_mut() {
                // Not the non-ESP marker: an SPI.
                *first |= 0xc0;
            }
            (4500, esp)
        }
    }
}
