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
    sync::oneshot,
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

/// Why the daemon could not start; each says what to do.
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
        }
    }
}

impl std::error::Error for StartError {}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// It could not start.
pub(crate) fn run(path: PathBuf, config: Config) -> Result<(), StartError> {
    let state_dir = config.gateway.state_dir.clone();
    let lock = take_lock(&state_dir)?;
    let control_path = config.gateway.control.clone();
    let socket = ControlSocket::bind(&control_path)
        .map_err(|error| StartError::Control(control_path, error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("management")
        .enable_all()
        .build()
        .map_err(|error| StartError::System("there are no threads", error))?;
    let settings = Settings::of(&config);
    let engine = Engine::start(&config.inline)?;
    let Engine { handle, inline, overload, thread } = engine;
    let steering = steering(&config.inline.interface);
    let reloader = Arc::new(Reloader::new(path, handle.clone(), settings));
    let served = runtime.block_on(serve(config, handle, (&inline, &overload), &reloader, &socket));
    // Tasks that still hold a way to the driver end with their runtime, and then the driver does.
    runtime.shutdown_timeout(HANG_UP);
    let on_stop = reloader.settings().on_stop;
    drop((reloader, inline));
    if thread.join().is_err() {
        tracing::error!("the gateway ended with an internal error");
    }
    drop(socket);
    let stopped = served?;
    if on_stop == OnStop::Open
        && stopped == Stopped::Cleanly
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
        let gateway = GatewayConfig { engines, ..GatewayConfig::default() };
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

/// How serving ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// The peers were told.
    Cleanly,
    /// The gateway is gone.
    Broken,
}

async fn serve(
    config: Config,
    handle: Handle,
    (inline, overload): (&InlineHandle, &Arc<AtomicU64>),
    reloader: &Arc<Reloader>,
    socket: &ControlSocket,
) -> Result<Stopped, StartError> {
    let mut signals =
        Signals::new().map_err(|error| StartError::System("signals cannot be received", error))?;
    let mut watch = addresses::watch(handle.clone())
        .map_err(|error| StartError::System("addresses cannot be watched", error))?;
    watch.tell().await;
    tokio::spawn(watch.run());
    let tunnels = config.connections.len();
    let apply = Command::Apply { origin: Origin::File, connections: config.connections };
    let applied = tokio::select! {
        applied = handle.act(apply) => applied,
        () = signals.stop() => return Ok(Stopped::Cleanly),
    };
    match applied {
        Ok(Outcome::Done(message)) => tracing::info!("{message}"),
        Ok(Outcome::Failed { message, .. }) => return Err(StartError::Apply(message)),
        Err(_) => return Err(StartError::Apply("the gateway ended".into())),
    }
    let (inline, overload) = (inline.clone(), Arc::clone(overload));
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
            }
        }),
    );
    let listener = socket
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
    Ok(stopped)
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
    async fn obey(&mut self, handle: &Handle, reloader: &Reloader) -> Stopped {
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => {
                    if let Ok(reloading) = NotifyState::monotonic_usec_now() {
                        notify(&[NotifyState::Reloading, reloading]);
                    }
                    match reloader.reload().await {
                        Ok(message) => tracing::info!("reloaded: {message}"),
                        Err(message) => tracing::error!("nothing was changed: {message}"),
                    }
                    notify(&[NotifyState::Ready]);
                }
                () = stop(&mut self.terminate, &mut self.interrupt) => break,
                () = handle.gone() => {
                    tracing::error!("the gateway ended; protected destinations stay blocked");
                    return Stopped::Broken;
                }
            }
        }
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
        Stopped::Cleanly
    }

    /// Resolves when the daemon is told to stop.
    async fn stop(&mut self) {
        stop(&mut self.terminate, &mut self.interrupt).await;
    }
}

async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
