//! The shape of `config.toml`: keys and types with their places in the text, no meaning yet.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{diagnostic::Findings, suggest};

type Span = Range<usize>;
type Value<'a> = Spanned<DeValue<'a>>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// A whole file.
#[derive(Default)]
pub(super) struct RawConfig<'a> {
    pub(super) gateway: RawGateway<'a>,
    pub(super) inline: RawInline<'a>,
    pub(super) tunnels: Vec<RawTunnel<'a>>,
}

/// `[gateway]`
#[derive(Default)]
pub(super) struct RawGateway<'a> {
    pub(super) name: Option<At<&'a str>>,
    pub(super) dataplane: Option<At<&'a str>>,
    pub(super) control: Option<At<&'a str>>,
    pub(super) state_dir: Option<At<&'a str>>,
    pub(super) on_stop: Option<At<&'a str>>,
}

/// `[inline]`
#[derive(Default)]
pub(super) struct RawInline<'a> {
    pub(super) interface: Option<At<&'a str>>,
    pub(super) workers: Option<At<Workers<'a>>>,
}

/// A number, or a word.
#[derive(Clone, Copy, Debug)]
pub(super) enum Workers<'a> {
    Word(&'a str),
    Number(u64),
}

/// `[tunnels.NAME]`
pub(super) struct RawTunnel<'a> {
    pub(super) name: At<&'a str>,
    pub(super) mode: Option<At<&'a str>>,
    pub(super) local: Option<RawEnd<'a>>,
    pub(super) remote: Option<RawEnd<'a>>,
    pub(super) auth: Option<RawAuth<'a>>,
    pub(super) ike: RawIke<'a>,
    pub(super) encap: Option<At<&'a str>>,
    pub(super) children: Vec<RawChild<'a>>,
    /// Whether something in it was already complained about: then nothing is said to be missing.
    pub(super) broken: bool,
}

/// `local` and `remote` of a tunnel.
pub(super) struct RawEnd<'a> {
    pub(super) span: Span,
    pub(super) address: Option<At<Vec<At<&'a str>>>>,
    pub(super) id: Option<At<&'a str>>,
}

/// `auth` of a tunnel. No `Debug`: it may hold a secret.
pub(super) struct RawAuth<'a> {
    pub(super) span: Span,
    pub(super) psk: Option<At<&'a str>>,
    pub(super) psk_file: Option<At<&'a str>>,
}

/// `ike` of a tunnel.
#[derive(Default)]
pub(super) struct RawIke<'a> {
    pub(super) proposals: Option<At<Vec<At<&'a str>>>>,
    pub(super) rekey: Option<At<&'a str>>,
    pub(super) dpd: Option<At<&'a str>>,
}

/// `[tunnels.NAME.children.NAME]`
pub(super) struct RawChild<'a> {
    pub(super) name: At<&'a str>,
    pub(super) local: Option<At<Vec<At<&'a str>>>>,
    pub(super) remote: Option<At<Vec<At<&'a str>>>>,
    pub(super) esp: RawEsp<'a>,
    pub(super) bypass: Vec<At<&'a str>>,
    pub(super) broken: bool,
}

/// `esp` of a child.
#[derive(Default)]
pub(super) struct RawEsp<'a> {
    pub(super) proposals: Option<At<Vec<At<&'a str>>>>,
    pub(super) rekey: Option<At<&'a str>>,
    pub(super) rekey_bytes: Option<At<&'a str>>,
    pub(super) rekey_packets: Option<At<u64>>,
    pub(super) replay_window: Option<At<u64>>,
}

/// One table being read: knows its keys and says what is wrong with the others.
struct Reader<'a, 'f> {
    table: &'a DeTable<'a>,
    span: Span,
    place: String,
    findings: &'f mut Findings,
    broken: bool,
}

impl<'a, 'f> Reader<'a, 'f> {
    /// Opens `value`, complains about keys that are neither in `known` nor in `later`.
    fn open(
        value: &'a Value<'a>,
        place: String,
        known: &[&str],
        later: &[&str],
        findings: &'f mut Findings,
    ) -> Option<Self> {
        let span = value.span();
        let DeValue::Table(table) = value.get_ref() else {
            findings.error(
                span,
                format!("`{place}` takes a table, not {}", kind(value.get_ref())),
                format!("write {{ {} = ... }}", known.first().unwrap_or(&"key")),
            );
            return None;
        };
        let mut reader = Self { table, span, place, findings, broken: false };
        reader.check_keys(known, later);
        Some(reader)
    }

    fn check_keys(&mut self, known: &[&str], later: &[&str]) {
        let place = if self.place.is_empty() {
            "at the top of the file".to_owned()
        } else {
            format!("in `{}`", self.place)
        };
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            self.broken = true;
            if later.contains(&name) {
                self.findings.error(
                    key.span(),
                    format!("`{}` {place} is not available yet", shown(name)),
                    "remove it",
                );
                continue;
            }
            let help = match suggest::nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            self.findings.error(key.span(), format!("unknown key `{}` {place}", shown(name)), help);
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value<'a>> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    /// Entries in the order of the text.
    fn entries(&self) -> Vec<(At<&'a str>, &'a Value<'a>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| (At { value: key.get_ref().as_ref(), span: key.span() }, value))
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    fn path(&self, key: &str) -> String {
        let key = shown(key);
        if self.place.is_empty() { key } else { format!("{}.{key}", self.place) }
    }

    fn wrong_type(&mut self, key: &str, value: &Value<'_>, wanted: &str, example: &str) {
        self.broken = true;
        self.findings.error(
            value.span(),
            format!("`{key}` takes {wanted}, not {}", kind(value.get_ref())),
            if example.is_empty() { String::new() } else { format!("write {example}") },
        );
    }

    fn string(&mut self, key: &str, example: &str) -> Option<At<&'a str>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At { value: text.as_ref(), span: value.span() }),
            _ => {
                self.wrong_type(key, value, "a string", example);
                None
            }
        }
    }

    fn integer(&mut self, key: &str, example: &str) -> Option<At<u64>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Integer(number) => {
                if let Ok(number) = u64::from_str_radix(number.as_str(), number.radix()) {
                    return Some(At { value: number, span: value.span() });
                }
                self.broken = true;
                self.findings.error(
                    value.span(),
                    format!("`{key}` takes a number that is neither negative nor huge"),
                    format!("write {example}"),
                );
                None
            }
            _ => {
                self.wrong_type(key, value, "a number", example);
                None
            }
        }
    }

    /// A list of strings; with `single`, one string stands for a list of one.
    fn strings(&mut self, key: &str, single: bool, example: &str) -> Option<At<Vec<At<&'a str>>>> {
        let value = self.get(key)?;
        let span = value.span();
        match value.get_ref() {
            DeValue::String(text) if single => {
                let item = At { value: text.as_ref(), span: span.clone() };
                Some(At { value: vec![item], span })
            }
            DeValue::Array(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    match item.get_ref() {
                        DeValue::String(text) => {
                            list.push(At { value: text.as_ref(), span: item.span() });
                        }
                        _ => self.wrong_type(key, item, "strings in its list", example),
                    }
                }
                Some(At { value: list, span })
            }
            _ => {
                let wanted =
                    if single { "a string or a list of strings" } else { "a list of strings" };
                self.wrong_type(key, value, wanted, example);
                None
            }
        }
    }

    /// Opens a table inside this one.
    fn table(&mut self, key: &str, known: &[&str], later: &[&str]) -> Option<Reader<'a, '_>> {
        let value = self.get(key)?;
        let place = self.path(key);
        if !value.get_ref().is_table() {
            self.broken = true;
        }
        Reader::open(value, place, known, later, self.findings)
    }
}

/// Reads a parsed document.
pub(super) fn read<'a>(
    document: &'a Spanned<DeTable<'a>>,
    findings: &mut Findings,
) -> RawConfig<'a> {
    let mut top = Reader {
        table: document.get_ref(),
        span: document.span(),
        place: String::new(),
        findings,
        broken: false,
    };
    top.check_keys(&["gateway", "inline", "tunnels"], &["api"]);
    let mut config = RawConfig::default();
    let keys = ["name", "dataplane", "control", "state_dir", "on_stop"];
    if let Some(mut reader) = top.table("gateway", &keys, &[]) {
        config.gateway = RawGateway {
            name: reader.string("name", "\"site-a\""),
            dataplane: reader.string("dataplane", "\"auto\""),
            control: reader.string("control", "\"/run/postern/control.sock\""),
            state_dir: reader.string("state_dir", "\"/var/lib/postern\""),
            on_stop: reader.string("on_stop", "\"closed\""),
        };
    }
    if let Some(mut reader) = top.table("inline", &["interface", "workers"], &[]) {
        config.inline = RawInline {
            interface: reader.string("interface", "\"postern0\""),
            workers: match reader.get("workers").map(|v| (v.get_ref(), v.span())) {
                Some((DeValue::String(text), span)) => {
                    Some(At { value: Workers::Word(text.as_ref()), span })
                }
                Some((DeValue::Integer(_), _)) => reader
                    .integer("workers", "\"auto\" or a number")
                    .map(|at| At { value: Workers::Number(at.value), span: at.span }),
                Some(_) => {
                    reader.string("workers", "\"auto\" or a number");
                    None
                }
                None => None,
            },
        };
    }
    if let Some(value) = top.get("tunnels") {
        if let DeValue::Table(table) = value.get_ref() {
            let names = Reader {
                table,
                span: value.span(),
                place: "tunnels".into(),
                findings: &mut *top.findings,
                broken: false,
            };
            for (name, value) in names.entries() {
                config.tunnels.extend(read_tunnel(name, value, names.findings));
            }
        } else {
            top.wrong_type("tunnels", value, "tables", "[tunnels.NAME]");
        }
    }
    config
}

fn read_tunnel<'a>(
    name: At<&'a str>,
    value: &'a Value<'a>,
    findings: &mut Findings,
) -> Option<RawTunnel<'a>> {
    let place = format!("tunnels.{}", shown(name.value));
    let known = ["mode", "local", "remote", "auth", "ike", "encap", "children"];
    let mut reader = Reader::open(value, place, &known, &[], findings)?;
    let mode = reader.string("mode", "\"always-on\"");
    let encap = reader.string("encap", "\"auto\"");
    let local = read_end(&mut reader, "local");
    let remote = read_end(&mut reader, "remote");
    let auth =
        reader.table("auth", &["psk", "psk_file"], &["cert", "key", "ca"]).map(|mut inner| {
            let broken = inner.broken;
            let auth = RawAuth {
                span: inner.span.clone(),
                psk: inner.string("psk", ""),
                psk_file: inner.string("psk_file", "\"site-b.psk\""),
            };
            (auth, broken || inner.broken)
        });
    let ike = match reader.table("ike", &["proposals", "rekey", "dpd"], &[]) {
        Some(mut inner) => RawIke {
            proposals: inner.strings("proposals", false, "[\"aes256gcm16-prfsha384-ecp384\"]"),
            rekey: inner.string("rekey", "\"4h\""),
            dpd: inner.string("dpd", "\"30s\""),
        },
        None => RawIke::default(),
    };
    let mut children = Vec::new();
    if let Some(value) = reader.get("children") {
        if let DeValue::Table(table) = value.get_ref() {
            let names = Reader {
                table,
                span: value.span(),
                place: reader.path("children"),
                findings: &mut *reader.findings,
                broken: false,
            };
            for (name, value) in names.entries() {
                children.extend(read_child(name, &names.place, value, names.findings));
            }
            reader.broken |= children.len() < table.len();
        } else {
            reader.wrong_type("children", value, "tables", "[tunnels.NAME.children.NAME]");
        }
    }
    let broken = reader.broken || auth.as_ref().is_some_and(|(_, broken)| *broken);
    let auth = auth.map(|(auth, _)| auth);
    Some(RawTunnel { name, mode, local, remote, auth, ike, encap, children, broken })
}

fn read_end<'a>(reader: &mut Reader<'a, '_>, key: &str) -> Option<RawEnd<'a>> {
    let mut inner = reader.table(key, &["address", "id"], &[])?;
    let end = RawEnd {
        span: inner.span.clone(),
        address: inner.strings("address", true, "\"192.0.2.2\""),
        id: inner.string("id", "\"b.example\""),
    };
    let broken = inner.broken;
    reader.broken |= broken;
    Some(end)
}

fn read_child<'a>(
    name: At<&'a str>,
    place: &str,
    value: &'a Value<'a>,
    findings: &mut Findings,
) -> Option<RawChild<'a>> {
    let place = format!("{place}.{}", shown(name.value));
    let known = ["local", "remote", "esp", "bypass", "mode"];
    let mut reader = Reader::open(value, place, &known, &["interface"], findings)?;
    if let Some(mode) = reader.string("mode", "\"tunnel\"") {
        match mode.value {
            "tunnel" => {}
            "transport" => reader.findings.error(
                mode.span,
                "`mode = \"transport\"` is not available yet",
                "remove it: \"tunnel\" is the default",
            ),
            other => reader.findings.error(
                mode.span,
                format!("`{}` is no mode of a child", shown(other)),
                "remove it: \"tunnel\" is the default",
            ),
        }
    }
    let local = reader.strings("local", false, "[\"10.1.0.0/16\"]");
    let remote = reader.strings("remote", false, "[\"10.2.0.0/16\"]");
    let bypass = reader.strings("bypass", false, "[\"10.2.3.0/24\"]");
    let keys = ["proposals", "rekey", "rekey_bytes", "rekey_packets", "replay_window"];
    let esp = match reader.table("esp", &keys, &[]) {
        Some(mut inner) => RawEsp {
            proposals: inner.strings("proposals", false, "[\"aes256gcm16-esn\"]"),
            rekey: inner.string("rekey", "\"1h\""),
            rekey_bytes: inner.string("rekey_bytes", "\"1TiB\""),
            rekey_packets: inner.integer("rekey_packets", "1000000000"),
            replay_window: inner.integer("replay_window", "4096"),
        },
        None => RawEsp::default(),
    };
    let bypass = bypass.map(|list| list.value).unwrap_or_default();
    Some(RawChild { name, local, remote, esp, bypass, broken: reader.broken })
}

/// What a value is, with its article.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A name from the file, cut and without control characters.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(64).is_some() {
        shown.push_str("...");
    }
    shown
}
