//! One daemon at a time: whoever holds the lock in the state folder.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The lock; it is given back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    path: PathBuf,
    _file: File,
}

impl StateLock {
    /// Takes the lock in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// Another daemon holds it ([`io::ErrorKind::WouldBlock`]), or the system refuses.
    pub(crate) fn take(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join("posternd.lock");
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever removed the file between opening and locking left us a lock on nothing.
            let ours = file.metadata()?;
            match fs::metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Self { path, _file: file });
                }
                _ => {}
            }
        }
    }

    /// Removes the lock file, and its folder if nothing else is in it.
    pub(crate) fn remove(self) {
        // What cannot be removed does no harm.
        let _ = fs::remove_file(&self.path);
        if let Some(folder) = self.path.parent() {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_it_can_be_taken_again() {
        let folder = std::env::temp_dir().join(format!("pt-{}-lock", std::process::id()));
        let first = StateLock::take(&folder).unwrap();
        let second = StateLock::take(&folder).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        StateLock::take(&folder).unwrap().remove();
        assert!(!folder.exists());
    }
}
