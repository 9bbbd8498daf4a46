//! What the TOML parser copies is wiped: a string with escapes (and that may be a key) is not a part
//! of the text, which [`super::load`] wipes, but memory of its own.

use std::borrow::Cow;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use zeroize::Zeroize;

/// A document whose copies of the text are wiped when it goes.
pub(super) struct Wiped<'a>(pub(super) Spanned<DeTable<'a>>);

impl Drop for Wiped<'_> {
    fn drop(&mut self) {
        wipe_table(self.0.get_mut());
    }
}

fn wipe_table(table: &mut DeTable<'_>) {
    // A key may be a secret as well: `psk` in the wrong place of a line.
    for (key, mut value) in std::mem::take(table) {
        if let Cow::Owned(mut name) = key.into_inner() {
            name.zeroize();
        }
        wipe(value.get_mut());
    }
}

fn wipe(value: &mut DeValue<'_>) {
    match value {
        DeValue::String(Cow::Owned(text)) => text.zeroize(),
        DeValue::Array(values) => values.iter_mut().for_each(|value| wipe(value.get_mut())),
        DeValue::Table(table) => wipe_table(table),
        DeValue::String(Cow::Borrowed(_))
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_wiped_wherever_they_are() {
        let text = r#"
            plain = "no copy"
            list = ["a\u0042c", { psk = "s\"cret" }]
        "#;
        let mut document = DeTable::parse(text).unwrap();
        let copies = |document: &Spanned<DeTable<'_>>| {
            let DeValue::Array(list) = document.get_ref().get("list").unwrap().get_ref() else {
                panic!("it is a list");
            };
            let DeValue::Table(inner) = list.get(1).unwrap().get_ref() else {
                panic!("it is a table");
            };
            let is_copy = |value: &DeValue<'_>| matches!(value, DeValue::String(Cow::Owned(_)));
            (is_copy(list.first().unwrap().get_ref()), is_copy(inner.get("psk").unwrap().get_ref()))
        };
        // Should the parser once not copy any more, this module can go.
        assert_eq!(copies(&document), (true, true));
        let DeValue::Array(list) = document.get_mut().get_mut("list").unwrap().get_mut() else {
            panic!("it is a list");
        };
        let first = list.get_mut(0).unwrap().get_mut();
        wipe(first);
        assert_eq!(first.as_str(), Some(""));
        // The octets are gone, not only out of reach.
        let DeValue::String(Cow::Owned(copy)) = first else { panic!("it is a copy") };
        assert!(copy.is_empty() && copy.capacity() > 0);
        wipe_table(document.get_mut());
        assert!(document.get_ref().is_empty());
    }
}
