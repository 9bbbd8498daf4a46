//! What the keys of `config.toml` mean, and which of them cannot stand together.

mod across;
mod auth;
mod child;
mod esp;
mod gateway;
mod ike;
mod inline;
mod tunnel;
mod words;

use super::{
    Config, Context, Report, Traces, bypass, clear,
    diagnostic::Findings,
    schema::{RawConfig, RawGateway, RawInline},
};

/// Gives meaning to what was read. `None`, or errors among the findings, is a refusal.
pub(super) fn validate(
    raw: &RawConfig<'_>,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<Config> {
    let gateway = gateway::gateway(&raw.gateway, context, findings);
    let inline = inline::inline(&raw.inline, findings);
    let mut connections = Vec::new();
    for tunnel in &raw.tunnels {
        connections.extend(tunnel::connection(tunnel, context, findings));
    }
    if connections.len() == raw.tunnels.len() {
        across::check_overlaps(raw, &connections, findings);
        bypass::check_across(raw, &connections, findings);
        across::check_callers(raw, &connections, findings);
        if let Some(gateway) = &gateway {
            let clear = raw.gateway.clear.as_ref();
            clear::apply(clear, &gateway.clear, &mut connections, findings);
        }
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
        interface: inline::inline(&interface, findings).map_or(default, |inline| inline.interface),
        control: gateway::control_path(control.as_ref(), context, findings)
            .unwrap_or_else(|| api::DEFAULT_CONTROL_SOCKET.into()),
        state_dir: gateway::state_path(state_dir.as_ref(), context, findings)
            .unwrap_or_else(|| gateway::DEFAULT_STATE_DIR.into()),
    }
}
