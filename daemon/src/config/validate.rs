//! What the keys of `config.toml` mean, and which of them cannot stand together.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use gateway::spec::{ChildSpec, ConnectionSpec, RemoteAddress, TunnelMode};
use ike::config::{AuthMethod, EncapPolicy};
use sa_store::{Esn, OffloadIntent, PortRange, TrafficSelector};

use super::{
    Config, Context, GatewayConfig, InlineConfig, OnStop, Report, Traces, bypass, callers,
    diagnostic::Findings,
    end, lifetime, mask, overlap, proposal,
    schema::{
        At, RawAuth, RawChild, RawConfig, RawEsp, RawGateway, RawInline, RawTunnel, Workers, shown,
    },
    secret, suggest,
};

/// Where the lock is when nobody says so.
const DEFAULT_STATE_DIR: &str = "/var/lib/postern";

/// Selectors a TS payload holds (RFC 7296 §3.13).
const MOST_NEGOTIATED: usize = 255;

/// Gives meaning to what was read. `None`, or errors among the findings, is a refusal.
pub(super) fn validate(
    raw: &RawConfig<'_>,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<Config> {
    let gateway = gateway(&raw.gateway, context, findings);
    let inline = inline(&raw.inline, findings);
    let mut connections = Vec::new();
    for tunnel in &raw.tunnels {
        connections.extend(connection(tunnel, context, findings));
    }
    if connections.len() == raw.tunnels.len() {
        check_overlaps(raw, &connections, findings);
        bypass::check_across(raw, &connections, findings);
        check_callers(raw, &connections, findings);
    }
    Some(Config { gateway: gateway?, inline: inline?, connections, warnings: Report::default() })
}

/// What the names of a file that may be wrong are: the default for each that is wrong.
pub(super) fn traces(raw: &RawConfig<'_>, context: &Context<'_>) -> Traces {
    let RawGateway { control, state_dir, .. } = &raw.gateway;
    let interface = RawInline { interface: raw.inline.interface.clone(), workers: None };
    let findings = &mut Findings::default();
    let default = "postern0".to_owned();
    Traces {
        interface: inline(&interface, findings).map_or(default, |inline| inline.interface),
        control: control_path(control.as_ref(), context, findings)
            .unwrap_or_else(|| api::DEFAULT_CONTROL_SOCKET.into()),
        state_dir: state_path(state_dir.as_ref(), context, findings)
            .unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
    }
}

fn control_path(
    text: Option<&At<&str>>,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<PathBuf> {
    // 107 octets are the most that a Unix socket's address holds.
    path(text, api::DEFAULT_CONTROL_SOCKET, 107, context, findings)
}

fn state_path(
    text: Option<&At<&str>>,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<PathBuf> {
    path(text, DEFAULT_STATE_DIR, 4000, context, findings)
}

fn path(
    text: Option<&At<&str>>,
    default: &str,
    longest: usize,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<PathBuf> {
    let Some(text) = text else { return Some(context.folder.join(default)) };
    let path = context.folder.join(text.value);
    if text.value.is_empty() || text.value.contains('\0') {
        findings.error(text.span.clone(), "this is no path", "");
        None
    } else if path.as_os_str().len() > longest {
        let message = format!("the path is longer than {longest} octets");
        findings.error(text.span.clone(), message, "choose a shorter one");
        None
    } else {
        Some(path)
    }
}

fn gateway(
    raw: &RawGateway<'_>,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<GatewayConfig> {
    let control = control_path(raw.control.as_ref(), context, findings);
    let state_dir = state_path(raw.state_dir.as_ref(), context, findings);
    let dataplane = raw.dataplane.as_ref().map(|text| dataplane(text, findings));
    let on_stop = word(
        raw.on_stop.as_ref(),
        "on_stop",
        &[("closed", OnStop::Closed), ("open", OnStop::Open)],
        findings,
    );
    if let Some(name) = &raw.name {
        check_name(name, "name", findings);
    }
    Some(GatewayConfig {
        name: raw.name.as_ref().map(|name| name.value.to_owned()),
        dataplane: dataplane.unwrap_or(OffloadIntent::Auto),
        control: control?,
        state_dir: state_dir?,
        on_stop,
    })
}

/// Where SAs run. The kernel and devices, by their names, will be places too.
fn dataplane(text: &At<&str>, findings: &mut Findings) -> OffloadIntent {
    let words = ["auto", "inline"];
    match text.value {
        "auto" => return OffloadIntent::Auto,
        "inline" => return OffloadIntent::Inline,
        _ => {}
    }
    let near = suggest::nearest(text.value, &words);
    let (what, help) = match near {
        Some(near) => ("does not exist", format!("did you mean \"{near}\"?")),
        None if is_interface(text.value) => {
            ("is not available yet", "use \"auto\" or \"inline\"".to_owned())
        }
        None => ("does not exist", "use \"auto\" or \"inline\"".to_owned()),
    };
    let message = format!("`dataplane = \"{}\"` {what}", shown(text.value));
    findings.error(text.span.clone(), message, help);
    OffloadIntent::Auto
}

/// Whether an interface can be called like that.
fn is_interface(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 15
        && !matches!(name, "." | ".." | "lo" | "all" | "default")
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%\"\\'".contains(&b))
}

fn inline(raw: &RawInline<'_>, findings: &mut Findings) -> Option<InlineConfig> {
    let interface = match &raw.interface {
        None => "postern0",
        Some(text) => {
            if !is_interface(text.value) {
                findings.error(
                    text.span.clone(),
                    format!("`{}` is no name for an interface", shown(text.value)),
                    "use at most 15 letters, digits, dots and hyphens",
                );
                return None;
            }
            text.value
        }
    };
    let workers = match raw.workers.as_ref().map(|at| (at.value, &at.span)) {
        None | Some((Workers::Word("auto"), _)) => None,
        Some((Workers::Number(n @ 1..=64), _)) => NonZeroUsize::new(n as usize),
        Some((_, span)) => {
            findings.error(
                span.clone(),
                "`workers` is a number from 1 to 64, or \"auto\"",
                "\"auto\" is the default",
            );
            return None;
        }
    };
    Some(InlineConfig { interface: interface.to_owned(), workers })
}

fn connection(
    raw: &RawTunnel<'_>,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<ConnectionSpec> {
    check_name(&raw.name, "a tunnel's name", findings);
    let mode = tunnel_mode(raw.mode.as_ref(), findings);
    let encap = word(
        raw.encap.as_ref(),
        "encap",
        &[
            ("auto", EncapPolicy::Auto),
            ("always", EncapPolicy::Always),
            ("never", EncapPolicy::Never),
        ],
        findings,
    );
    let (local, local_id) = end::local(raw.local.as_ref(), findings);
    let missing = |what: &str, help: &str, findings: &mut Findings| {
        if !raw.broken {
            let message = format!("tunnel `{}` has no `{what}`", shown(raw.name.value));
            findings.error(raw.name.span.clone(), message, help);
        }
    };
    let remote = match &raw.remote {
        Some(remote) => end::remote(remote, raw.broken, findings),
        None => {
            missing("remote", "add remote = { address = \"192.0.2.2\" }", findings);
            None
        }
    };
    let auth = match &raw.auth {
        Some(auth) => auth_method(auth, raw.broken, context, findings),
        None => {
            missing("auth", "add auth = { psk_file = \"name.psk\" }", findings);
            None
        }
    };
    let proposals = match &raw.ike.proposals {
        Some(list) => proposals(list, proposal::ike, findings),
        None => proposal::ike_defaults(),
    };
    let rekey = lifetime::ike(raw.ike.rekey.as_ref(), findings);
    let dpd = lifetime::dpd(raw.ike.dpd.as_ref(), findings);
    if raw.children.is_empty() {
        missing("children", "add [tunnels.NAME.children.NAME] with local and remote", findings);
    }
    let children: Vec<_> =
        raw.children.iter().filter_map(|child| self::child(child, findings)).collect();
    let (remote, remote_id) = remote?;
    check_ends(raw, mode, &local, &remote, findings);
    Some(ConnectionSpec {
        name: raw.name.value.to_owned(),
        mode,
        local,
        remote,
        local_id,
        remote_id,
        auth: auth?,
        proposals,
        rekey,
        dpd,
        encap,
        children,
    })
}

fn tunnel_mode(raw: Option<&At<&str>>, findings: &mut Findings) -> TunnelMode {
    if let Some(text) = raw.filter(|text| text.value == "on-demand") {
        findings.error(
            text.span.clone(),
            "`mode = \"on-demand\"` is not available yet",
            "use \"always-on\" or \"passive\"",
        );
        return TunnelMode::Passive;
    }
    let modes = [("always-on", TunnelMode::AlwaysOn), ("passive", TunnelMode::Passive)];
    word(raw, "mode", &modes, findings)
}

/// Both ends together: somebody can be called, and in one address family.
fn check_ends(
    raw: &RawTunnel<'_>,
    mode: TunnelMode,
    local: &[std::net::IpAddr],
    remote: &[RemoteAddress],
    findings: &mut Findings,
) {
    let span = raw.remote.as_ref().and_then(|end| end.address.as_ref()).map(|at| at.span.clone());
    let Some(span) = span else { return };
    let callable =
        |r: &RemoteAddress| matches!(r, RemoteAddress::Address(_) | RemoteAddress::Host(_));
    if mode == TunnelMode::AlwaysOn && !remote.iter().any(callable) {
        findings.error(
            span,
            "an always-on tunnel calls its peer, but no address to call is given",
            "name an address or a host, or set mode = \"passive\"",
        );
        return;
    }
    let reachable = |r: &RemoteAddress| {
        let family = match r {
            RemoteAddress::Address(address) => address.is_ipv4(),
            RemoteAddress::Prefix(prefix) => prefix.first().is_ipv4(),
            RemoteAddress::Host(_) | RemoteAddress::Any => return true,
        };
        local.is_empty() || local.iter().any(|address| address.is_ipv4() == family)
    };
    if !remote.iter().any(reachable) {
        findings.error(
            span,
            "the local and the remote address are not of one family",
            "use IPv4 on both sides or IPv6 on both sides",
        );
        return;
    }
    if let Some(both) = local.iter().find(|&&l| remote.contains(&RemoteAddress::Address(l))) {
        let message = format!("`{both}` is the local and the remote address");
        findings.error(span, message, "the peer has another one");
    }
}

fn auth_method(
    raw: &RawAuth<'_>,
    broken: bool,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<AuthMethod> {
    let key = match (&raw.psk, &raw.psk_file) {
        (Some(_), Some(file)) => {
            let message = "`psk` and `psk_file` cannot stand together";
            findings.error(file.span.clone(), message, "keep one of them");
            return None;
        }
        (None, None) => {
            if !broken {
                findings.error(
                    raw.span.clone(),
                    "`auth` has no key",
                    "add psk_file = \"name.psk\", or psk = \"...\"",
                );
            }
            return None;
        }
        (Some(psk), None) => {
            if let Some(exposure) = context.exposed {
                let message = format!("{} holds a key, but {exposure}", context.file);
                findings.error(psk.span.clone(), message, exposure.remedy(&context.file));
                return None;
            }
            secret::decode(psk.value.as_bytes()).map_err(|error| (psk, error.to_owned()))
        }
        (None, Some(file)) => read_psk(file.value, context).map_err(|error| (file, error)),
    };
    match key {
        Ok(key) => Some(AuthMethod::Psk(key)),
        Err((place, error)) => {
            findings.error(place.span.clone(), error, "");
            None
        }
    }
}

fn read_psk(name: &str, context: &Context<'_>) -> Result<sa_store::SecretBytes, String> {
    let path = context.folder.join(Path::new(name));
    let named = |error: &str| {
        if mask::looks_like_key(name) {
            // Not a word of it: this may be the key itself.
            return format!("the key file is refused: {error}; write the key itself as `psk`");
        }
        format!("the key file {} is refused: {error}", shown(&path.display().to_string()))
    };
    let content = context.secrets.read(&path).map_err(|error| named(&error))?;
    secret::decode(secret::strip_line_end(content.expose())).map_err(named)
}

fn child(raw: &RawChild<'_>, findings: &mut Findings) -> Option<ChildSpec> {
    check_name(&raw.name, "a child's name", findings);
    let mut side = |list: &Option<At<Vec<At<&str>>>>, what: &str| match list {
        None => {
            if !raw.broken {
                let message = format!("child `{}` has no `{what}`", shown(raw.name.value));
                let help = format!("add {what} = [\"10.1.0.0/16\"]");
                findings.error(raw.name.span.clone(), message, help);
            }
            None
        }
        Some(list) if list.value.is_empty() => {
            let message = format!("the list of {what} networks is empty");
            findings.error(list.span.clone(), message, "name at least one");
            None
        }
        Some(list) => selectors(&list.value, findings),
    };
    let (local, remote) = (side(&raw.local, "local"), side(&raw.remote, "remote"));
    let bypass = selectors(&raw.bypass, findings);
    let replay_window = replay_window(&raw.esp, findings);
    let proposals = match &raw.esp.proposals {
        Some(list) => {
            let parsed = proposals(list, proposal::esp, findings);
            if replay_window == 0 && parsed.iter().any(|p| p.esn.contains(&Esn::Yes)) {
                findings.error(
                    list.span.clone(),
                    "extended sequence numbers need a replay window (RFC 4303 section 3.4.3)",
                    "use -noesn, or a replay_window from 32 to 4096",
                );
            }
            parsed
        }
        None => proposal::esp_defaults(replay_window != 0),
    };
    let rekey = lifetime::soft(&raw.esp, findings);
    let (local, remote, bypass) = (local?, remote?, bypass?);
    check_sides(raw, &local, &remote, findings);
    bypass::check(&raw.bypass, (&local, &remote), &bypass, findings);
    Some(ChildSpec {
        name: raw.name.value.to_owned(),
        local,
        remote,
        proposals,
        rekey,
        life: lifetime::hard(rekey),
        replay_window,
        bypass,
        offload: OffloadIntent::Auto,
    })
}

fn replay_window(raw: &RawEsp<'_>, findings: &mut Findings) -> u32 {
    const DEFAULT: u32 = 4096;
    match raw.replay_window.as_ref().map(|at| (at.value, &at.span)) {
        None => DEFAULT,
        Some((window @ (0 | 32..=4096), _)) => window as u32,
        Some((window, span)) => {
            let message = format!("a replay window of {window} packets does not exist");
            findings.error(span.clone(), message, "use 32 to 4096, or 0 for none");
            DEFAULT
        }
    }
}

/// The protocol number of TCP.
const TCP: u8 = 6;

/// Every selector has a partner on the other side.
fn check_sides(
    raw: &RawChild<'_>,
    local: &[TrafficSelector],
    remote: &[TrafficSelector],
    findings: &mut Findings,
) {
    let partner = |a: &TrafficSelector, others: &[TrafficSelector]| {
        others.iter().any(|b| {
            a.is_ipv4() == b.is_ipv4()
                && (a.protocol() == 0 || b.protocol() == 0 || a.protocol() == b.protocol())
        })
    };
    let sides = [(&raw.local, local, remote), (&raw.remote, remote, local)];
    for (list, own, other) in sides {
        if let Some(list) = list.as_ref().filter(|list| list.value.len() > MOST_NEGOTIATED) {
            findings.warning(
                list.span.start..list.span.start + 1,
                format!("{} networks are more than one child can negotiate", list.value.len()),
                format!("behind the first {MOST_NEGOTIATED} all stay blocked; make more children"),
            );
        }
        let texts = list.iter().flat_map(|list| &list.value);
        for (text, selector) in texts.zip(own).filter(|(_, s)| !partner(s, other)) {
            findings.error(
                text.span.clone(),
                format!("`{selector}` has no partner of its family and protocol on the other side"),
                "no packet can match it",
            );
        }
    }
    // TCP sends no fragments: its segments are made to fit.
    let cut = |selector: &TrafficSelector| {
        !selector.is_ipv4()
            && selector.protocol() != TCP
            && !selector.ports().is_any()
            && selector.ports() != PortRange::OPAQUE
    };
    let of_both = sides
        .iter()
        .flat_map(|(list, own, _)| list.iter().flat_map(|list| &list.value).zip(own.iter()));
    if let Some((text, selector)) = of_both.into_iter().find(|(_, selector)| cut(selector)) {
        findings.warning(
            text.span.clone(),
            format!("`{selector}` lets no IPv6 fragments pass, since they show no ports"),
            "datagrams of more than 1352 octets need a child without ports",
        );
    }
}

fn selectors(list: &[At<&str>], findings: &mut Findings) -> Option<Vec<TrafficSelector>> {
    let mut selectors = Vec::with_capacity(list.len());
    for text in list {
        match text.value.parse() {
            Ok(selector) => selectors.push(selector),
            Err(error) => findings.error(text.span.clone(), format!("{error}"), ""),
        }
    }
    (selectors.len() == list.len()).then_some(selectors)
}

fn proposals<T>(
    list: &At<Vec<At<&str>>>,
    parse: fn(&str) -> Result<T, String>,
    findings: &mut Findings,
) -> Vec<T> {
    if list.value.is_empty() {
        let help = "name one, or leave the key out for the defaults";
        findings.error(list.span.clone(), "the list of proposals is empty", help);
    }
    let mut parsed = Vec::with_capacity(list.value.len());
    for text in &list.value {
        match parse(text.value) {
            Ok(proposal) => parsed.push(proposal),
            Err(message) => {
                let message = format!("`{}`: {message}", shown(text.value));
                findings.error(text.span.clone(), message, "");
            }
        }
    }
    parsed
}

/// One of some words; the first one is the default.
fn word<T: Copy + Default>(
    raw: Option<&At<&str>>,
    key: &str,
    words: &[(&str, T)],
    findings: &mut Findings,
) -> T {
    let Some(text) = raw else { return T::default() };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text.value) {
        return *value;
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let help = match suggest::nearest(text.value, &known) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("use \"{}\"", known.join("\" or \"")),
    };
    let message = format!("`{key}` cannot be \"{}\"", shown(text.value));
    findings.error(text.span.clone(), message, help);
    T::default()
}

/// Names go into commands (`TUNNEL/CHILD`), logs and metrics.
fn check_name(name: &At<&str>, what: &str, findings: &mut Findings) {
    let fits = !name.value.is_empty()
        && name.value.len() <= 64
        && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b));
    if !fits {
        findings.error(
            name.span.clone(),
            format!("`{}` cannot be {what}", shown(name.value)),
            "use at most 64 letters, digits, dots, hyphens, underscores and colons",
        );
    }
}

fn check_overlaps(raw: &RawConfig<'_>, connections: &[ConnectionSpec], findings: &mut Findings) {
    let mut places = Vec::new();
    let mut nets = Vec::new();
    for (raw, spec) in raw.tunnels.iter().zip(connections) {
        if raw.children.len() != spec.children.len() {
            return;
        }
        for (raw_child, child) in raw.children.iter().zip(&spec.children) {
            places.push((format!("{}/{}", spec.name, child.name), raw_child.name.span.clone()));
            nets.push(overlap::Nets {
                local: &child.local,
                remote: &child.remote,
                has_bypass: !child.bypass.is_empty(),
            });
        }
    }
    for (first, second, kind) in overlap::find(&nets) {
        let (Some((first, _)), Some((second, span))) = (places.get(first), places.get(second))
        else {
            continue;
        };
        let takes = |who: &str| format!("packets that match both take `{who}`");
        let help = match kind {
            overlap::Overlap::Shadowed => {
                findings.error(
                    span.clone(),
                    format!("`{first}` already protects everything that `{second}` would"),
                    "give them different networks, or remove one",
                );
                continue;
            }
            overlap::Overlap::Earlier => takes(first),
            overlap::Overlap::Later => takes(second),
            overlap::Overlap::Mixed => {
                "packets that match both take the one with the narrower network".to_owned()
            }
        };
        findings.warning(span.clone(), format!("`{first}` and `{second}` overlap"), help);
    }
}

/// A passive tunnel comes up by its peer's call alone; for one that calls itself, the peer's calls
/// are lost.
fn check_callers(raw: &RawConfig<'_>, connections: &[ConnectionSpec], findings: &mut Findings) {
    for (first, second) in callers::indistinct(connections) {
        let (Some(first), Some(second), Some(raw)) =
            (connections.get(first), connections.get(second), raw.tunnels.get(second))
        else {
            continue;
        };
        let message = format!(
            "a peer that calls cannot be told to be `{}`, not `{}`, which has another key",
            second.name, first.name
        );
        let (span, help) = (raw.name.span.clone(), "give each of them a remote.id of its own");
        if second.mode == TunnelMode::Passive {
            findings.error(span, message, help);
        } else {
            findings.warning(span, message, help);
        }
    }
}
