//! `[tunnels.NAME]`

use toml::de::DeValue;

use super::{
    super::diagnostic::Findings,
    auth::RawAuth,
    child::RawChild,
    end::RawEnd,
    ike::RawIke,
    reader::{At, Reader, Value, shown},
};

/// `[tunnels.NAME]`
pub(crate) struct RawTunnel<'a> {
    pub(crate) name: At<&'a str>,
    pub(crate) mode: Option<At<&'a str>>,
    pub(crate) local: Option<RawEnd<'a>>,
    pub(crate) remote: Option<RawEnd<'a>>,
    pub(crate) auth: Option<RawAuth<'a>>,
    pub(crate) ike: RawIke<'a>,
    pub(crate) encap: Option<At<&'a str>>,
    pub(crate) children: Vec<RawChild<'a>>,
    /// Whether something in it was already complained about: then nothing is said to be missing.
    pub(crate) broken: bool,
}

impl<'a> RawTunnel<'a> {
    pub(super) fn read(
        name: At<&'a str>,
        value: &'a Value<'a>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let place = format!("tunnels.{}", shown(name.value));
        let known = ["mode", "local", "remote", "auth", "ike", "encap", "children"];
        let mut reader = Reader::open(value, place, &known, &[], findings)?;
        let mode = reader.string("mode", "\"always-on\"");
        let encap = reader.string("encap", "\"auto\"");
        let local = RawEnd::read(&mut reader, "local");
        let remote = RawEnd::read(&mut reader, "remote");
        let auth = RawAuth::read(&mut reader);
        let ike = RawIke::read(&mut reader).unwrap_or_default();
        let children = children(&mut reader);
        let broken = reader.broken;
        Some(Self { name, mode, local, remote, auth, ike, encap, children, broken })
    }
}

fn children<'a>(reader: &mut Reader<'a, '_>) -> Vec<RawChild<'a>> {
    let mut children = Vec::new();
    let Some(value) = reader.get("children") else { return children };
    let DeValue::Table(table) = value.get_ref() else {
        reader.wrong_type("children", value, "tables", "[tunnels.NAME.children.NAME]");
        return children;
    };
    let place = reader.path("children");
    let names = Reader::of(table, value.span(), place, reader.findings);
    for (name, value) in names.entries() {
        children.extend(RawChild::read(name, &names.place, value, names.findings));
    }
    reader.broken |= children.len() < table.len();
    children
}
