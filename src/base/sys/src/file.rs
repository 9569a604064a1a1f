//! Files by descriptor: every name is resolved below a directory that is already open, and never through a link.
//!
//! Danger: a tenant can swap a name for a link at any time. With `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
//! RESOLVE_NO_MAGICLINKS` of `openat2(2)` such a name is an error, and not a way out.

pub use rustix::fs::FileType;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// The flags of `openat2(2)` for a name below a directory.
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// The metadata of a file, as `stat(2)` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Regular file, directory, or another kind.
    pub kind: FileType,
    /// The permission bits, without the kind.
    pub mode: u32,
    /// The owner, as this process's user namespace counts.
    pub uid: u32,
    /// The group, as this process's user namespace counts.
    pub gid: u32,
    /// The size in bytes.
    pub size: u64,
    /// The inode number.
    pub inode: u64,
    /// The device of the file system.
    pub device: u64,
    /// The device that a device node stands for.
    pub stands_for: u64,
    /// The time of the last modification, in nanoseconds since 1970.
    pub modified: i128,
}

/// Opens a directory by an absolute path that must hold no symbolic link at all (`RESOLVE_NO_SYMLINKS`).
///
/// # Errors
/// `ELOOP` when the path holds a link, else the error of `openat2(2)`.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(
        rustix::fs::CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// Opens a directory below `dir`.
///
/// # Errors
/// The error of `openat2(2)`; `ELOOP` or `EXDEV` when the name leads out of `dir`.
pub fn open_dir_at(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<OwnedFd> {
    open_at(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens a file below `dir` for reading, without waiting for a writer of a FIFO.
///
/// # Errors
/// As for [`open_dir_at`].
pub fn open_file_at(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<OwnedFd> {
    open_at(dir, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
}

/// Opens a file below `dir` with the caller's flags and `O_CLOEXEC`.
///
/// # Errors
/// As for [`open_dir_at`].
pub fn open_at(dir: impl AsFd, name: impl AsRef<Path>, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(dir, name.as_ref(), flags | OFlags::CLOEXEC, mode, CONFINED)?)
}

/// The metadata of an open file.
///
/// # Errors
/// The error of `fstat(2)`.
pub fn metadata(fd: impl AsFd) -> io::Result<Metadata> {
    Ok(convert(&rustix::fs::fstat(fd)?))
}

/// The metadata of a name in `dir`. For a link it is that of the link itself.
///
/// # Errors
/// The error of `fstatat(2)`.
pub fn metadata_at(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<Metadata> {
    Ok(convert(&rustix::fs::statat(dir, name.as_ref(), AtFlags::SYMLINK_NOFOLLOW)?))
}

fn convert(stat: &rustix::fs::Stat) -> Metadata {
    Metadata {
        kind: FileType::from_raw_mode(stat.st_mode),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        inode: stat.st_ino,
        device: stat.st_dev,
        stands_for: stat.st_rdev,
        modified: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
    }
}

/// Reads an open file to its end, at most `max` bytes.
///
/// # Errors
/// `EFBIG` when the file holds more than `max` bytes, else the error of `read(2)`.
pub fn read_bounded(fd: OwnedFd, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::from(fd).take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > max { Err(io::Error::from_raw_os_error(libc::EFBIG)) } else { Ok(bytes) }
}

/// The names of the directories in a directory, without `.` and `..`, sorted.
///
/// # Errors
/// The error of `getdents64(2)`; `EOPNOTSUPP` on a file system that does not report kinds in directories.
pub fn directories(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        match entry.file_type() {
            FileType::Directory if name != b"." && name != b".." => names.push(OsString::from_vec(name.to_vec())),
            FileType::Unknown => return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            _ => {}
        }
    }
    names.sort();
    Ok(names)
}

/// The names in a directory, without `.` and `..`, sorted.
///
/// # Errors
/// The error of `getdents64(2)`.
pub fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    Ok(entries(dir)?.into_iter().map(|(name, _)| name).collect())
}

/// The same, with what the directory says that each is. Some file systems say [`FileType::Unknown`].
///
/// # Errors
/// As for [`names`].
pub fn entries(dir: impl AsFd) -> io::Result<Vec<(OsString, FileType)>> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push((OsString::from_vec(name.to_vec()), entry.file_type()));
        }
    }
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
}

/// Makes a directory below `dir` unless it exists, and opens it. A new one has the mode, whatever the umask is. An existing one keeps
/// its own.
///
/// # Errors
/// The errors of `mkdirat(2)` and `openat2(2)`.
pub fn ensure_dir_at(dir: impl AsFd, name: impl AsRef<Path>, mode: u32) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(dir.as_fd(), name.as_ref(), Mode::from_raw_mode(mode)) {
        Ok(()) => {
            let made = open_dir_at(dir, name)?;
            set_mode(&made, mode)?;
            Ok(made)
        }
        Err(rustix::io::Errno::EXIST) => open_dir_at(dir, name),
        Err(error) => Err(error.into()),
    }
}

/// Gives an open file or directory a mode, unless it has that mode.
///
/// # Errors
/// The errors of `fstat(2)` and `fchmod(2)`.
pub fn set_mode(file: impl AsFd, mode: u32) -> io::Result<()> {
    let file = file.as_fd();
    if rustix::fs::fstat(file)?.st_mode & 0o7777 != mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

/// Makes a directory, which must not exist yet.
///
/// # Errors
/// The error of `mkdirat(2)`.
pub fn make_dir_at(dir: impl AsFd, name: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(dir, name.as_ref(), Mode::from_raw_mode(mode))?)
}

/// Removes a name in `dir` that is not a directory. A missing name is no error.
///
/// # Errors
/// The error of `unlinkat(2)`.
pub fn remove_file_at(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name.as_ref(), AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes an empty directory in `dir`. A missing one is no error.
///
/// # Errors
/// The error of `unlinkat(2)`.
pub fn remove_dir_at(dir: impl AsFd, name: impl AsRef<Path>) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name.as_ref(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a written file must outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlives {
    /// This process. That is enough for a runtime directory, which is empty after a boot.
    Process,
    /// A power cut. The file and its directory are synced (`fsync(2)`).
    PowerCut,
}

/// Replaces a file in `dir` in one step: a reader sees the old content or the new, never a part. The new content is written to a
/// temporary file, which is then renamed (`rename(2)`).
///
/// # Errors
/// The error of the first step that failed. The temporary file is removed.
pub fn replace_at(dir: impl AsFd, name: &str, content: &[u8], mode: u32, outlives: Outlives) -> io::Result<()> {
    replace(dir.as_fd(), name, content, mode, None, outlives)
}

/// Replaces a file as [`replace_at`] does. The new file has the owner, the group and the mode that `former` tells of.
///
/// # Errors
/// The error of the first step that failed. The temporary file is removed.
pub fn replace_like_at(
    dir: impl AsFd,
    name: &str,
    content: &[u8],
    former: Metadata,
    outlives: Outlives,
) -> io::Result<()> {
    replace(dir.as_fd(), name, content, former.mode, Some((former.uid, former.gid)), outlives)
}

fn replace(
    dir: BorrowedFd<'_>,
    name: &str,
    content: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
    outlives: Outlives,
) -> io::Result<()> {
    let temporary = format!(".{name}.new");
    let write = || -> io::Result<()> {
        remove_file_at(dir, &temporary)?;
        let fd = open_at(dir, &temporary, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode))?;
        let mut file = std::fs::File::from(fd);
        file.write_all(content)?;
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))?;
        }
        // The umask may have taken bits away.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        if outlives == Outlives::PowerCut {
            file.sync_all()?;
        }
        rustix::fs::renameat(dir, &temporary, dir, name)?;
        if outlives == Outlives::PowerCut {
            rustix::fs::fsync(dir)?;
        }
        Ok(())
    };
    write().inspect_err(|_| {
        // The first error is the one to report. The next call removes a temporary file that cannot be removed now.
        drop(remove_file_at(dir, &temporary));
    })
}

/// The size of the file system of a path, and its free space for users other than root, both in bytes.
///
/// # Errors
/// The error of `statvfs(3)`.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// Takes the exclusive lock of an open file without waiting (`flock(2)`). It lasts as long as the descriptor.
///
/// # Errors
/// `EWOULDBLOCK` when another open file holds the lock.
pub fn lock(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::flock(fd, rustix::fs::FlockOperation::NonBlockingLockExclusive)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_never_followed() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let root = temp.path().canonicalize().expect("real path");
        std::os::unix::fs::symlink("/etc", root.join("link")).expect("symlink");
        std::fs::create_dir(root.join("real")).expect("mkdir");
        let dir = open_dir(&root).expect("opens");
        assert_eq!(open_dir_at(&dir, "link").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(open_dir(&root.join("link")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(open_dir_at(&dir, "../").unwrap_err().raw_os_error(), Some(libc::EXDEV));
        assert!(open_dir_at(&dir, "real").is_ok());
    }

    #[test]
    fn a_file_is_replaced_whole_and_a_large_one_refused() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = open_dir(&temp.path().canonicalize().expect("real path")).expect("opens");
        replace_at(&dir, "f", b"one", 0o600, Outlives::PowerCut).expect("writes");
        replace_at(&dir, "f", b"two", 0o640, Outlives::Process).expect("writes");
        let fd = open_file_at(&dir, "f").expect("opens");
        assert_eq!(metadata(&fd).expect("stat").mode, 0o640);
        assert_eq!(read_bounded(fd, 3).expect("reads"), b"two");
        let fd = open_file_at(&dir, "f").expect("opens");
        assert_eq!(read_bounded(fd, 2).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        assert_eq!(names(&dir).expect("lists"), ["f"]);
    }
}
