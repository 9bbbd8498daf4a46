//! The life of the daemon: start in an order that never leaks, serve, stop cleanly.
//!
//! ```text
//!   configuration ─▶ lock ─▶ control socket ─▶ block and data plane ─▶ gateway
//!     ─▶ tunnels applied ─▶ control protocol served ─▶ READY ─▶ ... ─▶ peers told ─▶ stop
//! ```

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crypto::{aead::Engines, random::OsRandom};
use fastpath::{IkeDatagram, InlineBackend, InlineHandle, SteeringConfig};
use gateway::{
    Gateway, GatewayConfig, Randomness,
    command::{Command, Outcome},
    spec::Origin,
};
use hw_offload::{Backend, placement::Registry};
use ike::config::Endpoints;
use sa_store::live::LiveTable;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, oneshot},
};

use crate::{
    config::{Config, InlineConfig, OnStop, Traces},
    control::{
        grpc::{self, NodeStatus, Service},
        reload::{Reloader, Settings},
        socket::ControlSocket,
    },
    lock::StateLock,
    runtime::{
        addresses,
        clock::Clock,
        driver::{self, Datagram, Transmit, WireSide},
        handle::{self, Handle},
    },
};

/// How long the peers are given to answer our goodbye, with a margin over the gateway's own.
const GOODBYE: Duration = Duration::from_secs(8);
/// How long open connections of management may last when the daemon stops.
const HANG_UP: Duration = Duration::from_secs(2);

/// Why the daemon could not start, or go on; each says what to do.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Another daemon runs.
    Running(PathBuf),
    /// The state folder cannot be used.
    State(PathBuf, io::Error),
    /// The control socket cannot be used.
    Control(PathBuf, io::Error),
    /// The data plane cannot start.
    DataPlane(fastpath::Error),
    /// The tunnels cannot be applied.
    Apply(String),
    /// The system refuses something everybody else gets.
    System(&'static str, io::Error),
    /// There is no randomness.
    Random,
    /// The gateway ended by itself.
    Broken,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(folder) => write!(
                f,
                "another posternd runs with the state folder {}; stop it first",
                folder.display()
            ),
            Self::State(folder, error) => write!(
                f,
                "the state folder {} cannot be used: {error}; run as root or set gateway.state_dir",
                folder.display()
            ),
            Self::Control(path, error) => write!(
                f,
                "the control socket {} cannot be used: {error}; see gateway.control",
                path.display()
            ),
            Self::DataPlane(error) => write!(f, "the data plane cannot start: {error}"),
            Self::Apply(error) => write!(f, "the tunnels cannot be applied: {error}"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::Random => f.write_str("the operating system gives no randomness"),
            Self::Broken => f.write_str(
                "the gateway ended with an internal error; protected destinations stay blocked",
            ),
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// It could not start, or its gateway ended: then it has to be started again.
pub(crate) fn run(path: PathBuf, config: Config) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("management")
        .enable_all()
        .build()
        .map_err(|error| StartError::System("there are no threads", error))?;
    // Before anything is touched: a signal ends nothing half way.
    let signals = runtime
        .block_on(async { Signals::new() })
        .map_err(|error| StartError::System("signals cannot be received", error))?;
    let state_dir = config.gateway.state_dir.clone();
    let lock = take_lock(&state_dir)?;
    let control_path = config.gateway.control.clone();
    let socket = ControlSocket::bind(&control_path)
        .map_err(|error| StartError::Control(control_path, error))?;
    let settings = Settings::of(&config);
    let engine = Engine::start(&config.inline)?;
    let Engine { handle, inline, overload, thread } = engine;
    let steering = steering(&config.inline.interface);
    let reloader = Arc::new(Reloader::new(path, handle.clone(), settings));
    let around = Around { inline: &inline, overload: &overload, socket: &socket };
    let served = runtime.block_on(serve(config, handle, &around, &reloader, signals));
    // Tasks that still hold a way to the driver end with their runtime, and then the driver does.
    runtime.shutdown_timeout(HANG_UP);
    let on_stop = reloader.settings().on_stop;
    drop((reloader, inline));
    if thread.join().is_err() {
        tracing::error!("the gateway ended with an internal error");
    }
    drop(socket);
    served?;
    if on_stop == OnStop::Open
        && let Err(error) = fastpath::release(&steering)
    {
        tracing::error!("not everything could be removed: {error}; run posternd --release");
    }
    drop(lock);
    tracing::info!("stopped");
    Ok(())
}

/// Removes everything Postern left in the system.
///
/// # Errors
/// A daemon runs, or the system refuses.
pub(crate) fn release(traces: &Traces) -> Result<(), StartError> {
    let Traces { interface, control, state_dir } = traces;
    let lock = if state_dir.exists() { Some(take_lock(state_dir)?) } else { None };
    fastpath::release(&steering(interface)).map_err(StartError::DataPlane)?;
    // Taking the place of a stale socket and leaving it removes it.
    if control.exists() {
        drop(
            ControlSocket::bind(control)
                .map_err(|error| StartError::Control(control.to_owned(), error))?,
        );
    }
    if let Some(lock) = lock {
        lock.remove();
    }
    Ok(())
}

fn take_lock(state_dir: &Path) -> Result<StateLock, StartError> {
    StateLock::take(state_dir).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StartError::Running(state_dir.to_owned()),
        _ => StartError::State(state_dir.to_owned(), error),
    })
}

fn steering(interface: &str) -> SteeringConfig {
    SteeringConfig { interface: interface.to_owned(), ..SteeringConfig::default() }
}

/// The data plane and the gateway that commands it, running.
struct Engine {
    handle: Handle,
    inline: InlineHandle,
    /// IKE datagrams for which there was no room.
    overload: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Engine {
    fn start(config: &InlineConfig) -> Result<Self, StartError> {
        let clock = Clock::start();
        let random = OsRandom::new().map_err(|_| StartError::Random)?;
        let engines = Engines::calibrated(&mut || clock.now().as_nanos());
        let live = Arc::new(LiveTable::new());
        let (wire, driver_side) = driver::wire_channel();
        let overload = Arc::<AtomicU64>::default();
        let backend = InlineBackend::start(
            fastpath::InlineConfig {
                steering: steering(&config.interface),
                workers: config.workers.map(usize::from),
                engines: engines.clone(),
                ..fastpath::InlineConfig::default()
            },
            Arc::clone(&live),
            sink(&wire, &overload),
        )
        .map_err(StartError::DataPlane)?;
        let inline = backend.handle();
        let randomness =
            Randomness { ike: Box::new(random), spis: Box::new(random), jitter: Box::new(random) };
        // Readers get events from the driver, which keeps them.
        let gateway = GatewayConfig { engines, events: 1, ..GatewayConfig::default() };
        let mut places = Registry::new(vec![Box::new(backend)]);
        let wake = Arc::clone(&wire.wake);
        places.set_waker(Arc::new(move || wake.notify_one()));
        let gateway = Gateway::new(gateway, Box::new(places), live, randomness);
        let (handle, inbox) = handle::channel();
        let transmit = transmit(&inline);
        let mark = steering(&config.interface).marks().bypass;
        let thread = driver::spawn(gateway, clock, random, inbox, driver_side, transmit, mark)
            .map_err(|error| StartError::System("there are no threads", error))?;
        Ok(Self { handle, inline, overload, thread })
    }
}

/// From the wire to the driver; what it cannot take is dropped as a full socket would, and counted.
fn sink(wire: &WireSide, overload: &Arc<AtomicU64>) -> fastpath::IkeSink {
    let (wire, overload) = (wire.clone(), Arc::clone(overload));
    Arc::new(move |arrived: IkeDatagram| {
        let path = Endpoints { local: arrived.local, remote: arrived.remote };
        if !wire.deliver(Datagram { path, payload: arrived.message }) {
            overload.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// From the driver to the wire.
fn transmit(inline: &InlineHandle) -> Transmit {
    let wire = inline.wire();
    Box::new(move |path: Endpoints, message: &[u8], keepalive: bool| {
        let sent = if keepalive {
            wire.send_keepalive(path.local.ip(), path.remote)
        } else {
            wire.send_ike(path.local, path.remote, message)
        };
        // As good as lost on the way: IKE sends again.
        if let Err(error) = sent {
            tracing::debug!("nothing can be sent from {} to {}: {error}", path.local, path.remote);
        }
    })
}

/// What serving is about beside the gateway.
struct Around<'a> {
    inline: &'a InlineHandle,
    overload: &'a Arc<AtomicU64>,
    socket: &'a ControlSocket,
}

/// Serves until told to stop; the peers know then.
///
/// # Errors
/// It could not start, or the gateway ended.
async fn serve(
    config: Config,
    handle: Handle,
    around: &Around<'_>,
    reloader: &Arc<Reloader>,
    mut signals: Signals,
) -> Result<(), StartError> {
    let mut watch = addresses::watch(handle.clone())
        .map_err(|error| StartError::System("addresses cannot be watched", error))?;
    watch.tell().await;
    tokio::spawn(watch.run());
    let tunnels = config.connections.len();
    let apply = Command::Apply { origin: Origin::File, connections: config.connections };
    let applied = tokio::select! {
        applied = handle.act(apply) => applied,
        () = signals.stop() => return Ok(()),
    };
    match applied {
        Ok(Outcome::Done(message)) => tracing::info!("{message}"),
        Ok(Outcome::Failed { message, .. }) => return Err(StartError::Apply(message)),
        Err(_) => return Err(StartError::Broken),
    }
    let (inline, overload) = (around.inline.clone(), Arc::clone(around.overload));
    let service = Service::new(
        handle.clone(),
        Arc::clone(reloader),
        Arc::new(move || {
            let now = inline.counters();
            let mut dropped = vec![
                ("policy", now.policy),
                ("malformed", now.malformed),
                ("too-big", now.too_big),
                ("send-failed", now.send_failed),
                ("notices", now.notices),
            ];
            match inline.clear_dropped() {
                Ok(clear) => dropped.push(("clear", clear)),
                Err(error) => tracing::debug!("nftables cannot be asked: {error}"),
            }
            NodeStatus {
                no_sa: now.no_sa,
                panics: now.panics,
                dropped,
                ike_overload: overload.load(Ordering::Relaxed),
                warnings: inline.warnings(),
                clear: inline
                    .left_clear()
                    .into_iter()
                    .map(|found| (found.network.to_string(), found.interface))
                    .collect(),
            }
        }),
    );
    let listener = around
        .socket
        .listener()
        .map_err(|error| StartError::System("the control socket cannot be shared", error))?;
    let (hang_up, hung_up) = oneshot::channel::<()>();
    let server = tokio::spawn(grpc::serve(service, listener, async move {
        // Dropping the sender hangs up as well.
        let _ = hung_up.await;
    }));
    notify(&[NotifyState::Ready]);
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!("posternd {version} runs with {tunnels} tunnels");
    let stopped = signals.obey(&handle, reloader).await;
    notify(&[NotifyState::Stopping]);
    drop(hang_up);
    let _ = tokio::time::timeout(HANG_UP, server).await;
    stopped
}

/// Tells systemd, if it wants to know.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Reloads when told so, and says goodbye to the peers when told to stop.
    ///
    /// # Errors
    /// The gateway ended.
    async fn obey(&mut self, handle: &Handle, reloader: &Arc<Reloader>) -> Result<(), StartError> {
        // Beside everything else: neither a slow disk nor an error in it holds up a stop. What
        // comes while it reloads makes it reload once more.
        let wanted = Arc::new(Notify::new());
        let reloads = tokio::spawn(reload_when(Arc::clone(&wanted), Arc::clone(reloader)));
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => wanted.notify_one(),
                () = stop(&mut self.terminate, &mut self.interrupt) => break,
                () = handle.gone() => return Err(StartError::Broken),
            }
        }
        reloads.abort();
        tracing::info!("stopping: the peers are told");
        let goodbye = handle.act(Command::Shutdown);
        tokio::select! {
            done = tokio::time::timeout(GOODBYE, goodbye) => {
                if done.is_err() {
                    tracing::warn!("not every peer answered the goodbye");
                }
            }
            // Whoever asks twice does not want to wait.
            () = self.stop() => {}
        }
        Ok(())
    }

    /// Resolves when the daemon is told to stop.
    async fn stop(&mut self) {
        stop(&mut self.terminate, &mut self.interrupt).await;
    }
}

/// Reloads each time it is wanted.
async fn reload_when(wanted: Arc<Notify>, reloader: Arc<Reloader>) {
    loop {
        wanted.notified().await;
        if let Ok(reloading) = NotifyState::monotonic_usec_now() {
            notify(&[NotifyState::Reloading, reloading]);
        }
        match reloader.reload().await {
            Ok(message) => tracing::info!("reloaded: {message}"),
            Err(message) => tracing::error!("nothing was changed: {message}"),
        }
        notify(&[NotifyState::Ready]);
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustix::process::{Signal as Which, getpid, kill_process};

    use super::*;
    use crate::{
        config::{self, Context, NoFiles},
        runtime::handle::{Ask, Inbox},
    };

    fn world(name: &str) -> (Handle, Inbox, Arc<Reloader>, PathBuf) {
        let file = std::env::temp_dir().join(format!("pt-{}-{name}.toml", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let context =
            Context { file: "x", folder: Path::new("/"), exposed: None, secrets: &NoFiles };
        let config = config::parse("", &context).unwrap();
        let (handle, inbox) = handle::channel();
        let reloader = Reloader::new(file.clone(), handle.clone(), Settings::of(&config));
        (handle, inbox, Arc::new(reloader), file)
    }

    /// Signals go to the whole process: one test at a time.
    #[tokio::test]
    async fn a_reload_that_hangs_holds_up_no_stop_and_a_gateway_that_ends_is_a_failure() {
        let (handle, mut inbox, reloader, file) = world("hangs");
        let mut signals = Signals::new().unwrap();
        let obeying = tokio::spawn(async move { signals.obey(&handle, &reloader).await });
        kill_process(getpid(), Which::HUP).unwrap();
        let Some(Ask::Act(Command::Apply { .. }, never)) = inbox.asks.recv().await else {
            panic!("nothing is reloaded")
        };
        kill_process(getpid(), Which::TERM).unwrap();
        let told = tokio::time::timeout(Duration::from_secs(20), inbox.asks.recv()).await;
        let Ok(Some(Ask::Act(Command::Shutdown, reply))) = told else { panic!("{told:?}") };
        reply.send(Outcome::Done(String::new())).unwrap();
        assert!(obeying.await.unwrap().is_ok());
        drop(never);
        std::fs::remove_file(file).unwrap();

        let (handle, inbox, reloader, file) = world("ends");
        drop(inbox);
        let ended = Signals::new().unwrap().obey(&handle, &reloader).await;
        assert!(matches!(ended, Err(StartError::Broken)), "{ended:?}");
        std::fs::remove_file(file).unwrap();
    }
}
