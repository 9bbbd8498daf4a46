//! The shape of `config.toml`: keys and types with their places in the text, no meaning yet.

mod auth;
mod child;
mod end;
mod esp;
mod gateway;
mod ike;
mod inline;
mod reader;
mod tunnel;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use self::reader::Reader;
pub(super) use self::{
    auth::RawAuth,
    child::RawChild,
    end::RawEnd,
    esp::RawEsp,
    gateway::RawGateway,
    ike::RawIke,
    inline::{RawInline, Workers},
    reader::{At, shown},
    tunnel::RawTunnel,
};
use super::diagnostic::Findings;

/// A whole file.
#[derive(Default)]
pub(super) struct RawConfig<'a> {
    pub(super) gateway: RawGateway<'a>,
    pub(super) inline: RawInline<'a>,
    pub(super) tunnels: Vec<RawTunnel<'a>>,
}

/// Reads a parsed document.
pub(super) fn read<'a>(
    document: &'a Spanned<DeTable<'a>>,
    findings: &mut Findings,
) -> RawConfig<'a> {
    let mut top = Reader::of(document.get_ref(), document.span(), String::new(), findings);
    top.check_keys(&["gateway", "inline", "tunnels"], &["api"]);
    let gateway = RawGateway::read(&mut top).unwrap_or_default();
    let inline = RawInline::read(&mut top).unwrap_or_default();
    RawConfig { gateway, inline, tunnels: tunnels(&mut top) }
}

fn tunnels<'a>(top: &mut Reader<'a, '_>) -> Vec<RawTunnel<'a>> {
    let mut tunnels = Vec::new();
    let Some(value) = top.get("tunnels") else { return tunnels };
    let DeValue::Table(table) = value.get_ref() else {
        top.wrong_type("tunnels", value, "tables", "[tunnels.NAME]");
        return tunnels;
    };
    let names = Reader::of(table, value.span(), "tunnels".into(), top.findings);
    for (name, value) in names.entries() {
        tunnels.extend(RawTunnel::read(name, value, names.findings));
    }
    tunnels
}
