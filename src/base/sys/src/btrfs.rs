//! Subvolumes of btrfs and their quota groups (btrfs documentation, "Quota groups"; `linux/btrfs.h`).
//!
//! A quota group of level 0 has the number of its subvolume, and counts the bytes that the subvolume refers to. The use is read
//! from `/sys/fs/btrfs`. It is as recent as the last commit of the file system, but a limit holds at once.

use crate::ioctl_request;
use linux_raw_sys::btrfs::{
    BTRFS_QGROUP_LIMIT_MAX_RFER, btrfs_ioctl_fs_info_args, btrfs_ioctl_get_subvol_info_args,
    btrfs_ioctl_qgroup_limit_args, btrfs_ioctl_vol_args, btrfs_qgroup_limit,
};
use linux_raw_sys::ioctl::{
    BTRFS_IOC_FS_INFO, BTRFS_IOC_GET_SUBVOL_INFO, BTRFS_IOC_QGROUP_LIMIT, BTRFS_IOC_SNAP_DESTROY,
    BTRFS_IOC_SUBVOL_CREATE,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

/// The inode number of the root directory of every subvolume.
pub const ROOT_INODE: u64 = 256;

/// Use and limit of a quota group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The bytes that the subvolume refers to.
    pub used: u64,
    /// The limit in bytes; `None` means no limit.
    pub limit: Option<u64>,
}

/// A structure that the kernel reads or writes whole. Each consists of numbers, so all zeros are a valid value.
trait Argument: Sized {
    const ZERO: Self;
}

macro_rules! arguments {
    ($($name:ident)*) => {$(
        impl Argument for $name {
            // SAFETY: the structure consists only of integers and arrays of integers (linux/btrfs.h).
            const ZERO: Self = unsafe { std::mem::zeroed() };
        }
    )*};
}

arguments! {
    btrfs_ioctl_fs_info_args btrfs_ioctl_get_subvol_info_args btrfs_ioctl_qgroup_limit_args btrfs_ioctl_vol_args
}

fn control<T: Argument>(fd: impl AsFd, command: u32, argument: &mut T) -> io::Result<()> {
    // SAFETY: the command reads and writes one structure through the pointer, which is to a live value. Each caller passes the
    // type of its command. Neither rustix nor nix has commands of this file system.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), ioctl_request(command), std::ptr::from_mut(argument)) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn named(name: &str) -> io::Result<btrfs_ioctl_vol_args> {
    let mut arguments = btrfs_ioctl_vol_args::ZERO;
    // The last byte must stay zero.
    if name.len() >= arguments.name.len() || name.contains(['/', '\0']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in arguments.name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(arguments)
}

/// Makes a subvolume in an open directory.
///
/// # Errors
/// `ENOTTY` on another file system, else what `mkdirat(2)` would say.
pub fn make_subvolume(dir: impl AsFd, name: &str) -> io::Result<()> {
    control(dir, BTRFS_IOC_SUBVOL_CREATE, &mut named(name)?)
}

/// Removes a subvolume and its whole content at once. The file system frees the space later.
///
/// # Errors
/// `ENOTEMPTY` while the subvolume holds another one.
pub fn remove_subvolume(dir: impl AsFd, name: &str) -> io::Result<()> {
    control(dir, BTRFS_IOC_SNAP_DESTROY, &mut named(name)?)
}

/// The number of the subvolume that an open file is in.
///
/// # Errors
/// `ENOTTY` on another file system.
pub fn subvolume(fd: impl AsFd) -> io::Result<u64> {
    let mut info = btrfs_ioctl_get_subvol_info_args::ZERO;
    control(fd, BTRFS_IOC_GET_SUBVOL_INFO, &mut info)?;
    Ok(info.treeid)
}

/// Sets the limit on the bytes that a subvolume may refer to; `None` removes it.
///
/// # Errors
/// `ENOTCONN` while quotas are off, `ENOENT` when there is no such group.
pub fn set_limit(fd: impl AsFd, subvolume: u64, limit: Option<u64>) -> io::Result<()> {
    let bound = btrfs_qgroup_limit {
        flags: u64::from(BTRFS_QGROUP_LIMIT_MAX_RFER),
        // The kernel takes the largest number for no limit.
        max_rfer: limit.unwrap_or(u64::MAX),
        max_excl: 0,
        rsv_rfer: 0,
        rsv_excl: 0,
    };
    control(fd, BTRFS_IOC_QGROUP_LIMIT, &mut btrfs_ioctl_qgroup_limit_args { qgroupid: subvolume, lim: bound })
}

/// The directory below `/sys/fs/btrfs` for the file system of an open file. Any user may ask.
///
/// # Errors
/// `ENOTTY` on another file system.
pub fn directory(fd: impl AsFd) -> io::Result<PathBuf> {
    let mut info = btrfs_ioctl_fs_info_args::ZERO;
    control(fd, BTRFS_IOC_FS_INFO, &mut info)?;
    let mut text = String::new();
    for (index, byte) in info.fsid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(Path::new("/sys/fs/btrfs").join(text))
}

/// Whether quotas are on in the file system with this [`directory`].
#[must_use]
pub fn counts(directory: &Path) -> bool {
    directory.join("qgroups").is_dir()
}

/// Use and limit of a subvolume. `directory` is that of its file system ([`directory`](fn@directory)).
///
/// # Errors
/// `NotFound` while quotas are off.
pub fn group(directory: &Path, subvolume: u64) -> io::Result<Group> {
    let group = directory.join(format!("qgroups/0_{subvolume}"));
    let number = |name: &str| -> io::Result<u64> {
        std::fs::read_to_string(group.join(name))?.trim().parse().map_err(io::Error::other)
    };
    let limited = number("limit_flags")? & u64::from(BTRFS_QGROUP_LIMIT_MAX_RFER) != 0;
    Ok(Group { used: number("referenced")?, limit: if limited { Some(number("max_referenced")?) } else { None } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_system_gives_enotty() {
        let proc = std::fs::File::open("/proc").expect("opens");
        for error in [make_subvolume(&proc, "x").err(), subvolume(&proc).err(), directory(&proc).err()] {
            assert_eq!(error.and_then(|error| error.raw_os_error()), Some(libc::ENOTTY));
        }
    }

    #[test]
    fn an_invalid_name_is_refused() {
        assert!(named("a/b").is_err());
        assert!(named(&"x".repeat(4088)).is_err());
        assert!(named(&"x".repeat(255)).is_ok());
    }
}
