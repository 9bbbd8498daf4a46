//! The way to the daemon.

use std::{error::Error, io, path::PathBuf, time::Duration};

use api::postern::v1::control_client::ControlClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::Failure;

/// How long a daemon may take to answer what needs no work.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// An answer with the status of very many tunnels is large.
const MAX_MESSAGE: usize = 256 << 20;

pub(crate) async fn connect(socket: PathBuf) -> Result<ControlClient<Channel>, Failure> {
    let shown = socket.display().to_string();
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://postern")
        .connect_timeout(PATIENCE)
        .connect_with_connector(connector)
        .await
        .map_err(|error| no_daemon(&shown, &error))?;
    Ok(ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
}

fn no_daemon(socket: &str, error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    let mut kind = None;
    while let Some(error) = cause {
        kind = kind.or_else(|| error.downcast_ref::<io::Error>().map(io::Error::kind));
        cause = error.source();
    }
    let what = match kind {
        Some(io::ErrorKind::PermissionDenied) => "is not yours to use; run this as root",
        Some(io::ErrorKind::NotFound) => {
            "does not exist; start posternd, or name its socket with --socket"
        }
        Some(io::ErrorKind::ConnectionRefused) => {
            "has no daemon behind it; start posternd, or name its socket with --socket"
        }
        _ => "does not answer; see whether posternd runs",
    };
    Failure::Wrong(format!("the socket {socket} {what}"))
}

/// It hangs, or has more to do than it should.
pub(crate) fn too_late() -> Failure {
    Failure::Wrong("the daemon does not answer in time; see its log".into())
}

/// What a refused call means.
pub(crate) fn refused(status: &Status) -> Failure {
    match status.code() {
        Code::NotFound | Code::FailedPrecondition => Failure::No(status.message().to_owned()),
        Code::DeadlineExceeded | Code::Cancelled => too_late(),
        Code::Unimplemented => {
            Failure::Wrong("the daemon is older than this command and cannot do that".into())
        }
        Code::Unavailable => Failure::Wrong("the daemon went away; see its log".into()),
        _ if status.message().is_empty() => {
            Failure::Wrong(format!("the daemon refused: {}", status.code().description()))
        }
        _ => Failure::Wrong(format!("the daemon refused: {}", status.message())),
    }
}
