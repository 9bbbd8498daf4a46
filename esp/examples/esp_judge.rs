//! Seals and opens ESP packets on standard input and output, so that an implementation that is
//! not ours can judge them. One command a line, one answer a line, octets in hex:
//!
//! ```text
//! out NAME suite=aes256gcm16 spi=c0ffee01 enc=HEX [int=HEX] [esn=yes] [next=1] [encap=udp]
//!          [local=192.0.2.1:4500] [remote=192.0.2.2:4500] [form=packet]      -> ok
//! in NAME suite=aes256-sha512 spi=c0ffee01 enc=HEX [int=HEX] [esn=yes] [window=64] [floor=0] -> ok
//! seal NAME INNER            -> sealed HEX | drop REASON
//! dummy NAME LENGTH          -> sealed HEX | drop REASON
//! open NAME ESP [tos=HEX]    -> inner HEX | dummy | drop REASON
//! ```
//!
//! `enc` ends with the salt for AEAD suites, as KEYMAT does. `sealed` starts with the SPI, with
//! `form=packet` with the outer IP header. A mistake is answered with `error TEXT`.

#![allow(clippy::print_stdout, reason = "the protocol is on standard output")]

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
};

use crypto::aead::Engines;
use esp::{
    InboundSa, OpenOutcome, OpenPacket, OutboundOptions, OutboundSa, OutputForm, SealPacket,
    SealSource, open_burst, seal_burst,
};
use sa_store::{
    ChildId, Direction, DomainId, Encapsulation, Esn, EspCipher, EspSpi, EspSuite, EspTransform,
    IntegrityAlgorithm, KeyMaterial, Lifetime, Mode, OffloadIntent, PairId, SaId, SaRecord,
    SecretBytes, TunnelId, live::LiveTable,
};

#[derive(Default)]
struct Judge {
    live: LiveTable,
    inbound: BTreeMap<String, InboundSa>,
    outbound: BTreeMap<String, OutboundSa>,
    made: u64,
}

type Answer = Result<String, String>;

fn main() -> std::io::Result<()> {
    let mut judge = Judge::default();
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = judge.command(&line?).unwrap_or_else(|error| format!("error {error}"));
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

impl Judge {
    fn command(&mut self, line: &str) -> Answer {
        let mut words = line.split_ascii_whitespace();
        let (verb, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let mut positional = None;
        let mut options = BTreeMap::new();
        for word in words {
            match word.split_once('=') {
                Some((key, value)) => {
                    options.insert(key, value);
                }
                None => positional = Some(word),
            }
        }
        let argument = positional.ok_or("an argument is missing");
        match verb {
            "out" => self.make(name, Direction::Outbound, &options),
            "in" => self.make(name, Direction::Inbound, &options),
            "seal" => {
                let inner = unhex(argument?)?;
                self.seal(name, SealSource::Parts { head: &[], body: &inner }, inner.len())
            }
            "dummy" => {
                let len = argument?.parse().map_err(|_| "no length")?;
                self.seal(name, SealSource::Dummy { len }, len)
            }
            "open" => {
                let tos = match options.get("tos") {
                    Some(tos) => Some(u8::from_str_radix(tos, 16).map_err(|_| "no octet")?),
                    None => None,
                };
                self.open(name, unhex(argument?)?, tos)
            }
            _ => Err(format!("unknown command `{verb}`")),
        }
    }

    fn make(&mut self, name: &str, direction: Direction, options: &BTreeMap<&str, &str>) -> Answer {
        let get = |key: &str, default: &'static str| options.get(key).map_or(default, |v| *v);
        let number = |key: &str, default: &'static str| {
            get(key, default).parse::<u64>().map_err(|_| format!("{key} is no number"))
        };
        let address = |key: &str, default: &'static str| {
            get(key, default).parse().map_err(|_| format!("{key} is no address with port"))
        };
        self.made += 1;
        let any = ["0.0.0.0/0", "::/0"].iter().filter_map(|net| net.parse().ok());
        let record = SaRecord {
            id: SaId(self.made),
            pair: PairId(self.made),
            tunnel: TunnelId(1),
            child: ChildId(1),
            direction,
            spi: u32::from_str_radix(get("spi", ""), 16)
                .ok()
                .and_then(EspSpi::new)
                .ok_or("spi is no SPI")?,
            local: address("local", "192.0.2.1:4500")?,
            remote: address("remote", "192.0.2.2:4500")?,
            encapsulation: match get("encap", "none") {
                "udp" => Encapsulation::Udp,
                _ => Encapsulation::None,
            },
            mode: Mode::Tunnel,
            transform: EspTransform {
                suite: suite(get("suite", ""))?,
                esn: if get("esn", "no") == "yes" { Esn::Yes } else { Esn::No },
            },
            keys: KeyMaterial {
                encryption: SecretBytes::new(unhex(get("enc", ""))?),
                integrity: SecretBytes::new(unhex(get("int", ""))?),
            },
            replay_window: u32::try_from(number("window", "64")?).map_err(|_| "window")?,
            replay_floor: number("floor", "0")?,
            next_sequence: number("next", "1")?,
            local_selectors: any.clone().collect(),
            remote_selectors: any.collect(),
            lifetime: Lifetime::default(),
            dscp: Default::default(),
            ecn: Default::default(),
            df: Default::default(),
            domain: DomainId(0),
            mark: 0,
            interface_id: 0,
            offload: OffloadIntent::Auto,
        };
        let live = self.live.insert(&record);
        let engines = Engines::portable();
        if direction == Direction::Outbound {
            let mut how = OutboundOptions::new([0x5e; 16]);
            if get("form", "payload") == "packet" {
                how.output = OutputForm::Packet;
            }
            let sa = OutboundSa::new(&record, live, &engines, &how).map_err(|e| e.to_string())?;
            self.outbound.insert(name.to_owned(), sa);
        } else {
            let sa = InboundSa::new(&record, live, &engines).map_err(|e| e.to_string())?;
            self.inbound.insert(name.to_owned(), sa);
        }
        Ok("ok".to_owned())
    }

    fn seal(&self, name: &str, source: SealSource<'_>, inner_len: usize) -> Answer {
        let sa = self.outbound.get(name).ok_or("no such outbound SA")?;
        let mut slot = vec![0; sa.sealed_len(inner_len)];
        let mut burst = [SealPacket::new(sa, source, &mut slot)];
        seal_burst(&mut burst);
        let [packet] = burst;
        match packet.outcome() {
            Ok(_) => Ok(format!("sealed {}", hex(packet.sealed().unwrap_or_default()))),
            Err(reason) => Ok(format!("drop {reason}")),
        }
    }

    fn open(&self, name: &str, mut packet: Vec<u8>, tos: Option<u8>) -> Answer {
        let sa = self.inbound.get(name).ok_or("no such inbound SA")?;
        let mut burst = [OpenPacket::new(sa, &mut packet, tos)];
        open_burst(&mut burst);
        let [mut opened] = burst;
        Ok(match opened.outcome() {
            OpenOutcome::Inner(_) => format!("inner {}", hex(opened.inner().unwrap_or_default())),
            OpenOutcome::Dummy => "dummy".to_owned(),
            OpenOutcome::Dropped(reason) => format!("drop {reason}"),
        })
    }
}

/// `aes128gcm16`, `aes256gcm16`, `chacha20poly1305`, `aes{128,192,256}-sha{256,384,512}`.
fn suite(name: &str) -> Result<EspSuite, String> {
    let mut suites = Vec::new();
    for bits in [128, 192, 256] {
        suites.push((EspCipher::AesGcm16(bits), None));
        for mac in [
            IntegrityAlgorithm::HmacSha256_128,
            IntegrityAlgorithm::HmacSha384_192,
            IntegrityAlgorithm::HmacSha512_256,
        ] {
            suites.push((EspCipher::AesCbc(bits), Some(mac)));
        }
    }
    suites.push((EspCipher::ChaCha20Poly1305, None));
    suites
        .into_iter()
        .filter_map(|(cipher, mac)| EspSuite::new(cipher, mac))
        .find(|suite| suite.to_string() == name)
        .ok_or_else(|| format!("unknown suite `{name}`"))
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, String> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err("no hex".to_owned());
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| "no hex".to_owned()))
        .collect()
}
