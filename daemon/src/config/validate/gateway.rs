//! `[gateway]`

use std::path::PathBuf;

use sa_store::OffloadIntent;

use super::{
    super::{
        Context, GatewayConfig, OnStop, clear,
        diagnostic::Findings,
        schema::{At, RawGateway, shown},
        suggest,
    },
    words::{check_name, word},
};

/// Where the lock is when nobody says so.
pub(super) const DEFAULT_STATE_DIR: &str = "/var/lib/postern";

pub(super) fn gateway(
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
        clear: clear::networks(raw.clear.as_ref(), findings),
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
        None if fastpath::is_interface_name(text.value) => {
            ("is not available yet", "use \"auto\" or \"inline\"".to_owned())
        }
        None => ("does not exist", "use \"auto\" or \"inline\"".to_owned()),
    };
    let message = format!("`dataplane = \"{}\"` {what}", shown(text.value));
    findings.error(text.span.clone(), message, help);
    OffloadIntent::Auto
}

pub(super) fn control_path(
    text: Option<&At<&str>>,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<PathBuf> {
    // 107 octets are the most that a Unix socket's address holds.
    path(text, api::DEFAULT_CONTROL_SOCKET, 107, context, findings)
}

pub(super) fn state_path(
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
    if text.value.is_empty() || text.value.contains(char::is_control) {
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
