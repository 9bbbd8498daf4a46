//! Pre-shared keys: where they come from and how they are written.

use std::{fmt, fs::Metadata, io::Read, os::unix::fs::MetadataExt, path::Path};

use rustix::process::geteuid;
use sa_store::SecretBytes;
use zeroize::{Zeroize, Zeroizing};

use super::trust::{self, Opened};

/// A key longer than this is no key.
const LONGEST: u64 = 4096;

/// Octets of a key below which it can be guessed, however well it was chosen (RFC 7296 §2.15, §5).
pub(super) const SAFE: usize = 16;

/// Where secrets that a configuration names are read from.
pub trait SecretFiles {
    /// The content of a file that nobody but root and this process's user can use or replace.
    ///
    /// # Errors
    /// Why not, and what to do, without anything of the content.
    fn read(&self, path: &Path) -> Result<SecretBytes, String>;
}

/// The file system.
#[derive(Clone, Copy, Debug)]
pub struct FileSystem;

impl SecretFiles for FileSystem {
    fn read(&self, path: &Path) -> Result<SecretBytes, String> {
        let Opened { file, metadata, faults } =
            trust::open_regular(path).map_err(|error| error.to_string())?;
        if let Some(exposure) = Exposure::of(&metadata) {
            return Err(format!("it {exposure}; {}", exposure.remedy(&path.display())));
        }
        if !faults.is_empty() {
            return Err(trust::told(&faults));
        }
        let mut content = Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
        file.take(LONGEST + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
        if content.len() as u64 > LONGEST {
            return Err(format!("it is longer than {LONGEST} octets"));
        }
        Ok(SecretBytes::from_slice(&content))
    }
}

/// No files at all: for tests and fuzzing.
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl SecretFiles for NoFiles {
    fn read(&self, _path: &Path) -> Result<SecretBytes, String> {
        Err("there are no files here".into())
    }
}

/// Why a file is no place for secrets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposure {
    /// Others than the owner can use it; the permission bits.
    Mode(u32),
    /// It belongs to this user, who is neither root nor the one we run as: whoever owns a file
    /// reads and changes it whatever its mode is.
    Owner(u32),
}

impl Exposure {
    /// What is wrong with the file that was opened, if anything is.
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        let mode = metadata.mode();
        let used_by_others = || (mode & 0o077 != 0).then_some(Self::Mode(mode & 0o777));
        Self::foreign(metadata.uid()).or_else(used_by_others)
    }

    /// Somebody who is neither root nor the user we run as.
    pub(super) fn foreign(owner: u32) -> Option<Self> {
        (owner != 0 && owner != geteuid().as_raw()).then_some(Self::Owner(owner))
    }

    /// The command that helps.
    pub(super) fn remedy(self, path: &dyn fmt::Display) -> String {
        match self {
            Self::Mode(_) => format!("run: chmod 600 {path}"),
            Self::Owner(_) => format!("run: chown root {path}"),
        }
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode) => write!(f, "can be used by others (mode {mode:03o})"),
            Self::Owner(owner) => write!(f, "belongs to user {owner}"),
        }
    }
}

/// The key a text means: `0x` is hexadecimal, `0s` is base64, everything else is itself.
///
/// # Errors
/// What is wrong, without showing any of it.
pub(super) fn decode(text: &[u8]) -> Result<SecretBytes, &'static str> {
    let key = match text {
        [b'0', b'x' | b'X', hex @ ..] => from_hex(hex)?,
        [b'0', b's' | b'S', base64 @ ..] => from_base64(base64)?,
        plain => plain.to_vec(),
    };
    let key = SecretBytes::new(key);
    match key.expose() {
        [] => Err("the key is empty"),
        [_] => Err("the key has one octet only"),
        _ => Ok(key),
    }
}

/// The content of a key file without one trailing line end.
pub(super) fn strip_line_end(content: &[u8]) -> &[u8] {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.strip_suffix(b"\r").unwrap_or(content)
}

fn from_hex(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    const BAD: &str = "behind `0x` the key is not hexadecimal with an even number of digits";
    if !text.len().is_multiple_of(2) {
        return Err(BAD);
    }
    let mut key = Vec::with_capacity(text.len() / 2);
    for pair in text.chunks_exact(2) {
        let digit = |at: usize| pair.get(at).and_then(|&c| char::from(c).to_digit(16));
        match (digit(0), digit(1)) {
            (Some(high), Some(low)) => key.push((high << 4 | low) as u8),
            _ => {
                key.zeroize();
                return Err(BAD);
            }
        }
    }
    Ok(key)
}

fn from_base64(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    const BAD: &str = "behind `0s` the key is not base64";
    let padding = text.iter().rev().take_while(|&&c| c == b'=').count();
    let body = text.get(..text.len() - padding).unwrap_or(&[]);
    // Padding may be left out, but what is there must fit.
    let whole = (body.len() + padding).is_multiple_of(4) || padding == 0;
    if padding > 2 || !whole || body.len() % 4 == 1 {
        return Err(BAD);
    }
    let mut key = Vec::with_capacity(body.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for &c in body {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => {
                key.zeroize();
                return Err(BAD);
            }
        };
        bits = (bits << 6 | u32::from(six)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            key.push((bits >> count & 0xff) as u8);
        }
    }
    bits.zeroize();
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_swanctl_reads_them() {
        for (text, want) in [
            ("secret", b"secret".to_vec()),
            ("0x0a0B", vec![0x0a, 0x0b]),
            ("0sFoB=", vec![0x16, 0x80]),
            ("0sAAECAwQ=", vec![0, 1, 2, 3, 4]),
            ("0sAAECAwQ", vec![0, 1, 2, 3, 4]),
            ("0sAAE=", vec![0, 1]),
            ("0 x", b"0 x".to_vec()),
        ] {
            assert_eq!(decode(text.as_bytes()).unwrap().expose(), want, "{text}");
        }
        for text in [
            "", "k", "0x00", "0sAA==", "0x", "0x0", "0xzz", "0s", "0s!", "0sA", "0sAA===",
            "0sAAE==",
        ] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn one_line_end_goes() {
        for (content, want) in [
            (&b"k\n"[..], &b"k"[..]),
            (b"k\r\n", b"k"),
            (b"k\n\n", b"k\n"),
            (b"k", b"k"),
            (b"", b""),
        ] {
            assert_eq!(strip_line_end(content), want);
        }
    }
}
