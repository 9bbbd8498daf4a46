//! `postern check`: asks the `posternd` beside this program, or the one in PATH.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::Failure;

pub(crate) fn check(file: &Path) -> Result<(), Failure> {
    let Some(daemon) = find() else {
        return Err(Failure::Wrong(
            "posternd is neither beside this program nor in PATH; install it there".into(),
        ));
    };
    let status = Command::new(&daemon).arg("--check").arg("--config").arg(file).status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => Ok(()),
        // The daemon has said what is wrong.
        Ok(Some(1)) => Err(Failure::No(String::new())),
        Ok(_) => Err(Failure::Wrong(format!("{} failed to check the file", daemon.display()))),
        Err(error) => Err(Failure::Wrong(format!("{} cannot be run: {error}", daemon.display()))),
    }
}

fn find() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_path_buf));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("posternd"))
        .find(|candidate| candidate.is_file())
}
