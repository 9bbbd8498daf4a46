//! `[tunnels.NAME]`

use ::ike::config::EncapPolicy;
use gateway::spec::{ConnectionSpec, RemoteAddress, TunnelMode};

use super::{
    super::{
        Context,
        diagnostic::Findings,
        end, exempt,
        schema::{At, RawTunnel, shown},
    },
    auth, child, ike,
    words::{check_name, word},
};

pub(super) fn connection(
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
        Some(auth) => auth::auth(auth, raw.broken, context, findings),
        None => {
            missing("auth", "add auth = { psk_file = \"name.psk\" }", findings);
            None
        }
    };
    let ike = ike::ike(&raw.ike, findings);
    if raw.children.is_empty() {
        missing("children", "add [tunnels.NAME.children.NAME] with local and remote", findings);
    }
    let children: Vec<_> =
        raw.children.iter().filter_map(|child| child::child(child, findings)).collect();
    let (remote, remote_id) = remote?;
    check_ends(raw, mode, &local, &remote, findings);
    if children.len() == raw.children.len() {
        for (text, child) in raw.children.iter().zip(&children) {
            let networks = (&child.local[..], &child.remote[..]);
            exempt::check_peer(text, networks, (&local, &remote), findings);
        }
    }
    Some(ConnectionSpec {
        name: raw.name.value.to_owned(),
        mode,
        local,
        remote,
        local_id,
        remote_id,
        auth: auth?,
        proposals: ike.proposals,
        rekey: ike.rekey,
        dpd: ike.dpd,
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
