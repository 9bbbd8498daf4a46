//! The control protocol over gRPC.

use std::{pin::Pin, sync::Arc, time::Duration};

use api::postern::v1::{
    ActRequest, ActResponse, Event, EventsRequest, GetStatusRequest, GetStatusResponse,
    GetVersionRequest, GetVersionResponse, ReloadRequest, ReloadResponse,
    control_server::{Control, ControlServer},
};
use gateway::command::{Command, Outcome, Target};
use tokio::{
    net::UnixListener,
    sync::{broadcast, mpsc},
};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, transport::Server};

use super::{reload::Reloader, translate};
use crate::runtime::handle::{Gone, Handle};

/// How long an action is waited for when the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// How long an action is waited for at most.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
/// Requests are small; what is larger is nonsense.
const MAX_REQUEST: usize = 64 << 10;
/// The status of very many tunnels is large.
const MAX_ANSWER: usize = 256 << 20;

/// What the data plane says for the whole node, when somebody asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeStatus {
    /// Packets for no known SA.
    pub no_sa: u64,
    /// Bursts given up because a worker's own code failed.
    pub panics: u64,
    /// Packets that were dropped and belong to no SA, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// IKE datagrams for which there was no room.
    pub ike_overload: u64,
    /// What an operator should change in the system.
    pub warnings: Vec<String>,
    /// Connected networks that stay clear, and their interfaces.
    pub clear: Vec<(String, String)>,
}

/// Asks the data plane.
pub type ReadNode = Arc<dyn Fn() -> NodeStatus + Send + Sync>;

/// Answers the control protocol.
pub struct Service {
    handle: Handle,
    reloader: Arc<Reloader>,
    node: ReadNode,
}

impl Service {
    /// A service on the gateway behind `handle`.
    #[must_use]
    pub fn new(handle: Handle, reloader: Arc<Reloader>, node: ReadNode) -> Self {
        Self { handle, reloader, node }
    }

    async fn act(
        &self,
        request: Request<ActRequest>,
        command: fn(Target) -> Command,
    ) -> Result<Response<ActResponse>, Status> {
        let ActRequest { tunnel, child, timeout_ms } = request.into_inner();
        if tunnel.is_empty() {
            return Err(Status::invalid_argument("no tunnel is named"));
        }
        let wait = match timeout_ms {
            0 => DEFAULT_WAIT,
            ms => Duration::from_millis(ms).min(LONGEST_WAIT),
        };
        let target = Target { tunnel, child: (!child.is_empty()).then_some(child) };
        let outcome = tokio::time::timeout(wait, self.handle.act(command(target))).await;
        let (done, code, message) = match outcome {
            Err(_) => (
                false,
                "timeout".to_owned(),
                format!(
                    "no outcome after {} s; it goes on, `postern sa` shows how",
                    wait.as_secs_f32()
                ),
            ),
            Ok(Err(Gone)) => return Err(stopping(Gone)),
            Ok(Ok(Outcome::Done(message))) => (true, String::new(), message),
            Ok(Ok(Outcome::Failed { code, message })) => (false, code, message),
        };
        Ok(Response::new(ActResponse { done, code, message }))
    }
}

fn stopping(_: Gone) -> Status {
    Status::unavailable("the daemon is stopping")
}

#[tonic::async_trait]
impl Control for Service {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let wanted = request.into_inner().tunnel;
        let mut snapshot = self.handle.status().await.map_err(stopping)?;
        if !wanted.is_empty() {
            snapshot.status.tunnels.retain(|tunnel| tunnel.name == wanted);
            if snapshot.status.tunnels.is_empty() {
                let text = format!("no tunnel is called `{wanted}`; `postern sa` lists them");
                return Err(Status::not_found(text));
            }
        }
        let settings = self.reloader.settings();
        let mut node = (self.node)();
        node.clear.extend(settings.clear().map(|network| (network, String::new())));
        Ok(Response::new(translate::status(settings.name, snapshot, node)))
    }

    async fn up(&self, request: Request<ActRequest>) -> Result<Response<ActResponse>, Status> {
        self.act(request, Command::Up).await
    }

    async fn down(&self, request: Request<ActRequest>) -> Result<Response<ActResponse>, Status> {
        self.act(request, Command::Down).await
    }

    async fn rekey(&self, request: Request<ActRequest>) -> Result<Response<ActResponse>, Status> {
        self.act(request, Command::Rekey).await
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let EventsRequest { follow, since } = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        let handle = self.handle.clone();
        tokio::spawn(async move {
            // The reader going away, or the daemon stopping, ends the stream.
            let _ = send_events(&handle, follow, since, &sender).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn reload(
        &self,
        _request: Request<ReloadRequest>,
    ) -> Result<Response<ReloadResponse>, Status> {
        let (applied, message) = match self.reloader.reload().await {
            Ok(message) => (true, message),
            Err(message) => (false, message),
        };
        Ok(Response::new(ReloadResponse { applied, message }))
    }

    async fn get_version(
        &self,
        _request: Request<GetVersionRequest>,
    ) -> Result<Response<GetVersionResponse>, Status> {
        Ok(Response::new(GetVersionResponse { version: env!("CARGO_PKG_VERSION").into() }))
    }
}

/// Sends what was kept, then what happens. A reader that is too slow for the live stream gets
/// what it missed from what is kept: nobody waits for it.
async fn send_events(
    handle: &Handle,
    follow: bool,
    mut since: u64,
    sender: &mpsc::Sender<Result<Event, Status>>,
) -> Result<(), Gone> {
    let mut live = handle.follow();
    loop {
        for event in handle.events(since).await? {
            since = event.record.sequence;
            sender.send(Ok(translate::event(event))).await.map_err(|_| Gone)?;
        }
        if !follow {
            return Ok(());
        }
        loop {
            let next = tokio::select! {
                () = sender.closed() => return Err(Gone),
                next = live.recv() => next,
            };
            match next {
                Ok(event) if event.record.sequence <= since => {}
                Ok(event) => {
                    since = event.record.sequence;
                    sender.send(Ok(translate::event(event))).await.map_err(|_| Gone)?;
                }
                Err(broadcast::error::RecvError::Lagged(_)) => break,
                Err(broadcast::error::RecvError::Closed) => return Err(Gone),
            }
        }
    }
}

/// Serves the control protocol until `stop` resolves.
///
/// # Errors
/// The listening socket fails.
pub async fn serve(
    service: Service,
    listener: std::os::unix::net::UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let server = ControlServer::new(service)
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_ANSWER);
    let incoming = match UnixListener::from_std(listener) {
        Ok(listener) => UnixListenerStream::new(listener),
        Err(error) => {
            tracing::error!("the control socket is not usable: {error}");
            return Ok(());
        }
    };
    Server::builder()
        .max_concurrent_streams(64)
        .http2_keepalive_interval(Some(Duration::from_secs(60)))
        .add_service(server)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
}
