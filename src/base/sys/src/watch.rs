//! Reports of changed files (`inotify(7)`), such as `memory.events` of a control group.

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A set of watched files, and the descriptor that reports their changes.
#[derive(Debug)]
pub struct Changes {
    fd: OwnedFd,
}

/// The identity of a watched file within its [`Changes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watched(i32);

impl Changes {
    /// Makes an empty set. The descriptor is non-blocking.
    ///
    /// # Errors
    /// `EMFILE` when this user has too many descriptors of this kind.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)? })
    }

    /// Watches a file until it is removed.
    ///
    /// # Errors
    /// `ENOSPC` when this user watches too many files.
    pub fn add(&self, path: &Path) -> io::Result<Watched> {
        Ok(Watched(inotify::add_watch(&self.fd, path, WatchFlags::MODIFY)?))
    }

    /// Returns the files that have changed, once for each report of the kernel.
    ///
    /// # Errors
    /// The error of `read(2)`.
    pub fn take(&self) -> io::Result<Vec<Watched>> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.fd, &mut buffer);
        let mut found = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => found.push(Watched(event.wd())),
                Err(rustix::io::Errno::AGAIN) => return Ok(found),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_reported_for_the_file_that_changed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| temp.path().join(name);
        std::fs::write(path("a"), "").expect("writes");
        std::fs::write(path("b"), "").expect("writes");
        let changes = Changes::new().expect("made");
        let (_a, b) = (changes.add(&path("a")).expect("watches"), changes.add(&path("b")).expect("watches"));
        assert_eq!(changes.take().expect("takes"), []);
        std::fs::write(path("b"), "x").expect("writes");
        assert!(changes.take().expect("takes").iter().all(|watched| *watched == b));
        assert!(changes.add(&path("none")).is_err());
    }
}
