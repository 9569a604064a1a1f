//! The namespaces of a process (`namespaces(7)`), and the owner of a user namespace (`ioctl_nsfs(2)`).

use crate::file;
use crate::proc::{self, IdKind};
use rustix::fs::{Mode, OFlags};
use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// The inode that identifies a namespace of a process; `kind` is one of [`bailiwick_types::NAMESPACES`].
///
/// # Errors
/// `ENOENT` when the process is gone, `EACCES` when the reader may not look at it.
pub fn inode(pid: u32, kind: &str) -> io::Result<u64> {
    proc::inode_at(proc::open(pid)?.as_fd(), kind)
}

/// Opens a namespace of a process. The namespace lives at least as long as the descriptor.
///
/// # Errors
/// As for [`inode`].
pub fn open(pid: u32, kind: &str) -> io::Result<OwnedFd> {
    proc::namespace_at(proc::open(pid)?.as_fd(), kind)
}

/// Moves this process, which must have one thread, into a namespace (`setns(2)`). In a mount namespace, its root and current
/// directory become those of the namespace.
///
/// # Errors
/// `EINVAL` for a descriptor of another kind, and for a process with more threads; `EPERM` without the rights over the namespace.
pub fn enter(namespace: impl AsFd, kind: Kind) -> io::Result<()> {
    let kind = match kind {
        Kind::Mount => rustix::thread::LinkNameSpaceType::Mount,
        Kind::User => rustix::thread::LinkNameSpaceType::User,
        Kind::Network => rustix::thread::LinkNameSpaceType::Network,
    };
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?)
}

/// The kind of a namespace for [`enter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A mount namespace.
    Mount,
    /// A user namespace.
    User,
    /// A network namespace.
    Network,
}

/// The user that owns a user namespace, as this process's user namespace counts (`NS_GET_OWNER_UID`).
///
/// # Errors
/// `EINVAL` when the descriptor is of another kind of namespace.
pub fn owner_uid(user_namespace: impl AsFd) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    let fd = user_namespace.as_fd().as_raw_fd();
    // SAFETY: NS_GET_OWNER_UID writes one uid_t through the pointer (ioctl_nsfs(2)); `uid` is one and outlives the
    // call, and a descriptor that is no namespace is answered with ENOTTY and nothing written. Neither rustix nor nix has a
    // safe call for it.
    let result = unsafe { libc::ioctl(fd, libc::NS_GET_OWNER_UID, &raw mut uid) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(uid) }
}

/// The user namespace that a namespace belongs to (`NS_GET_USERNS`). Who has capabilities in it has power over that namespace.
///
/// # Errors
/// `EPERM` when it is neither that of this process nor below it, `ENOTTY` when the descriptor is no namespace.
pub fn user_of(namespace: impl AsFd) -> io::Result<OwnedFd> {
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor (ioctl_nsfs(2)). Neither rustix nor nix has a safe call
    // for it.
    let result = unsafe { libc::ioctl(fd, libc::NS_GET_USERNS) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Whether a descriptor is of a network namespace (`NS_GET_NSTYPE`).
#[must_use]
pub fn is_network(namespace: impl AsFd) -> bool {
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: NS_GET_NSTYPE takes no argument and writes nothing (ioctl_nsfs(2)); a descriptor that is no namespace is answered
    // with ENOTTY. Neither rustix nor nix has a safe call for it.
    let kind = unsafe { libc::ioctl(fd, libc::NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

/// Sets an id map of the user namespace of a process. Each row is the first id inside, the first id outside, and the count. The
/// kernel accepts a map once, as one write of at most a page (`user_namespaces(7)`).
///
/// # Errors
/// `EPERM` when the map is set already or the caller lacks the rights, else the errors of `openat2(2)` and `write(2)`.
pub fn set_id_map(pid: u32, kind: IdKind, rows: &[[u32; 3]]) -> io::Result<()> {
    let mut text = String::new();
    for [inside, outside, count] in rows {
        writeln!(text, "{inside} {outside} {count}").expect("writing to a string cannot fail");
    }
    let fd = file::open_at(proc::open(pid)?, kind.file(), OFlags::WRONLY, Mode::empty())?;
    let written = rustix::io::write(fd, text.as_bytes())?;
    if written == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_types::NAMESPACES;

    #[test]
    fn a_namespace_tells_its_kind_and_the_user_namespace_it_belongs_to() {
        let pid = std::process::id();
        let own = inode(pid, "user").expect("inode");
        for kind in NAMESPACES {
            let fd = open(pid, kind).expect("opens");
            assert_eq!(is_network(&fd), kind == "net", "{kind}");
            // The initial user namespace belongs to none.
            match user_of(&fd).and_then(file::metadata) {
                Ok(user) => assert!(kind != "user" && user.inode == own, "{kind}"),
                Err(error) => assert_eq!((kind, error.raw_os_error()), ("user", Some(libc::EPERM))),
            }
        }
        let file = std::fs::File::open("/proc/self/status").expect("opens");
        assert!(!is_network(&file) && user_of(&file).is_err());
    }

    #[test]
    fn an_inode_identifies_a_namespace_and_only_a_user_namespace_has_an_owner() {
        let pid = std::process::id();
        for kind in NAMESPACES {
            let fd = open(pid, kind).expect("opens");
            assert_eq!(file::metadata(&fd).expect("stat").inode, inode(pid, kind).expect("inode"), "{kind}");
            match owner_uid(&fd) {
                Ok(uid) => assert!(kind == "user" && uid == 0, "the initial user namespace is root's, not {uid}'s"),
                Err(error) => assert_eq!((kind == "user", error.raw_os_error()), (false, Some(libc::EINVAL)), "{kind}"),
            }
        }
    }
}
