//! Names that go into the rules of nftables and into paths below `/proc/sys/net`.

use super::SteeringConfig;
use crate::error::Error;

/// Octets of an interface's name at most (`IFNAMSIZ` without its NUL).
const LONGEST_INTERFACE: usize = 15;
/// Octets of a table's name at most: with what is appended to it, nftables takes 255.
const LONGEST_TABLE: usize = 64;
/// Names that stand for something else than one interface of ours.
const TAKEN: [&str; 3] = ["lo", "all", "default"];

/// Whether an interface can be called like that. Linux allows nearly every octet; what other
/// programs take for a pattern (`*`, `+`, `%d`), an option (`-`), a word of their language or a way
/// through folders is none here.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    name.len() <= LONGEST_INTERFACE
        && !TAKEN.contains(&name)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether a table of nftables can be called like that.
fn is_table_name(name: &str) -> bool {
    name.len() <= LONGEST_TABLE
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Refuses names that would mean something else in a rule.
pub(super) fn check(config: &SteeringConfig) -> Result<(), Error> {
    let names = [
        ("an interface", &config.interface, is_interface_name(&config.interface)),
        ("a table of nftables", &config.nft_table, is_table_name(&config.nft_table)),
    ];
    match names.into_iter().find(|(_, _, fits)| !fits) {
        None => Ok(()),
        Some((what, name, _)) => Err(Error::Name { what, name: name.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_called_by_what_means_one_interface_everywhere() {
        for name in ["postern0", "a", "_x", "0", "br-lan.100_b", "fifteen-octets_"] {
            assert!(is_interface_name(name), "{name}");
        }
        let bad = [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "lo",
            "all",
            "default",
            "sixteen-octets__",
            "w*",
            "*",
            "w*x",
            "w+",
            "tun%d",
            "a/b",
            "a\\",
            "a\\*",
            "a b",
            "a\tb",
            "a\nb",
            "a\0b",
            "a:b",
            "a\"b",
            "a'b",
            "a;b",
            "a{b",
            "a}b",
            "a#b",
            "a$b",
            "a@b",
            "a,b",
            "a!b",
            "a|b",
            "a&b",
            "a`b",
            "a(b",
            "a[b",
            "a<b",
            "a=b",
            "a?b",
            "a~b",
            "a^b",
            "\u{e4}",
            "\u{202e}a",
        ];
        for name in bad {
            assert!(!is_interface_name(name), "{name:?}");
        }
    }

    #[test]
    fn steering_takes_no_other_name() {
        let of = |interface: &str, nft_table: &str| SteeringConfig {
            interface: interface.to_owned(),
            nft_table: nft_table.to_owned(),
            ..SteeringConfig::default()
        };
        assert!(check(&SteeringConfig::default()).is_ok());
        for (interface, table, says) in [
            ("w*", "postern", "`w*` cannot be the name of an interface"),
            ("a\" accept #", "postern", "`a\\\" accept #` cannot be"),
            ("postern0", "a b", "`a b` cannot be the name of a table of nftables"),
            ("postern0", "x; flush ruleset", "cannot be the name of a table"),
            ("postern0", "", "`` cannot be"),
            ("postern0", "0", "`0` cannot be"),
        ] {
            let said = check(&of(interface, table)).map_err(|error| error.to_string());
            let said = said.expect_err(interface);
            assert!(said.contains(says), "{said}");
        }
    }
}
