//! Project quotas: the project that a file is charged to (`FS_IOC_FSSETXATTR`, `ioctl_xfs_fsgetxattr(2)`), and the limits of a
//! project (`quotactl(2)`, by descriptor with `quotactl_fd` since Linux 5.14).
//!
//! Danger: in the initial user namespace the owner of a file may change its project. In other user namespaces the kernel refuses
//! this. So only tenants in a user namespace of their own can be charged this way.

use crate::ioctl_request;
use linux_raw_sys::general::{FS_XFLAG_PROJINHERIT, fsxattr};
use linux_raw_sys::ioctl::{FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

// linux/quota.h and linux/dqblk_xfs.h; libc has none of these for projects.
const PROJECTS: u32 = 2;
const GET_INFO: u32 = 0x0080_0005;
const GET_QUOTA: u32 = 0x0080_0007;
const SET_QUOTA: u32 = 0x0080_0008;
const GET_STATE: u32 = 0x5808;
const STATE_VERSION: i8 = 1;
const PROJECTS_ACCOUNTED: u16 = 1 << 4;
const PROJECTS_ENFORCED: u16 = 1 << 5;
const VALID_LIMITS: u32 = 1 | 4;
const VALID_BYTES_GRACE: u32 = 16;
const VALID_INODES_GRACE: u32 = 32;

/// The project that a file or directory is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// The number of the project; 0 is no project.
    pub id: u32,
    /// For a directory: whether new files in it belong to the same project.
    pub inherited: bool,
}

/// The state of project quotas on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The file system does not count.
    Off,
    /// The file system counts, but enforces no limit.
    Accounted,
    /// The file system counts and enforces limits.
    Enforced,
}

/// Use and limits of a project for bytes or inodes. `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How much is in use.
    pub used: u64,
    /// The soft limit, which may be passed for the grace period.
    pub soft: Option<u64>,
    /// The hard limit, which may never be passed.
    pub hard: Option<u64>,
    /// The end of the grace period, in seconds since 1970; `None` unless the soft limit is passed.
    pub grace_until: Option<u64>,
}

/// Use and limits of a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes. The kernel rounds limits down to whole kibibytes.
    pub bytes: Share,
    /// Inodes.
    pub inodes: Share,
}

/// The project of an open file or directory.
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` on a file system without projects.
pub fn project(fd: impl AsFd) -> io::Result<Project> {
    let attributes = attributes(&fd)?;
    Ok(Project { id: attributes.fsx_projid, inherited: attributes.fsx_xflags & FS_XFLAG_PROJINHERIT != 0 })
}

/// Charges an open file or directory to a project.
///
/// # Errors
/// As for [`project`]; `EPERM` for a user other than the owner, `EINVAL` inside a user namespace.
pub fn set_project(fd: impl AsFd, project: Project) -> io::Result<()> {
    let mut attributes = attributes(&fd)?;
    attributes.fsx_projid = project.id;
    attributes.fsx_xflags &= !FS_XFLAG_PROJINHERIT;
    if project.inherited {
        attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    }
    // SAFETY: the command reads one fsxattr through the pointer, which is to a live local of that type. Neither rustix nor nix
    // has a safe call for this command or for FS_IOC_FSGETXATTR.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), ioctl_request(FS_IOC_FSSETXATTR), &raw const attributes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn attributes(fd: &impl AsFd) -> io::Result<fsxattr> {
    let mut attributes =
        fsxattr { fsx_xflags: 0, fsx_extsize: 0, fsx_nextents: 0, fsx_projid: 0, fsx_cowextsize: 0, fsx_pad: [0; 8] };
    // SAFETY: the command writes one fsxattr through the pointer, which is to a live local of that type.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), ioctl_request(FS_IOC_FSGETXATTR), &raw mut attributes) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

/// A structure that the kernel reads or writes whole. Each belongs to one command.
trait Argument {}
impl Argument for libc::dqblk {}
impl Argument for Info {}
impl Argument for Status {}

/// `struct if_dqinfo`.
#[repr(C)]
#[derive(Default)]
struct Info {
    bytes_grace: u64,
    inodes_grace: u64,
    flags: u32,
    valid: u32,
}

/// `struct fs_qfilestatv`.
#[repr(C)]
#[derive(Default)]
struct FileStatus {
    inode: u64,
    blocks: u64,
    extents: u32,
    pad: u32,
}

/// `struct fs_quota_statv`.
#[repr(C)]
#[derive(Default)]
struct Status {
    version: i8,
    pad1: u8,
    flags: u16,
    in_core: u32,
    files: [FileStatus; 3],
    graces: [i32; 3],
    warnings: [u16; 4],
    pad4: u32,
    pad2: [u64; 7],
}

fn control<T: Argument>(fd: impl AsFd, command: u32, id: u32, argument: &mut T) -> io::Result<()> {
    // SAFETY: quotactl_fd(2) reads or writes the one structure of the command through the pointer, which is to a live value.
    // Each caller passes the type of its command, and only these types are an `Argument`. nix has only quotas of users and
    // groups, by the path of a device.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            fd.as_fd().as_raw_fd(),
            command << 8 | PROJECTS,
            id,
            std::ptr::from_mut(argument),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The state of project quotas on the file system of an open file. Any user may ask.
///
/// # Errors
/// The error of `quotactl_fd(2)`, except those that mean [`State::Off`].
pub fn state(fd: impl AsFd) -> io::Result<State> {
    let mut status = Status { version: STATE_VERSION, ..Status::default() };
    match control(fd, GET_STATE, 0, &mut status) {
        Ok(()) if status.flags & PROJECTS_ENFORCED != 0 => Ok(State::Enforced),
        Ok(()) if status.flags & PROJECTS_ACCOUNTED != 0 => Ok(State::Accounted),
        Ok(()) => Ok(State::Off),
        // ENOSYS: the kernel has no quotas. EINVAL: the file system has none for projects. ESRCH: they are switched off.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::ESRCH)) => Ok(State::Off),
        Err(error) => Err(error),
    }
}

/// The grace periods of the file system in seconds, for bytes and for inodes. They hold for all its projects.
///
/// # Errors
/// The error of `quotactl_fd(2)`.
pub fn graces(fd: impl AsFd) -> io::Result<(u64, u64)> {
    let mut info = Info::default();
    control(fd, GET_INFO, 0, &mut info)?;
    Ok((info.bytes_grace, info.inodes_grace))
}

/// Use and limits of a project. An unknown project uses nothing and has no limits.
///
/// # Errors
/// `EPERM` for a user other than root, else the error of `quotactl_fd(2)`.
pub fn read(fd: impl AsFd, project: u32) -> io::Result<Quota> {
    let mut block = empty();
    match control(fd, GET_QUOTA, project, &mut block) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Quota::default()),
        Err(error) => return Err(error),
    }
    let some = |value: u64| (value != 0).then_some(value);
    let bytes = |kibibytes: u64| some(kibibytes.saturating_mul(1024));
    Ok(Quota {
        bytes: Share {
            used: block.dqb_curspace,
            soft: bytes(block.dqb_bsoftlimit),
            hard: bytes(block.dqb_bhardlimit),
            grace_until: some(block.dqb_btime),
        },
        inodes: Share {
            used: block.dqb_curinodes,
            soft: some(block.dqb_isoftlimit),
            hard: some(block.dqb_ihardlimit),
            grace_until: some(block.dqb_itime),
        },
    })
}

/// Sets the limits of a project. They may be lower than what is in use. `used` and `grace_until` are ignored.
///
/// # Errors
/// As for [`read`].
pub fn write(fd: impl AsFd, project: u32, quota: &Quota) -> io::Result<()> {
    let mut block = empty();
    let kibibytes = |bytes: Option<u64>| bytes.unwrap_or(0) / 1024;
    block.dqb_bsoftlimit = kibibytes(quota.bytes.soft);
    block.dqb_bhardlimit = kibibytes(quota.bytes.hard);
    block.dqb_isoftlimit = quota.inodes.soft.unwrap_or(0);
    block.dqb_ihardlimit = quota.inodes.hard.unwrap_or(0);
    block.dqb_valid = VALID_LIMITS;
    control(fd, SET_QUOTA, project, &mut block)
}

/// Sets the end of the grace period of a project that has passed a soft limit, in seconds since 1970. `None` leaves it as it is.
///
/// # Errors
/// As for [`read`].
pub fn set_grace(fd: impl AsFd, project: u32, bytes: Option<u64>, inodes: Option<u64>) -> io::Result<()> {
    let mut block = empty();
    block.dqb_valid = if bytes.is_some() { VALID_BYTES_GRACE } else { 0 };
    block.dqb_valid |= if inodes.is_some() { VALID_INODES_GRACE } else { 0 };
    block.dqb_btime = bytes.unwrap_or(0);
    block.dqb_itime = inodes.unwrap_or(0);
    control(fd, SET_QUOTA, project, &mut block)
}

fn empty() -> libc::dqblk {
    libc::dqblk {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_have_the_sizes_of_the_kernels() {
        // linux/quota.h: if_dqinfo; linux/dqblk_xfs.h: fs_quota_statv.
        assert_eq!((size_of::<Info>(), size_of::<FileStatus>(), size_of::<Status>()), (24, 24, 160));
    }

    #[test]
    fn a_file_system_without_quotas_is_off_and_not_an_error() {
        let tmpfs = crate::mount::new_file_system("tmpfs", &[], 0);
        let Ok(root) = tmpfs else { panic!("tests run as root: {tmpfs:?}") };
        assert_eq!(state(&root).expect("answers"), State::Off);
        assert!(read(&root, 1).is_err());
    }
}
