//! Mounts by descriptor (`fsopen(2)`, `open_tree(2)`, `mount_setattr(2)`, `move_mount(2)`): a mount is built detached and put
//! in place in one step. It is never looked up by a path that a tenant could swap.
//!
//! Danger: a detached copy of a shared mount stays in the peer group of the original, so that a mount on the copy appears on the
//! host. Every copy of a mount of the host must leave its peer group before it is returned. Copies of private mounts have none.

use linux_raw_sys::general::mount_attr;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The flags of a mount, as `mount_setattr(2)` numbers them.
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

/// Makes a detached copy of the mount that holds `path`, with `path` as its root. Mounts below are not copied.
///
/// Danger: `path` must hold no name that a tenant can write.
///
/// # Errors
/// The error of `open_tree(2)`.
pub fn detached_copy(dir: impl AsFd, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let copy = private_copy(dir, path)?;
    leave_peers(&copy)?;
    Ok(copy)
}

/// The same of a mount that is private already, as every mount of a namespace is after [`make_all_private`]: one call instead of two.
///
/// # Errors
/// The error of `open_tree(2)`.
pub fn private_copy(dir: impl AsFd, path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(
        dir,
        path.as_ref(),
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
            | OpenTreeFlags::AT_NO_AUTOMOUNT,
    )?)
}

/// Makes a detached copy of the mount that holds an open file or directory, which becomes the root of the copy.
///
/// # Errors
/// The error of `open_tree(2)`.
pub fn detached_copy_of(fd: impl AsFd) -> io::Result<OwnedFd> {
    let copy = private_copy_of(fd)?;
    leave_peers(&copy)?;
    Ok(copy)
}

/// The same of a mount that is private already.
///
/// # Errors
/// The error of `open_tree(2)`.
pub fn private_copy_of(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::mount::open_tree(
        fd,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH,
    )?)
}

/// Takes a detached mount out of its peer group (`MS_PRIVATE`, `mount_namespaces(7)`).
fn leave_peers(mount: &OwnedFd) -> io::Result<()> {
    change(mount.as_fd(), mount_attr { attr_set: 0, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 })
}

/// Gives a detached copy of a host's mount exactly the flags `set` ([`attr`]), whatever the original has. So set-user-ID
/// programs of a tenant work inside even if the host mounts its storage with `nosuid`.
///
/// # Errors
/// The error of `mount_setattr(2)`.
pub fn replace_attributes(mount: impl AsFd, set: u64) -> io::Result<()> {
    let all = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC;
    change(mount.as_fd(), mount_attr { attr_set: set, attr_clr: all & !set, propagation: 0, userns_fd: 0 })
}

/// Adds the flags `set` ([`attr`]) to one mount. With `id_map`, a user namespace, the mount becomes id-mapped. A mount can be
/// id-mapped once, and only while it is detached.
///
/// # Errors
/// The error of `mount_setattr(2)`; `EINVAL` when the file system cannot be id-mapped.
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
    /// A parameter without a value: `key`.
    Flag(&'a str),
    /// A parameter with a value: `key=value`.
    Text(&'a str, &'a str),
}

/// Makes a file system that needs no device, and returns its detached mount. `attributes` are flags of [`attr`].
///
/// # Errors
/// The errors of `fsopen(2)`, `fsconfig(2)` and `fsmount(2)`.
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

/// The magic number of a tmpfs (`statfs(2)`).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Changes the size of the tmpfs that is mounted on `path` below `root`, in bytes. A tmpfs of this size and any other file
/// system are left as they are.
///
/// # Errors
/// `EINVAL` when the tmpfs holds more than `size`, `EPERM` when another user namespace owns it, else what `fspick(2)` and
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

/// Mounts a detached mount on an open directory or file.
///
/// # Errors
/// The error of `move_mount(2)`.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    Ok(rustix::mount::move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )?)
}

/// Mounts a detached mount on a name in an open directory. A link is not followed: it is an error.
///
/// # Errors
/// The error of `move_mount(2)`; `ENOENT` when there is no such name.
pub fn attach_at(mount: impl AsFd, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, "", dir, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Opens the target of a mount below the root of a jail that is being built. The path may cross mounts, but no link.
///
/// # Errors
/// The error of `openat2(2)`; `ELOOP` when the tenant has put a link there.
pub fn target(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let below = path.trim_start_matches('/');
    let below = if below.is_empty() { "." } else { below };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, below, flags, Mode::empty(), resolve)?)
}

/// Makes every mount of this namespace private, so that nothing propagates to or from the mounts that it was copied from.
///
/// # Errors
/// The error of `mount(2)`.
pub fn make_all_private() -> io::Result<()> {
    use rustix::mount::MountPropagationFlags as Flags;
    Ok(rustix::mount::mount_change("/", Flags::PRIVATE | Flags::REC)?)
}

/// Makes the mount at the current directory the root of this mount namespace, and detaches the old root with all mounts below it
/// (`pivot_root(2)`, "pivot_root(".", ".")").
///
/// # Errors
/// The errors of `pivot_root(2)` and `umount2(2)`.
pub fn pivot_to_current_directory() -> io::Result<()> {
    rustix::process::pivot_root(".", ".")?;
    // Now the old root covers the new one at ".". Detaching it uncovers the new one.
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Makes an overlay drop every cached name that no process uses. This reconfigures it without a change (`fspick(2)`).
///
/// An overlay without an upper layer refuses this unless it is told to stay read-only, and an overlay with one would become
/// read-only by that. So the function tries without first, and asks for read-only when the kernel refuses.
///
/// # Errors
/// The errors of `fspick(2)` and `fsconfig(2)`.
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

/// Unmounts lazily: new look-ups no longer reach the mount, and it goes when the last user has gone.
///
/// # Errors
/// The error of `umount2(2)`.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}
