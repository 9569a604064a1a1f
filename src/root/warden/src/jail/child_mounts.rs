//! The mounts of a jail, made from inside: the root, the rows of the mount table, and what hides the rest.
//!
//! Danger: every target is resolved below the new root without following a link. Nothing of the tenant runs yet. What is copied here
//! is private: before the first copy every mount of this namespace became so, and what is made here has no peers.

use bailiwick_plan::kernel::{self, ANSWERED};
use bailiwick_plan::mount::{Flags, HOST_ETC_LAYER, JAIL_TMPFS_SIZE, Mount, RUN, Source, TERMINALS};
use bailiwick_plan::seed::LOCAL_DIRS;
use bailiwick_sys::mount::{Parameter, attr};
use bailiwick_sys::{file, mount};
use bailiwick_types::ByteSize;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Directories that every host has. The first holds the new root before it becomes the root, the second the whole tmpfs of the
/// jail, the third a whole sysfs. All are left behind with the host's tree.
const STAGE: [&str; 3] = ["/usr", "/etc", "/sys"];
/// The most bytes to read of a kernel file that is answered: it has one line for each processor and interrupt.
const MAX_ANSWERED: usize = 1 << 20;
/// Where the layers of an overlay are while it is made: the host's, the tenant's, and the hiding one between them.
const LOWER: &str = "lower";
const UPPER: &str = "upper";
const HIDDEN: &str = "hidden";
/// What the hiding layer hides.
const LOCAL: &str = "local";

/// What a row of the mount table is made from, opened by the warden.
#[derive(Debug)]
pub(crate) enum Sources {
    /// The row is made inside, from nothing.
    Fresh,
    /// A mount with the host's ids.
    Plain(OwnedFd),
    /// A mount with the jail's ids.
    Mapped(OwnedFd),
    /// The layers of an overlay, both with the jail's ids.
    Overlay {
        /// The host's directory.
        lower: OwnedFd,
        /// The tenant's directory with `upper` and `work`, if it has any.
        upper: Option<OwnedFd>,
    },
}

impl Sources {
    pub(crate) fn all(&self) -> Vec<&OwnedFd> {
        match self {
            Self::Fresh => Vec::new(),
            Self::Plain(fd) | Self::Mapped(fd) => vec![fd],
            Self::Overlay { lower, upper } => [lower].into_iter().chain(upper).collect(),
        }
    }

    /// The mounts that need the jail's id map.
    pub(crate) fn into_mapped(self) -> Vec<OwnedFd> {
        match self {
            Self::Fresh | Self::Plain(_) => Vec::new(),
            Self::Mapped(fd) => vec![fd],
            Self::Overlay { lower, upper } => [lower].into_iter().chain(upper).collect(),
        }
    }
}

/// The flags of a row, for `mount_setattr(2)`.
pub(crate) fn attributes(flags: Flags) -> u64 {
    [
        (Flags::READ_ONLY, attr::READ_ONLY),
        (Flags::NO_SUID, attr::NO_SUID),
        (Flags::NO_DEV, attr::NO_DEV),
        (Flags::NO_EXEC, attr::NO_EXEC),
    ]
    .into_iter()
    .fold(0, |set, (flag, bit)| if flags.has(flag) { set | bit } else { set })
}

/// Mounts the new root on a directory of the host's tree. Only this mount namespace sees it.
pub(super) fn stage(row: &Mount, source: Sources, own: &JailTmpfs) -> io::Result<OwnedFd> {
    let root = match (&row.source, source) {
        (Source::JailTmpfs(name), Sources::Fresh) => own.directory(name, row.flags_while_built())?,
        (_, Sources::Mapped(fd)) => fd,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let target = rustix::fs::open(STAGE[0], OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(&root, &target)?;
    Ok(root)
}

fn tmpfs(size: ByteSize, mode: u32, flags: Flags) -> io::Result<OwnedFd> {
    let (size, mode) = (size.0.to_string(), format!("{mode:o}"));
    let parameters = [Parameter::Text("size", &size), Parameter::Text("mode", &mode)];
    mount::new_file_system("tmpfs", &parameters, attributes(flags))
}

/// A whole sysfs of the jail's network. Only parts of it are shown.
pub(super) fn stage_sysfs() -> io::Result<OwnedFd> {
    let flags = attributes(Flags::READ_ONLY.and(Flags::NO_SUID).and(Flags::NO_DEV).and(Flags::NO_EXEC));
    let fresh = mount::new_file_system("sysfs", &[], flags)?;
    // Before 6.15, only an attached mount can be copied.
    let target = rustix::fs::open(STAGE[2], OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(&fresh, &target)?;
    Ok(fresh)
}

/// The jail's own tmpfs ([`Source::JailTmpfs`]), of which only parts are shown: the root, `/run` and `/dev`, an empty file and
/// an empty directory to hide others with, the empty tree of `/sys`, our answers to kernel files, and the layers of an overlay
/// while it is made. Each part is a mount with flags of its own, and nothing leads from one part to another.
pub(super) struct JailTmpfs {
    tree: OwnedFd,
    file: OwnedFd,
    dir: OwnedFd,
}

impl JailTmpfs {
    pub(super) fn new(rows: &[Mount]) -> io::Result<Self> {
        let flags = Flags::READ_ONLY.and(Flags::NO_SUID).and(Flags::NO_DEV).and(Flags::NO_EXEC);
        let fresh = tmpfs(JAIL_TMPFS_SIZE, 0o755, Flags::NO_DEV)?;
        file::open_at(&fresh, "file", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::empty())?;
        file::make_dir_at(&fresh, "dir", 0)?;
        let mut made = BTreeSet::new();
        for row in rows {
            match row.source {
                Source::JailTmpfs(name) => file::make_dir_at(&fresh, name, 0o755)?,
                Source::Skeleton | Source::Group(_) => make(&fresh, &mut made, &row.target, true)?,
                // A file that this kernel lacks must not appear as an empty one.
                Source::Sysfs(_) => {
                    if let Ok(facts) = std::fs::symlink_metadata(&row.target) {
                        make(&fresh, &mut made, &row.target, facts.is_dir())?;
                    }
                }
                _ => {}
            }
        }
        for answer in ANSWERED {
            let kernel = file::open_file_at(file::open_dir(Path::new("/"))?, answer.path().trim_start_matches('/'))?;
            let kernel = file::read_bounded(kernel, MAX_ANSWERED)?;
            let name = answer.path().trim_start_matches("/proc/");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let ours = file::open_at(&fresh, name, flags, Mode::from_raw_mode(0o444))?;
            std::fs::File::from(ours).write_all(answer.text(&String::from_utf8_lossy(&kernel)).as_bytes())?;
        }
        for layer in [LOWER, HOST_ETC_LAYER, UPPER, HIDDEN] {
            file::make_dir_at(&fresh, layer, 0o755)?;
        }
        if rows.iter().any(|row| matches!(row.source, Source::Overlay { upper: Some(_), .. })) {
            hide_local(&fresh)?;
        }
        mount::set_attributes(&fresh, attributes(flags), None)?;
        // Before 6.15, only an attached mount can be copied.
        let target = rustix::fs::open(STAGE[1], OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        mount::attach(&fresh, &target)?;
        let open = |name| file::open_at(&fresh, name, OFlags::PATH, Mode::empty());
        Ok(Self { file: open("file")?, dir: open("dir")?, tree: fresh })
    }

    /// A directory of it as a mount with these flags.
    fn directory(&self, name: &str, flags: Flags) -> io::Result<OwnedFd> {
        let directory = mount::private_copy(&self.tree, name)?;
        mount::replace_attributes(&directory, attributes(flags))?;
        Ok(directory)
    }

    /// A copy of a part of it that nobody writes to.
    fn part(&self, path: &str) -> io::Result<OwnedFd> {
        mount::private_copy(&self.tree, path.trim_start_matches('/'))
    }

    /// A copy of the empty file or directory that hides one of this kind.
    fn over(&self, kind: FileType) -> io::Result<OwnedFd> {
        mount::private_copy_of(if kind == FileType::Directory { &self.dir } else { &self.file })
    }
}

/// Hides everything in `/proc` that is in no list. The names are read here, from the jail's own procfs, so nothing
/// depends on earlier knowledge of the host. An error comes with its path.
pub(super) fn hide_unlisted(root: &OwnedFd, own: &JailTmpfs) -> Result<(), (String, io::Error)> {
    for (path, listed) in kernel::LISTED {
        let failed = |error| ((*path).to_owned(), error);
        let dir = file::open_dir_at(root, path.trim_start_matches('/')).map_err(failed)?;
        for (name, kind) in file::entries(&dir).map_err(failed)? {
            // The target of a link is checked by itself.
            if kind == FileType::Symlink || kernel::is_listed(listed, &name.to_string_lossy()) {
                continue;
            }
            match own.over(kind).and_then(|over| mount::attach_at(over, &dir, &name)) {
                // What has gone needs no hiding.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(|error| (format!("{path}/{}", name.display()), error))?,
            }
        }
    }
    Ok(())
}

/// Makes the directories of `/run` in the file system that is mounted there.
pub(super) fn make_run(root: &OwnedFd) -> io::Result<()> {
    let run = mount::target(root, "/run")?;
    for (path, mode, owner) in RUN {
        file::make_dir_at(&run, path, 0o700)?;
        let made = file::open_dir_at(&run, path)?;
        rustix::fs::fchown(&made, Some(rustix::fs::Uid::from_raw(*owner)), Some(rustix::fs::Gid::from_raw(*owner)))?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(*mode))?;
    }
    Ok(())
}

/// Bounds the counters of this user namespace: `/proc/sys/user` belongs to the namespace of whoever opens it.
fn count(proc: &OwnedFd, counts: &[(&str, u64)]) -> io::Result<()> {
    for (name, most) in counts {
        let file = file::open_at(proc, format!("sys/user/{name}"), OFlags::WRONLY, Mode::empty())?;
        rustix::io::write(&file, most.to_string().as_bytes())?;
    }
    Ok(())
}

/// Makes a `/usr/local` in the hiding layer that hides the host's. The tenant's own stays visible. In-memory
/// directories may have this attribute since Linux 6.6, which is older than `system` requires.
fn hide_local(layers: &OwnedFd) -> io::Result<()> {
    let hidden = file::open_dir_at(layers, HIDDEN)?;
    file::make_dir_at(&hidden, LOCAL, 0o755)?;
    let local = file::open_dir_at(&hidden, LOCAL)?;
    for name in LOCAL_DIRS {
        file::make_dir_at(&local, name, 0o755)?;
    }
    Ok(rustix::fs::fsetxattr(&local, "user.overlay.opaque", b"y", rustix::fs::XattrFlags::CREATE)?)
}

/// Makes a row for something that this kernel may lack.
fn mount_row_if_present(root: &OwnedFd, row: &Mount, own: &JailTmpfs, sysfs: &OwnedFd) -> io::Result<()> {
    let target = match mount::target(root, &row.target) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let fd = match row.source {
        Source::Itself => {
            let fd = mount::private_copy_of(&target)?;
            mount::set_attributes(&fd, attributes(row.flags), None)?;
            fd
        }
        // A copy keeps the flags of its original.
        Source::Sysfs(part) => mount::private_copy(sysfs, part)?,
        Source::Answer(answer) => own.part(answer.path().trim_start_matches("/proc"))?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    mount::attach(&fd, &target)
}

/// Makes one row.
pub(super) fn mount_row(
    root: &OwnedFd,
    row: &Mount,
    source: Sources,
    own: &JailTmpfs,
    sysfs: &OwnedFd,
    counts: &[(&str, u64)],
) -> io::Result<()> {
    if row.source == Source::Mask {
        // Done after the last row, when everything in `/proc` is there.
        return Ok(());
    }
    if row.only_if_present() {
        return mount_row_if_present(root, row, own, sysfs);
    }
    let flags = attributes(row.flags);
    let fd = match (&row.source, source) {
        (Source::HostEtc, Sources::Plain(lower)) => {
            let overlay = overlay(own, HOST_ETC_LAYER, &lower, None, row.flags)?;
            return mount::attach(&overlay, open_or_make(root, &row.target, true)?);
        }
        (_, Sources::Plain(fd) | Sources::Mapped(fd)) => fd,
        (_, Sources::Overlay { lower, upper }) => {
            let overlay = overlay(own, LOWER, &lower, upper.as_ref(), row.flags)?;
            return mount::attach(&overlay, open_or_make(root, &row.target, true)?);
        }
        (Source::JailTmpfs(name), Sources::Fresh) => own.directory(name, row.flags)?,
        (Source::Tmpfs { size, mode }, Sources::Fresh) => tmpfs(*size, *mode, row.flags)?,
        (Source::Proc, Sources::Fresh) => {
            // Processes that a user may not trace are hidden from it, except from root. Nobody may trace PID 1, and
            // yet root must see it.
            let options = [Parameter::Text("hidepid", "invisible"), Parameter::Text("gid", "0")];
            let proc = mount::new_file_system("proc", &options, flags)?;
            count(&proc, counts)?;
            proc
        }
        (Source::Skeleton, Sources::Fresh) => own.part(&row.target)?,
        (Source::Devpts, Sources::Fresh) => mount::new_file_system(
            "devpts",
            &[
                Parameter::Text("ptmxmode", "0666"),
                Parameter::Text("mode", "0620"),
                Parameter::Text("gid", "5"),
                Parameter::Text("max", &TERMINALS.to_string()),
            ],
            flags,
        )?,
        (Source::Mqueue, Sources::Fresh) => mount::new_file_system("mqueue", &[], flags)?,
        _ => return Err(io::ErrorKind::Unsupported.into()),
    };
    let target = open_or_make(root, &row.target, is_directory(&fd)?)?;
    mount::attach(&fd, &target)
}

fn is_directory(fd: impl AsFd) -> io::Result<bool> {
    Ok(file::metadata(fd)?.kind == FileType::Directory)
}

/// Makes a directory or an empty file below the root of a file system that is new, and of which nobody else knows: so no name there leads
/// elsewhere. `made` are the directories that are there.
fn make<'a>(fresh: &OwnedFd, made: &mut BTreeSet<&'a str>, path: &'a str, directory: bool) -> io::Result<()> {
    let path = path.trim_start_matches('/');
    let ends = path.match_indices('/').map(|(end, _)| end).chain(directory.then_some(path.len()));
    for directory in ends.map(|end| &path[..end]) {
        if made.insert(directory) {
            file::make_dir_at(fresh, directory, 0o755)?;
        }
    }
    if !directory {
        file::open_at(fresh, path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o444))?;
    }
    Ok(())
}

/// Opens a row's target. If the new root lacks it, makes it with its parents.
fn open_or_make(root: &OwnedFd, path: &str, directory: bool) -> io::Result<OwnedFd> {
    match mount::target(root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let mut parent: Option<OwnedFd> = None;
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let (last, above) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
    for name in above {
        let dir = file::ensure_dir_at(parent.as_ref().map_or(root.as_fd(), AsFd::as_fd), name, 0o755)?;
        parent = Some(dir);
    }
    let parent: BorrowedFd<'_> = parent.as_ref().map_or(root.as_fd(), AsFd::as_fd);
    if directory {
        file::make_dir_at(parent, last, 0o755)?;
    } else {
        file::open_at(parent, last, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o444))?;
    }
    mount::target(root, path)
}

/// Mounts an overlay inside the user namespace (`userxattr`, see the kernel's filesystems/overlayfs), so its upper
/// layer is written as the jail's root. While it is made, each layer needs a path, and gets one that the tenant
/// cannot see. The audit sees the name of the host's layer.
///
/// A third layer lies between the host's and the tenant's. A read-only overlay needs two layers. Where the tenant has
/// a layer, the third hides the host's `/usr/local`: the operator's own programs are not part of the image.
fn overlay(own: &JailTmpfs, name: &str, lower: &OwnedFd, upper: Option<&OwnedFd>, flags: Flags) -> io::Result<OwnedFd> {
    mount::attach(lower, mount::target(&own.tree, name)?)?;
    if let Some(upper) = upper {
        mount::attach(upper, mount::target(&own.tree, UPPER)?)?;
    }
    rustix::process::fchdir(&own.tree)?;
    let is_written = !flags.has(Flags::READ_ONLY);
    let (layers, written): (String, &[Parameter<'_>]) = match upper {
        // The host's first: the root of the overlay looks like that of the first layer.
        None => (format!("{name}:{HIDDEN}"), &[]),
        Some(_) if is_written => (
            format!("{HIDDEN}:{name}"),
            &[Parameter::Text("upperdir", "upper/upper"), Parameter::Text("workdir", "upper/work")],
        ),
        Some(_) => (format!("upper/upper:{HIDDEN}:{name}"), &[]),
    };
    // Without `xino`, a file seems to be on another device than its directory, and `tar --one-file-system` skips it.
    let mut parameters =
        vec![Parameter::Text("lowerdir", &layers), Parameter::Text("xino", "auto"), Parameter::Flag("userxattr")];
    parameters.extend_from_slice(written);
    let overlay = mount::new_file_system("overlay", &parameters, attributes(flags))?;
    mount::detach(Path::new(name))?;
    if upper.is_some() {
        mount::detach(Path::new(UPPER))?;
    }
    rustix::process::chdir("/")?;
    if is_written {
        prove_writable(&overlay)?;
    }
    Ok(overlay)
}

/// If the upper layer cannot be written, the kernel mounts the overlay read-only without an error: prove that it is
/// writable.
fn prove_writable(overlay: &OwnedFd) -> io::Result<()> {
    let name = ".bailiwick-writable";
    file::remove_file_at(overlay, name)?;
    file::open_at(overlay, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(0o600))?;
    file::remove_file_at(overlay, name)
}
