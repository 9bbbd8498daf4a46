//! `[gateway]`

use super::reader::{At, Reader};

/// `[gateway]`
#[derive(Default)]
pub(crate) struct RawGateway<'a> {
    pub(crate) name: Option<At<&'a str>>,
    pub(crate) dataplane: Option<At<&'a str>>,
    pub(crate) control: Option<At<&'a str>>,
    pub(crate) state_dir: Option<At<&'a str>>,
    pub(crate) on_stop: Option<At<&'a str>>,
    pub(crate) clear: Option<At<Vec<At<&'a str>>>>,
}

impl<'a> RawGateway<'a> {
    pub(super) fn read(top: &mut Reader<'a, '_>) -> Option<Self> {
        let keys = ["name", "dataplane", "control", "state_dir", "on_stop", "clear"];
        let mut reader = top.table("gateway", &keys, &[])?;
        Some(Self {
            name: reader.string("name", "\"site-a\""),
            dataplane: reader.string("dataplane", "\"auto\""),
            control: reader.string("control", "\"/run/postern/control.sock\""),
            state_dir: reader.string("state_dir", "\"/var/lib/postern\""),
            on_stop: reader.string("on_stop", "\"closed\""),
            clear: reader.strings("clear", false, "[\"192.168.1.0/24\"]"),
        })
    }
}
