//! Who can change a file: by its owner and mode, and by those of every folder and link on the way to
//! it. Whoever may write to one of the folders can put another file in its place.
//!
//! The way is walked step by step from the root, each step from the folder that was looked at
//! before, so that what is said is true of what was opened, whatever others rename meanwhile.

use std::{
    ffi::OsString,
    fmt,
    fs::{File, Metadata},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open, openat, readlinkat};

use super::secret::Exposure;

/// Links followed at most, as the kernel does.
const MOST_LINKS: usize = 40;
/// Faults that are told at most.
const MOST_TOLD: usize = 4;
/// Write permission of group and others.
const WRITE: u32 = 0o022;
/// In such a folder names are changed by their owners only.
const STICKY: u32 = 0o1000;

/// A regular file, and what was found on the way to it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// Of the file that was opened.
    pub(super) metadata: Metadata,
    /// How others than root and the user we run as can change what is in it; the nearest first.
    pub(super) faults: Vec<Fault>,
}

/// Something on the way that others can change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    what: What,
    place: PathBuf,
    exposure: Exposure,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    File,
    Folder,
    Link,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place.display();
        match self.what {
            What::File => f.write_str("it")?,
            What::Folder => write!(f, "the folder {place}")?,
            What::Link => write!(f, "the link {place}")?,
        }
        match (self.exposure, self.what) {
            (Exposure::Mode(mode), _) => {
                write!(f, " can be changed by others (mode {mode:03o}); run: chmod go-w {place}")
            }
            (owner, What::Link) => write!(f, " {owner}; run: chown -h root {place}"),
            (owner, What::File) => write!(f, " {owner}; {}", owner.remedy(&place)),
            (owner, What::Folder) => write!(
                f,
                " {owner}, who can put another file there; move it to a folder of root's, or {}",
                owner.remedy(&place)
            ),
        }
    }
}

/// All that was found, in one sentence.
pub(super) fn told(faults: &[Fault]) -> String {
    let told: Vec<String> = faults.iter().take(MOST_TOLD).map(ToString::to_string).collect();
    told.join("; ")
}

/// Opens a file, never anything that could block or act (a pipe, a device, a folder).
///
/// # Errors
/// There is none, or the system refuses.
pub(super) fn open_regular(path: &Path) -> io::Result<Opened> {
    let no_file = || io::Error::other("it is no regular file");
    let mut way = Way::from_root()?;
    way.add(&std::path::absolute(path)?);
    let mut links = 0;
    while let Some(name) = way.left.pop() {
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = openat(&way.folder, &*name, step, Mode::empty())?;
        let found = fstat(&entry)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => way.enter(entry, &name, &found),
            FileType::Symlink => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                way.judge(What::Link, way.place.join(&name), &found);
                let target = readlinkat(&entry, c"", Vec::new())?;
                way.follow(Path::new(&OsString::from_vec(target.into_bytes())))?;
            }
            FileType::RegularFile if way.left.is_empty() => return way.end(&name),
            _ if way.left.is_empty() => return Err(no_file()),
            _ => return Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        }
    }
    Err(no_file())
}

/// Where a walk is.
struct Way {
    folder: OwnedFd,
    /// The folder's name, for people.
    place: PathBuf,
    /// Steps to go, the next one last.
    left: Vec<OsString>,
    faults: Vec<Fault>,
}

impl Way {
    fn from_root() -> io::Result<Self> {
        let folder = root()?;
        let found = fstat(&folder)?;
        let (place, left, faults) = (PathBuf::from("/"), Vec::new(), Vec::new());
        let mut way = Self { folder, place: place.clone(), left, faults };
        way.judge(What::Folder, place, &found);
        Ok(way)
    }

    /// Goes `path` before what is left to go.
    fn add(&mut self, path: &Path) {
        let steps = path.components().rev().filter_map(|step| match step {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        });
        self.left.extend(steps);
    }

    fn enter(&mut self, folder: OwnedFd, name: &OsString, found: &Stat) {
        self.folder = folder;
        if name == ".." {
            self.place.pop();
        } else {
            self.place.push(name);
        }
        self.judge(What::Folder, self.place.clone(), found);
    }

    fn follow(&mut self, target: &Path) -> io::Result<()> {
        if target.is_absolute() {
            self.folder = root()?;
            self.place = PathBuf::from("/");
        }
        self.add(target);
        Ok(())
    }

    /// Opens the file at the end. What is asked about it is asked of what was opened.
    fn end(mut self, name: &OsString) -> io::Result<Opened> {
        let flags =
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, &**name, flags, Mode::empty())?;
        let found = fstat(&file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no regular file"));
        }
        self.judge(What::File, self.place.join(name), &found);
        self.faults.reverse();
        let file = File::from(file);
        Ok(Opened { metadata: file.metadata()?, file, faults: self.faults })
    }

    fn judge(&mut self, what: What, place: PathBuf, found: &Stat) {
        let mode = found.st_mode & 0o7777;
        let exposure = match (Exposure::foreign(found.st_uid), what) {
            (Some(owner), _) => owner,
            // The mode of a link means nothing.
            (None, What::Link) => return,
            (None, What::Folder) if mode & STICKY != 0 => return,
            (None, _) if mode & WRITE == 0 => return,
            (None, _) => Exposure::Mode(mode & 0o777),
        };
        let fault = Fault { what, place, exposure };
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

fn root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(c"/", flags, Mode::empty())?)
}
