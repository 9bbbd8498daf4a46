//! One end of the numbered traffic of a scenario; see `conformance::traffic`.
//!
//! `pt-traffic LOCAL REMOTE CANARY RATE SMALLEST LARGEST COUNT`, told `start`, `stop` and `look`
//! on standard input, one word a line; `look` is answered with one line of JSON.

#![expect(clippy::print_stdout, reason = "the harness reads this program's standard output")]

use std::io::{BufRead, Write, stdin, stdout};
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use conformance::traffic::{Canary, EndReport};
use conformance::{Failure, Outcome};

/// Octets that may wait in the receiving socket.
const WAITING: usize = 16 << 20;
/// After a delay, at most this many packets are sent at once to catch up; more would only fill
/// the socket buffers of the gateways under test.
const BURST: u32 = 16;

/// Numbers beyond this one are not ours; it bounds memory.
const MOST: u64 = 50_000_000;

struct Plan {
    canary: Canary,
    rate: u32,
    smallest: usize,
    largest: usize,
    count: u64,
}

#[derive(Default)]
struct Sending {
    on: AtomicBool,
    sent: AtomicU64,
    refused: AtomicU64,
    first_ms: AtomicU64,
    spent_ms: AtomicU64,
}

/// How often each number came, and when the first packet with it did.
#[derive(Default)]
struct Received {
    times: Vec<(u8, u64)>,
    numbers: u64,
    doubled: u64,
    corrupt: u64,
}

impl Received {
    fn note(&mut self, number: u64) {
        let Some(at) = usize::try_from(number).ok().filter(|_| number < MOST) else {
            self.corrupt += 1;
            return;
        };
        if self.times.len() <= at {
            self.times.resize(at + 1, (0, 0));
        }
        if let Some((times, when)) = self.times.get_mut(at) {
            if *times == 0 {
                self.numbers += 1;
                *when = epoch_ms();
            } else {
                self.doubled += 1;
            }
            *times = times.saturating_add(1);
        }
    }

    fn gaps(&self) -> Vec<(u64, u64, u64)> {
        let mut gaps: Vec<(u64, u64, u64)> = Vec::new();
        let mut before = 0;
        let mut open = false;
        for (number, (times, when)) in (0_u64..).zip(&self.times) {
            if *times > 0 {
                before = *when;
                open = false;
            } else if open {
                if let Some(gap) = gaps.last_mut() {
                    gap.1 = number;
                }
            } else if gaps.len() < 50 {
                gaps.push((number, number, before));
                open = true;
            }
        }
        gaps
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [local, remote, canary, rate, smallest, largest, count] = arguments.as_slice() else {
        return Err(Failure::new("seven arguments are needed"));
    };
    let bad = |text: &String| Failure::new(format!("`{text}` is not what was expected"));
    let local: SocketAddr = local.parse().map_err(|_| bad(local))?;
    let remote: SocketAddr = remote.parse().map_err(|_| bad(remote))?;
    let canary = Canary::from_text(canary);
    let smallest = smallest.parse().map_err(|_| bad(smallest))?;
    let plan = Plan {
        smallest: canary.smallest().max(smallest),
        largest: canary.smallest().max(largest.parse().map_err(|_| bad(largest))?),
        canary,
        rate: rate.parse().map_err(|_| bad(rate))?,
        count: count.parse().map_err(|_| bad(count))?,
    };
    let socket = UdpSocket::bind(local)?;
    // On a busy machine this program may not run for a second: what waits for it is not lost.
    // Only root may ask for so much.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, WAITING);
    let sending = Arc::new(Sending::default());
    let received = Arc::new(Mutex::new(Received::default()));

    let listener = (socket.try_clone()?, Arc::clone(&received), plan.canary.clone());
    thread::spawn(move || listen(&listener.0, &listener.1, &listener.2));
    let talker = Arc::clone(&sending);
    thread::spawn(move || talk(&socket, remote, &plan, &talker));

    say("ready")?;
    for line in stdin().lock().lines() {
        match line?.trim() {
            "start" => sending.on.store(true, Ordering::Release),
            "stop" => sending.on.store(false, Ordering::Release),
            "look" => say(&serde_json::to_string(&look(&sending, &received))?)?,
            other => return Err(Failure::new(format!("`{other}` is no command"))),
        }
    }
    Ok(())
}

fn say(line: &str) -> Outcome {
    println!("{line}");
    stdout().flush()?;
    Ok(())
}

fn look(sending: &Sending, received: &Mutex<Received>) -> EndReport {
    let received = received.lock().unwrap_or_else(PoisonError::into_inner);
    EndReport {
        sent: sending.sent.load(Ordering::Acquire),
        refused: sending.refused.load(Ordering::Relaxed),
        received: received.numbers,
        doubled: received.doubled,
        corrupt: received.corrupt,
        next: received.times.len() as u64,
        gaps: received.gaps(),
        sending_ms: sending.spent_ms.load(Ordering::Relaxed),
        first_sent_ms: sending.first_ms.load(Ordering::Relaxed),
    }
}

fn listen(socket: &UdpSocket, received: &Mutex<Received>, canary: &Canary) {
    let mut buffer = [0; 65536];
    loop {
        // Errors are the ICMP answers to what was sent; the loss itself is what counts.
        let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
        let number = buffer.get(..length).and_then(|payload| canary.number(payload));
        let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
        match number {
            Some(number) => received.note(number),
            None => received.corrupt += 1,
        }
    }
}

fn talk(socket: &UdpSocket, remote: SocketAddr, plan: &Plan, sending: &Sending) {
    let gap = Duration::from_secs(1) / plan.rate.max(1);
    let mut payload = vec![0; plan.largest];
    let mut next = Instant::now();
    let mut first: Option<Instant> = None;
    let mut number = 0_u64;
    loop {
        if !sending.on.load(Ordering::Acquire) || (plan.count > 0 && number >= plan.count) {
            thread::sleep(Duration::from_millis(1));
            next = Instant::now();
            continue;
        }
        let now = Instant::now();
        if now < next {
            thread::sleep(next - now);
            continue;
        }
        // Behind by more than a burst: the lost time is not caught up.
        next = next.max(now.checked_sub(gap * BURST).unwrap_or(now)) + gap;
        let begun = *first.get_or_insert_with(|| {
            sending.first_ms.store(epoch_ms(), Ordering::Relaxed);
            now
        });
        let span = (plan.largest - plan.smallest.min(plan.largest)) as u64 + 1;
        // A stride that is prime to most spans walks through all sizes.
        let size = plan.smallest + (number * 37 % span) as usize;
        let packet = payload.get_mut(..size).unwrap_or_default();
        plan.canary.fill(number, packet);
        if socket.send_to(packet, remote).is_err() {
            sending.refused.fetch_add(1, Ordering::Relaxed);
        }
        number += 1;
        let spent = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        sending.spent_ms.store(spent, Ordering::Relaxed);
        sending.sent.store(number, Ordering::Release);
    }
}

fn epoch_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
