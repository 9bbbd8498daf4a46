//! Everything that the JSON has of one tunnel, for people: `postern sa TUNNEL`. With the SPIs in it a
//! packet of a capture is found.

use std::fmt::Write;

use api::postern::v1::{Child, Endpoint, GetStatusResponse, IkeSa, Tunnel};

use crate::render::{clean, size, span};

/// What stands for nothing.
const NOTHING: &str = "-";

/// Labels and values under a title.
struct Section {
    title: String,
    rows: Vec<(&'static str, String)>,
}

/// The details of every tunnel in `now`, and of the gateway.
#[must_use]
pub fn details(now: &GetStatusResponse) -> String {
    let mut sections = Vec::new();
    for tunnel in &now.tunnels {
        sections.push(of_tunnel(tunnel));
        sections.extend(tunnel.ike_sas.iter().map(of_ike_sa));
        sections.extend(tunnel.children.iter().map(of_child));
    }
    sections.push(of_gateway(now));
    let labels = sections.iter().flat_map(|section| &section.rows);
    let width = labels.map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut out = String::new();
    for section in &sections {
        let _ = writeln!(out, "\n{}", section.title);
        for (label, value) in &section.rows {
            let _ = writeln!(out, "  {label:<width$}  {value}");
        }
    }
    out
}

impl Section {
    fn new(title: String) -> Self {
        Self { title, rows: Vec::new() }
    }

    fn row(&mut self, label: &'static str, value: impl Into<String>) {
        self.rows.push((label, value.into()));
    }

    fn text(&mut self, label: &'static str, value: &str) {
        self.row(label, if value.is_empty() { NOTHING.to_owned() } else { clean(value) });
    }

    fn spi(&mut self, label: &'static str, hex: &str) {
        self.row(label, spi(hex));
    }

    fn truth(&mut self, label: &'static str, value: bool) {
        self.row(label, if value { "yes" } else { "no" });
    }

    fn count(&mut self, label: &'static str, value: u64) {
        self.row(label, value.to_string());
    }

    fn bytes(&mut self, label: &'static str, value: u64) {
        self.row(label, format!("{value} ({})", size(value)));
    }

    fn time(&mut self, label: &'static str, seconds: Option<u64>) {
        let text = |seconds| format!("{seconds} s ({})", span(seconds));
        self.row(label, seconds.map_or_else(|| NOTHING.to_owned(), text));
    }

    /// One line each.
    fn list(&mut self, label: &'static str, values: impl IntoIterator<Item = String>) {
        let mut label = Some(label);
        for value in values {
            self.row(label.take().unwrap_or(""), value);
        }
        if let Some(label) = label {
            self.row(label, NOTHING);
        }
    }

    fn end(&mut self, labels: [&'static str; 3], end: Option<&Endpoint>) {
        let (address, port, id) =
            end.map_or(("", 0, ""), |end| (&*end.address, end.port, &*end.id));
        self.text(labels[0], address);
        self.count(labels[1], port.into());
        self.text(labels[2], id);
    }
}

/// As capture programs show it.
fn spi(hex: &str) -> String {
    if hex.is_empty() { NOTHING.to_owned() } else { format!("0x{}", clean(hex)) }
}

fn of_tunnel(tunnel: &Tunnel) -> Section {
    let mut section = Section::new(format!("tunnel {}", clean(&tunnel.name)));
    section.text("state", &tunnel.state);
    section.text("mode", &tunnel.mode);
    section.truth("held down", tunnel.held);
    section.time("next attempt in", tunnel.next_attempt_in_s);
    section.end(["our address", "our port", "our identity"], tunnel.local.as_ref());
    section.end(["peer's address", "peer's port", "peer's identity"], tunnel.remote.as_ref());
    match &tunnel.last_error {
        Some(error) => {
            section.text("last error", &error.code);
            section.text("what it says", &error.message);
            section.time("how long ago", Some(error.ago_s));
        }
        None => section.row("last error", NOTHING),
    }
    section
}

fn of_ike_sa(sa: &IkeSa) -> Section {
    let mut section = Section::new(format!("IKE SA {}", sa.id));
    section.text("state", &sa.state);
    section.truth("we initiated", sa.initiator);
    section.spi("SPI of initiator", &sa.spi_i);
    section.spi("SPI of responder", &sa.spi_r);
    section.text("proposal", &sa.proposal);
    section.time("established", sa.established_s);
    section.time("rekey in", sa.rekey_in_s);
    section.truth("NAT before us", sa.nat_local);
    section.truth("NAT before the peer", sa.nat_remote);
    section
}

fn of_child(child: &Child) -> Section {
    let mut section = Section::new(format!("child {}", clean(&child.name)));
    section.text("state", &child.state);
    section.count("pair", child.id);
    section.spi("SPI in", &child.spi_in);
    section.spi("SPI out", &child.spi_out);
    let pairs = child.draining.iter().map(|pair| {
        format!("pair {}: SPI in {}, SPI out {}", pair.id, spi(&pair.spi_in), spi(&pair.spi_out))
    });
    section.list("draining", pairs);
    section.text("mode", &child.mode);
    section.text("path", &child.path);
    section.list("passed over", child.passed_over.iter().map(|text| clean(text)));
    section.text("encapsulation", &child.encap);
    section.text("proposal", &child.proposal);
    section.truth("ESN", child.esn);
    section.list("our networks", child.local.iter().map(|text| clean(text)));
    section.list("peer's networks", child.remote.iter().map(|text| clean(text)));
    section.list("ours not covered", child.uncovered_local.iter().map(|text| clean(text)));
    section.list("peer's not covered", child.uncovered_remote.iter().map(|text| clean(text)));
    section.bytes("bytes in", child.bytes_in);
    section.count("packets in", child.packets_in);
    section.bytes("bytes out", child.bytes_out);
    section.count("packets out", child.packets_out);
    let dropped = child.dropped.unwrap_or_default();
    section.count("dropped: replay", dropped.replay);
    section.count("dropped: auth", dropped.auth);
    section.count("dropped: policy", dropped.policy);
    section.count("dropped: malformed", dropped.malformed);
    section.count("dropped: expired", dropped.expired);
    section.time("installed", child.installed_s);
    section.time("rekey in", child.rekey_in_s);
    section.time("expires in", child.expires_in_s);
    section
}

fn of_gateway(now: &GetStatusResponse) -> Section {
    let mut section = Section::new(format!("gateway {}", clean(&now.gateway)));
    let counts = |counts: &[api::postern::v1::Count]| -> Vec<String> {
        counts.iter().map(|count| format!("{} {}", count.count, clean(&count.reason))).collect()
    };
    section.count("packets for no SA", now.no_sa);
    section.list("dropped", counts(&now.dropped));
    section.list("IKE dropped", counts(&now.ike_dropped));
    section.count("internal errors", now.internal_errors);
    section.list("warnings", now.warnings.iter().map(|text| clean(text)));
    let clear = now.clear.iter().map(|clear| match &*clear.interface {
        "" => clean(&clear.network),
        interface => format!("{} by {}", clean(&clear.network), clean(interface)),
    });
    section.list("stays clear", clear);
    section
}
