//! `/proc/PID/ns`: the namespaces of a process.

use super::directory;
use crate::file;
use bailiwick_types::NAMESPACES;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The inode numbers of a process's namespaces, by kind.
///
/// # Errors
/// As for [`status`](super::status()); `EACCES` when the reader may not look at it.
pub fn namespaces_of(pid: u32) -> io::Result<BTreeMap<String, u64>> {
    namespaces(directory(pid)?.as_fd())
}

/// The namespaces of the first thread that has any. The first thread may end before the others, and has none then.
pub(super) fn namespaces(process: BorrowedFd<'_>) -> io::Result<BTreeMap<String, u64>> {
    let all = |dir: BorrowedFd<'_>| -> io::Result<BTreeMap<String, u64>> {
        NAMESPACES.iter().map(|kind| Ok(((*kind).to_owned(), inode_at(dir, kind)?))).collect()
    };
    let error = match all(process) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => error,
        result => return result,
    };
    let threads = file::open_dir_at(process, "task")?;
    for thread in file::names(threads.as_fd())? {
        let thread = file::open_dir_at(threads.as_fd(), &thread);
        if let Some(found) = thread.ok().and_then(|thread| all(thread.as_fd()).ok()) {
            return Ok(found);
        }
    }
    Err(error)
}

/// The inode number of a namespace, below the directory of a process or thread.
pub(crate) fn inode_at(process: BorrowedFd<'_>, kind: &str) -> io::Result<u64> {
    // Following the link reaches the namespace itself and opens nothing.
    let stat = rustix::fs::statat(process, format!("ns/{kind}"), AtFlags::empty())?;
    Ok(stat.st_ino)
}

/// Opens a namespace, below the directory of a process.
pub(crate) fn namespace_at(process: BorrowedFd<'_>, kind: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(process, format!("ns/{kind}"), flags, Mode::empty())?)
}
