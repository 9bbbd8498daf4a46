//! Texts of configurations, and exactly what is said about them.

mod accepted;
mod keys;
mod overlaps;
mod refused;

use std::path::Path;

use daemon::config::{self, Context, SecretFiles};
use sa_store::SecretBytes;

const PLANTED: &str = "planted-key-7f3a9c";

/// One key file, `a.psk`.
struct OneKey;

impl SecretFiles for OneKey {
    fn read(&self, path: &Path) -> Result<SecretBytes, String> {
        match path.to_str() {
            Some("/etc/x/a.psk") => {
                Ok(SecretBytes::from_slice(b"0x000102030405060708090a0b0c0d0e0f\n"))
            }
            Some("/etc/x/one.psk") => Ok(SecretBytes::from_slice(b"1\n")),
            Some("/etc/x/short.psk") => Ok(SecretBytes::from_slice(b"fifteen octets.\n")),
            Some("/etc/x/bad.psk") => {
                Ok(SecretBytes::from_slice(format!("0x{PLANTED}").as_bytes()))
            }
            _ => Err("No such file or directory (os error 2)".into()),
        }
    }
}

fn parse(text: &str) -> Result<config::Config, config::Report> {
    let context = Context {
        file: "postern.toml",
        folder: Path::new("/etc/x"),
        exposed: None,
        secrets: &OneKey,
    };
    config::parse(text, &context)
}

/// A tunnel that is right, with `tunnel` lines in it and `child` lines in its child.
fn around(tunnel: &str, child: &str) -> String {
    format!(
        "[tunnels.a]\nremote = {{ address = \"192.0.2.2\" }}\nauth = {{ psk_file = \"a.psk\" }}\n\
         {tunnel}\n[tunnels.a.children.net]\nlocal = [\"10.1.0.0/16\"]\n\
         remote = [\"10.2.0.0/16\"]\n{child}\n"
    )
}
