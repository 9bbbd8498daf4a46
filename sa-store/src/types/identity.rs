//! IKE identities (RFC 7296 §3.5) and the patterns an operator accepts.

use core::{fmt, net::IpAddr, str::FromStr};

/// An IKE identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Identity {
    /// `ID_IPV4_ADDR` (1) or `ID_IPV6_ADDR` (5).
    Address(IpAddr),
    /// `ID_FQDN` (2); compared without case.
    Fqdn(String),
    /// `ID_RFC822_ADDR` (3); compared without case.
    Rfc822(String),
    /// `ID_DER_ASN1_DN` (9): a distinguished name in DER.
    Dn(Vec<u8>),
    /// `ID_DER_ASN1_GN` (10): a general name in DER.
    Gn(Vec<u8>),
    /// `ID_KEY_ID` (11): opaque octets.
    KeyId(Vec<u8>),
}

/// Why octets or a text are no identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IdentityError {
    /// The ID type is not one of RFC 7296 §3.5.
    UnknownType(u8),
    /// An address of the wrong length or a name that is no UTF-8 or empty.
    Malformed,
    /// Hex digits were expected behind `0x`, `keyid:0x` and the like.
    Hex(String),
    /// A distinguished name in words: it would have to be sent in DER.
    DistinguishedName,
    /// It stands for several identities where one is asked for, or is no pattern that exists.
    Pattern,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownType(kind) => write!(f, "identity type {kind} is not known"),
            Self::Malformed => f.write_str("the identity is empty or does not fit its type"),
            Self::Hex(text) => write!(f, "`{text}` is no hexadecimal string"),
            Self::DistinguishedName => f.write_str(
                "distinguished names are written in DER, `asn1dn:0x…` (`@` before it makes it a \
                 host name)",
            ),
            Self::Pattern => f.write_str(
                "`%any` and a `*` in front stand for several peers, in `remote.id` and nowhere \
                 else (`@` before it makes it a host name)",
            ),
        }
    }
}

impl core::error::Error for IdentityError {}

impl Identity {
    /// The ID type octet.
    #[must_use]
    pub const fn id_type(&self) -> u8 {
        match self {
            Self::Address(IpAddr::V4(_)) => 1,
            Self::Fqdn(_) => 2,
            Self::Rfc822(_) => 3,
            Self::Address(IpAddr::V6(_)) => 5,
            Self::Dn(_) => 9,
            Self::Gn(_) => 10,
            Self::KeyId(_) => 11,
        }
    }

    /// The identification data as it stands on the wire.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        match self {
            Self::Address(IpAddr::V4(v4)) => v4.octets().to_vec(),
            Self::Address(IpAddr::V6(v6)) => v6.octets().to_vec(),
            Self::Fqdn(name) | Self::Rfc822(name) => name.as_bytes().to_vec(),
            Self::Dn(bytes) | Self::Gn(bytes) | Self::KeyId(bytes) => bytes.clone(),
        }
    }

    /// Reads the content of an ID payload.
    ///
    /// # Errors
    /// An unknown type, a wrong length, or a name that is no UTF-8, has control characters or is
    /// empty.
    pub fn from_wire(id_type: u8, data: &[u8]) -> Result<Self, IdentityError> {
        let name = || {
            let text = core::str::from_utf8(data).map_err(|_| IdentityError::Malformed)?;
            if text.is_empty() || text.chars().any(char::is_control) {
                return Err(IdentityError::Malformed);
            }
            Ok(text.to_owned())
        };
        let bytes = || {
            if data.is_empty() { Err(IdentityError::Malformed) } else { Ok(data.to_vec()) }
        };
        match id_type {
            1 => <[u8; 4]>::try_from(data)
                .map(|octets| Self::Address(IpAddr::from(octets)))
                .map_err(|_| IdentityError::Malformed),
            2 => name().map(Self::Fqdn),
            3 => name().map(Self::Rfc822),
            5 => <[u8; 16]>::try_from(data)
                .map(|octets| Self::Address(IpAddr::from(octets)))
                .map_err(|_| IdentityError::Malformed),
            9 => bytes().map(Self::Dn),
            10 => bytes().map(Self::Gn),
            11 => bytes().map(Self::KeyId),
            other => Err(IdentityError::UnknownType(other)),
        }
    }

    /// Whether both name the same peer: names without case, everything else octet for octet.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fqdn(a), Self::Fqdn(b)) | (Self::Rfc822(a), Self::Rfc822(b)) => {
                a.eq_ignore_ascii_case(b)
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut fmt::Formatter<'_>, kind: &str, bytes: &[u8]| {
            write!(f, "{kind}:0x")?;
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        match self {
            Self::Address(address) => write!(f, "{address}"),
            // As it would have to be written: a name alone may read as something else.
            Self::Fqdn(name) => write!(f, "{}{name}", prefix_of(name, ["", "@", "fqdn:"], self)),
            Self::Rfc822(name) => {
                write!(f, "{}{name}", prefix_of(name, ["", "@@", "email:"], self))
            }
            Self::Dn(bytes) => hex(f, "asn1dn", bytes),
            Self::Gn(bytes) => hex(f, "asn1gn", bytes),
            Self::KeyId(bytes) => match core::str::from_utf8(bytes) {
                Ok(text) if is_plain(text) => write!(f, "keyid:{text}"),
                _ => hex(f, "keyid", bytes),
            },
        }
    }
}

/// Whether a key ID can be written as a text.
fn is_plain(text: &str) -> bool {
    let hex = text.starts_with("0x") || text.starts_with('#');
    !hex && text.chars().all(|c| c.is_ascii_graphic())
}

/// The shortest of three prefixes behind which a name is read as `identity`; the last one if
/// none does.
fn prefix_of(name: &str, prefixes: [&'static str; 3], identity: &Identity) -> &'static str {
    let [.., last] = prefixes;
    let reads = |prefix: &&str| format!("{prefix}{name}").parse().as_ref() == Ok(identity);
    prefixes.into_iter().find(reads).unwrap_or(last)
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// As swanctl reads them: an address, `user@host`, `@name` or `name` for FQDN, and the
    /// prefixes `fqdn:`, `email:` (also `rfc822:`), `ipv4:`, `ipv6:`, `keyid:`, `asn1dn:0x…`,
    /// `asn1gn:0x…`; `@#hex` is a key ID, `@@user` a mail address. Distinguished names in words
    /// and what stands for several identities (`%any`, `*.example`) are errors without a prefix.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let octets =
            |value: &str| match value.strip_prefix("0x").or_else(|| value.strip_prefix('#')) {
                Some(hex) => parse_hex(hex),
                None => Ok(value.as_bytes().to_vec()),
            };
        let address =
            |value: &str| value.parse().map(Self::Address).map_err(|_| IdentityError::Malformed);
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(IdentityError::Malformed);
        }
        if let Some((kind, value)) = text.split_once(':') {
            match kind {
                "fqdn" | "dns" => return Self::from_wire(2, value.as_bytes()),
                "email" | "rfc822" => return Self::from_wire(3, value.as_bytes()),
                "ipv4" | "ipv6" | "ip" => return address(value),
                "keyid" => return Self::from_wire(11, &octets(value)?),
                "asn1dn" => return Self::from_wire(9, &octets(value)?),
                "asn1gn" => return Self::from_wire(10, &octets(value)?),
                _ => {}
            }
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Some(hex) = text.strip_prefix("@#") {
            return Self::from_wire(11, &parse_hex(hex)?);
        }
        if let Some(mail) = text.strip_prefix("@@") {
            return Self::from_wire(3, mail.as_bytes());
        }
        if let Some(name) = text.strip_prefix('@') {
            return Self::from_wire(2, name.as_bytes());
        }
        if text.contains('=') {
            return Err(IdentityError::DistinguishedName);
        }
        if text == "any" || text.contains(['*', '%']) {
            return Err(IdentityError::Pattern);
        }
        let kind = if text.contains('@') { 3 } else { 2 };
        Self::from_wire(kind, text.as_bytes())
    }
}

fn parse_hex(text: &str) -> Result<Vec<u8>, IdentityError> {
    let bad = || IdentityError::Hex(text.to_owned());
    if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return Err(bad());
    }
    (0..text.len())
        .step_by(2)
        .map(|at| {
            text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or_else(bad)
        })
        .collect()
}

/// Which identities an operator accepts from a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IdentityPattern {
    /// `%any`: whoever authenticates.
    Any,
    /// Exactly this one.
    Exact(Identity),
    /// `*.example.com` or `*@example.com`: the name behind the star, with a non-empty part
    /// before it.
    Suffix(Identity),
}

impl IdentityPattern {
    /// Whether the pattern accepts `identity`.
    #[must_use]
    pub fn accepts(&self, identity: &Identity) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.same(identity),
            Self::Suffix(suffix) => match (suffix, identity) {
                (Identity::Fqdn(end), Identity::Fqdn(name))
                | (Identity::Rfc822(end), Identity::Rfc822(name)) => {
                    name.len() > end.len()
                        && name
                            .get(name.len() - end.len()..)
                            .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
                }
                _ => false,
            },
        }
    }

    /// Whether there may be an identity that both patterns accept. Of two patterns that leave
    /// names open it is assumed.
    #[must_use]
    pub fn may_meet(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(exact), pattern) | (pattern, Self::Exact(exact)) => pattern.accepts(exact),
            _ => true,
        }
    }
}

impl FromStr for IdentityPattern {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        match text {
            "%any" | "any" | "*" => Ok(Self::Any),
            _ => match text.strip_prefix('*') {
                Some(tail) if tail.contains('=') => Err(IdentityError::DistinguishedName),
                Some(tail) if tail.contains(['*', '%']) => Err(IdentityError::Pattern),
                Some(tail) if tail.starts_with('@') => {
                    Ok(Self::Suffix(Identity::Rfc822(tail.to_owned())))
                }
                Some(tail) => Ok(Self::Suffix(Identity::Fqdn(tail.to_owned()))),
                None => text.parse().map(Self::Exact),
            },
        }
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("%any"),
            Self::Exact(identity) => write!(f, "{identity}"),
            Self::Suffix(Identity::Fqdn(name) | Identity::Rfc822(name)) => write!(f, "*{name}"),
            Self::Suffix(identity) => write!(f, "*{identity}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_wire_round_trip() {
        for (text, kind) in [
            ("192.0.2.1", 1),
            ("a.example", 2),
            ("@b.example", 2),
            ("carol@example.org", 3),
            ("2001:db8::1", 5),
            ("keyid:gw7", 11),
            ("@#0a0b", 11),
            ("asn1dn:0x3000", 9),
        ] {
            let id: Identity = text.parse().unwrap();
            assert_eq!(id.id_type(), kind, "{text}");
            assert_eq!(Identity::from_wire(kind, &id.data()), Ok(id.clone()));
            assert_eq!(id.to_string().parse::<Identity>(), Ok(id));
        }
        // Names that look like something else: a peer may send them.
        for id in [
            Identity::Fqdn("192.0.2.1".to_owned()),
            Identity::Fqdn("user@a.example".to_owned()),
            Identity::Fqdn("@a.example".to_owned()),
            Identity::Fqdn("#0a0b".to_owned()),
            Identity::Fqdn("email:a@b.example".to_owned()),
            Identity::Fqdn("C=CH, CN=moon".to_owned()),
            Identity::Fqdn("*.example".to_owned()),
            Identity::Fqdn("%any".to_owned()),
            Identity::Fqdn("any".to_owned()),
            Identity::Rfc822("a.example".to_owned()),
            Identity::Rfc822("2001:db8::1".to_owned()),
            Identity::Rfc822("@a.example".to_owned()),
            Identity::KeyId(b"0x0a".to_vec()),
            Identity::KeyId(b"#0a".to_vec()),
            Identity::KeyId(b"gw 7".to_vec()),
        ] {
            let text = id.to_string();
            assert_eq!(text.parse::<Identity>(), Ok(id), "{text}");
        }
        assert_eq!(Identity::Fqdn("192.0.2.1".to_owned()).to_string(), "@192.0.2.1");
        assert_eq!(Identity::Rfc822("x".to_owned()).to_string(), "@@x");
        assert_eq!(Identity::Fqdn("a.example".to_owned()).to_string(), "a.example");
        assert_eq!(Identity::Rfc822("a@b.example".to_owned()).to_string(), "a@b.example");
        assert_eq!(Identity::from_wire(1, &[1, 2, 3]), Err(IdentityError::Malformed));
        assert_eq!(Identity::from_wire(4, &[1]), Err(IdentityError::UnknownType(4)));
        assert!("".parse::<Identity>().is_err());
    }

    #[test]
    fn what_is_no_name_is_not_taken_for_one() {
        for text in ["C=CH, O=strongSwan, CN=moon", "CN=moon", "O = A, CN = b@a.example"] {
            let error = text.parse::<Identity>().unwrap_err();
            assert_eq!(error, IdentityError::DistinguishedName);
            assert!(error.to_string().contains("asn1dn:0x"), "{error}");
            assert_eq!(text.parse::<IdentityPattern>().unwrap_err(), error);
        }
        for text in ["%any", "any", "*", "*.example", "*@a.example", "gw*.example", "%any6"] {
            assert_eq!(text.parse::<Identity>(), Err(IdentityError::Pattern), "{text}");
        }
        for text in ["gw*.example", "**", "*.a*.example", "*CN=moon", "%any6"] {
            assert!(text.parse::<IdentityPattern>().is_err(), "{text}");
        }
        // Who writes a prefix means it.
        for text in ["fqdn:a=b", "@any", "@*.example", "@@a=b", "email:*@a.example"] {
            assert!(text.parse::<Identity>().is_ok(), "{text}");
        }
    }

    #[test]
    fn patterns_accept_what_they_say() {
        let any: IdentityPattern = "%any".parse().unwrap();
        let star: IdentityPattern = "*.example.com".parse().unwrap();
        let id = |text: &str| text.parse::<Identity>().unwrap();
        for text in ["%any", "*.example.com", "*@example.com", "a.example", "@192.0.2.1"] {
            let pattern: IdentityPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), text);
        }
        assert!(any.accepts(&id("10.0.0.1")));
        assert!(star.accepts(&id("GW.Example.com")));
        assert!(!star.accepts(&id("example.com")));
        assert!(!star.accepts(&id("x@example.com")));
        let exact = |text: &str| IdentityPattern::Exact(id(text));
        for (a, b, meet) in [
            (&star, &any, true),
            (&exact("gw.example.com"), &star, true),
            (&exact("gw.example.org"), &star, false),
            (&exact("gw.example.com"), &exact("GW.example.com"), true),
            (&exact("gw.example.com"), &exact("gw2.example.com"), false),
        ] {
            assert_eq!((a.may_meet(b), b.may_meet(a)), (meet, meet), "{a} {b}");
        }
    }
}
