//! Subvolumes of btrfs and their quota groups (btrfs documentation, "Quota groups"; `linux/btrfs.h`).
//!
//! A group of level 0 has the number of its subvolume and counts what the subvolume refers to. What is in use is read from
//! `/sys/fs/btrfs`; it is as fresh as the last commit of the file system, while the limit holds at once.

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

/// Inode of the root directory of every subvolume.
pub const ROOT_INODE: u64 = 256;

/// What a quota group counts and bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Bytes that the subvolume refers to.
    pub used: u64,
    /// The most of them; `None` is no limit.
    pub limit: Option<u64>,
}

/// A structure that the kernel reads or writes whole. Every one is plain numbers, for which all zeroes are a value.
trait Argument: Sized {
    const ZERO: Self;
}

macro_rules! arguments {
    ($($name:ident)*) => {$(
        impl Argument for $name {
            // SAFETY: the structure is made of integers and arrays of integers only (linux/btrfs.h).
            const ZERO: Self = unsafe { std::mem::zeroed() };
        }
    )*};
}

arguments! {
    btrfs_ioctl_fs_info_args btrfs_ioctl_get_subvol_info_args btrfs_ioctl_qgroup_limit_args btrfs_ioctl_vol_args
}

fn control<T: Argument>(fd: impl AsFd, command: u32, argument: &mut T) -> io::Result<()> {
    // SAFETY: the command reads and writes one structure through the pointer, whose type its number encodes; each caller
    // passes that type, and it is a live value. Neither rustix nor nix knows this file system.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::Ioctl::from(command), std::ptr::from_mut(argument)) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn named(name: &str) -> io::Result<btrfs_ioctl_vol_args> {
    let mut arguments = btrfs_ioctl_vol_args::ZERO;
    // The last byte stays zero.
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

/// Removes a subvolume with all that is in it, at once; the space is given back in time.
///
/// # Errors
/// `ENOTEMPTY` while it holds another subvolume.
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

/// Bounds what a subvolume may refer to; `None` takes the bound away.
///
/// # Errors
/// `ENOTCONN` while quotas are off, `ENOENT` when there is no such group.
pub fn set_limit(fd: impl AsFd, subvolume: u64, limit: Option<u64>) -> io::Result<()> {
    let bound = btrfs_qgroup_limit {
        flags: u64::from(BTRFS_QGROUP_LIMIT_MAX_RFER),
        // The kernel takes the largest number as "none".
        max_rfer: limit.unwrap_or(u64::MAX),
        max_excl: 0,
        rsv_rfer: 0,
        rsv_excl: 0,
    };
    control(fd, BTRFS_IOC_QGROUP_LIMIT, &mut btrfs_ioctl_qgroup_limit_args { qgroupid: subvolume, lim: bound })
}

/// Where the kernel shows a file system: below `/sys/fs/btrfs`. Works for any user.
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

/// Whether quotas are on in the file system that the kernel shows in `directory`.
#[must_use]
pub fn counts(directory: &Path) -> bool {
    directory.join("qgroups").is_dir()
}

/// What a subvolume uses and may use.
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
    fn another_file_system_says_so() {
        let proc = std::fs::File::open("/proc").expect("opens");
        for error in [make_subvolume(&proc, "x").err(), subvolume(&proc).err(), directory(&proc).err()] {
            assert_eq!(error.and_then(|error| error.raw_os_error()), Some(libc::ENOTTY));
        }
    }

    #[test]
    fn a_name_that_is_no_name_is_refused() {
        assert!(named("a/b").is_err());
        assert!(named(&"x".repeat(4088)).is_err());
        assert!(named(&"x".repeat(255)).is_ok());
    }
}
