//! Mounts by descriptor (`fsopen(2)`, `open_tree(2)`, `mount_setattr(2)`, `move_mount(2)`): built detached, put in place
//! in one step, never looked up by a path that a tenant could swap.
//!
//! Danger: a detached copy of a mount that propagates stays in its group of peers, and what is mounted on the copy then
//! appears on the host's original. Every copy made here leaves its group before anybody gets it.

use linux_raw_sys::general::mount_attr;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Flags of a mount, as `mount_setattr(2)` numbers them.
pub mod attr {
    /// `ro`.
    pub const READ_ONLY: u64 = 0x1;
    /// `nosuid`.
    pub const NO_SUID: u64 = 0x2;
    /// `nodev`.
    pub const NO_DEV: u64 = 0x4;
    /// `noexec`.
    pub const NO_EXEC: u64 = 0x8;
}

/// A detached copy of the mount that holds `path`, which becomes its root. Nothing mounted below is copied.
/// The path is the caller's own: it must hold no name that a tenant can write.
///
/// # Errors
/// What `open_tree(2)` says.
pub fn detached_copy(dir: impl AsFd, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let copy = rustix::mount::open_tree(
        dir,
        path.as_ref(),
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
            | OpenTreeFlags::AT_NO_AUTOMOUNT,
    )?;
    leave_peers(&copy)?;
    Ok(copy)
}

/// A detached copy of the mount that an open file or directory lies on, with it as the root.
///
/// # Errors
/// What `open_tree(2)` says.
pub fn detached_copy_of(fd: impl AsFd) -> io::Result<OwnedFd> {
    let copy = rustix::mount::open_tree(
        fd,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH,
    )?;
    leave_peers(&copy)?;
    Ok(copy)
}

/// Takes a detached mount out of its group of peers (`MS_PRIVATE`, `mount_namespaces(7)`).
fn leave_peers(mount: &OwnedFd) -> io::Result<()> {
    change(mount.as_fd(), mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 })
}

/// Gives a detached copy of a mount of the host exactly these flags (`attr`), whatever the original has: storage that the
/// host itself mounts `nosuid` is not so for the tenant's own programs inside.
///
/// # Errors
/// What `mount_setattr(2)` says.
pub fn replace_attributes(mount: impl AsFd, set: u64) -> io::Result<()> {
    let all = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC;
    change(mount.as_fd(), mount_attr { attr_set: set, attr_clr: all & !set, propagation: 0, userns_fd: 0 })
}

/// Sets flags of one mount (`attr`), and shows it through the id map of a user namespace where one is given. A mount
/// can be mapped once only, and only while it is detached.
///
/// # Errors
/// What `mount_setattr(2)` says; `EINVAL` when the file system cannot be id-mapped.
pub fn set_attributes(mount: impl AsFd, set: u64, id_map: Option<BorrowedFd<'_>>) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let mut attributes = mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    if let Some(namespace) = id_map {
        attributes.attr_set |= MOUNT_ATTR_IDMAP;
        attributes.userns_fd = u64::try_from(namespace.as_raw_fd()).expect("an open descriptor is not negative");
    }
    change(mount.as_fd(), attributes)
}

fn change(mount: BorrowedFd<'_>, attributes: mount_attr) -> io::Result<()> {
    // SAFETY: mount_setattr(2) reads `size_of::<mount_attr>()` bytes from the pointer, which is to a live local of
    // exactly that type; the path is a NUL-terminated literal; both descriptors are borrowed and so are open. Neither
    // rustix nor nix has the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A parameter of a new file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameter<'a> {
    /// `key`
    Flag(&'a str),
    /// `key=value`
    Text(&'a str, &'a str),
}

/// Makes a file system of a kind that needs no device, detached.
///
/// # Errors
/// What `fsopen(2)`, `fsconfig(2)` and `fsmount(2)` say.
pub fn new_file_system(kind: &str, parameters: &[Parameter<'_>], attributes: u64) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for parameter in parameters {
        match parameter {
            Parameter::Flag(key) => rustix::mount::fsconfig_set_flag(&context, *key)?,
            Parameter::Text(key, value) => rustix::mount::fsconfig_set_string(&context, *key, *value)?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).expect("flags fit into 32 bits"));
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// How the kernel calls a file system in memory (`statfs(2)`).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Gives a file system in memory that is mounted on a path below a root another size, in bytes. One that has it, and anything else
/// that is mounted there, is left as it is.
///
/// # Errors
/// `EINVAL` when more is in it than the new size, `EPERM` for one of another user namespace, else what `fspick(2)` and
/// `fsconfig(2)` say.
pub fn resize(root: impl AsFd, path: &str, size: u64) -> io::Result<()> {
    let target = target(root, path)?;
    let stat = rustix::fs::fstatfs(&target)?;
    let has = u64::try_from(stat.f_bsize).unwrap_or(0).saturating_mul(stat.f_blocks);
    let is_tmpfs = u64::try_from(stat.f_type) == Ok(TMPFS_MAGIC);
    if !is_tmpfs || has == size.next_multiple_of(4096) {
        return Ok(());
    }
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_NO_AUTOMOUNT;
    let context = rustix::mount::fspick(&target, "", flags)?;
    rustix::mount::fsconfig_set_string(&context, "size", size.to_string())?;
    Ok(rustix::mount::fsconfig_reconfigure(&context)?)
}

/// Puts a detached mount onto an open directory or file.
///
/// # Errors
/// What `move_mount(2)` says.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    Ok(rustix::mount::move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )?)
}

/// Opens a mount's target below the root of a jail that is being built. Mounts made before are crossed, links are not.
///
/// # Errors
/// What `openat2(2)` says; `ELOOP` when the tenant has put a link there.
pub fn target(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let below = path.trim_start_matches('/');
    let below = if below.is_empty() { "." } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, below, flags, Mode::empty(), resolve)?)
}

/// Cuts every mount of this namespace off from the one it was copied from, so that nothing propagates either way.
///
/// # Errors
/// What `mount(2)` says.
pub fn make_all_private() -> io::Result<()> {
    use rustix::mount::MountPropagationFlags as Flags;
    Ok(rustix::mount::mount_change("/", Flags::PRIVATE | Flags::REC)?)
}

/// Makes the mount at the current directory the root of this mount namespace and lets the old one go, with all that
/// is mounted in it (`pivot_root(2)`, "pivot_root(".", ".")").
///
/// # Errors
/// What `pivot_root(2)` and `umount2(2)` say.
pub fn pivot_to_current_directory() -> io::Result<()> {
    rustix::process::pivot_root(".", ".")?;
    // The old root now lies over the new one at "."; detaching it uncovers the new one.
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Makes an overlay forget every name in it that no process has in use, by a change of nothing (`fspick(2)`).
///
/// One without a layer to write to refuses a change that does not say that it stays read-only; one with such a layer would be
/// read-only then. So which it is says the kernel.
///
/// # Errors
/// What `fspick(2)` and `fsconfig(2)` say.
pub fn forget_names(mount: impl AsFd) -> io::Result<()> {
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_NO_AUTOMOUNT;
    let pick = || rustix::mount::fspick(mount.as_fd(), "", flags);
    match rustix::mount::fsconfig_reconfigure(pick()?) {
        Err(rustix::io::Errno::ROFS) => {
            let context = pick()?;
            rustix::mount::fsconfig_set_flag(&context, "ro")?;
            Ok(rustix::mount::fsconfig_reconfigure(&context)?)
        }
        done => Ok(done?),
    }
}

/// Takes a mount away from where it is, now for new look-ups, later for those who still use it.
///
/// # Errors
/// What `umount2(2)` says.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}
