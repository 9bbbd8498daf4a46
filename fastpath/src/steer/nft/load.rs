//! Handing text to the program of nftables.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use crate::error::Error;

/// Hands `text` to nft as one transaction.
pub(super) fn load(text: &str) -> Result<(), Error> {
    let spawn = |program: &str| {
        Command::new(program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    // Services often run without sbin in PATH.
    let mut child = spawn("nft")
        .or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => spawn("/usr/sbin/nft"),
            _ => Err(error),
        })
        .map_err(Error::NftMissing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe means that nft ended early; its message says why.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(Error::NftMissing)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let first: Vec<&str> = message.lines().take(3).collect();
    Err(Error::Nft(first.join(" ")))
}
