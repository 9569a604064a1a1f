//! The directory that is served, and how a file in it is opened.
//!
//! Danger: only `openat2(2)` with `RESOLVE_BENEATH` may open what a request names. Then a symbolic link, a name with `..` or a
//! rename at the wrong moment can lead to nothing outside the tree.

use super::path::Wanted;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdir, open, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// How often a lookup is done again that a rename of another process disturbed.
const ATTEMPTS: usize = 16;

/// The directory that is served.
#[derive(Debug)]
pub(crate) struct Tree {
    dir: PathBuf,
}

/// What a name in the tree is.
#[derive(Debug)]
pub(crate) enum Found {
    /// A regular file.
    File(Opened),
    /// A directory.
    Directory,
}

/// A regular file that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    /// Its size, in bytes.
    pub(crate) size: u64,
    /// When its content last changed: seconds since 1970, and nanoseconds.
    pub(crate) modified: (i64, u64),
    pub(crate) inode: u64,
}

impl Tree {
    /// The directory `dir`. It is made if it is missing and the directory above is there, so that a new site works before
    /// its first file is uploaded.
    pub(crate) fn new(dir: PathBuf) -> Result<Self, String> {
        let tree = Self { dir };
        let root = match tree.root() {
            Err(Errno::NOENT) => match mkdir(&tree.dir, Mode::from_raw_mode(0o755)) {
                // A symbolic link that leads nowhere exists.
                Ok(()) | Err(Errno::EXIST) => tree.root(),
                Err(error) => Err(error),
            },
            other => other,
        };
        root.map_err(|error| format!("cannot serve {:?}: {error}", tree.dir))?;
        Ok(tree)
    }

    /// Opens the directory anew for each request: a site is often renewed by another link of this name.
    fn root(&self) -> Result<OwnedFd, Errno> {
        open(&self.dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Opens what a request names.
    ///
    /// # Errors
    /// The error of `openat2(2)`, and `ENOENT` for what is neither a file nor a directory.
    pub(crate) fn open(&self, wanted: &Wanted) -> Result<Found, Errno> {
        let root = self.root()?;
        // A FIFO without a writer opens at once too.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = ATTEMPTS;
        let fd = loop {
            match openat2(&root, wanted.path(), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) if attempts > 0 => attempts -= 1,
                other => break other?,
            }
        };
        let stat = fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Found::File(Opened {
                file: fd.into(),
                size: u64::try_from(stat.st_size).unwrap_or(0),
                modified: (stat.st_mtime, stat.st_mtime_nsec),
                inode: stat.st_ino,
            })),
            FileType::Directory => Ok(Found::Directory),
            _ => Err(Errno::NOENT),
        }
    }
}
