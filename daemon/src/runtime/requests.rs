//! Answers what the gateway cannot know itself: names, routes, key exchange.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use gateway::{
    input::CompletionResult,
    output::{RequestKind, Ticket},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{Semaphore, mpsc};

use super::workers::{Job, Workers};

/// A resolver may take this long.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(15);
/// Names that are resolved at once, each on a thread of the system's resolver.
static LOOKUPS: Semaphore = Semaphore::const_new(32);
/// What to do about a name without addresses.
const CHECK_NAMES: &str =
    "; check the name, and that a name server can be reached outside of the tunnel";
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// An answer on its way back.
pub(super) type Completion = (Ticket, CompletionResult);

/// Starts the work for a request; the answer comes through `completions`. Routes are asked for as
/// the sockets of the wire take them, whose packets carry `mark` (0 is none).
pub(super) fn start(
    ticket: Ticket,
    kind: RequestKind,
    workers: &Workers,
    completions: &mpsc::UnboundedSender<Completion>,
    mark: u32,
) {
    match kind {
        RequestKind::GenerateKey { group } => workers.submit(ticket, Job::Generate { group }),
        RequestKind::Agree { group: _, private, peer_public } => {
            workers.submit(ticket, Job::Agree { private, peer_public });
        }
        RequestKind::GenerateAndAgree { group, peer_public, asker } => {
            workers.submit(ticket, Job::GenerateAndAgree { group, peer_public, asker });
        }
        RequestKind::Resolve { host } => {
            let completions = completions.clone();
            tokio::spawn(async move {
                let answer = CompletionResult::Resolved(resolve(&host).await);
                let _ = completions.send((ticket, answer));
            });
        }
        RequestKind::SourceAddress { remote } => {
            let answer = CompletionResult::Source(source_address(remote, mark));
            let _ = completions.send((ticket, answer));
        }
    }
}

async fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let name = host.to_owned();
    let lookup = async move { tokio::net::lookup_host((name, 0)).await.map(Vec::from_iter) };
    let found = match in_time(&LOOKUPS, RESOLVE_PATIENCE, lookup).await {
        None => return Err(format!("{host} is not resolved in time{CHECK_NAMES}")),
        Some(Err(error)) => return Err(format!("{host} does not resolve{CHECK_NAMES} ({error})")),
        Some(Ok(found)) => found,
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.into_iter().map(|socket| socket.ip()) {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        Err(format!("{host} has no addresses{CHECK_NAMES}"))
    } else {
        Ok(addresses)
    }
}

/// What `work` comes to within `patience`, its wait for a place among the others included. What has
/// begun cannot be stopped: it keeps its place until it is over.
async fn in_time<T: Send + 'static>(
    places: &'static Semaphore,
    patience: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let in_turn = async {
        let place = places.acquire().await.ok()?;
        let work = tokio::spawn(async move {
            let done = work.await;
            drop(place);
            done
        });
        work.await.ok()
    };
    tokio::time::timeout(patience, in_turn).await.ok().flatten()
}

/// The address the kernel would send from: connecting a datagram socket asks the routes and
/// sends nothing. Without the mark, a policy that covers the peer would answer.
fn source_address(remote: IpAddr, mark: u32) -> Result<IpAddr, String> {
    let local = || -> io::Result<Option<IpAddr>> {
        let remote = SocketAddr::new(remote, 500);
        let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP))?;
        if mark != 0 {
            socket.set_mark(mark)?;
        }
        socket.connect(&remote.into())?;
        Ok(socket.local_addr()?.as_socket().map(|local| local.ip()))
    };
    match local() {
        Ok(Some(address)) if !address.is_unspecified() => Ok(address),
        Ok(_) => Err("this machine has no address for it; configure an interface".into()),
        Err(error) => Err(format!(
            "there is no route; check the routes and that the interface is up ({error})"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn loopback_is_reached_from_itself() {
        let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(source_address(home, 0), Ok(home));
        // The system refuses broadcasts, as it refuses what it has no route to.
        let why = source_address(IpAddr::V4(Ipv4Addr::BROADCAST), 0).unwrap_err();
        assert!(why.contains("; check the routes"), "{why}");
    }

    #[tokio::test]
    async fn names_resolve_or_say_why_not() {
        assert!(resolve("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
        let why = resolve("does-not-exist.invalid").await.unwrap_err();
        assert!(why.starts_with("does-not-exist.invalid "), "{why}");
        assert!(why.contains("; check the name"), "{why}");
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_gets_no_more_work() {
        static PLACES: Semaphore = Semaphore::const_new(2);
        let (begun, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let hang = || {
            let (begun, over) = (Arc::clone(&begun), Arc::clone(&over));
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                over.notified().await;
            }
        };
        for _ in 0..5 {
            assert_eq!(in_time(&PLACES, Duration::from_millis(20), hang()).await, None);
        }
        assert_eq!(begun.load(Ordering::Relaxed), 2, "the others waited for a place");
        over.notify_waiters();
        let next = in_time(&PLACES, Duration::from_secs(60), async { 7 });
        assert_eq!(next.await, Some(7));
    }
}
