//! The two ends of a tunnel: addresses and identities.

use std::net::IpAddr;

use gateway::spec::RemoteAddress;
use sa_store::{Identity, IdentityPattern, Prefix};

use super::{
    diagnostic::Findings,
    schema::{At, RawEnd, shown},
};

/// Reads `local`.
pub(super) fn local(
    raw: Option<&RawEnd<'_>>,
    findings: &mut Findings,
) -> (Vec<IpAddr>, Option<Identity>) {
    let Some(raw) = raw else { return (Vec::new(), None) };
    let mut addresses = Vec::new();
    for text in raw.address.iter().flat_map(|list| &list.value) {
        if matches!(text.value, "any" | "%any") {
            if raw.address.iter().any(|list| list.value.len() > 1) {
                findings.error(
                    text.span.clone(),
                    format!("`{}` beside others says nothing", shown(text.value)),
                    "leave it out, or leave out the others",
                );
            }
            continue;
        }
        match text.value.parse::<IpAddr>() {
            Ok(address) => addresses.extend(usable(address, text, findings)),
            Err(_) => findings.error(
                text.span.clone(),
                format!("`{}` is no address of this machine", shown(text.value)),
                "write an IPv4 or IPv6 address, or leave it out",
            ),
        }
    }
    let id = raw.id.as_ref().and_then(|text| match text.value.parse::<Identity>() {
        Ok(id) => Some(id),
        Err(error) => {
            identity_error(text, &error, findings);
            None
        }
    });
    (addresses, id)
}

/// Reads `remote`; the identity is what the address says unless it is written down.
pub(super) fn remote(
    raw: &RawEnd<'_>,
    broken: bool,
    findings: &mut Findings,
) -> Option<(Vec<RemoteAddress>, IdentityPattern)> {
    let Some(list) = &raw.address else {
        if !broken {
            findings.error(
                raw.span.clone(),
                "`remote` has no address",
                "add address = an address, a host name, a prefix or \"any\"",
            );
        }
        return None;
    };
    if list.value.is_empty() {
        findings.error(list.span.clone(), "the list of remote addresses is empty", "name one");
        return None;
    }
    let mut addresses = Vec::new();
    for text in &list.value {
        addresses.extend(remote_address(text, findings));
    }
    let default = match addresses.as_slice() {
        [RemoteAddress::Address(address)] => IdentityPattern::Exact(Identity::Address(*address)),
        _ => IdentityPattern::Any,
    };
    let id = match &raw.id {
        None => default,
        Some(text) => match text.value.parse::<IdentityPattern>() {
            Ok(pattern) => pattern,
            Err(error) => {
                identity_error(text, &error, findings);
                return None;
            }
        },
    };
    (addresses.len() == list.value.len()).then_some((addresses, id))
}

fn remote_address(text: &At<&str>, findings: &mut Findings) -> Option<RemoteAddress> {
    let value = text.value;
    if matches!(value, "any" | "%any") {
        return Some(RemoteAddress::Any);
    }
    if value.contains('/') {
        return match value.parse::<Prefix>() {
            Ok(prefix) => Some(RemoteAddress::Prefix(prefix)),
            Err(error) => {
                findings.error(text.span.clone(), error.to_string(), "");
                None
            }
        };
    }
    if let Ok(address) = value.parse::<IpAddr>() {
        return usable(address, text, findings).map(RemoteAddress::Address);
    }
    if is_host_name(value) {
        return Some(RemoteAddress::Host(value.to_owned()));
    }
    findings.error(
        text.span.clone(),
        format!("`{}` is no address, host name or prefix", shown(value)),
        "write for example \"192.0.2.2\", \"b.example\", \"192.0.2.0/24\" or \"any\"",
    );
    None
}

fn usable(address: IpAddr, text: &At<&str>, findings: &mut Findings) -> Option<IpAddr> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        findings.error(
            text.span.clone(),
            format!("`{address}` is no address of one machine"),
            "write \"any\" if every address may come",
        );
        return None;
    }
    Some(address)
}

fn identity_error(text: &At<&str>, error: &sa_store::IdentityError, findings: &mut Findings) {
    findings.error(
        text.span.clone(),
        format!("`{}` is no identity: {error}", shown(text.value)),
        "write for example \"a.example\", \"user@example.org\" or an address",
    );
}

/// RFC 1123 names; what looks like a mistyped IPv4 address is none.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && !name.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_only_looks_like_one() {
        for (text, want) in [
            ("b.example", true),
            ("gw-1.b.example.", true),
            ("localhost", true),
            ("192.0.2.300", false),
            ("192.0.2", false),
            ("a..b", false),
            ("-a.b", false),
            ("a b", false),
            ("fe80::1%eth0", false),
            ("", false),
        ] {
            assert_eq!(is_host_name(text), want, "{text}");
        }
    }
}
