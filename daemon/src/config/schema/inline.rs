//! `[inline]`

use toml::de::DeValue;

use super::reader::{At, Reader};

/// `[inline]`
#[derive(Default)]
pub(crate) struct RawInline<'a> {
    pub(crate) interface: Option<At<&'a str>>,
    pub(crate) workers: Option<At<Workers<'a>>>,
}

/// A number, or a word.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Workers<'a> {
    Word(&'a str),
    Number(u64),
}

impl<'a> RawInline<'a> {
    pub(super) fn read(top: &mut Reader<'a, '_>) -> Option<Self> {
        let mut reader = top.table("inline", &["interface", "workers"], &[])?;
        Some(Self {
            interface: reader.string("interface", "\"postern0\""),
            workers: Workers::read(&mut reader),
        })
    }
}

impl<'a> Workers<'a> {
    fn read(reader: &mut Reader<'a, '_>) -> Option<At<Self>> {
        let value = reader.get("workers")?;
        match value.get_ref() {
            DeValue::String(text) => {
                Some(At { value: Self::Word(text.as_ref()), span: value.span() })
            }
            DeValue::Integer(_) => reader
                .integer("workers", "\"auto\" or a number")
                .map(|at| At { value: Self::Number(at.value), span: at.span }),
            _ => {
                reader.string("workers", "\"auto\" or a number");
                None
            }
        }
    }
}
