//! The drive loop: the one place where the gateway is touched.
//!
//! ```text
//!   management ──ask──▶ ┌────────────────┐ ──transmit──▶ wire
//!   wire ─datagram────▶ │ handle → drain │ ──request───▶ workers, resolver
//!   workers ─answer───▶ │   → wait       │ ──outcome───▶ management
//!   backend ─wake─────▶ └────────────────┘ ──event─────▶ log, followers
//! ```
//!
//! A panic while one input is handled ends that input: it is counted, told, and the loop goes on
//! with what everybody else has.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use crypto::random::OsRandom;
use gateway::{
    Gateway,
    command::{Command, CommandId, Outcome},
    input::Input,
    output::Output,
};
use ike::{config::Endpoints, event::FailureCode};
use sa_store::Instant;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    clock::{self, Clock},
    events::Kept,
    handle::{Ask, Inbox, Snapshot, TimedEvent},
    lane::{Lane, LaneEnd, lane},
    requests::{self, Completion},
    share::Shares,
    workers::{Done, Workers},
};
use crate::logs::{self, Held};

/// Datagrams that may wait, and their octets; what comes beyond is dropped, as a full socket buffer
/// would.
const DATAGRAMS: (usize, usize) = (1024, 4 << 20);
/// The same for first requests, which anybody can send in any number: a flood of them takes no
/// room from those who have got further, and waits out a moment in which this thread does not run.
const FIRST_REQUESTS: (usize, usize) = (4096, 4 << 20);
/// The longest first request that is taken; ordinary ones have some hundred octets.
const FIRST_REQUEST_LEN: usize = 4096;
/// Datagrams of one kind, or answers, handled before timers and management get their turn again.
const BURST: usize = 64;

/// A datagram from an IKE port, without non-ESP marker.
#[derive(Debug)]
pub struct Datagram {
    /// Both ends.
    pub path: Endpoints,
    /// Octets.
    pub payload: Vec<u8>,
}

/// Sends a datagram (octets, and whether it is a NAT keepalive) from one end to the other.
pub type Transmit = Box<dyn FnMut(Endpoints, &[u8], bool) + Send>;

/// The ends that the wire side holds: where datagrams go in, and the waker of the backend.
#[derive(Clone, Debug)]
pub struct WireSide {
    datagrams: Lane,
    first_requests: Lane,
    /// Wakes the loop for `Input::Wake`.
    pub wake: Arc<Notify>,
}

impl WireSide {
    /// Hands a datagram to the gateway; false when there is no room for it. Never waits.
    #[must_use]
    pub fn deliver(&self, datagram: Datagram) -> bool {
        if is_first_request(&datagram.payload) {
            datagram.payload.len() <= FIRST_REQUEST_LEN && self.first_requests.offer(datagram)
        } else {
            self.datagrams.offer(datagram)
        }
    }
}

/// Whether this looks like an IKE_SA_INIT request: responder's SPI zero, exchange type 34, no
/// response flag (RFC 7296 §3.1). Its length says nothing: a stranger chooses it.
fn is_first_request(message: &[u8]) -> bool {
    message.get(8..16) == Some(&[0; 8])
        && message.get(18) == Some(&34)
        && message.get(19).is_some_and(|flags| flags & 0x20 == 0)
}

/// The driver's ends of the same.
#[derive(Debug)]
pub struct DriverSide {
    datagrams: LaneEnd,
    first_requests: LaneEnd,
    wake: Arc<Notify>,
}

/// The two ends of the way between the wire and the driver.
#[must_use]
pub fn wire_channel() -> (WireSide, DriverSide) {
    let (datagrams, known) = lane(DATAGRAMS.0, DATAGRAMS.1);
    let (first_requests, unknown) = lane(FIRST_REQUESTS.0, FIRST_REQUESTS.1);
    let wake = Arc::new(Notify::new());
    let driver = DriverSide { datagrams: known, first_requests: unknown, wake: Arc::clone(&wake) };
    (WireSide { datagrams, first_requests, wake }, driver)
}

/// Runs `gateway` on a thread of its own until the inbox is closed (every handle dropped). `mark`
/// is what the packets of the wire's sockets carry; 0 is none.
///
/// # Errors
/// The system gives no thread or no event loop.
pub fn spawn(
    gateway: Gateway,
    clock: Clock,
    random: OsRandom,
    inbox: Inbox,
    wire: DriverSide,
    transmit: Transmit,
    mark: u32,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (completions, completed) = mpsc::unbounded_channel();
    let back = completions.clone();
    let done: Done = Arc::new(move |ticket, result| {
        let _ = back.send((ticket, result));
    });
    let threads = thread::available_parallelism().map_or(1, usize::from).min(4);
    let workers = Workers::start(threads, random, &done)?;
    let driver = Driver {
        gateway,
        clock,
        workers,
        completions,
        transmit,
        mark,
        commands: HashMap::new(),
        next_command: 0,
        events: Kept::default(),
        shares: Shares::default(),
        tell: inbox.events,
        internal_errors: 0,
        applied: false,
        first_apply: None,
    };
    thread::Builder::new().name("ike".into()).spawn(move || {
        runtime.block_on(driver.run(inbox.asks, completed, wire));
        // A resolver that hangs holds nobody up.
        runtime.shutdown_background();
    })
}

struct Driver {
    gateway: Gateway,
    clock: Clock,
    workers: Workers,
    completions: mpsc::UnboundedSender<Completion>,
    transmit: Transmit,
    mark: u32,
    commands: HashMap<CommandId, oneshot::Sender<Outcome>>,
    next_command: u64,
    events: Kept,
    shares: Shares,
    tell: tokio::sync::broadcast::Sender<TimedEvent>,
    internal_errors: u64,
    /// Whether there is a configuration: until then datagrams wait, because every peer would be
    /// refused as a stranger.
    applied: bool,
    first_apply: Option<CommandId>,
}

impl Driver {
    async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        mut completed: mpsc::UnboundedReceiver<Completion>,
        mut wire: DriverSide,
    ) {
        let mut wire_open = true;
        loop {
            let due = self.next_deadline();
            let deadline = self.clock.deadline(due);
            tokio::select! {
                biased;
                ask = asks.recv() => match ask {
                    Some(ask) => {
                        self.answer(ask);
                        self.catch_up(&mut completed, &mut wire);
                    }
                    None => return,
                },
                Some((ticket, result)) = completed.recv() => {
                    self.handle(Input::Completion { ticket, result });
                }
                () = wire.wake.notified() => self.handle(Input::Wake),
                () = tokio::time::sleep_until(deadline) => self.handle(Input::Wake),
                datagram = wire.datagrams.next(), if wire_open && self.applied => match datagram {
                    Some(datagram) => {
                        self.datagram(&datagram);
                        self.burst(&mut wire);
                    }
                    None => wire_open = false,
                },
                Some(datagram) = wire.first_requests.next(), if self.applied => {
                    self.datagram(&datagram);
                    self.burst(&mut wire);
                }
            }
        }
    }

    /// Management comes first, but never twice in a row: whatever else waits gets its turn
    /// between two questions, so that no number of them holds up a peer.
    fn catch_up(
        &mut self,
        completed: &mut mpsc::UnboundedReceiver<Completion>,
        wire: &mut DriverSide,
    ) {
        for _ in 0..BURST {
            let Ok((ticket, result)) = completed.try_recv() else { break };
            self.handle(Input::Completion { ticket, result });
        }
        // Timers and the backend.
        self.handle(Input::Wake);
        if self.applied {
            self.burst(wire);
        }
    }

    fn next_deadline(&self) -> Instant {
        let gateway = &self.gateway;
        let timeout = catch_unwind(AssertUnwindSafe(|| gateway.poll_timeout()));
        timeout.unwrap_or_default().unwrap_or(Instant::NEVER)
    }

    /// A burst of datagrams, so that a flood costs one round of the loop for many. Both kinds get
    /// their turn, whichever of them is the flood.
    fn burst(&mut self, wire: &mut DriverSide) {
        for _ in 0..BURST {
            let Some(next) = wire.datagrams.try_next() else { break };
            self.datagram(&next);
        }
        for _ in 0..BURST {
            let Some(next) = wire.first_requests.try_next() else { break };
            self.datagram(&next);
        }
    }

    fn datagram(&mut self, datagram: &Datagram) {
        self.handle(Input::Datagram { path: datagram.path, payload: &datagram.payload });
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            // Whoever asked may be gone by now; that is their business.
            Ask::Status(reply) => {
                let (gateway, now) = (&self.gateway, self.clock.now());
                let status = catch_unwind(AssertUnwindSafe(|| gateway.status(now)));
                let Ok(status) = status else { return self.failed("the status was made") };
                let _ = reply.send(Snapshot { status, now, internal_errors: self.internal_errors });
            }
            Ask::Events(since, reply) => {
                let _ = reply.send(self.events.since(since));
            }
            Ask::Act(command, reply) => {
                self.next_command += 1;
                let id = CommandId(self.next_command);
                self.commands.retain(|_, reply| !reply.is_closed());
                self.commands.insert(id, reply);
                if matches!(command, Command::Apply { .. }) {
                    self.first_apply.get_or_insert(id);
                }
                self.handle(Input::Command { id, command });
            }
        }
    }

    /// Handles an input and does what comes of it. A command that is given up is answered: nobody
    /// waits for what cannot come.
    fn handle(&mut self, input: Input<'_>) {
        let (what, command) = match &input {
            Input::Datagram { path, .. } => (format!("a datagram from {}", path.remote), None),
            Input::Command { id, .. } => (format!("command {}", id.0), Some(*id)),
            Input::Completion { .. } => ("an answer".to_owned(), None),
            Input::Wake => ("a timer".to_owned(), None),
        };
        let failures = self.internal_errors;
        let now = self.clock.now();
        let gateway = &mut self.gateway;
        if catch_unwind(AssertUnwindSafe(|| gateway.handle(now, input))).is_err() {
            self.failed(&format!("{what} was handled"));
        }
        loop {
            let gateway = &mut self.gateway;
            let output = match catch_unwind(AssertUnwindSafe(|| gateway.poll_output())) {
                Ok(Some(output)) => output,
                Ok(None) => break,
                Err(_) => {
                    self.failed(&format!("{what} was answered"));
                    break;
                }
            };
            if catch_unwind(AssertUnwindSafe(|| self.act_on(output))).is_err() {
                self.failed(&format!("what comes of {what} was done"));
            }
        }
        if self.internal_errors > failures
            && let Some(reply) = command.and_then(|id| self.commands.remove(&id))
        {
            let code = FailureCode::Internal.as_str().to_owned();
            let message = "it was given up because of an internal error; see the log".to_owned();
            let _ = reply.send(Outcome::Failed { code, message });
        }
    }

    fn failed(&mut self, while_what: &str) {
        self.internal_errors += 1;
        logs::gave_up(format_args!(
            "an internal error while {while_what}; it was given up, everything else goes on"
        ));
    }

    fn act_on(&mut self, output: Output) {
        match output {
            Output::Transmit { path, payload, keepalive } => {
                (self.transmit)(path, &payload, keepalive);
            }
            Output::Request { ticket, kind } => {
                requests::start(ticket, kind, &self.workers, &self.completions, self.mark);
            }
            Output::Outcome { id, outcome } => {
                self.applied |= self.first_apply == Some(id);
                if let Some(reply) = self.commands.remove(&id) {
                    let _ = reply.send(outcome);
                }
            }
            Output::Event(record) => {
                let Some(record) = self.shares.admit(record) else { return };
                log(&record);
                let event = TimedEvent { unix_ms: clock::unix_ms(), record };
                self.events.push(event.clone());
                // Nobody may be following.
                let _ = self.tell.send(event);
            }
        }
    }
}

/// Events are what operators read in the log too; of those that strangers cause, some.
fn log(record: &gateway::read_model::EventRecord) {
    let held = if record.stranger { logs::of_strangers() } else { Some(Held::default()) };
    let Some(held) = held else { return };
    let target = match (&record.tunnel, &record.child) {
        (Some(tunnel), Some(child)) => format!("{tunnel}/{child}: "),
        (Some(tunnel), None) => format!("{tunnel}: "),
        _ => String::new(),
    };
    match &record.code {
        Some(code) if was_asked_for(code) => {
            tracing::info!("{target}{} ({code}): {}{held}", record.kind, record.message);
        }
        Some(code) => tracing::warn!("{target}{} ({code}): {}{held}", record.kind, record.message),
        None => tracing::info!("{target}{}: {}{held}", record.kind, record.message),
    }
}

/// Whether a code says that somebody here wanted it so: nothing to be warned of.
fn was_asked_for(code: &str) -> bool {
    [FailureCode::DeletedByOperator, FailureCode::Reconfigured].iter().any(|c| c.as_str() == code)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use gateway::read_model::EventRecord;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_an_operator_asked_for_is_no_warning() {
        let said = Log::default();
        let writer = said.clone();
        let logging = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time();
        tracing::subscriber::with_default(logging.finish(), || {
            for (kind, code) in [
                ("down", None),
                ("ike-down", Some("deleted-by-operator")),
                ("child-down", Some("reconfigured")),
                ("ike-down", Some("deleted-by-peer")),
            ] {
                log(&EventRecord {
                    sequence: 1,
                    at: Instant::ZERO,
                    tunnel: Some("a".into()),
                    child: None,
                    kind,
                    code: code.map(str::to_owned),
                    stranger: false,
                    message: "x".into(),
                });
            }
        });
        let said = said.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let levels: Vec<String> = String::from_utf8_lossy(&said)
            .lines()
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect();
        assert_eq!(levels, ["INFO", "INFO", "INFO", "WARN"]);
    }
}
