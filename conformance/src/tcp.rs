//! TCP between the clients, and what its first packets agree on.

use std::net::SocketAddr;
use std::time::Duration;

use crate::command::Dialogue;
use crate::failure::{Outcome, ensure};
use crate::lab::Lab;
use crate::packet::Packet;
use crate::postern::beside_the_tests;
use crate::topology::{Family, Side};

/// The port that is served.
const PORT: u16 = 7100;

/// A TCP transfer of this many mebibytes each way between the clients.
pub fn transfer(lab: &Lab, family: Family, mebibytes: u32) -> Outcome<String> {
    let limit = Duration::from_secs(60);
    let tool = beside_the_tests("pt-tcp")?.display().to_string();
    let server = SocketAddr::new(lab.net.client_address(Side::Right, family), PORT).to_string();
    let size = mebibytes.to_string();
    let right = lab.net.client(Side::Right);
    let argv = right.inside(&[&tool, "serve", &server, &size, lab.canary.text()]);
    let serving = Dialogue::start("pt-tcp", &argv, false)?;
    serving.hear_about("ready", Duration::from_secs(10))?;
    let left = lab.net.client(Side::Left);
    let done = left.run(&[&tool, "connect", &server, &size, lab.canary.text()], limit)?;
    ensure(done.code == 0, || format!("the left end: {}", done.text()))?;
    serving.hear_about("done", limit)
}

/// What a SYN offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syn {
    /// Whether it answers one.
    pub answer: bool,
    /// The MSS option (RFC 9293 §3.7.1).
    pub mss: u16,
}

/// Reads a SYN that passed a client's interface; `None` for anything else.
pub fn syn(packet: &Packet) -> Option<Syn> {
    let bytes = &packet.bytes;
    let header = match bytes.first()? >> 4 {
        4 => usize::from(bytes.first()? & 0x0f) * 4,
        _ => 40,
    };
    let segment = bytes.get(header..)?;
    let flags = *segment.get(13)?;
    if packet.protocol != 6 || flags & 0x02 == 0 {
        return None;
    }
    let mut options = segment.get(20..usize::from(segment.get(12)? >> 4) * 4)?;
    loop {
        match options {
            [2, 4, high, low, ..] => {
                let mss = u16::from_be_bytes([*high, *low]);
                return Some(Syn { answer: flags & 0x10 != 0, mss });
            }
            [1, rest @ ..] => options = rest,
            [_, length, ..] if *length >= 2 => options = options.get(usize::from(*length)..)?,
            _ => return None,
        }
    }
}
