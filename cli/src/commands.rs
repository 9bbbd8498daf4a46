//! What each command does.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use api::postern::v1::{
    ActRequest, Event, EventsRequest, GetStatusRequest, GetStatusResponse, GetVersionRequest,
    ReloadRequest, control_client::ControlClient,
};
use tonic::{Request, transport::Channel};

use crate::{
    Failure,
    args::{Act, Args, Command},
    check,
    client::{self, PATIENCE, refused},
    detail, json,
    render::{self, Style},
};

/// How far apart the two looks lie that a rate is made of.
const RATE_SPAN: Duration = Duration::from_millis(300);
/// A configuration of very many tunnels takes a while to read.
const RELOAD_PATIENCE: Duration = Duration::from_secs(120);

/// Runs a command.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Check { file } => return check::check(file),
        Command::Explain { .. } => return Err(not_yet("explain")),
        Command::Sa { watch: true, .. } => return Err(not_yet("sa --watch")),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Wrong(format!("this system gives no event loop: {error}")))?;
    runtime.block_on(ask(args))
}

fn not_yet(what: &str) -> Failure {
    Failure::Wrong(format!(
        "`postern {what}` is not available yet; use `postern sa` and `postern events`"
    ))
}

async fn ask(args: &Args) -> Result<(), Failure> {
    if matches!(args.command, Command::Version) {
        heard(writeln!(io::stdout(), "postern {}", env!("CARGO_PKG_VERSION")))?;
    }
    let mut client = client::connect(args.socket()).await?;
    match &args.command {
        Command::Sa { tunnel, json, .. } => {
            sa(&mut client, tunnel.as_deref().unwrap_or_default(), *json).await
        }
        Command::Up(act) => {
            report(act, client.up(request(act)?).await.map(tonic::Response::into_inner))
        }
        Command::Down(act) => {
            report(act, client.down(request(act)?).await.map(tonic::Response::into_inner))
        }
        Command::Rekey(act) => {
            report(act, client.rekey(request(act)?).await.map(tonic::Response::into_inner))
        }
        Command::Events { follow, json } => events(&mut client, *follow, *json).await,
        Command::Reload => reload(&mut client).await,
        Command::Version => {
            let reply = client.get_version(patient(GetVersionRequest {}, PATIENCE)).await;
            let version = reply.map_err(|status| refused(&status))?.into_inner().version;
            writeln!(io::stdout(), "posternd {}", render::clean(&version))?;
            Ok(())
        }
        // Done without a daemon, before this.
        Command::Check { .. } | Command::Explain { .. } => Ok(()),
    }
}

fn patient<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

async fn status(
    client: &mut ControlClient<Channel>,
    tunnel: &str,
) -> Result<GetStatusResponse, Failure> {
    let request = patient(GetStatusRequest { tunnel: tunnel.to_owned() }, PATIENCE);
    let reply = client.get_status(request).await.map_err(|status| refused(&status))?;
    Ok(reply.into_inner())
}

/// How wide the terminal is that standard output goes to, if it is one.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// A reader that has gone away (`| head -1`) hides no answer: the exit status is still owed.
fn heard(written: io::Result<()>) -> Result<(), Failure> {
    match written.map_err(Failure::from) {
        Err(Failure::Silent) => Ok(()),
        other => other,
    }
}

async fn sa(client: &mut ControlClient<Channel>, tunnel: &str, json: bool) -> Result<(), Failure> {
    let mut now = status(client, tunnel).await?;
    let text = if json {
        let document = serde_json::to_string_pretty(&json::Status::from(&now));
        document.map_err(|error| no_json(&error))? + "\n"
    } else {
        let mut rates = None;
        if now.tunnels.iter().flat_map(|t| &t.children).any(|child| child.installed_s.is_some()) {
            let started = tokio::time::Instant::now();
            tokio::time::sleep(RATE_SPAN).await;
            let before = std::mem::replace(&mut now, status(client, tunnel).await?);
            rates = Some((before, started.elapsed()));
        }
        let rates = rates.as_ref().map(|(before, span)| (before, *span));
        let style = Style::of_terminal(io::stdout().is_terminal());
        let mut text = render::status(&now, rates, style, columns());
        if !tunnel.is_empty() {
            text.push_str(&detail::details(&now));
        }
        text
    };
    let mut out = io::stdout().lock();
    heard(out.write_all(text.as_bytes()).and_then(|()| out.flush()))?;
    let down = |t: &&api::postern::v1::Tunnel| t.mode == "always-on" && t.state != "established";
    if now.tunnels.iter().any(|tunnel| down(&tunnel)) {
        // The output says which.
        return Err(Failure::No(String::new()));
    }
    Ok(())
}

fn request(act: &Act) -> Result<Request<ActRequest>, Failure> {
    let (tunnel, child) = match act.target.split_once('/') {
        Some((_, "")) => {
            let text = format!("`{}` names no child; write TUNNEL or TUNNEL/CHILD", act.target);
            return Err(Failure::Wrong(text));
        }
        Some((tunnel, child)) => (tunnel, child),
        None => (act.target.as_str(), ""),
    };
    if tunnel.is_empty() {
        return Err(Failure::Wrong("no tunnel is named; write TUNNEL or TUNNEL/CHILD".into()));
    }
    let timeout_ms = u64::try_from(act.timeout().as_millis()).unwrap_or(u64::MAX);
    let message = ActRequest { tunnel: tunnel.into(), child: child.into(), timeout_ms };
    Ok(patient(message, act.timeout() + PATIENCE))
}

fn report(
    act: &Act,
    reply: Result<api::postern::v1::ActResponse, tonic::Status>,
) -> Result<(), Failure> {
    let reply = reply.map_err(|status| refused(&status))?;
    let message = render::clean(&reply.message);
    if reply.done {
        writeln!(io::stdout(), "{}", said_of(&act.target, &message))?;
        return Ok(());
    }
    Err(Failure::No(format!("{}: {message} ({})", act.target, render::clean(&reply.code))))
}

/// A sentence about a target that names it once.
fn said_of(target: &str, message: &str) -> String {
    let tunnel = target.split('/').next().unwrap_or_default();
    let named = [target, tunnel].into_iter();
    match named.filter_map(|name| message.strip_prefix(name)?.strip_prefix(' ')).next() {
        Some(rest) => format!("{target} {rest}"),
        None => format!("{target}: {message}"),
    }
}

async fn events(
    client: &mut ControlClient<Channel>,
    follow: bool,
    json: bool,
) -> Result<(), Failure> {
    let request = EventsRequest { follow, since: 0 };
    let reply = in_time(client.events(request)).await?.map_err(|status| refused(&status))?;
    let mut stream = reply.into_inner();
    let mut kept: Vec<Event> = Vec::new();
    let style = Style::of_terminal(io::stdout().is_terminal());
    let mut gaps = Gaps::new();
    loop {
        // What is to happen may take any time; what has happened is there.
        let next = if follow { stream.message().await } else { in_time(stream.message()).await? };
        let event = match next {
            Ok(Some(event)) => event,
            Ok(None) => break,
            Err(status) => return Err(refused(&status)),
        };
        if let Some(missed) = gaps.before(&event).filter(|_| follow && !json) {
            // Said beside the events; without standard error, the numbers in JSON still tell.
            let _ = writeln!(io::stderr(), "postern: {missed} events are missing here");
        }
        let mut out = io::stdout().lock();
        if !json {
            out.write_all(render::event(&event, style).as_bytes())?;
        } else if follow {
            let line =
                serde_json::to_string(&json::Event::from(&event)).map_err(|e| no_json(&e))?;
            writeln!(out, "{line}")?;
        } else {
            kept.push(event);
            continue;
        }
        out.flush()?;
    }
    if json && !follow {
        // On one line, so that readers of lines and readers of documents are both served.
        let line = serde_json::to_string(&json::Events::from(kept.as_slice()));
        writeln!(io::stdout(), "{}", line.map_err(|e| no_json(&e))?)?;
    }
    if follow {
        return Err(Failure::Wrong("the daemon stopped".into()));
    }
    Ok(())
}

/// Waits no longer than a daemon that works may take.
async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, answer).await.map_err(|_| client::too_late())
}

/// Finds events that were dropped on their way to who follows them. Of those from before, only some
/// are kept, and nothing is missing.
struct Gaps {
    since_ms: i64,
    last: u64,
}

impl Gaps {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let since_ms = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
        Self { since_ms, last: 0 }
    }

    /// How many are missing before this one.
    fn before(&mut self, event: &Event) -> Option<u64> {
        let last = std::mem::replace(&mut self.last, event.sequence);
        let missed = event.sequence.saturating_sub(last.saturating_add(1));
        (last > 0 && missed > 0 && event.unix_ms >= self.since_ms).then_some(missed)
    }
}

async fn reload(client: &mut ControlClient<Channel>) -> Result<(), Failure> {
    let reply = client.reload(patient(ReloadRequest {}, RELOAD_PATIENCE)).await;
    let reply = reply.map_err(|status| refused(&status))?.into_inner();
    let message: Vec<String> = reply.message.lines().map(render::clean).collect();
    let message = message.join("\n");
    if reply.applied {
        writeln!(io::stdout(), "{message}")?;
        Ok(())
    } else {
        Err(Failure::No(format!("nothing was changed: {message}")))
    }
}

fn no_json(error: &serde_json::Error) -> Failure {
    Failure::Wrong(format!("the answer does not fit into JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_while_it_was_followed_can_be_missing() {
        let mut gaps = Gaps { since_ms: 1000, last: 0 };
        let told: Vec<_> = [(7, 10), (9, 10), (20, 999), (22, 1000), (23, 1000), (30, 1001)]
            .map(|(sequence, unix_ms)| {
                gaps.before(&Event { sequence, unix_ms, ..Event::default() })
            })
            .into();
        assert_eq!(told, [None, None, None, Some(1), None, Some(6)]);
    }
}
