//! `[tunnels.NAME.children.NAME]`

use super::{
    super::diagnostic::Findings,
    esp::RawEsp,
    reader::{At, Reader, Value, shown},
};

/// `[tunnels.NAME.children.NAME]`
pub(crate) struct RawChild<'a> {
    pub(crate) name: At<&'a str>,
    pub(crate) local: Option<At<Vec<At<&'a str>>>>,
    pub(crate) remote: Option<At<Vec<At<&'a str>>>>,
    pub(crate) esp: RawEsp<'a>,
    pub(crate) bypass: Vec<At<&'a str>>,
    pub(crate) broken: bool,
}

impl<'a> RawChild<'a> {
    pub(super) fn read(
        name: At<&'a str>,
        place: &str,
        value: &'a Value<'a>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let place = format!("{place}.{}", shown(name.value));
        let known = ["local", "remote", "esp", "bypass", "mode"];
        let mut reader = Reader::open(value, place, &known, &["interface"], findings)?;
        check_mode(&mut reader);
        let local = reader.strings("local", false, "[\"10.1.0.0/16\"]");
        let remote = reader.strings("remote", false, "[\"10.2.0.0/16\"]");
        let bypass = reader.strings("bypass", false, "[\"10.2.3.0/24\"]");
        let esp = RawEsp::read(&mut reader).unwrap_or_default();
        let bypass = bypass.map(|list| list.value).unwrap_or_default();
        Some(Self { name, local, remote, esp, bypass, broken: reader.broken })
    }
}

fn check_mode(reader: &mut Reader<'_, '_>) {
    let Some(mode) = reader.string("mode", "\"tunnel\"") else { return };
    let message = match mode.value {
        "tunnel" => return,
        "transport" => "`mode = \"transport\"` is not available yet".to_owned(),
        other => format!("`{}` is no mode of a child", shown(other)),
    };
    reader.findings.error(mode.span, message, "remove it: \"tunnel\" is the default");
}
