//! A machine of its own for command lines that install things: a gateway's network namespace,
//! and private copies of the folders such lines write to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::command::{Dialogue, Finished, require, run};
use crate::failure::{Failure, Outcome, ensure};
use crate::netns::Namespace;

/// How long setting up the folders may take.
const SET_UP: Duration = Duration::from_secs(30);

/// What programs need of /etc.
const ETC: &str = "alternatives group hosts ld.so.cache nsswitch.conf passwd";

/// A shell's view of a machine. Ends when dropped; what runs in it ends with its namespace.
#[derive(Debug)]
pub struct Sandbox {
    /// Keeps the namespaces.
    holder: Dialogue,
    pid: String,
    folder: PathBuf,
}

impl Sandbox {
    /// A machine called `name` in a network namespace. `source` is what command lines see as
    /// their working folder. /usr/local, /run and /var/lib are empty, /etc has what programs need;
    /// `folder` holds them.
    pub fn new(namespace: &Namespace, name: &str, source: &Path, folder: &Path) -> Outcome<Self> {
        ["unshare", "nsenter"].into_iter().try_for_each(require)?;
        let folder = folder.join("machine");
        for part in ["source", "etc", "local/sbin", "run", "lib", "tools"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let (at, source) = (folder.display(), source.display());
        let script = format!(
            "set -e
             mount --bind '{source}' '{at}/source'
             for file in {ETC}; do
                 [ ! -e \"/etc/$file\" ] || cp -a \"/etc/$file\" '{at}/etc/'
             done
             mount --bind '{at}/etc' /etc
             mount --bind '{at}/local' /usr/local
             mount --bind '{at}/lib' /var/lib
             mount --bind '{at}/run' /run
             echo {name} >/proc/sys/kernel/hostname
             echo $$
             read end"
        );
        let inside = ["unshare", "--mount", "--uts", "--propagation", "private"];
        let argv = namespace.inside(&inside);
        let argv = [&argv[..], &["sh", "-c", &script]].concat();
        let holder = Dialogue::start("the machine", &argv, false)?;
        let pid = holder.hear(SET_UP)?.trim().to_owned();
        ensure(Path::new("/proc").join(&pid).exists(), || format!("`{pid}` is no process"))?;
        Ok(Self { holder, pid, folder })
    }

    /// Puts a program into it that command lines find before the system's.
    pub fn tool(&self, name: &str, script: &str) -> Outcome {
        let file = self.folder.join("tools").join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n"))?;
        Ok(fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?)
    }

    /// Where a file that it sees in /etc, /run, /usr/local or /var/lib is outside.
    pub fn path(&self, inside: &str) -> Outcome<PathBuf> {
        let places =
            [("/etc/", "etc"), ("/run/", "run"), ("/usr/local/", "local"), ("/var/lib/", "lib")];
        places
            .into_iter()
            .find_map(|(prefix, part)| {
                Some(self.folder.join(part).join(inside.strip_prefix(prefix)?))
            })
            .ok_or_else(|| Failure::new(format!("{inside} is in no folder of the machine's own")))
    }

    /// Runs a line as a person types it, with further variables in its environment.
    pub fn run(
        &self,
        line: &str,
        variables: &[(&str, &str)],
        limit: Duration,
    ) -> Outcome<Finished> {
        let (at, path) = (self.folder.display(), "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        let script = format!("cd '{at}/source' && {line}");
        let path = format!("PATH={at}/tools:{path}");
        let variables: Vec<String> =
            variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        // The root as well: in a chroot it is not that of the mount namespace.
        let mut argv =
            vec!["nsenter", "--target", &self.pid, "--mount", "--uts", "--net", "--root"];
        argv.extend(["env", &path]);
        argv.extend(variables.iter().map(String::as_str));
        argv.extend(["sh", "-c", &script]);
        run(&argv, limit)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The holder reads on until it is told; it is killed right after.
        let _ = self.holder.say("end");
    }
}
