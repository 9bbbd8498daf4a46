//! `[tunnels.NAME.children.NAME]`

use gateway::spec::ChildSpec;
use sa_store::{OffloadIntent, PortRange, TrafficSelector};

use super::{
    super::{
        bypass,
        diagnostic::Findings,
        exempt, lifetime,
        schema::{At, RawChild, shown},
    },
    esp,
    words::check_name,
};

/// Selectors a TS payload holds (RFC 7296 §3.13).
const MOST_NEGOTIATED: usize = 255;

/// The protocol number of TCP.
const TCP: u8 = 6;

pub(super) fn child(raw: &RawChild<'_>, findings: &mut Findings) -> Option<ChildSpec> {
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
    let esp = esp::esp(&raw.esp, findings);
    let (local, remote, bypass) = (local?, remote?, bypass?);
    check_sides(raw, &local, &remote, findings);
    bypass::check(&raw.bypass, (&local, &remote), &bypass, findings);
    exempt::check(raw, (&local, &remote), &bypass, findings);
    Some(ChildSpec {
        name: raw.name.value.to_owned(),
        local,
        remote,
        proposals: esp.proposals,
        rekey: esp.rekey,
        life: lifetime::hard(esp.rekey),
        replay_window: esp.replay_window,
        bypass,
        offload: OffloadIntent::Auto,
    })
}

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
