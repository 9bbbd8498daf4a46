//! `auth` of a tunnel.

use std::path::Path;

use ike::config::AuthMethod;

use super::super::{
    Context,
    diagnostic::Findings,
    mask,
    schema::{RawAuth, shown},
    secret,
};

pub(super) fn auth(
    raw: &RawAuth<'_>,
    broken: bool,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Option<AuthMethod> {
    let key = match (&raw.psk, &raw.psk_file) {
        (Some(_), Some(file)) => {
            let message = "`psk` and `psk_file` cannot stand together";
            findings.error(file.span.clone(), message, "keep one of them");
            return None;
        }
        (None, None) => {
            if !broken {
                findings.error(
                    raw.span.clone(),
                    "`auth` has no key",
                    "add psk_file = \"name.psk\", or psk = \"...\"",
                );
            }
            return None;
        }
        (Some(psk), None) => {
            if let Some(exposure) = context.exposed {
                let message = format!("{} holds a key, but {exposure}", context.file);
                findings.error(psk.span.clone(), message, exposure.remedy(&context.file));
                return None;
            }
            (psk, secret::decode(psk.value.as_bytes()).map_err(str::to_owned))
        }
        (None, Some(file)) => (file, read_psk(file.value, context)),
    };
    match key {
        (place, Ok(key)) => {
            if key.expose().len() < secret::SAFE {
                let message = format!(
                    "the key is shorter than {} octets: whoever answers in the peer's place can \
                     guess it",
                    secret::SAFE
                );
                let help = "take 32 random ones: head -c 32 /dev/urandom | base64";
                findings.warning(place.span.clone(), message, help);
            }
            Some(AuthMethod::Psk(key))
        }
        (place, Err(error)) => {
            findings.error(place.span.clone(), error, "");
            None
        }
    }
}

fn read_psk(name: &str, context: &Context<'_>) -> Result<sa_store::SecretBytes, String> {
    let path = context.folder.join(Path::new(name));
    let named = |error: &str| {
        if mask::looks_like_key(name) {
            // Not a word of it: this may be the key itself.
            return format!("the key file is refused: {error}; write the key itself as `psk`");
        }
        format!("the key file {} is refused: {error}", shown(&path.display().to_string()))
    };
    let content = context.secrets.read(&path).map_err(|error| named(&error))?;
    secret::decode(secret::strip_line_end(content.expose())).map_err(named)
}
