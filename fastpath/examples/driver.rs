//! A data plane driven by lines on standard input, for judges that are not ours and for tests
//! that need a process of its own. Every line is answered with `ok` or `error: ...`.
//!
//! ```text
//! policy LOCAL,.. REMOTE,..                 protects (child 1); `policy none` removes all
//! sa KEY=VALUE ..                           installs (and activates) an SA:
//!     dir=in|out spi=HEX local=ADDRESS:PORT remote=ADDRESS:PORT encap=udp|none
//!     cipher=aes128gcm16|aes256gcm16|chacha20poly1305|aes128|aes192|aes256
//!     mac=none|sha256|sha384|sha512 key=HEX mac_key=HEX esn=yes|no window=N
//!     ts_local=SELECTOR,.. ts_remote=SELECTOR,.. [id=N]
//! remove ID
//! counters ID                               packets bytes sequence replay auth policy malformed expired
//! node                                      no_sa policy malformed send_failed too_big
//! release                                   removes what steering left, and ends
//! ```
//!
//! Options: `--workers N`, `--interface NAME`. The end of the input ends it.
#![allow(clippy::print_stdout, reason = "answers are its output")]

use std::{collections::BTreeMap, io::BufRead, sync::Arc};

use fastpath::{InlineBackend, InlineConfig, SteeringConfig, release};
use hw_offload::{Backend, Notice, Operation, Policy, PolicyAction, PolicySet, Ticket};
use sa_store::{
    ChildId, DfPolicy, Direction, DomainId, DscpPolicy, EcnPolicy, Encapsulation, Esn, EspCipher,
    EspSpi, EspSuite, EspTransform, Instant, IntegrityAlgorithm, KeyMaterial, Lifetime, Mode,
    OffloadIntent, PairId, SaId, SaRecord, SecretBytes, TrafficSelector, TunnelId, live::LiveTable,
};

type Fields<'a> = BTreeMap<&'a str, &'a str>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = InlineConfig::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or("an option lacks its value")?;
        match option.as_str() {
            "--workers" => config.workers = Some(value.parse()?),
            "--interface" => config.steering.interface = value,
            _ => return Err(format!("unknown option {option}").into()),
        }
    }
    let steering = config.steering.clone();
    let live = Arc::new(LiveTable::new());
    let mut driver = Driver {
        backend: Some(InlineBackend::start(config, Arc::clone(&live), Arc::new(|_| {}))?),
        live,
        steering,
        next: 1,
    };
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        match driver.line(&line?) {
            Ok(answer) => println!("ok {answer}"),
            Err(reason) => println!("error: {reason}"),
        }
        if driver.backend.is_none() {
            break;
        }
    }
    Ok(())
}

struct Driver {
    backend: Option<InlineBackend>,
    live: Arc<LiveTable>,
    steering: SteeringConfig,
    next: u64,
}

fn selectors(text: &str) -> Result<Vec<TrafficSelector>, String> {
    text.split(',').map(|one| one.parse().map_err(|e| format!("{one}: {e}"))).collect()
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let octet = |at: usize| {
        let pair = text.get(at..at + 2).ok_or_else(|| format!("odd hex {text}"))?;
        u8::from_str_radix(pair, 16).map_err(|e| e.to_string())
    };
    (0..text.len()).step_by(2).map(octet).collect()
}

impl Driver {
    fn line(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => Ok(String::new()),
            ["policy", "none"] => {
                self.done(vec![Operation::SetPolicies(PolicySet::default())])?;
                Ok(String::new())
            }
            ["policy", local, remote] => {
                let action = PolicyAction::Protect {
                    tunnel: TunnelId(1),
                    child: ChildId(1),
                    peers: Vec::new(),
                    offload: OffloadIntent::Auto,
                };
                let (local, remote) = (selectors(local)?, selectors(remote)?);
                let policy = Policy { domain: DomainId(0), action, local, remote };
                self.done(vec![Operation::SetPolicies(PolicySet { policies: vec![policy] })])?;
                Ok(String::new())
            }
            ["sa", fields @ ..] => {
                let fields: Fields<'_> =
                    fields.iter().filter_map(|field| field.split_once('=')).collect();
                let record = self.record(&fields)?;
                let (id, outbound) = (record.id, record.direction == Direction::Outbound);
                let mut batch = vec![Operation::Install(Box::new(record))];
                if outbound {
                    batch.push(Operation::Activate(id));
                }
                self.done(batch)?;
                Ok(id.to_string())
            }
            ["remove", id] => {
                let id = id.parse().map_err(|_| "no number")?;
                self.done(vec![Operation::Remove(SaId(id))])?;
                Ok(String::new())
            }
            ["counters", id] => {
                let id = SaId(id.parse().map_err(|_| "no number")?);
                let said = self.done(vec![Operation::Query(id)])?;
                said.iter()
                    .find_map(|notice| match notice {
                        Notice::Counters(c) => {
                            let d = c.dropped;
                            Some(format!(
                                "{} {} {} {} {} {} {} {}",
                                c.packets,
                                c.bytes,
                                c.sequence,
                                d.replay,
                                d.auth,
                                d.policy,
                                d.malformed,
                                d.expired
                            ))
                        }
                        _ => None,
                    })
                    .ok_or_else(|| "no counters".to_owned())
            }
            ["node"] => {
                let handle = self.backend.as_ref().ok_or("released")?.handle();
                let n = handle.counters();
                Ok(format!(
                    "{} {} {} {} {}",
                    n.no_sa, n.policy, n.malformed, n.send_failed, n.too_big
                ))
            }
            ["release"] => {
                self.backend = None;
                release(&self.steering).map_err(|e| e.to_string())?;
                Ok(String::new())
            }
            _ => Err(format!("what is `{line}`?")),
        }
    }

    fn record(&mut self, fields: &Fields<'_>) -> Result<SaRecord, String> {
        let field = |name: &str| fields.get(name).copied().ok_or(format!("`{name}` is missing"));
        let spi = u32::from_str_radix(field("spi")?, 16).map_err(|e| e.to_string())?;
        let outbound = field("dir")? == "out";
        let cipher = match field("cipher")? {
            "aes128gcm16" => EspCipher::AesGcm16(128),
            "aes256gcm16" => EspCipher::AesGcm16(256),
            "chacha20poly1305" => EspCipher::ChaCha20Poly1305,
            "aes128" => EspCipher::AesCbc(128),
            "aes192" => EspCipher::AesCbc(192),
            "aes256" => EspCipher::AesCbc(256),
            other => return Err(format!("unknown cipher {other}")),
        };
        let mac = match fields.get("mac").copied().unwrap_or("none") {
            "none" => None,
            "sha256" => Some(IntegrityAlgorithm::HmacSha256_128),
            "sha384" => Some(IntegrityAlgorithm::HmacSha384_192),
            "sha512" => Some(IntegrityAlgorithm::HmacSha512_256),
            other => return Err(format!("unknown mac {other}")),
        };
        let id = match fields.get("id") {
            Some(id) => id.parse().map_err(|_| "id is no number")?,
            None => 1_000_000 + self.next,
        };
        self.next += 1;
        let address = |name: &str| field(name)?.parse().map_err(|_| format!("bad `{name}`"));
        Ok(SaRecord {
            id: SaId(id),
            pair: PairId(1),
            tunnel: TunnelId(1),
            child: ChildId(1),
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            spi: EspSpi::new(spi).ok_or("the SPI is reserved")?,
            local: address("local")?,
            remote: address("remote")?,
            encapsulation: match field("encap")? {
                "udp" => Encapsulation::Udp,
                _ => Encapsulation::None,
            },
            mode: Mode::Tunnel,
            transform: EspTransform {
                suite: EspSuite::new(cipher, mac).ok_or("cipher and mac do not fit")?,
                esn: if field("esn")? == "yes" { Esn::Yes } else { Esn::No },
            },
            keys: KeyMaterial {
                encryption: SecretBytes::new(hex(field("key")?)?),
                integrity: SecretBytes::new(hex(fields.get("mac_key").copied().unwrap_or(""))?),
            },
            replay_window: field("window")?.parse().map_err(|_| "bad window")?,
            replay_floor: 0,
            next_sequence: 1,
            local_selectors: selectors(field("ts_local")?)?,
            remote_selectors: selectors(field("ts_remote")?)?,
            lifetime: Lifetime::default(),
            dscp: DscpPolicy::default(),
            ecn: EcnPolicy::default(),
            df: DfPolicy::default(),
            domain: DomainId(0),
            mark: 0,
            interface_id: 0,
            offload: OffloadIntent::Auto,
        })
    }

    /// Submits a batch and waits; gives the notices that came with it.
    fn done(&mut self, batch: Vec<Operation>) -> Result<Vec<Notice>, String> {
        let backend = self.backend.as_mut().ok_or("released")?;
        self.next += 1;
        let ticket = Ticket(self.next);
        let (woken, wait) = std::sync::mpsc::channel();
        backend.set_waker(Arc::new(move || {
            // Nobody waits any more: nothing to wake.
            let _ = woken.send(());
        }));
        backend.submit(ticket, batch).map_err(|busy| busy.to_string())?;
        let mut said = Vec::new();
        loop {
            while let Some(notice) = backend.poll(Instant::ZERO) {
                match notice {
                    Notice::Done(done) if done == ticket => return Ok(said),
                    Notice::Refused { ticket: refused, reason, .. } if refused == ticket => {
                        return Err(reason);
                    }
                    other => said.push(other),
                }
            }
            wait.recv().map_err(|_| format!("the data plane ended ({} SAs)", self.live.len()))?;
        }
    }
}
